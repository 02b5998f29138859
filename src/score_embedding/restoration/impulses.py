"""Impulse noise: isolated pixels that differ from all around them by much more than the noise.

Salt and pepper is one case; single channels, and random values in place of black and white, are
others. A speck is above, or below, seven of the eight pixels around it by several standard
deviations of other noise and by more than these differ among themselves, so that neither edges nor
texture nor noise that is cut off at white are taken for specks. That standard deviation is a
quantile's, which specks hardly raise. Stars are only brighter than what is around them, and the
points of a drawing only darker: impulses are both. Dithered pictures consist of points: where a
picture has two values, pixels with one of them are not counted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding.restoration import two_values

SIDE = 512  # pixels along the middle of a larger image, which shows enough
FAR = 6.0  # standard deviations of the noise between a speck and the pixels around it
LEAST_FAR = 0.08  # the same as a brightness, for pictures without other noise
APART = 1.5  # times the range of the pixels around it, without the least and the largest
WITHIN = 0.6827  # of a normal variable's values: one standard deviation
LEAST_SHARE = 0.005  # of the pixels
NEAR = 2.5  # standard deviations between a pixel and a value that it has
LEAST_OF_EACH = 0.03  # of all specks, brighter and darker ones


def share(x: Tensor) -> float:
    """The share of the pixels of an image (c, h, w) that are specks in any channel; 0 where specks
    are few, or all bright or dark. Of a large image its middle."""
    top, left = (max(0, size - SIDE) // 2 for size in x.shape[1:])
    x = x[:, top : top + SIDE, left : left + SIDE]
    around = _around(x)
    low, high = around[1], around[-2]
    detail = x - (around[3] + around[4]) / 2
    deviation = detail.abs().flatten(1).quantile(WITHIN, dim=1)
    far = torch.maximum(FAR * deviation[:, None, None], APART * (high - low)).clamp_min(LEAST_FAR)
    bright, dark = x - high > far, low - x > far
    specks = bright | dark
    few = _pixels(specks & ~_near_two_values(x)) < LEAST_SHARE
    if few or min(_pixels(bright), _pixels(dark)) < LEAST_OF_EACH * _pixels(specks):
        return 0.0
    return _pixels(specks)


def _pixels(found: Tensor) -> float:
    """The share of the pixels of (c, h, w) that are found in any channel."""
    return float(found.any(dim=0).float().mean())


def _near_two_values(x: Tensor) -> Tensor:
    """Where a picture of two values (c, h, w) has one of them; nowhere in other pictures."""
    near = torch.zeros_like(x, dtype=torch.bool)
    found = two_values.around_two_values(x)
    if found is not None:
        values, deviations = (torch.from_numpy(of).to(x)[:, :, None, None] for of in found[:2])
        near = ((x[:, None] - values).abs() <= NEAR * deviations).any(dim=1)
    return near


def _around(x: Tensor) -> Tensor:
    """The eight neighbours of each pixel of an image (c, h, w), sorted, (8, c, h, w)."""
    _, h, w = x.shape
    padded = F.pad(x[None], (1, 1, 1, 1), "reflect")[0]
    places = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    near = torch.stack([padded[:, i : i + h, j : j + w] for i, j in places])
    return near.sort(dim=0).values
