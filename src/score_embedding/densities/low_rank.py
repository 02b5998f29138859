"""One Gaussian of arrays with few leading axes, and the mean variance of all other directions."""

from __future__ import annotations

from torch import Tensor

from score_embedding.densities import gaussian
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import FitOptions

Model = GaussianMixture


def fit(arrays: Tensor, options: FitOptions) -> GaussianMixture:
    """To arrays (L, c, h, w): `options.rank` leading axes of their covariance."""
    return gaussian.fit(arrays, options).truncated(options.rank)
