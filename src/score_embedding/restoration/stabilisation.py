"""Functions of brightness that give signal-dependent noise one standard deviation, and back.

For a standard deviation s(x) the function is f(x) = integral of du / s(u) (for counts, Anscombe's
root): the noise of f(y) has nearly the same standard deviation everywhere. The mean of f(y) is not
f(x), so the inverse of f would be biased; the table of E f(y) for each x is inverted instead
(Makitalo and Foi 2011, 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import cumulative_trapezoid
from scipy.stats import poisson
from torch import Tensor

from score_embedding.restoration.noise import Noise, Stationary, Values

_GRID = 2049  # brightness values at which a function is tabulated
_LEAST_SHARE = 0.15  # of the mean deviation: smaller ones, as of clipped whites, are raised to it
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)  # of the expectation under Gaussian noise
_MANY_COUNTS = 200.0  # above which Poisson noise is taken as Gaussian


@dataclass(frozen=True)
class Stabilisation:
    """The functions of all channels of an image, tabulated.

    Attributes
    ----------
    x : (n,), brightness.
    f : (c, n), the function of each channel; linear beyond the ends.
    expected : (c, n), the mean of f(y) where the image is x, increasing.
    noise : of the stabilised image.
    """

    x: Values
    f: Values
    expected: Values
    noise: Stationary

    def stabilised(self, y: Tensor) -> Tensor:
        """f of an image (c, h, w)."""
        return _each(y, self.x, self.f)

    def restored(self, z: Tensor) -> Tensor:
        """The brightness whose E f(y) is a denoised stabilised image (c, h, w)."""
        return _each(z, self.expected, self.x)


def stabilisation(noise: Noise, low: float, high: float) -> Stabilisation | None:
    """For noise of an image with pixels from `low` to `high`; None where the curves are constant.
    The function of a channel maps 0 and 1 to themselves."""
    if noise.is_constant:
        return None
    low, high = min(low, 0.0), max(high, 1.0)
    x = np.linspace(low, high, _GRID)
    true = noise.at(np.tile(x, (noise.channels, 1)))
    deviation = true
    if noise.counts:  # Anscombe: 3/8 of a count more
        deviation = np.sqrt(true**2 + 3 / 8 * noise.slope[:, None] ** 2)
    root = np.sqrt(np.mean(noise.deviations**2, axis=1, keepdims=True))
    floor = _LEAST_SHARE * np.maximum(root, _LEAST_SHARE * noise.level)
    f = cumulative_trapezoid(1 / np.maximum(deviation, floor), x, axis=1, initial=0)
    zero, one = (np.array([np.interp(v, x, own) for own in f]) for v in (0.0, 1.0))
    unit = 1 / (one - zero)  # the standard deviation of the noise of f, of each channel
    f = (f - zero[:, None]) * unit[:, None]
    return Stabilisation(x, f, _expected(x, f, true, noise), stationary(noise, unit))


def stationary(noise: Noise, deviations: Values) -> Stationary:
    """Noise of these standard deviations of the channels, correlated as `noise`, with its map."""
    level = float(np.mean(deviations**2)) ** 0.5
    if level == 0:
        return Stationary.white(0.0, len(deviations))
    shares = deviations / level
    covariance = noise.correlation * (shares[:, None] * shares)[:, :, None, None]
    scale = None if noise.scale is None else torch.from_numpy(noise.scale)
    return Stationary(level, covariance, scale)


def _expected(x: Values, f: Values, deviation: Values, noise: Noise) -> Values:
    """E f(y) at each x, where the noise has this deviation (c, n), made increasing."""
    found = np.zeros_like(f)
    for own, curve, spread in zip(found, f, deviation, strict=True):
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            own += weight / _WEIGHTS.sum() * np.interp(x + node * spread, x, curve)
    if noise.counts:
        slope = float(noise.slope[0])
        few = (x >= 0) & (x / slope < _MANY_COUNTS)
        counts = np.arange(int(2 * _MANY_COUNTS))
        shares = poisson.pmf(counts, x[few, None] / slope)
        for own, curve in zip(found, f, strict=True):
            own[few] = shares @ np.interp(counts * slope, x, curve)
    least = np.arange(len(x)) * 1e-12
    return np.asarray(np.maximum.accumulate(found, axis=1) + least)


def _each(image: Tensor, x: Values, y: Values) -> Tensor:
    """Piecewise linear functions of the channels (c, h, w), linear beyond the ends; x (n,) or
    (c, n), y (n,) or (c, n)."""
    changed = torch.empty_like(image)
    tables = (np.broadcast_to(of, (len(image), of.shape[-1])) for of in (x, y))
    for into, channel, own_x, own_y in zip(changed, image.detach(), *tables, strict=True):
        plane = channel.cpu().numpy().astype(np.float64)
        found = np.interp(plane, own_x, own_y)
        for end, inner, beyond in ((0, 64, plane < own_x[0]), (-1, -65, plane > own_x[-1])):
            slope = (own_y[end] - own_y[inner]) / (own_x[end] - own_x[inner])
            found[beyond] = own_y[end] + slope * (plane[beyond] - own_x[end])
        into.copy_(torch.from_numpy(found))
    return changed
