"""What is taken from an image, checked against the noise it is said to have.

The residual y - D(y) must be noise alone.

- Its mean over a neighbourhood must be near zero. What is farther from zero than the mean of noise
  would be is given back, so that no part of an image changes its colour or brightness.
- Its mean square must not be more than the noise's. Where it is, the residual holds part of the
  image too, and the posterior mean and the image are averaged: of a residual whose mean square is q
  times the noise's variance, the share (q - 1) / q is given back (James and Stein 1961), so that on
  average the result is nowhere further from the truth than the noisy image; and all of it from
  q = ALL_FROM on, where little of it is noise. A small neighbourhood must have a large q to be
  certain, a wide one a smaller q.
- No pixel moves by more than a few standard deviations of its noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding.restoration import clipping
from score_embedding.restoration.noise import Noise, variances

SIDE, WIDE = 9, 33  # pixels along a neighbourhood
MEAN_SIDES = (33, 17)  # pixels along the neighbourhoods whose means are checked
CONFIDENCE = 3.0  # standard deviations of q that noise alone may have above 1
MEAN_CONFIDENCE = 2.0  # standard deviations that the mean of noise alone may be from 0
ALL_FROM = 2.5  # q from which the image is kept
FARTHEST = 4.0  # standard deviations of the noise that a pixel may move
_LEAST = 1e-6


def consistent(y: Tensor, answer: Tensor, noise: Noise, clipped: bool = False) -> Tensor:
    """The denoised image `answer` (c, h, w) of y with as much of y given back as its noise
    demands. `clipped`: the noise is cut off at black and white."""
    own = spread = deviation(answer, noise)
    residual = y - answer
    if clipped:
        mean, spread = clipping.stored(answer, own)
        residual = y - mean
    for side in MEAN_SIDES:
        shift = _significant_mean(residual, spread, noise, side)
        residual, answer = residual - shift, answer + shift
    if clipped:
        spread = torch.minimum(spread, clipping.stored(y, own)[1])
    share = _share_of_the_image(residual, spread, noise)
    farthest = FARTHEST * own
    change = (answer - y) * (1 - share)
    return y + torch.minimum(torch.maximum(change, -farthest), farthest)


def _significant_mean(residual: Tensor, deviation: Tensor, noise: Noise, side: int) -> Tensor:
    """The mean of a residual (c, h, w) around each pixel, less what the mean of noise explains."""
    mean = _mean(residual, side)
    summed = noise.correlation.diagonal().sum(axis=(0, 1)) / variances(noise.correlation)
    factor = torch.from_numpy(summed.clip(1)).to(residual)[:, None, None]
    variance = _mean(deviation.square(), side) * factor / _count(residual, side)
    return mean * (1 - MEAN_CONFIDENCE**2 * variance / mean.square().clamp_min(1e-12)).clamp_min(0)


def _share_of_the_image(residual: Tensor, deviation: Tensor, noise: Noise) -> Tensor:
    """The share of a residual (c, h, w) to give back at each pixel, (1, h, w)."""
    power = residual.square().mean(dim=0, keepdim=True)
    own = deviation.square().mean(dim=0, keepdim=True)
    near, wide = (_mean(power, side) / _mean(own, side) for side in (SIDE, WIDE))
    certain = near - CONFIDENCE * _spread(noise, residual, SIDE)
    certain_wide = torch.minimum(near, wide) - CONFIDENCE * _spread(noise, residual, WIDE)
    excess = (torch.maximum(certain, certain_wide) - 1).clamp_min(0)
    return (excess / (1 + excess) * ALL_FROM / (ALL_FROM - 1)).clamp_max(1)


def deviation(x: Tensor, noise: Noise) -> Tensor:
    """The standard deviation of the noise at each pixel of x (c, h, w)."""
    found = noise.at(x.detach().cpu().numpy().astype(np.float64))
    if noise.scale is not None:
        found = found * noise.scale
    return torch.from_numpy(found).to(x).clamp_min(_LEAST)


def _spread(noise: Noise, x: Tensor, side: int) -> Tensor:
    """The standard deviation of the mean square of noise over the neighbourhoods of an image
    (c, h, w), its own mean 1, (1, h, w)."""
    numbers = noise.channels * _count(x, side)
    return (2 * float(np.sum(noise.correlation**2)) / numbers).sqrt()


def _mean(x: Tensor, side: int) -> Tensor:
    """Over the neighbourhood of each pixel of x (c, h, w), as far as it is inside."""
    for size in ((side, 1), (1, side)):
        half = (size[0] // 2, size[1] // 2)
        x = F.avg_pool2d(x[None], size, 1, half, count_include_pad=False)[0]
    return x


def _count(x: Tensor, side: int) -> Tensor:
    """The pixels of the neighbourhood of each pixel of x (c, h, w), (1, h, w)."""
    one = torch.ones_like(x[:1])
    return F.avg_pool2d(one[None], side, 1, side // 2, divisor_override=1)[0]
