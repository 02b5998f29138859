"""Score-based diffusion models that start from a pre-computed score.

    import score_embedding as se

    images = se.load_images("photo.png", size=32)            # float32 (n, c, h, w) in [0, 1]
    sde = se.VarianceExploding(sigma=5.0)
    m0 = se.log_density(images)                              # float64 (n, c, h, w)
    solution = se.solve(m0, sde, times)                      # log_density (n, N, c, h, w)
    scores = se.score(solution.log_density)                  # (n, N, c, h, w)
    embedded = se.embed(images, scores, sde, times)          # (n, N, c, h, w)

    clean = se.denoise(photograph)                           # numpy (h, w) or (h, w, 3), as given

Names are imported when they are first used: torch is not loaded before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from score_embedding.data import load_images as load_images
    from score_embedding.denoising import denoise as denoise
    from score_embedding.denoising import inpaint as inpaint
    from score_embedding.density import log_density as log_density
    from score_embedding.embedding import embed as embed
    from score_embedding.fokker_planck import AffineDrift as AffineDrift
    from score_embedding.fokker_planck import Solution as Solution
    from score_embedding.fokker_planck import gradient as gradient
    from score_embedding.fokker_planck import score as score
    from score_embedding.fokker_planck import solve as solve
    from score_embedding.sampling import heun as heun
    from score_embedding.sampling import rk45 as rk45
    from score_embedding.scores import Density as Density
    from score_embedding.scores import fit as fit
    from score_embedding.sde import VarianceExploding as VarianceExploding
    from score_embedding.sde import VariancePreserving as VariancePreserving

__version__ = "0.1.0"

_MODULE_OF = {
    "load_images": "data",
    "denoise": "denoising",
    "inpaint": "denoising",
    "log_density": "density",
    "embed": "embedding",
    "AffineDrift": "fokker_planck",
    "Solution": "fokker_planck",
    "gradient": "fokker_planck",
    "score": "fokker_planck",
    "solve": "fokker_planck",
    "heun": "sampling",
    "rk45": "sampling",
    "Density": "scores",
    "fit": "scores",
    "VarianceExploding": "sde",
    "VariancePreserving": "sde",
}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
