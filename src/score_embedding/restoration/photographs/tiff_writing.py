"""TIFF files of one or several pages, written by tifffile with the tags of their origin."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from score_embedding.restoration.photographs.photograph import Photograph
from score_embedding.restoration.photographs.scale import converted
from score_embedding.restoration.photographs.tiff_tags import Order, TiffOrigin

log = logging.getLogger(__name__)

_MAX_BYTES = 2**32 - 2**25  # of pixels in a classic TIFF, whose offsets have 32 bits
# Directories of EXIF, by tifffile's names of the tags that point to them. tifffile does not write
# them; Pillow encodes them.
_LINKED = {IFD.Exif: "ExifTag", IFD.GPSInfo: "GPSTag"}
_HEADERS = {"<": b"II*\0\0\0\0\0", ">": b"MM\0*\0\0\0\0", "big": b"II+\0\x08\0\0\0" + bytes(8)}


def write(
    path: Path, photographs: Iterable[Photograph], count: int = 1, big: bool | None = None
) -> None:
    """A TIFF file with a page for each photograph; deflated, unless its origin is a TIFF that is
    not compressed.

    Parameters
    ----------
    count : number of photographs, at least 1; they are taken one after the other.
    big : as BigTIFF; by default where the origin is one, or it is too large for a classic TIFF.
    """
    pages = iter(photographs)
    first = next(pages)
    if big is None:
        too_large = count * first.colour.nbytes > _MAX_BYTES
        big = too_large or (first.tiff is not None and first.tiff.big)
    order = first.tiff.order if first.tiff else _order_of(first.exif)
    if big and not (first.tiff is not None and first.tiff.big):
        order = "<"  # as _HEADERS has it
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
        _write_page(writer, first, order, big)
        for page in pages:
            gapless = page.tiff is not None and page.tiff.imagej  # EXIF would come in between
            _write_page(writer, replace(page, exif=b"") if gapless else page, order, big)


def _order_of(exif: bytes) -> Order:
    tags = Image.Exif()
    tags.load(exif)
    return ">" if tags.endian == ">" else "<"


def _write_page(writer: tifffile.TiffWriter, page: Photograph, order: Order, big: bool) -> None:
    origin = page.tiff
    values, extras = _samples(page)
    compressed = origin is None or origin.compressed
    resolution: Any = page.dpi
    unit: Any = "INCH" if page.dpi else None
    if origin is not None and origin.resolution is not None:
        *resolution, unit = origin.resolution
    writer.write(
        values[:, :, 0] if values.shape[2] == 1 else values,
        photometric="rgb" if values.shape[2] - len(extras) == 3 else "minisblack",
        planarconfig=None if values.shape[2] == 1 else "contig",
        extrasamples=extras or None,
        compression="zlib" if compressed else None,
        maxworkers=1,
        # of floating point, tifffile encodes none by itself
        predictor=True if compressed and values.dtype.kind in "ui" else None,
        iccprofile=page.icc or None,
        resolution=resolution,
        resolutionunit=unit,
        software=False,
        metadata=None,
        extratags=_tags(writer, page, order, big),
        contiguous=origin is not None and origin.imagej and not compressed,
    )


def _samples(page: Photograph) -> tuple[NDArray[Any], list[Any]]:
    """All channels (h, w, n), and the kinds of those that are neither grey nor RGB."""
    values, alpha = page.colour, page.alpha
    extras = ["unspecified"] * (values.shape[2] - page.colours)
    if alpha is None:
        return values, extras
    if values.shape[2] == 1 and values.dtype == np.uint16:
        values = values[:, :, [0, 0, 0]]  # many programs cannot read 16-bit grey with alpha
    return np.dstack([values, converted(alpha, values.dtype)]), [*extras, "unassalpha"]


def _tags(
    writer: tifffile.TiffWriter, page: Photograph, order: Order, big: bool
) -> list[tuple[Any, ...]]:
    """The tags of the origin, or those of EXIF, whose directories are written in any case."""
    origin: TiffOrigin | None = page.tiff if page.tiff and page.tiff.order == order else None
    found: list[tuple[Any, ...]] = [
        (code, kind, None, content, True) for code, kind, content in (origin.tags if origin else ())
    ]
    exif = Image.Exif()
    exif.load(page.exif)
    for tag, value in exif.items():
        if tag in _LINKED:
            directory = ImageFileDirectory_v2(_HEADERS["big" if big else order], group=tag)
            for key, entry in exif.get_ifd(tag).items():
                directory[key] = exif.get_ifd(key) if key == IFD.Interop else entry
            offset = writer.filehandle.tell()
            encoded = directory.tobytes(offset)
            writer.filehandle.write(encoded + bytes(len(encoded) % 2))  # offsets are even
            found.append((_LINKED[IFD(tag)], "I", 1, offset, True))
        elif origin is not None:
            continue
        elif isinstance(value, str):
            found.append((tag, "s", 0, value.encode("latin-1", "replace") + b"\0", True))
        elif isinstance(value, bytes):
            found.append((tag, "B", len(value), value, True))
        elif isinstance(value, int):
            found.append((tag, "I" if value >= 2**16 else "H", 1, value, True))
        else:
            log.warning("EXIF tag %d is left out of a TIFF, it holds %r", tag, value)
    return found
