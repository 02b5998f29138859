"""A photograph as a file holds it: pixels at their own depth, alpha, EXIF, profile, resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.errors import DataError
from score_embedding.restoration.photographs.scale import Scale, opaque

if TYPE_CHECKING:
    from score_embedding.restoration.photographs.tiff_tags import TiffOrigin


@dataclass(frozen=True)
class Photograph:
    """One photograph, or one page of a file, upright.

    Attributes
    ----------
    colour : (h, w, n) of any integer or floating-point type. Where alpha is 0 it is kept as well.
    alpha : (h, w), uint8 or uint16, or None.
    colours : the first channels, 1 (grey) or 3 (RGB); those after them are bands of their own, such
        as near infrared.
    exif : without its thumbnail, orientation 1; empty if the file has none.
    icc : colour profile that suits the channels, or empty.
    dpi : dots per inch across and down, or None.
    duration : milliseconds that a frame of an animation is shown.
    tiff : what only a TIFF file holds, or None.
    """

    colour: NDArray[Any]
    alpha: NDArray[Any] | None = None
    colours: int = 1
    exif: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None
    duration: float = 0
    tiff: TiffOrigin | None = None

    @property
    def parts(self) -> list[slice]:
        """The channels of `colour` that belong together: grey or RGB, and each further band."""
        bands = range(self.colours, self.colour.shape[2])
        return [slice(0, self.colours), *(slice(band, band + 1) for band in bands)]

    @property
    def depth(self) -> int:
        """Bits of a channel."""
        return 8 * self.colour.dtype.itemsize

    def check_finite(self, where: NDArray[np.bool_] | None = None) -> None:
        """Raise DataError where pixels, of those that `where` (h, w) selects, are NaN or
        infinite."""
        if not np.isfinite(self.colour if where is None else self.colour[where]).all():
            raise DataError(
                "holds pixels that are NaN or infinite; inpaint fills them in, with a mask of them"
            )

    def scale(self, part: slice, known: NDArray[np.bool_] | None = None) -> Scale:
        """Of a part, by all its pixels or those that are `known` (h, w)."""
        values = self.colour[:, :, part]
        return Scale.of(values if known is None else values[known])

    def unit(self, part: slice, known: NDArray[np.bool_] | None = None) -> Tensor:
        """A part as float32 (c, h, w) in [0, 1], by its scale; 0 where it is not `known`."""
        values = self.colour[:, :, part]
        if known is not None:
            values = np.where(known[:, :, None], values, np.zeros((), values.dtype))
        return self.scale(part, known).unit(values)

    @property
    def pixels(self) -> Tensor:
        """Grey or RGB as float32 (colours, h, w) in [0, 1]."""
        return self.unit(self.parts[0])

    def with_units(
        self, results: list[Tensor | None], missing: NDArray[np.bool_] | None = None
    ) -> Photograph:
        """With other pixels, (c, h, w) in [0, 1] for each part, by its scale; None keeps those of a
        part. Only those that are `missing` (h, w) are changed, where it is given, and become
        opaque; the scale is then that of the others.

        Raises
        ------
        DivergenceError : pixels that are NaN.
        """
        colour, alpha = self.colour.copy(), self.alpha
        known = None if missing is None else ~missing
        for part, result in zip(self.parts, results, strict=True):
            if result is not None:
                values = self.scale(part, known).values(result)
                changed = slice(None) if missing is None else missing
                colour[:, :, part][changed] = values[changed]
        if alpha is not None and missing is not None:
            alpha = np.where(missing, np.asarray(opaque(alpha.dtype), alpha.dtype), alpha)
        return replace(self, colour=colour, alpha=alpha)

    def with_origin(self, tiff: TiffOrigin | None) -> Photograph:
        return replace(self, tiff=tiff)
