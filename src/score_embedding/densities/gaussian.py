"""One Gaussian of arrays with its full covariance."""

from __future__ import annotations

from torch import Tensor

from score_embedding.densities.fitting import from_moments
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import FitOptions, ones, shape_of

Model = GaussianMixture


def fit(arrays: Tensor, options: FitOptions) -> GaussianMixture:  # noqa: ARG001 - it has none
    """The mean and the covariance of arrays (L, c, h, w)."""
    flat = arrays.flatten(1)
    mean = flat.mean(dim=0)
    covariance = (flat - mean).T @ (flat - mean) / len(flat)
    return from_moments(shape_of(arrays), ones(1, flat), mean[None], covariance[None])
