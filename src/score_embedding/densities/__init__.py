"""Densities of images whose evolution under the variance-exploding SDE is known in closed form.

    density = fit("patch_mixture", images)     # (n, c, h, w), or a list of (c, h, w) of any sizes
    x = density.denoise(noisy, sigma)          # posterior mean D(x, sigma)
    s = density.score(noisy, sigma)            # (D - x) / sigma^2: the score of p_t, std(t) = sigma

sigma is a number or one for each image, in the units of the images. docs/closed-form-scores.md has
the theory; each kind of density is a file, named in kinds.DENSITIES:

| kind | density | of |
|---|---|---|
| white | one isotropic Gaussian of pixels | single pixels |
| empirical | the arrays themselves, equally likely | windows, or whole images of their size |
| gaussian | one Gaussian, full covariance | windows, or whole images of their size |
| low_rank | the same with few leading axes | windows, or whole images of their size |
| stationary | one Gaussian, diagonal in the DCT | whole images of any size |
| patch_mixture | a mixture of Gaussians | windows, or whole images of their size |
| image_mixture | a mixture of Gaussians in the principal axes | whole images |
| combined | the last two, combined at each noise level and frequency | whole images |
"""

from __future__ import annotations

from score_embedding.densities.density import Density, fit
from score_embedding.densities.storage import load, save

__all__ = ["Density", "fit", "load", "save"]
