"""Gaussian mixtures from their moments, and expectation-maximisation (EM) on noisy arrays."""

from __future__ import annotations

import torch
from torch import Tensor

from score_embedding.data.image_files import LUMA
from score_embedding.densities.mixture import GaussianMixture

FLOOR = 1e-5  # least variance of any direction: 0.8 of a grey level of 256, squared
KEPT = 2 * FLOOR  # axes of less variance, in every component, are merged into the rest
MIN_RESPONSIBILITY = 1e-2  # of a component for an array; smaller ones are taken as 0


def adapted(
    mixture: GaussianMixture, arrays: Tensor, s: float, steps: int, prior: float
) -> GaussianMixture:
    """The mixture after `steps` of expectation-maximisation on noisy arrays (L, d) of noise level
    s, which are modelled as x + s z with x of the mixture: the result is a density of x.

    `prior`: number of arrays that the given mixture counts as, for each component by itself and for
    the weights in total: a component with few of the new arrays stays unchanged. Not
    scikit-learn's, which does not model the noise.
    """
    arrays = arrays.to(mixture.means)
    given = (mixture.weights, mixture.means, mixture.covariances())
    for _ in range(steps):
        responsibility = mixture.responsibilities(arrays, s)  # (L, K)
        responsibility[responsibility < MIN_RESPONSIBILITY] = 0
        count = responsibility.sum(dim=0)
        share = (count / (count + prior).clamp_min(1e-9))[:, None]  # 0 where there are none
        weights = (count + prior * given[0]) / (count.sum() + prior)
        own_means, own_covariances = [], []
        for k, gain in enumerate(mixture.gains(s)):
            likely = responsibility[:, k].nonzero()[:, 0]
            own, total = responsibility[likely, k, None], count[k].clamp_min(1e-9)
            x = mixture.means[k] + (arrays[likely] - mixture.means[k]) @ gain
            mean = (own * x).sum(dim=0) / total
            spread = (own * (x - mean)).T @ (x - mean) / total
            own_means.append(mean)
            own_covariances.append(spread + s**2 * gain)
        moved = torch.stack(own_means) - given[1]
        between = (1 - share[..., None]) * moved[:, :, None] * moved[:, None]
        covariances = given[2] + share[..., None] * (
            torch.stack(own_covariances) - given[2] + between
        )
        mixture = from_moments(mixture.shape, weights, given[1] + share * moved, covariances)
    return mixture


def luminance(mixture: GaussianMixture) -> GaussianMixture:
    """The mixture of the luminance of colour arrays, which is linear in them."""
    _, h, w = mixture.shape
    pixels = torch.eye(h * w, dtype=mixture.means.dtype, device=mixture.means.device)
    L = torch.kron(LUMA[None].to(mixture.means), pixels)  # (h w, d)
    return from_moments(
        (1, h, w), mixture.weights, mixture.means @ L.T, L @ mixture.covariances() @ L.T
    )


def transformed(mixture: GaussianMixture, matrix: Tensor) -> GaussianMixture:
    """The mixture of the arrays matrix @ x, matrix (d, d), such as of whitened ones."""
    matrix = matrix.to(mixture.means)
    covariances = matrix @ mixture.covariances() @ matrix.T
    return from_moments(mixture.shape, mixture.weights, mixture.means @ matrix.T, covariances)


def from_moments(
    shape: tuple[int, int, int], weights: Tensor, means: Tensor, covariances: Tensor
) -> GaussianMixture:
    """The mixture of weights (K,), means (K, d) and covariances (K, d, d) of arrays of this shape;
    variances are at least FLOOR, and axes of less than KEPT are dropped."""
    variances, axes = torch.linalg.eigh(covariances)
    variances, axes = variances.flip(1).clamp_min(FLOOR), axes.flip(2)
    full = GaussianMixture(
        shape,
        weights,
        means,
        axes,
        variances,
        variances.new_full((len(weights),), FLOOR),
    )
    return full.truncated(int((variances > KEPT).sum(dim=1).max()))
