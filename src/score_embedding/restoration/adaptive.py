"""What is learnt from the photograph at hand: a patch mixture adapted to it, or any other denoiser,
looked at in several sizes, and a Gaussian for each of its neighbourhoods.

At half the size there is half the noise, and a window covers four times the area: the mixture
learns there, and what a denoiser says of the halved photograph replaces its answer's coarse part.
Sizes and adapting matter where there is much noise, the neighbourhoods everywhere
(docs/closed-form-scores.md has the figures).
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

EM_STEPS, PRIOR, WINDOWS = 3, 20.0, 2000
STRIDE = 4  # of the mixture's windows; at 2 the end is no better
REFINED = 2  # times that the neighbourhoods are learnt
COARSE = 6  # stride of all these times but the last
HALVINGS = 3  # of a denoiser that learns nothing from the halved image; more are no better
ADAPTED_FROM = 128  # pixels of the shorter side; half of fewer is too little to learn from
SMALLEST = 32  # pixels of the shorter side that are still looked at
_DIGIT = 10.0  # by which rounding stays below what must not be lost


def denoiser(
    density: Density,
    noisy: Tensor,
    sigma: float,
    adapt: bool = True,
    halve: bool = True,
    times: int = REFINED,
) -> Estimate:
    """The denoiser that is learnt from an image `noisy` (c, h, w) with noise of level sigma > 0.

    Parameters
    ----------
    density : the patch mixture that it starts from.
    adapt : whether the mixture learns from the image.
    halve : whether the image is looked at in half its size, too; a small one is not.
    times : how often a Gaussian is learnt for each neighbourhood; in half the size once, if at all.
    """
    halve = halve and min(noisy.shape[1:]) >= ADAPTED_FROM
    mixture = replace(density, stride=STRIDE)
    if adapt:
        mixture = adapted(mixture, *((_halved(noisy), sigma / 2) if halve else (noisy, sigma)))

    return refined(lambda x, s: mixture.denoise(x[None], s)[0], int(halve), times)


def refined(estimate: Estimate, halvings: int = HALVINGS, times: int = REFINED) -> Estimate:
    """A denoiser that asks `estimate` about the image in several sizes, too, each half of the one
    before, and learns a Gaussian for each neighbourhood of its answer.

    Parameters
    ----------
    halvings : how often the image is halved at most; its shorter side keeps SMALLEST pixels.
    times : how often the Gaussians are learnt; in the halved sizes once, if at all.
    """

    def better(x: Tensor, s: float) -> Tensor:
        answer = estimate(x, s)
        if halvings and min(x.shape[1:]) >= 2 * SMALLEST:
            coarse = refined(estimate, halvings - 1, min(times, 1))(_halved(x), s / 2)
            answer = answer + _doubled(coarse - _halved(answer), x)
        for left in reversed(range(times)):
            stride = COARSE if left else neighbourhoods.STRIDE
            answer = neighbourhoods.refined(x, answer, s, stride)
        return answer

    return better


def adapted(density: Density, noisy: Tensor, sigma: float) -> Density:
    """A patch mixture that has learnt from the windows of an image (c, h, w) with noise of level
    sigma > 0."""
    model, generator = density.model, torch.Generator().manual_seed(0)
    assert isinstance(model, GaussianMixture)
    count = min(WINDOWS, noisy.shape[1] * noisy.shape[2])
    arrays = crops.draw([noisy], model.shape[1:], count, generator).flatten(1)
    rounding = torch.finfo(torch.float32).eps * arrays.shape[1] * float(arrays.abs().max()) ** 2
    if _DIGIT * rounding > fitting.FLOOR + sigma**2:  # which float32 may lose beside covariances
        arrays = arrays.double()
    mixture = fitting.adapted(model.to(arrays), arrays, sigma, EM_STEPS, PRIOR)
    return replace(density, model=mixture.truncated(model.axes.shape[2]).to(noisy))


def _halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, so that independent noise is halved and stays independent; the last
    row and column of an odd size are left out."""
    return F.avg_pool2d(x[None], 2)[0]


def _doubled(x: Tensor, like: Tensor) -> Tensor:
    """A halved image in the size of `like` (c, h, w)."""
    twice = F.interpolate(x[None], scale_factor=2, mode="bilinear")
    right, below = like.shape[2] - twice.shape[3], like.shape[1] - twice.shape[2]
    return F.pad(twice, (0, right, 0, below), mode="replicate")[0]
