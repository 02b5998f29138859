"""What is taken from an image, checked against the noise it is said to have.

The residual y - D(y) must be noise alone.

- Its mean over a neighbourhood must be near zero. What is farther from zero than the mean of noise
  would be is given back, so that no part of an image changes its colour or brightness.
- Its mean square must not be more than the noise's. Where it is, the residual holds part of the
  image too, and the posterior mean and the image are averaged: of a residual whose mean square is q
  times the noise's variance, the share (q - 1) / q is given back (James and Stein 1961), so that on
  average the result is nowhere further from the truth than the noisy image; and all of it from
  q = ALL_FROM on, where little of it is noise. A small neighbourhood shows that only if q is large;
  a wide one also if it is not.
- No pixel moves by more than a few standard deviations of its noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from score_embedding.restoration import clipping, workers
from score_embedding.restoration.noise import Noise, variances

SIDE, WIDE_SIDE = 9, 33  # pixels along the neighbourhoods whose mean squares are checked
MEAN_SIDES = (65, 33, 17)  # pixels along those whose means are checked, one after another
CONFIDENCE = 3.0  # standard deviations of q that noise alone may have above 1
MEAN_CONFIDENCE = 2.0  # standard deviations of the mean of noise that are not given back
ALL_FROM = 2.5  # q from which the image is kept
FARTHEST = 4.0  # standard deviations of the noise that a pixel may move
BAND = 256  # rows that are computed at a time
_REACH = sum(side // 2 for side in (*MEAN_SIDES, WIDE_SIDE))  # rows that a row depends on
_LEAST = 1e-6


def consistent(y: Tensor, answer: Tensor, noise: Noise, clipped: bool = False) -> Tensor:
    """The denoised image `answer` (c, h, w) of y with as much of y given back as its noise
    demands. `clipped`: the noise in y is cut off at black and white, and the bias that this gives
    to `answer` is undone first (clipping.py).

    Bands of rows are computed side by side (workers.py), so that beside the three images memory
    does not grow with their size."""
    h = y.shape[1]
    found = torch.empty_like(answer)

    def of_band(top: int) -> tuple[slice, Tensor]:
        own = slice(top, min(top + BAND, h))
        around = slice(max(own.start - _REACH, 0), min(own.stop + _REACH, h))
        scale = None if noise.scale is None else noise.scale[around]
        whole = _consistent(y[:, around], answer[:, around], replace(noise, scale=scale), clipped)
        return own, whole[:, own.start - around.start : own.stop - around.start]

    for own, band in workers.in_order(of_band, range(0, h, BAND)):
        found[:, own] = band
    return found


def _consistent(y: Tensor, answer: Tensor, noise: Noise, clipped: bool) -> Tensor:
    full = deviation(answer, noise)
    if clipped:
        answer = clipping.restored(answer, full)
        full = deviation(answer, noise)
    mean, own = clipping.stored(answer, full) if clipped else (answer, full)
    residual = y - mean
    for side in MEAN_SIDES:
        shift = _significant_mean(residual, own, noise, side)
        residual, answer = residual - shift, answer + shift
    if clipped:  # where the answer has lost black and white, the image still shows them
        own = torch.minimum(own, clipping.stored(y, full)[1])
    share = _share_of_the_image(residual, own, noise)
    farthest = FARTHEST * full
    change = (answer - y) * (1 - share)
    return y + torch.minimum(torch.maximum(change, -farthest), farthest)


def no_more_than_noise(y: Tensor, answer: Tensor, noise: Noise) -> Tensor:
    """An image `answer` (c, h, w) that need not be the posterior mean of y, with as much of y given
    back as what was taken away exceeds the noise."""
    share = _share_of_the_image(y - answer, deviation(answer, noise), noise)
    return answer + share * (y - answer)


def deviation(x: Tensor, noise: Noise) -> Tensor:
    """The standard deviation of the noise at each pixel of x (c, h, w)."""
    found = noise.at(x.detach().cpu().numpy().astype(np.float64))
    if noise.scale is not None:
        found = found * noise.scale
    return torch.from_numpy(found).to(x).clamp_min(_LEAST)


def _significant_mean(residual: Tensor, own: Tensor, noise: Noise, side: int) -> Tensor:
    """The mean of a residual (c, h, w) around each pixel, less what the mean of noise explains that
    has standard deviation `own` or, where it is larger, the residual's."""
    summed = noise.correlation.diagonal().sum(axis=(0, 1)) / variances(noise.correlation)
    correlated = torch.from_numpy(summed.clip(1)).to(residual)[:, None, None]
    mean = _mean(residual, side)
    square = torch.maximum(residual.square(), own.square())
    variance = correlated * _mean(square, side) / _count(residual, side)
    explained = MEAN_CONFIDENCE**2 * variance / mean.square().clamp_min(_LEAST**2)
    return mean * (1 - explained).clamp_min(0)


def _share_of_the_image(residual: Tensor, own: Tensor, noise: Noise) -> Tensor:
    """The share of a residual (c, h, w) to give back at each pixel, (1, h, w), where its noise has
    standard deviation `own`."""
    power, expected = (of.square().mean(dim=0, keepdim=True) for of in (residual, own))
    near, wide = (_mean(power, side) / _mean(expected, side) for side in (SIDE, WIDE_SIDE))
    shown = near - CONFIDENCE * _spread(noise, residual, SIDE)
    shown_wide = torch.minimum(near, wide) - CONFIDENCE * _spread(noise, residual, WIDE_SIDE)
    excess = (torch.maximum(shown, shown_wide) - 1).clamp_min(0)
    return (excess / (1 + excess) * ALL_FROM / (ALL_FROM - 1)).clamp_max(1)


def _spread(noise: Noise, x: Tensor, side: int) -> Tensor:
    """The standard deviation of the mean square of noise over the neighbourhoods of an image
    (c, h, w), its own mean 1, (h, w)."""
    numbers = noise.channels * _count(x, side)
    return (2 * float(np.sum(noise.correlation**2)) / numbers).sqrt()


def _mean(x: Tensor, side: int) -> Tensor:
    """The mean over the neighbourhood of each pixel of x (c, h, w), cut off at the border."""
    found = x.cpu().numpy()
    for axis in (1, 2):
        found = uniform_filter1d(found, side, axis, mode="constant")  # zero beyond the border
    return torch.from_numpy(found).to(x) * side**2 / _count(x, side)


def _count(x: Tensor, side: int) -> Tensor:
    """The number of pixels in the neighbourhood of each pixel of x (c, h, w), (h, w)."""
    rows, columns = (_counts(length, side) for length in x.shape[1:])
    return (rows[:, None] * columns).to(x)


def _counts(length: int, side: int) -> Tensor:
    at = torch.arange(length)
    return (at + side // 2 + 1).clamp_max(length) - (at - side // 2).clamp_min(0)
