"""Image-adaptive denoising: EM on noisy patches, several scales, non-local Bayes refinement.

A patch mixture is adapted to the image by expectation-maximisation on its noisy windows. At half
the size independent noise has half the standard deviation and a window covers four times the area:
the mixture is fitted there, and the denoised half-size image replaces the coarse part of the
result. It is itself denoised at half its size, and so on: noise that reaches over many pixels, as a
camera's does, is found only at the smaller sizes. The result is then refined by a Gaussian for each
neighbourhood (neighbourhoods.py).

Noise that is correlated between neighbours or channels is whitened: windows and the Gaussians of
the mixture are multiplied by the root of its inverse covariance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops
from score_embedding.densities import Density, fitting, windows
from score_embedding.densities.mixture import MIN_PROBABILITY, GaussianMixture
from score_embedding.restoration import neighbourhoods
from score_embedding.restoration.neighbourhoods import Groups
from score_embedding.restoration.noise import Stationary

Estimate = Callable[[Tensor, Stationary], Tensor]  # (c, h, w), its noise -> (c, h, w)

EM_STEPS, PRIOR, WINDOWS = 2, 20.0, 2000  # of the adaptation: fitting.adapted has what they are
GREY_STRIDE, STRIDE = 4, 5  # pixels between the mixture's windows; fewer give no better result
LEAST_PROBABILITY = 0.1  # share of the likeliest component's, below which one is left out
HALVED_FROM = 128  # pixels of the shorter side; the half of fewer is too little to fit to
HALVINGS = 3  # of the image at most; more gain nothing
MIN_SIDE = 32  # pixels that the shorter side of a halved image keeps
_COST = 1.5  # of a refinement, as a multiple of that of the mixture or of all smaller sizes
_STEP, _LEAST_SCALE = 1.6, 1e-3  # between levels of noise with a scale, and its least value
ROUNDOFF_MARGIN = 10.0  # factor by which round-off must stay below the smallest variance


@dataclass(frozen=True)
class Passes:
    """The steps at noise levels up to `level`: the axes that the mixture keeps in each component,
    and the refinements by neighbourhoods at full size and at each halved size. Refinements follow
    one another; those in one tuple start from the same estimate, and their answers are averaged.
    Windows of two sizes gain more than twice the same."""

    level: float
    axes: int
    full: tuple[tuple[Groups, ...], ...]
    halved: Groups


def _grey(side: int, nearest: int, stride: int = 5, missing: float = 0.2) -> Groups:
    return Groups(side, nearest, stride, gain=0.9, missing=missing)


def _colour(side: int, nearest: int, stride: int = 6) -> Groups:
    return Groups(side, nearest, stride)


# By noise level. Larger windows and groups are slower, and better where there is more noise.
_COLOUR = (
    Passes(20 / 255, 80, ((_colour(4, 28),), (_colour(5, 36),)), _colour(4, 32)),
    Passes(35 / 255, 48, ((_colour(4, 28),), (_colour(5, 36, 5),)), _colour(4, 32)),
    Passes(math.inf, 32, ((_colour(5, 32),), (_colour(7, 32, 5),)), _colour(4, 32)),
)
_GREY = (
    Passes(
        20 / 255,
        64,
        ((_grey(6, 32),), (_grey(4, 24, missing=0.15), _grey(7, 32, missing=0.15))),
        _grey(6, 32),
    ),
    Passes(
        35 / 255,
        64,
        ((_grey(6, 32),), (_grey(4, 24, missing=0.15), _grey(9, 40, 6, missing=0.15))),
        _grey(7, 32),
    ),
    Passes(
        math.inf,
        64,
        ((_grey(8, 32),), (_grey(6, 32, missing=0.15), _grey(10, 40, 6, missing=0.1))),
        _grey(7, 32),
    ),
)
# A camera's noise is weak but reaches far, and its level is less certain than one that is given.
# A second refinement gains nothing.
_OF_CAMERA = Groups(5, 64, stride=5, gain=1.1)
_CAMERA = (Passes(math.inf, 48, ((_OF_CAMERA,),), _OF_CAMERA),)
_FAST_COLOUR = (Passes(math.inf, 48, ((_colour(4, 28),),), _colour(4, 32)),)
_FAST_GREY = (Passes(math.inf, 64, ((_grey(7, 24, 6),),), _grey(6, 32, 6)),)


def passes(channels: int, noise: Stationary, fast: bool = False) -> Passes:
    """Those of an image of these channels with this noise."""
    if channels == 1:
        table = _FAST_GREY if fast else _GREY
    elif fast:
        table = _FAST_COLOUR
    else:
        table = _CAMERA if noise.correlated else _COLOUR
    return next(row for row in table if noise.level <= row.level)


def refined(
    first: Estimate, halvings: int = HALVINGS, refine: bool = True, fast: bool = False
) -> Estimate:
    """`first` evaluated at several image sizes, each half of the one before, and its result refined
    by a Gaussian for each neighbourhood.

    Parameters
    ----------
    halvings : how often the image is halved at most; its shorter side keeps MIN_SIDE pixels.
    refine : whether it is refined.
    fast : with fewer and smaller neighbourhoods.
    """

    def at(y: Tensor, noise: Stationary, remaining: int) -> Tensor:
        own = passes(len(y), noise, fast)
        full = own.full if remaining == halvings else ((own.halved,),)
        series = full if refine else ()
        costs = [1.0, 1.0, *(_COST * len(averaged) for averaged in series)]
        whole, smaller, *refinements = progress.parts(costs)
        with whole:
            answer = first(y, noise)
        with smaller:
            if remaining and min(y.shape[1:]) >= 2 * MIN_SIDE:
                coarse = at(halved(y), noise.halved(), remaining - 1)
                answer = answer + doubled(coarse - halved(answer), y)
        for averaged, refinement in zip(series, refinements, strict=True):
            with refinement:
                answer = _averaged(y, answer, noise, averaged)
        return answer

    return lambda y, noise: at(y, noise, halvings)


def _averaged(y: Tensor, answer: Tensor, noise: Stationary, several: tuple[Groups, ...]) -> Tensor:
    found = []
    for groups, part in zip(several, progress.parts([1.0] * len(several)), strict=True):
        with part:
            found.append(neighbourhoods.refined(y, answer, noise, groups))
    return torch.stack(found).mean(dim=0)


def denoiser(
    density: Density,
    noisy: Tensor,
    noise: Stationary,
    adapt: bool = True,
    halve: bool = True,
    refine: bool = True,
    fast: bool = False,
) -> Estimate:
    """The posterior mean adapted to an image `noisy` (c, h, w) with noise of level above 0.

    Parameters
    ----------
    density : the patch mixture to start from.
    adapt : whether the mixture is adapted to the image.
    halve : whether the image is also denoised at smaller sizes, if it is large enough.
    refine, fast : as of `refined`.
    """
    halve = halve and min(noisy.shape[1:]) >= HALVED_FROM
    if adapt:
        density = adapted(density, *((halved(noisy), noise.halved()) if halve else (noisy, noise)))
    assert isinstance(density.model, GaussianMixture)
    stride = GREY_STRIDE if len(noisy) == 1 else STRIDE
    few = density.model.truncated(passes(len(noisy), noise, fast).axes)
    first = of_mixture(replace(density, model=few, stride=stride), LEAST_PROBABILITY)
    return refined(first, HALVINGS if halve else 0, refine, fast)


def of_mixture(density: Density, least_probability: float = MIN_PROBABILITY) -> Estimate:
    """The posterior mean under a patch mixture, for noise of any covariance, from the components of
    at least this share of the likeliest one's probability. Where the noise has a scale, the
    posterior means at a few levels are interpolated at each pixel."""
    model = density.model
    assert isinstance(model, GaussianMixture)
    size = (model.shape[1], model.shape[2])
    known: dict[bytes, tuple[GaussianMixture, Tensor, Tensor] | None] = {}

    def whitened(noise: Stationary, y: Tensor) -> tuple[GaussianMixture, Tensor, Tensor] | None:
        """The same at all levels of noise: its mixture takes longer than to evaluate it."""
        key = noise.covariance.tobytes()
        if key not in known:
            matrices = noise.whitening(size[0], y)
            known[key] = matrices and (fitting.transformed(model, matrices[0]), *matrices)
        return known[key]

    def at_level(y: Tensor, noise: Stationary) -> Tensor:
        found = whitened(noise, y)

        def of_windows(arrays: Tensor) -> Tensor:
            if found is None:
                return model.denoise(arrays, noise.level, least_probability)
            mixture, whiten, colour = found
            return mixture.denoise(arrays @ whiten, noise.level, least_probability) @ colour

        return windows.average(y[None], size, density.stride, of_windows)[0]

    def estimate(y: Tensor, noise: Stationary) -> Tensor:
        if noise.scale is None:
            return at_level(y, noise)
        scale = noise.scale.to(y).clamp_min(_LEAST_SCALE)
        low, high = math.log(float(scale.min())), math.log(float(scale.max()))
        count = 1 + math.ceil((high - low) / math.log(_STEP))
        levels = torch.linspace(low, high, count).tolist()
        place = (scale.log() - low) / max((high - low) / max(count - 1, 1), 1e-9)
        answer = torch.zeros_like(y)
        parts = progress.parts([1.0] * count)
        for number, (level, part) in enumerate(zip(levels, parts, strict=True)):
            weight = (1 - (place - number).abs()).clamp_min(0)
            own = replace(noise, level=noise.level * math.exp(level), scale=None)
            with part:
                answer += weight * at_level(y, own)
        return answer

    return estimate


def adapted(density: Density, noisy: Tensor, noise: Stationary) -> Density:
    """A patch mixture after expectation-maximisation on windows of an image (c, h, w)."""
    model, generator = density.model, torch.Generator("cpu").manual_seed(0)
    assert isinstance(model, GaussianMixture)
    count = min(WINDOWS, noisy.shape[1] * noisy.shape[2])
    arrays = crops.draw([noisy], model.shape[1:], count, generator).flatten(1)
    matrices = noise.whitening(model.shape[1], arrays)
    if matrices is not None:
        arrays, model = arrays @ matrices[0], fitting.transformed(model, matrices[0])
    sigma = noise.level
    if noise.scale is not None:
        sigma *= float(noise.scale.square().mean()) ** 0.5
    roundoff = torch.finfo(torch.float32).eps * arrays.shape[1] * float(arrays.abs().max()) ** 2
    if ROUNDOFF_MARGIN * roundoff > fitting.FLOOR + sigma**2:
        arrays = arrays.double()  # in float32 the smallest variances would be lost
    mixture = fitting.adapted(model.to(arrays), arrays, sigma, EM_STEPS, PRIOR)
    if matrices is not None:
        mixture = fitting.transformed(mixture, matrices[1].to(arrays))
    return replace(density, model=mixture.truncated(model.axes.shape[2]).to(noisy))


def halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, so that independent noise stays independent with half the standard
    deviation; the last row and column of an odd size are left out."""
    return F.avg_pool2d(x[None], 2)[0]


def doubled(x: Tensor, reference: Tensor) -> Tensor:
    """A halved image in the size of `reference` (c, h, w)."""
    twice = F.interpolate(x[None], scale_factor=2, mode="bilinear")
    right, below = reference.shape[2] - twice.shape[3], reference.shape[1] - twice.shape[2]
    return F.pad(twice, (0, right, 0, below), mode="replicate")[0]
