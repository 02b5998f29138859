"""Images of little contrast, such as 12-bit data in uint16, stretched for the models and back.

The bundled mixture and the estimate of the noise are of photographs from black to white. Data of
more than 8 bits that fill a small part of that range have the noise of a photograph only after they
are stretched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from score_embedding.restoration.noise import Noise
from score_embedding.restoration.photographs.scale import LEAST_SHARE


@dataclass(frozen=True)
class Contrast:
    """The values of an image that become 0 and 1."""

    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, x: Tensor, deep: bool, from_zero: bool = False) -> Contrast:
        """Of an image x (c, h, w): 0 and 1 where it fills LEAST_SHARE of that range or is not
        `deep`, of more than 8 bits; else from its least to its largest value, or from 0 where that
        is enough or, as for counts, needed."""
        low, high = float(x.min()), float(x.max())
        if not deep or high - low >= LEAST_SHARE or low == high:
            return cls()
        if high > 0 and (from_zero or high - low >= LEAST_SHARE * high):
            return cls(0.0, high)
        return cls() if from_zero else cls(low, high)

    @property
    def is_own(self) -> bool:
        """Whether the image stays as it is."""
        return (self.low, self.high) == (0.0, 1.0)

    def unit(self, x: Tensor) -> Tensor:
        """The image stretched."""
        return x if self.is_own else (x - self.low) / (self.high - self.low)

    def restored(self, x: Tensor) -> Tensor:
        """The inverse."""
        return x if self.is_own else self.low + x * (self.high - self.low)

    def unit_sigma(self, sigma: Any) -> Any:
        """A level of noise for the stretched image; what is no number stays unchanged."""
        if self.is_own or sigma is None or isinstance(sigma, str):
            return sigma
        return np.asarray(sigma) / (self.high - self.low)

    def unit_noise(self, noise: Noise) -> Noise:
        """The noise of the stretched image, from that of the image."""
        return self._moved(noise, 1 / (self.high - self.low), -self.low / (self.high - self.low))

    def restored_noise(self, noise: Noise) -> Noise:
        """The inverse."""
        return self._moved(noise, self.high - self.low, self.low)

    def _moved(self, noise: Noise, factor: float, shift: float) -> Noise:
        if self.is_own:
            return noise
        levels, deviations = factor * noise.levels + shift, factor * noise.deviations
        return replace(noise, levels=levels, deviations=deviations)
