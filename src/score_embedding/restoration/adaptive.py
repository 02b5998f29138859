"""Image-adaptive denoising: EM on noisy patches, two scales, non-local Bayes refinement.

A patch mixture is adapted to the image by expectation-maximisation on its noisy windows. At half
the size the noise has half the standard deviation and a window covers four times the area: the
mixture is fitted there, and the denoised half-size image replaces the coarse part of the result.
The result is then refined by a Gaussian for each neighbourhood (neighbourhoods.py). Scales and
adaptation matter at high noise levels, the neighbourhoods at all (docs/closed-form-scores.md has
the figures).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding.data import crops
from score_embedding.densities import Density, fitting
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.restoration import neighbourhoods

Estimate = Callable[[Tensor, float], Tensor]  # (c, h, w), noise level -> (c, h, w)

EM_STEPS, PRIOR, WINDOWS = 3, 20.0, 2000  # of the adaptation: fitting.adapted has what they are
STRIDE = 4  # pixels between the mixture's windows; 2 gives no better result after refinement
REFINEMENTS = 2  # times that the neighbourhoods are fitted
COARSE_STRIDE = 6  # pixels between their reference windows, in all these times but the last
HALVINGS = 3  # of the image for a denoiser that is not adapted; more gain nothing
HALVED_FROM = 128  # pixels of the shorter side; the half of fewer is too little to fit to
MIN_SIDE = 32  # pixels that the shorter side of a halved image keeps
ROUNDOFF_MARGIN = 10.0  # factor by which round-off must stay below the smallest variance


def denoiser(
    density: Density,
    noisy: Tensor,
    sigma: float,
    adapt: bool = True,
    halve: bool = True,
    refinements: int = REFINEMENTS,
) -> Estimate:
    """The posterior mean adapted to an image `noisy` (c, h, w) with noise of level sigma > 0.

    Parameters
    ----------
    density : the patch mixture to start from.
    adapt : whether the mixture is adapted to the image.
    halve : whether the image is also denoised at half its size, if that is large enough.
    refinements : how often a Gaussian is fitted to each neighbourhood; at half the size once, if
        at all.
    """
    halve = halve and min(noisy.shape[1:]) >= HALVED_FROM
    mixture = replace(density, stride=STRIDE)
    if adapt:
        mixture = adapted(mixture, *((_halved(noisy), sigma / 2) if halve else (noisy, sigma)))

    return refined(lambda x, s: mixture.denoise(x[None], s)[0], int(halve), refinements)


def refined(
    estimate: Estimate, halvings: int = HALVINGS, refinements: int = REFINEMENTS
) -> Estimate:
    """`estimate` evaluated at several image sizes, each half of the one before, and its result
    refined by a Gaussian for each neighbourhood.

    Parameters
    ----------
    halvings : how often the image is halved at most; its shorter side keeps MIN_SIDE pixels.
    refinements : how often the Gaussians are fitted; at the halved sizes once, if at all.
    """

    def better(x: Tensor, s: float) -> Tensor:
        answer = estimate(x, s)
        if halvings and min(x.shape[1:]) >= 2 * MIN_SIDE:
            coarse = refined(estimate, halvings - 1, min(refinements, 1))(_halved(x), s / 2)
            answer = answer + _doubled(coarse - _halved(answer), x)
        for remaining in reversed(range(refinements)):
            stride = COARSE_STRIDE if remaining else neighbourhoods.STRIDE
            answer = neighbourhoods.refined(x, answer, s, stride)
        return answer

    return better


def adapted(density: Density, noisy: Tensor, sigma: float) -> Density:
    """A patch mixture after expectation-maximisation on windows of an image (c, h, w) with noise of
    level sigma > 0."""
    model, generator = density.model, torch.Generator("cpu").manual_seed(0)
    assert isinstance(model, GaussianMixture)
    count = min(WINDOWS, noisy.shape[1] * noisy.shape[2])
    arrays = crops.draw([noisy], model.shape[1:], count, generator).flatten(1)
    roundoff = torch.finfo(torch.float32).eps * arrays.shape[1] * float(arrays.abs().max()) ** 2
    if ROUNDOFF_MARGIN * roundoff > fitting.FLOOR + sigma**2:
        arrays = arrays.double()  # in float32 the smallest variances would be lost
    mixture = fitting.adapted(model.to(arrays), arrays, sigma, EM_STEPS, PRIOR)
    return replace(density, model=mixture.truncated(model.axes.shape[2]).to(noisy))


def _halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, so that independent noise stays independent with half the standard
    deviation; the last row and column of an odd size are left out."""
    return F.avg_pool2d(x[None], 2)[0]


def _doubled(x: Tensor, reference: Tensor) -> Tensor:
    """A halved image in the size of `reference` (c, h, w)."""
    twice = F.interpolate(x[None], scale_factor=2, mode="bilinear")
    right, below = reference.shape[2] - twice.shape[3], reference.shape[1] - twice.shape[2]
    return F.pad(twice, (0, right, 0, below), mode="replicate")[0]
