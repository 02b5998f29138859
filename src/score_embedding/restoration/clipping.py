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
MOST_CLIPPED = 0.6  # of noise around black or white itself a half is cut off; more is no noise
_LEAST_VARIANCE = 1e-3  # of what is stored, as a multiple of the noise's
_STEPS = 5  # of Newton's method


def is_clipped(y: Tensor) -> bool:
    """Whether no value of an image y is beyond black (0) and white (1), and some are at them."""
    at_ends = ((y == 0) | (y == 1)).double().mean()
    return bool(y.min() >= 0 and y.max() <= 1 and at_ends >= CLIPPED_FROM)


def stored(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of x + s n cut off at 0 and 1, for standard normal n; x
    and s > 0 of one shape and dtype."""
    shift, deviation = _moments(x / s, (1 - x) / s)
    return x + s * shift, s * deviation


def restored(mean: Tensor, s: Tensor) -> Tensor:
    """The x in 0 to 1 whose `stored` mean is nearest to `mean`; shape and dtype of both."""
    x = mean.clamp(0, 1)
    for _ in range(_STEPS):
        low, high = x / s, (1 - x) / s
        error = x + s * (_excess(low) - _excess(high)) - mean
        slope = torch.special.ndtr(low) - torch.special.ndtr(-high)
        x = (x - error / slope.clamp_min(0.1)).clamp(0, 1)
    return x


def clipped(y: Tensor, within: float) -> tuple[Tensor, Tensor]:
    """Where an image y is black, and where white, `within` round-off; nowhere at an end that some
    values are beyond."""
    none = torch.zeros_like(y, dtype=torch.bool)
    black = y <= within if y.min() >= 0 else none
    white = y >= 1 - within if y.max() <= 1 else none
    return black, white


def uncut(y: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Flat pieces of an image (n, c, ...) with the standard deviation that each had before its
    noise was cut off, by the share of the pixels that are black and white; unchanged where these
    are more than MOST_CLIPPED."""
    shares = [of.flatten(2).double().mean(dim=2) for of in (black, white)]
    low, high = (-torch.special.ndtri(share.clamp(1e-9, MOST_CLIPPED)) for share in shares)
    factor = torch.where(shares[0] + shares[1] <= MOST_CLIPPED, 1 / _moments(low, high)[1], 1.0)
    factor = factor.to(y)[(...,) + (None,) * (y.ndim - 2)]
    mean = y.mean(dim=tuple(range(2, y.ndim)), keepdim=True)
    return mean + factor * (y - mean)


def _moments(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of a standard normal variable cut off at -low and
    high."""
    shift = _excess(low) - _excess(high)
    variance = 1 - _square_lost(low) - _square_lost(high) - shift.square()
    return shift, variance.clamp_min(_LEAST_VARIANCE).sqrt()


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
