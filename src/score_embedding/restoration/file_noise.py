"""The noise of a page of a file, as the options of a command give it.

A standard deviation is given in the unit of the file; denoisers have black at 0 and white at 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from score_embedding.errors import DataError
from score_embedding.restoration import noise_given
from score_embedding.restoration.noise import Noise
from score_embedding.restoration.noise_given import Kind
from score_embedding.restoration.photographs.known import known_pixels
from score_embedding.restoration.photographs.photograph import Mask, Photograph
from score_embedding.restoration.photographs.scale import Scale

# The others are filled in without noise, and the noise is estimated by a median.
_LEAST_KNOWN = 0.75


@dataclass(frozen=True)
class FileNoise:
    """What is given of the noise of files.

    Attributes
    ----------
    sigma : its standard deviation, white being 1; of floating-point files in the unit of their
        values; None: estimated.
    kind, strength : as `noise` and `strength` in denoising.denoise.
    """

    sigma: float | None = None
    kind: Kind = "auto"
    strength: float = 1.0

    @property
    def source(self) -> str:
        """Where the level comes from, for messages."""
        return "estimated" if self.sigma is None else "given"

    def described(self, noise: Noise, scale: Scale) -> str:
        """The noise of an image in [0, 1], before the factor `strength`, and that factor in words,
        for messages."""
        level = scale.file_sigma(noise.level)
        if level == 0:
            return noise.described() if self.sigma is None else f"0, {self.source}"
        words = f"{level:.4g}" if scale.has_own_unit else f"{level:.4f} ({noise.described()})"
        return f"{words}, {self.source}{self._factor(level)}"

    def _factor(self, level: float) -> str:
        if self.strength == 1:
            return ""
        if self.strength == 0:
            return "; strength 0 changes nothing"
        removed = self.strength * level
        return f"; strength {self.strength:g}: as much is removed as of noise {removed:.4g}"

    def check_sigma(self) -> None:
        """Raise DataError for a level that suits no scale."""
        try:
            noise_given.checked_sigma(0.0 if self.sigma is None else min(self.sigma, 1.0))
        except ValueError as error:
            raise DataError(str(error)) from None

    def known(self, found: Photograph) -> Mask | None:
        """The pixels that hold data; None: all. Raises DataError where they are too few."""
        known = known_pixels(found)
        if known is not None and not known.any():
            raise DataError("holds no pixel that is finite")
        if known is not None and self.sigma is None and known.mean() < _LEAST_KNOWN:
            raise DataError(
                f"{100 * (1 - known.mean()):.0f} % of its pixels hold no data, such as NaN: too "
                f"many for its noise to be estimated (--sigma VALUE)"
            )
        return known

    def of(self, x: Tensor, scale: Scale) -> Noise:
        """The noise of x (c, h, w) in [0, 1], given or estimated, before the factor `strength`.
        Raises DataError where it cannot be."""
        with self._in_unit(scale) as sigma:
            return noise_given.noise_of(x, sigma, self.kind)

    def check(self, found: Photograph, part: slice, scale: Scale) -> None:
        """As `of` a part, without estimating it: that is done when the photograph is denoised."""
        with self._in_unit(scale) as sigma:
            shape = part.stop - part.start, *found.colour.shape[:2]
            noise_given.check(shape, sigma, self.kind)

    @contextmanager
    def _in_unit(self, scale: Scale) -> Iterator[float | None]:
        """The given sigma where white is at 1; errors about it become those of the user."""
        try:
            yield None if self.sigma is None else scale.unit_sigma(self.sigma)
        except DataError as error:
            raise DataError(f"{error} (--sigma VALUE)") from None
        except ValueError as error:
            if scale.low == 0 and scale.high == scale.white:
                raise DataError(str(error)) from None
            raise DataError(
                f"sigma: {self.sigma:g} is too much where white is {scale.white:g} and the values "
                f"are from {scale.low:g} to {scale.high:g}"
            ) from None
