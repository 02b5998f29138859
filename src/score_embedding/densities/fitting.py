"""Fitting the densities of scores/ to photographs."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from score_embedding.data.image_files import LUMA
from score_embedding.densities.mixture import GaussianMixture

FLOOR = 1e-5  # least variance of any direction: 0.8 of a grey level of 256, squared
_OF_ANOTHER = 1e-2  # an array with less responsibility teaches a component nothing
KEPT = 2 * FLOOR  # axes of less variance, in every component, are left to the mean of the rest


def white(arrays: Tensor) -> GaussianMixture:
    """One isotropic Gaussian of pixels (L, c, 1, 1): its denoiser is the skip path of Karras et al.
    (2022), c_skip x with centred data."""
    pixels = arrays[:, :, 0, 0]
    mean = pixels.mean(dim=0)
    c = len(mean)
    return GaussianMixture(
        (c, 1, 1),
        torch.ones(1).to(pixels),
        mean[None],
        torch.zeros(1, c, 0).to(pixels),
        torch.zeros(1, 0).to(pixels),
        (pixels - mean).square().mean()[None].clamp_min(FLOOR),
    )


def gaussian(arrays: Tensor, rank: int | None = None) -> GaussianMixture:
    """One Gaussian of arrays (L, c, h, w): its full covariance, or the `rank` leading axes with
    the mean variance of the others."""
    flat = arrays.flatten(1)
    mean = flat.mean(dim=0)
    covariance = (flat - mean).T @ (flat - mean) / len(flat)
    fitted = _mixture(arrays.shape[1:], torch.ones(1).to(flat), mean[None], covariance[None])
    return fitted if rank is None else fitted.truncated(rank)


def patch_mixture(arrays: Tensor, components: int, em_steps: int, seed: int) -> GaussianMixture:
    """A mixture for arrays (L, c, h, w), by scikit-learn's expectation-maximisation.

    The mean of each channel over the array is taken as independent of the rest, and Gaussian: a
    component then stands for a structure at any brightness and colour, not for one of them.
    """
    L, c, h, w = arrays.shape
    if h * w == 1:
        return gaussian(arrays)
    flat = arrays.flatten(1)
    constant = _constant_arrays(c, h * w).to(flat)  # (d, c)
    brightness = flat @ constant
    spread = brightness - brightness.mean(dim=0)
    C_brightness = spread.T @ spread / L
    others = torch.linalg.svd(constant)[0][:, c:]  # (d, d - c): all that is not constant
    C_floor = FLOOR * torch.eye(c).to(flat)
    learnt = SklearnMixture(
        components,
        reg_covar=FLOOR,
        max_iter=em_steps,
        init_params="k-means++",
        random_state=seed,
    )
    # scikit-learn would take all cores, also where several runs share them.
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)  # em_steps are what is meant
        learnt.fit((flat @ others).cpu().numpy())
    weights, means, covariances = (
        torch.from_numpy(values).to(flat)
        for values in (learnt.weights_, learnt.means_, learnt.covariances_)
    )
    return _mixture(
        (c, h, w),
        weights,
        means @ others.T + constant @ brightness.mean(dim=0),
        others @ covariances @ others.T + constant @ (C_brightness + C_floor) @ constant.T,
    )


def adapted(
    mixture: GaussianMixture, arrays: Tensor, s: float, steps: int, prior: float
) -> GaussianMixture:
    """The mixture after `steps` of expectation-maximisation on noisy arrays (L, d) of noise level
    s, which are taken as x + s z with x of the mixture, so that it is x that it learns.

    `prior`: how many arrays the given mixture counts as, each component by itself, and its weights
    in total: a component with few of the new arrays stays as it is. Ours, since scikit-learn's
    knows no noise.
    """
    arrays = arrays.to(mixture.means)
    given = (mixture.weights, mixture.means, mixture.covariances())
    for _ in range(steps):
        responsibility = mixture.responsibilities(arrays, s)  # (L, K)
        responsibility[responsibility < _OF_ANOTHER] = 0
        count = responsibility.sum(dim=0)
        share = (count / (count + prior).clamp_min(1e-9))[:, None]  # 0 where there are none
        weights = (count + prior * given[0]) / (count.sum() + prior)
        learnt_means, learnt = [], []
        for k, C in enumerate(mixture.covariances()):
            likely = responsibility[:, k].nonzero()[:, 0]
            own, total = responsibility[likely, k, None], count[k].clamp_min(1e-9)
            noisy = torch.linalg.cholesky(C + s**2 * torch.eye(len(C)).to(C))
            gain = torch.cholesky_solve(C, noisy)  # its transpose
            x = mixture.means[k] + (arrays[likely] - mixture.means[k]) @ gain
            mean = (own * x).sum(dim=0) / total
            spread = (own * (x - mean)).T @ (x - mean) / total
            learnt_means.append(mean)
            learnt.append(spread + C - C @ gain)
        moved = torch.stack(learnt_means) - given[1]
        between = (1 - share[..., None]) * moved[:, :, None] * moved[:, None]
        covariances = given[2] + share[..., None] * (torch.stack(learnt) - given[2] + between)
        mixture = _mixture(mixture.shape, weights, given[1] + share * moved, covariances)
    return mixture


def luminance(mixture: GaussianMixture) -> GaussianMixture:
    """What a mixture of colour arrays says of their luminance (a linear image of it)."""
    _, h, w = mixture.shape
    L = torch.kron(LUMA[None].to(mixture.means), torch.eye(h * w).to(mixture.means))  # (h w, d)
    return _mixture(
        (1, h, w), mixture.weights, mixture.means @ L.T, L @ mixture.covariances() @ L.T
    )


def _mixture(
    shape: tuple[int, ...], weights: Tensor, means: Tensor, covariances: Tensor
) -> GaussianMixture:
    """From covariances (K, d, d): their axes, down to the least that matters."""
    variances, axes = torch.linalg.eigh(covariances)
    variances, axes = variances.flip(1).clamp_min(FLOOR), axes.flip(2)
    full = GaussianMixture(
        (shape[0], shape[1], shape[2]),
        weights,
        means,
        axes,
        variances,
        variances.new_full((len(weights),), FLOOR),
    )
    return full.truncated(int((variances > KEPT).sum(dim=1).max()))


def _constant_arrays(c: int, pixels: int) -> Tensor:
    """Orthonormal columns (c * pixels, c): arrays in which one channel is constant."""
    one = torch.full((pixels, 1), pixels**-0.5, dtype=torch.float64)
    return torch.kron(torch.eye(c, dtype=torch.float64), one)
