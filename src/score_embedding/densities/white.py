"""One isotropic Gaussian of pixels: its denoiser is the skip path of Karras et al. (2022), c_skip x
with centred data."""

from __future__ import annotations

from torch import Tensor

from score_embedding.densities.fitting import FLOOR
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import FitOptions, ones

Model = GaussianMixture


def fit(arrays: Tensor, options: FitOptions) -> GaussianMixture:  # noqa: ARG001 - it has none
    """To pixels (L, c, 1, 1): the mean of each channel, and one variance."""
    pixels = arrays[:, :, 0, 0]
    mean = pixels.mean(dim=0)
    c = len(mean)
    return GaussianMixture(
        (c, 1, 1),
        ones(1, pixels),
        mean[None],
        pixels.new_zeros(1, c, 0),
        pixels.new_zeros(1, 0),
        (pixels - mean).square().mean()[None].clamp_min(FLOOR),
    )
