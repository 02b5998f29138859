"""Score-based diffusion models that start from a pre-computed score.

    import score_embedding as se

    images = se.load_images("photo.png", size=32)            # float32 (n, c, h, w) in [0, 1]
    sde = se.VarianceExploding(sigma=5.0)
    m0 = se.log_density(images)                              # float64 (n, c, h, w)
    solution = se.solve(m0, sde, times)                      # log_density (n, N, c, h, w)
    scores = solution.score()                                # (n, N, c, h, w)
    embedded = se.embed(images, scores, sde, times)          # (n, N, c, h, w)

    clean = se.denoise(photograph)                           # numpy (h, w) or (h, w, 3), as given

Names are imported when they are first used, and torch with them.
"""

from __future__ import annotations

from pathlib import Path

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]

# Modules that have moved are still found under their old names, with a DeprecationWarning.
__path__ = [*__path__, str(Path(__file__).parent / "_deprecated")]
