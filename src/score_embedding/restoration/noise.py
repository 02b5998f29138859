"""The noise of an image: how strong it is at each brightness, and how neighbours share it.

An image y = x + n has Gaussian noise n. Its standard deviation depends on the brightness of x, by a
curve for each channel, and perhaps on the place, by a map. The noise of neighbouring pixels and of
the channels is correlated as a camera's processing leaves it. White noise is the case of a constant
curve without correlation.

Denoising takes it in two steps. A function of the brightness, for each channel, makes the standard
deviation constant (`Stabilisation`). What remains is `Stationary`: one covariance for all windows
of an image, which whitens them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from score_embedding.arrays import whole

Values = NDArray[np.float64]

LEAST_EIGENVALUE = 0.01  # of a correlation matrix: a direction with less noise is taken as this


def independent(channels: int) -> Values:
    """The correlation of independent noise of that many channels, (c, c, 1, 1)."""
    return np.eye(channels)[:, :, None, None]


def variances(covariance: Values) -> Values:
    """Of each channel, (c,), from a covariance by lag (c, c, 2 R + 1, 2 R + 1)."""
    centre = covariance.shape[2] // 2
    return covariance[:, :, centre, centre].diagonal()


def _grey_levels(deviation: float) -> str:
    """A standard deviation in grey levels of 255, in two digits where it is below one."""
    value = 255 * float(deviation)
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2g}"


@dataclass(frozen=True)
class Stationary:
    """Gaussian noise of one covariance at every place of an image, but for a factor.

    Attributes
    ----------
    level : its standard deviation, the root of the mean variance of the channels.
    covariance : (c, c, 2 R + 1, 2 R + 1), of channel a at a pixel with channel b at the pixel
        (i - R, j - R) further down and right, as a multiple of level^2; float64.
    scale : (h, w), factor of the standard deviation at each pixel, or None for 1.
    """

    level: float
    covariance: Values
    scale: Tensor | None = None

    @classmethod
    def white(cls, level: float, channels: int) -> Stationary:
        """Independent noise of one standard deviation."""
        return cls(level, independent(channels))

    @cached_property
    def is_white(self) -> bool:
        """Whether it is independent and of one standard deviation in all channels."""
        white = np.zeros_like(self.covariance)
        centre = white.shape[2] // 2
        white[:, :, centre, centre] = np.eye(len(white))
        return bool(np.allclose(self.covariance, white, atol=1e-6))

    @property
    def correlated(self) -> bool:
        """Whether it may be shared by neighbouring pixels."""
        return bool(self.covariance.shape[2] > 1)

    def window(self, side: int) -> Values:
        """The covariance of a window of side x side pixels, as a multiple of level^2, (d, d) with
        d = c side^2 in the order of `torch.nn.functional.unfold`."""
        c, _, n, _ = self.covariance.shape
        reach = n // 2
        lag = np.arange(side)[None] - np.arange(side)[:, None]
        inside = np.abs(lag) <= reach
        at = lag.clip(-reach, reach) + reach
        blocks = self.covariance[:, :, at[:, None, :, None], at[None, :, None, :]]
        blocks = blocks * (inside[:, None, :, None] & inside[None, :, None, :])
        return np.asarray(blocks.transpose(0, 2, 3, 1, 4, 5).reshape(c * side**2, -1))

    def whitening(self, side: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """The symmetric root R^-1/2 of the inverse of `window`, and R^1/2, (d, d) in the dtype and
        on the device of `like`; None where they are the identity. Whitened windows R^-1/2 y have
        independent noise of standard deviation `level`. Eigenvalues below LEAST_EIGENVALUE are
        raised to it."""
        if self.is_white:
            return None
        values, axes = np.linalg.eigh(self.window(side))
        roots = np.sqrt(values.clip(LEAST_EIGENVALUE))
        both = ((axes / roots) @ axes.T, (axes * roots) @ axes.T)
        whiten, colour = (torch.from_numpy(matrix).to(like) for matrix in both)
        return whiten, colour

    def halved(self) -> Stationary:
        """The noise of the means of 2 x 2 pixels, exactly, within half the reach of this one."""
        n = self.covariance.shape[2]
        reach, kept = n // 2, (n // 2 + 1) // 2
        padded = np.pad(self.covariance, ((0, 0), (0, 0), (2, 2), (2, 2)))
        centre = reach + 2
        found = np.zeros((*self.covariance.shape[:2], 2 * kept + 1, 2 * kept + 1))
        for i, weight_i in zip((-1, 0, 1), (1, 2, 1), strict=True):
            for j, weight_j in zip((-1, 0, 1), (1, 2, 1), strict=True):
                rows, columns = (
                    slice(centre + o - 2 * kept, centre + o + 2 * kept + 1, 2) for o in (i, j)
                )
                found += weight_i * weight_j / 16 * padded[:, :, rows, columns]
        share = float(np.mean(variances(found)))
        if share <= 0:
            return Stationary.white(0.0, len(found))
        scale = None if self.scale is None else avg_pool2d(self.scale[None], 2)[0]
        return Stationary(self.level * share**0.5, found / share, scale)


@dataclass(frozen=True)
class Noise:
    """The noise of one image.

    Attributes
    ----------
    levels : (B,), brightness from the least to the largest, white being 1.
    deviations : (c, B), the standard deviation of each channel at these; linear in between and
        constant beyond. A single level: the same at all.
    correlation : (c, c, 2 R + 1, 2 R + 1), of channel a at a pixel with channel b at the pixel
        (i - R, j - R) further down and right.
    scale : (h, w), factor of the standard deviation at each pixel, or None for 1.
    impulses : share of the pixels that are black or white specks (salt and pepper), which no part
        of this model describes.
    counts : whether the image holds counts (Poisson), whose stabilisation has another offset and is
        undone without bias at few counts, too.
    """

    levels: Values
    deviations: Values
    correlation: Values
    scale: NDArray[np.float32] | None = None
    counts: bool = False
    impulses: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for standard deviations that are none."""
        for name, values in (("deviations", self.deviations), ("scale", self.scale)):
            if values is not None and not (np.isfinite(values).all() and (values >= 0).all()):
                raise ValueError(f"noise: {name} must be finite and not negative, got {values}")

    @classmethod
    def white(cls, deviations: float | Values, channels: int) -> Noise:
        """Independent noise of one standard deviation, or of one for each channel.

        Raises
        ------
        ValueError : a deviation that is negative or not finite, or another number of them.
        """
        channels = whole(channels, "channels", 1)
        given = np.asarray(deviations, np.float64)
        if given.shape not in ((), (channels,)):
            raise ValueError(
                f"noise: one standard deviation or {channels}, of each channel, got {deviations}"
            )
        each = np.broadcast_to(given, (channels,))
        return cls(np.array([0.5]), each[:, None].copy(), independent(channels))

    @classmethod
    def poisson(cls, slope: float, offset: float, channels: int) -> Noise:
        """Noise of variance slope x + offset at brightness x: counts x / slope of a Poisson
        distribution, with Gaussian noise of variance `offset` added. ValueError for a slope or
        offset that is negative or not finite."""
        channels = whole(channels, "channels", 1)
        for name, value in (("slope", slope), ("offset", offset)):
            if not 0 <= value < math.inf:
                raise ValueError(f"noise: {name} must be finite and not negative, got {value}")
        levels = np.linspace(0, 1, 65) ** 2
        deviations = np.sqrt(slope * levels + offset)
        return cls(levels, np.tile(deviations, (channels, 1)), independent(channels), counts=True)

    @property
    def channels(self) -> int:
        return len(self.deviations)

    @property
    def level(self) -> float:
        """The root of the mean variance, over channels, brightness levels and places."""
        mean = math.sqrt(np.mean(self.deviations**2))
        return mean if self.scale is None else mean * math.sqrt(np.mean(self.scale**2))

    @property
    def is_constant(self) -> bool:
        """Whether it has one standard deviation at all brightness levels, in each channel."""
        spread = np.ptp(self.deviations, axis=1).max()
        return bool(spread <= 1e-9 * self.deviations.max())

    @property
    def slope(self) -> Values:
        """How fast the variance of each channel grows at the largest level, (c,): of counts, the
        brightness of one."""
        return np.asarray(np.gradient(self.deviations**2, self.levels, axis=1)[:, -1])

    def times(self, strength: float) -> Noise:
        """With all standard deviations `strength` times as large."""
        return replace(self, deviations=strength * self.deviations)

    def at(self, x: Values) -> Values:
        """The standard deviation of each channel at brightness x (c, ...), without the map."""
        pairs = zip(x, self.deviations, strict=True)
        return np.stack([np.interp(own, self.levels, curve) for own, curve in pairs])

    def described(self) -> str:
        """The noise in plain words, with standard deviations in grey levels of 255."""
        words = [f"{_grey_levels(self.level)} of 255" if self.level else "none found"]
        words += self._by_brightness()
        centre = self.correlation.shape[2] // 2
        if centre and self.correlation[0, 0, centre, centre + 1 :].any():
            nearest = self.correlation[0, 0, centre, centre + 1]
            words.append(f"shared by neighbouring pixels (correlation {nearest:.2f})")
        if self.scale is not None:
            words.append("by a map")
        if self.impulses:
            words.append(f"and {100 * self.impulses:.1f} % isolated specks, which are kept")
        return ", ".join(words)

    def _by_brightness(self) -> list[str]:
        """How the standard deviation depends on the brightness, if it visibly does."""
        curve = np.sqrt(np.mean(self.deviations**2, axis=0))
        least, most = _grey_levels(curve.min()), _grey_levels(curve.max())
        if curve.max() <= 1.2 * curve.min() or least == most:
            return []
        if abs(curve[-1] - curve[0]) >= 0.5 * np.ptp(curve):
            first, last = _grey_levels(curve[0]), _grey_levels(curve[-1])
            return [f"from {first} in the dark to {last} in the light"]
        at = 255 * self.levels[curve.argmax()]
        return [f"from {least} to {most}, most at brightness {at:.0f}"]
