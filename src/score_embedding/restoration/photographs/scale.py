"""Which values of a file are 0 and 1 to a denoiser, whose images have black at 0 and white at 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.errors import DivergenceError

# Values that fill less than this part of black to white are stretched: the bundled mixture is of
# photographs, and at a 64th of their contrast it denoises 1.3 dB worse.
LEAST_SHARE = 0.25


@dataclass(frozen=True)
class Scale:
    """The affine map between the values of a file and [0, 1].

    Attributes
    ----------
    dtype : of the values.
    low, high : the values that become 0 and 1.
    white : in which the level of noise is given: the largest value of integers of 8 and 16 bits; of
        other types 1, which is the unit of the values themselves.
    """

    dtype: np.dtype[Any]
    low: float
    high: float
    white: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Scale:
        """From 0 to white where the values suit that; from the least to the largest value where
        some are beyond, or where more than 8 bits are hardly used."""
        dtype = values.dtype.newbyteorder("=")
        white = float(np.iinfo(dtype).max) if dtype.kind in "ui" and dtype.itemsize < 3 else 1.0
        low, high = float(values.min()), float(values.max())
        within = low >= 0 and high <= white
        used = dtype == np.uint8 or high - low >= LEAST_SHARE * white
        if low == high:
            return cls(dtype, 0.0, white, white) if within else cls(dtype, low, low + 1, white)
        return cls(dtype, 0.0, white, white) if within and used else cls(dtype, low, high, white)

    @property
    def has_own_unit(self) -> bool:
        """Whether the level of noise is in the unit of the values, white being at any of them."""
        return self.white == 1 and (self.low, self.high) != (0, 1)

    def unit(self, values: NDArray[Any]) -> Tensor:
        """Values (h, w, c) as float32 (c, h, w) in [0, 1]."""
        h, w, c = values.shape
        x = np.empty((c, h, w), np.float32)
        for own, channel in zip(x, np.moveaxis(values, 2, 0), strict=True):
            if self.low == 0 and self.high == self.white:
                np.divide(channel, np.float32(self.white), out=own, dtype=np.float32)
            else:
                own[:] = (channel.astype(np.float64) - self.low) / (self.high - self.low)
        return torch.from_numpy(x.clip(0, 1, out=x))

    def values(self, x: Tensor) -> NDArray[Any]:
        """The inverse: x (c, h, w), clipped to [0, 1], as values (h, w, c); integers are rounded.
        Raises DivergenceError for NaN."""
        if x.isnan().any():
            raise DivergenceError("not written, the result holds pixels that are NaN")
        c, h, w = x.shape
        values = np.empty((h, w, c), self.dtype)
        for channel, unit in enumerate(x.detach().cpu()):  # one at a time: float64 takes memory
            own = self.low + unit.double().clamp(0, 1).numpy() * (self.high - self.low)
            values[:, :, channel] = own if self.dtype.kind == "f" else own.round()
        return values

    def unit_sigma(self, sigma: float) -> float:
        """A level of noise, given with white at 1, for images in [0, 1]."""
        return sigma * self.white / (self.high - self.low)

    def file_sigma(self, sigma: float) -> float:
        """The inverse of `unit_sigma`."""
        return sigma * (self.high - self.low) / self.white


def converted(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Alpha of one type in another: 0 stays transparent, the largest value opaque."""
    share = values.astype(np.float64) / opaque(values.dtype) * opaque(dtype)
    return (share if dtype.kind == "f" else share.round()).astype(dtype)


def opaque(dtype: np.dtype[Any]) -> float:
    """The value of alpha that is opaque."""
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
