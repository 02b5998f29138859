"""Photographs in TIFF files, read and written by tifffile at their full depth.

tifffile by itself decodes files without compression and with deflate, PackBits, LZMA or Zstandard;
where the package imagecodecs is installed, all others, too. Other files are left to Pillow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from tifffile import EXTRASAMPLE, PHOTOMETRIC, RESUNIT

log = logging.getLogger(__name__)

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
_WHITE = 65535
_MAX_BYTES = 2**32 - 2**25  # of pixels in a classic TIFF, whose offsets have 32 bits
# Directories of EXIF, by tifffile's names of the tags that point to them. tifffile does not write
# them; Pillow encodes them.
_LINKED = {IFD.Exif: "ExifTag", IFD.GPSInfo: "GPSTag"}
_HEADERS = {"<": b"II*\0\0\0\0\0", ">": b"MM\0*\0\0\0\0", "big": b"II+\0\x08\0\0\0" + bytes(8)}
_UPRIGHT = {  # by the tag Orientation, for (h, w, c)
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


@dataclass(frozen=True)
class Stored:
    """A photograph as a TIFF file stores it, but upright.

    Attributes
    ----------
    colour : (h, w, 1 or 3), uint16, or floating point with white at 1; not multiplied by alpha.
    alpha : (h, w), uint16, or None.
    exif : all tags of the file.
    icc : colour profile, or empty.
    dpi : dots per inch across and down, or (0, 0).
    """

    colour: NDArray[Any]
    alpha: NDArray[np.uint16] | None
    exif: Image.Exif
    icc: bytes
    dpi: tuple[float, float]


def shape_of(path: Path) -> tuple[int, int, int] | None:
    """Channels without alpha, height and width before the orientation is applied, of a file that
    `read` may read; None of any other."""
    if not _is_tiff(path):
        return None
    try:
        with _first_page(path) as (_, page):
            if not _is_deep(page):
                return None
            return _channels(page), page.imagelength, page.imagewidth
    except Exception:  # damaged: Pillow says how
        return None


def read(path: Path) -> Stored | None:
    """The first image of a TIFF file with 16 bits or floating point a channel, grey or RGB. None
    where Pillow must read the file: another kind, a compression without decoder, or damaged."""
    if not _is_tiff(path):
        return None
    try:
        with _first_page(path) as (file, page):
            limit = Image.MAX_IMAGE_PIXELS
            too_large = limit is not None and page.imagelength * page.imagewidth > 2 * limit
            if not _is_deep(page) or too_large:
                return None
            if (count := len(file.pages)) > 1:
                log.info("%s: the first of its %d pictures is taken", path, count)
            return _stored(path, file, page)
    except MemoryError:
        raise
    except Exception:  # a damaged file can raise nearly anything; Pillow says what is wrong
        return None


def write(
    path: Path,
    values: NDArray[Any],
    exif: bytes,
    icc: bytes,
    dpi: tuple[float, float] | None,
    big: bool | None = None,
) -> None:
    """A TIFF file, deflated, of values (h, w, 1 to 4), uint8 or uint16; the last of 2 or 4 channels
    is alpha. `big`: as BigTIFF, by default where it is too large for a classic TIFF."""
    c = values.shape[2]
    if c == 2 and values.dtype == np.uint16:  # many programs cannot read 16-bit grey with alpha
        values, c = values[:, :, [0, 0, 0, 1]], 4
    big = values.nbytes > _MAX_BYTES if big is None else big
    tags = Image.Exif()
    tags.load(exif)
    order: Literal["<", ">"] = ">" if tags.endian == ">" and not big else "<"
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
        extra: list[Any] = []
        for tag, value in tags.items():
            if tag in _LINKED:
                directory = ImageFileDirectory_v2(_HEADERS["big" if big else order], group=tag)
                for key, entry in tags.get_ifd(tag).items():
                    directory[key] = tags.get_ifd(key) if key == IFD.Interop else entry
                offset = writer.filehandle.tell()
                encoded = directory.tobytes(offset)
                writer.filehandle.write(encoded + bytes(len(encoded) % 2))  # offsets are even
                extra.append((_LINKED[IFD(tag)], "I", 1, offset, True))
            elif isinstance(value, str):
                extra.append((tag, "s", 0, value.encode("latin-1", "replace") + b"\0", True))
            elif isinstance(value, bytes):
                extra.append((tag, "B", len(value), value, True))
            elif isinstance(value, int):
                extra.append((tag, "I" if value >= 2**16 else "H", 1, value, True))
            else:
                log.warning("%s: EXIF tag %d is left out, it holds %r", path, tag, value)
        writer.write(
            values[:, :, 0] if c == 1 else values,
            photometric="minisblack" if c < 3 else "rgb",
            planarconfig=None if c == 1 else "contig",
            extrasamples=["unassalpha"] if c in (2, 4) else None,
            compression="zlib",
            maxworkers=1,
            predictor=True,
            iccprofile=icc or None,
            resolution=dpi,
            resolutionunit="INCH" if dpi else None,
            software=False,
            metadata=None,
            extratags=extra,
        )


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


@contextmanager
def _first_page(path: Path) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPage]]:
    """A file and its first page, while tifffile logs nothing of what is damaged in it."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            assert isinstance(page, tifffile.TiffPage)
            yield file, page
    finally:
        logger.disabled = before


def _is_deep(page: tifffile.TiffPage) -> bool:
    """Whether this is an image that Pillow would read in part, or not at all."""
    if page.dtype is None or page.imagedepth != 1 or page.samplesperpixel not in (1, 2, 3, 4, 5):
        return False
    grey = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
    if page.dtype.kind == "f":
        return page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
    deep = page.dtype == np.uint16 and page.bitspersample == 16
    return deep and page.photometric in (*grey, PHOTOMETRIC.RGB)


def _channels(page: tifffile.TiffPage) -> int:
    return 3 if page.photometric == PHOTOMETRIC.RGB else 1


def _stored(path: Path, file: tifffile.TiffFile, page: tifffile.TiffPage) -> Stored:
    pixels = np.asarray(page.asarray(maxworkers=1))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif page.axes.startswith("S"):  # channels in separate planes
        pixels = pixels.transpose(1, 2, 0)
    c, extras = _channels(page), tuple(page.extrasamples)
    pixels = _UPRIGHT.get(page.tags.valueof(Base.Orientation), lambda x: x)(pixels)
    colour = pixels[:, :, :c]
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        colour = _WHITE - colour
    alpha = None
    if (kind := next((e for e in extras if e in _ALPHA), None)) is not None:
        share = pixels[:, :, c + extras.index(kind)]
        if share.dtype.kind == "f":
            alpha = (share.clip(0, 1) * _WHITE).round().astype(np.uint16)
        else:
            alpha = share.astype(np.uint16)
        if kind == EXTRASAMPLE.ASSOCALPHA:
            colour = _without_alpha(colour, share)
    icc = page.tags.valueof(Base.InterColorProfile) or b""
    inches = {int(RESUNIT.INCH): 1.0, int(RESUNIT.CENTIMETER): 2.54}.get(page.resolutionunit, 0.0)
    across, down = page.resolution
    exif = _exif(path, file, page)
    return Stored(colour, alpha, exif, bytes(icc), (across * inches, down * inches))


def _exif(path: Path, file: tifffile.TiffFile, page: tifffile.TiffPage) -> Image.Exif:
    tags = Image.Exif()
    tags.endian, tags.bigtiff = file.byteorder, file.is_bigtiff
    try:
        with path.open("rb") as stream:
            tags.load_from_fp(stream, page.offset)
            for tag in (*_LINKED, IFD.Interop):
                tags.get_ifd(tag)  # now, while the file is open
    except Exception as error:  # damaged EXIF can raise nearly anything
        log.warning("%s: its EXIF is damaged and not kept (%s)", path, error)
        return Image.Exif()
    return tags


def _without_alpha(colour: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Colour (h, w, c) that was multiplied by alpha (h, w); 0 where alpha is."""
    white = 1 if alpha.dtype.kind == "f" else _WHITE
    share = np.maximum(alpha, 1e-12)[:, :, None] / white
    found = np.where(alpha[:, :, None] > 0, colour / share, 0).clip(0, white)
    return found.astype(colour.dtype) if white == 1 else found.round().astype(colour.dtype)
