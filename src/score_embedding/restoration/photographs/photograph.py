"""A photograph as a file holds it: pixels at their own depth, alpha, EXIF, profile, resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from score_embedding.restoration.photographs.scale import Scale, opaque

if TYPE_CHECKING:
    from score_embedding.restoration.photographs.multi_picture import FurtherPictures
    from score_embedding.restoration.photographs.tiff_tags import TiffOrigin

Mask = NDArray[np.bool_]  # (h, w)


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
    others : pictures behind it in a JPEG file, or None.
    """

    colour: NDArray[Any]
    alpha: NDArray[Any] | None = None
    colours: int = 1
    exif: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None
    duration: float = 0
    tiff: TiffOrigin | None = None
    others: FurtherPictures | None = None

    @property
    def parts(self) -> list[slice]:
        """The channels of `colour` that belong together: grey or RGB, and each further band."""
        bands = range(self.colours, self.colour.shape[2])
        return [slice(0, self.colours), *(slice(band, band + 1) for band in bands)]

    @property
    def depth(self) -> int:
        """Bits of a channel."""
        return 8 * self.colour.dtype.itemsize

    def scale(self, part: slice, known: Mask | None = None) -> Scale:
        """Of a part, by all its pixels or those that are `known` (h, w)."""
        values = self.colour[:, :, part]
        return Scale.of(values if known is None else values[known])

    def unit(self, part: slice, known: Mask | None = None) -> Tensor:
        """A part as float32 (c, h, w) in [0, 1], by its scale; those that are not `known` (h, w)
        get the value of the nearest one that is."""
        values = self.colour[:, :, part]
        if known is not None:
            values = _filled_by_nearest(values, known)
        return self.scale(part, known).unit(values)

    @property
    def pixels(self) -> Tensor:
        """Grey or RGB as float32 (colours, h, w) in [0, 1]."""
        return self.unit(self.parts[0])

    def with_units(
        self,
        results: list[Tensor | None],
        known: Mask | None = None,
        changed: Mask | None = None,
    ) -> Photograph:
        """With other pixels, (c, h, w) in [0, 1] for each part, by its scale of those that are
        `known`; None keeps those of a part. Only those that are `changed` (h, w) differ, where it
        is given.

        Raises
        ------
        DivergenceError : pixels that are NaN.
        """
        colour = self.colour.copy()
        for part, result in zip(self.parts, results, strict=True):
            if result is not None:
                values = self.scale(part, known).values(result)
                where = slice(None) if changed is None else changed
                colour[:, :, part][where] = values[where]
        return replace(self, colour=colour)

    def made_opaque(self, where: Mask) -> Photograph:
        """With alpha, if it has some, opaque where (h, w) is true."""
        if self.alpha is None:
            return self
        full = np.asarray(opaque(self.alpha.dtype), self.alpha.dtype)
        return replace(self, alpha=np.where(where, full, self.alpha))

    def with_origin(self, tiff: TiffOrigin | None) -> Photograph:
        return replace(self, tiff=tiff)


def _filled_by_nearest(values: NDArray[Any], known: Mask) -> NDArray[Any]:
    """Values (h, w, c) with the nearest that is known in place of all others."""
    rows, columns = distance_transform_edt(~known, return_distances=False, return_indices=True)
    nearest: NDArray[Any] = values[rows, columns]
    return nearest
