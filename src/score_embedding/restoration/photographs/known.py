"""Which pixels of a photograph are measured values, and which stand for their absence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_embedding.restoration.photographs.photograph import Mask, Photograph

_GDAL_NODATA = 42113  # a tag of GeoTIFF: the value of pixels without data, as text
# Distance from the median, in median absolute deviations, beyond which a value of more than 16 bits
# is no measurement, such as -3.4e38: the brightest star is some 10,000 from the sky.
_MOST_DEVIATIONS = 1e6


def known_pixels(photograph: Photograph, among: Mask | None = None) -> Mask | None:
    """Where (h, w), `among` these pixels, all channels are finite, and neither the file's value for
    no data nor of another order of magnitude than all others; None where all pixels are."""
    colour = photograph.colour
    known: Mask = np.isfinite(colour).all(axis=2)
    if among is not None:
        known &= among
    if (nothing := _no_data(photograph)) is not None:
        with np.errstate(all="ignore"):  # one that the type does not reach
            value = colour.dtype.type(nothing) if colour.dtype.kind == "f" else nothing
        known &= (colour != value).all(axis=2)
    if colour.dtype.itemsize > 2:
        for band in np.moveaxis(colour, 2, 0):
            known &= _plausible(band, known)
    return None if known.all() else known


def _no_data(photograph: Photograph) -> float | None:
    if photograph.tiff is None:
        return None
    text = next((tag[2] for tag in photograph.tiff.tags if tag[0] == _GDAL_NODATA), b"")
    try:
        return float(text.rstrip(b"\0 "))
    except ValueError:
        return None


def _plausible(band: NDArray[Any], known: Mask) -> Mask:
    """Where the values of one channel (h, w) are of the order of magnitude of the others."""
    values = band[known].astype(np.float64)
    if values.size == 0:
        return known
    centre, spread = _centre_and_spread(values)
    if spread == 0 and (values != centre).any():  # more than half may be without data
        centre, spread = _centre_and_spread(values[values != centre])
    if spread == 0:
        return known
    with np.errstate(all="ignore"):  # values that are not finite are unknown already
        found: Mask = np.abs(band - centre) <= _MOST_DEVIATIONS * spread
    return found


def _centre_and_spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """The median, and the median absolute deviation from it."""
    centre = float(np.median(values))
    return centre, float(np.median(np.abs(values - centre)))
