"""Noise that is cut off at black and white, as a file of 8 bits stores it (Foi 2009).

Where an image x is within a few standard deviations s of black, noise below black is stored as
black: the mean of what is stored is above x, and its standard deviation is less than s. Both are
those of a censored normal variable. A denoiser finds that mean, which is then inverted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLIPPED_FROM = 1e-3  # share of the values at black or white from which an image is taken as clipped
_LEAST_VARIANCE = 1e-3  # of what is stored, as a multiple of the noise's
_STEPS = 5  # of Newton's method


def is_clipped(y: Tensor) -> bool:
    """Whether no value of an image y is beyond black (0) and white (1), and some are at them."""
    at_ends = ((y == 0) | (y == 1)).double().mean()
    return bool(y.min() >= 0 and y.max() <= 1 and at_ends >= CLIPPED_FROM)


def stored(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of x + s n cut off at 0 and 1, for standard normal n; x
    and s > 0 of one shape and dtype."""
    low, high = x / s, (1 - x) / s
    shift = _excess(low) - _excess(high)  # of the mean, as a multiple of s
    variance = 1 - _square_lost(low) - _square_lost(high) - shift.square()
    return x + s * shift, s * variance.clamp_min(_LEAST_VARIANCE).sqrt()


def restored(mean: Tensor, s: Tensor) -> Tensor:
    """The x in 0 to 1 whose `stored` mean is nearest to `mean`; shape and dtype of both."""
    x = mean.clamp(0, 1)
    for _ in range(_STEPS):
        low, high = x / s, (1 - x) / s
        error = x + s * (_excess(low) - _excess(high)) - mean
        slope = torch.special.ndtr(low) - torch.special.ndtr(-high)
        x = (x - error / slope.clamp_min(0.1)).clamp(0, 1)
    return x


def _excess(m: Tensor) -> Tensor:
    """E max(n - m, 0)."""
    found: Tensor = _density(m) - m * torch.special.ndtr(-m)
    return found


def _square_lost(m: Tensor) -> Tensor:
    """E of n^2 - m^2 where n is more than m, of 0 elsewhere."""
    found: Tensor = torch.special.ndtr(-m) * (1 - m.square()) + m * _density(m)
    return found


def _density(m: Tensor) -> Tensor:
    return torch.exp(-m.square() / 2) / math.sqrt(2 * math.pi)
