"""Photographs in TIFF files, read by tifffile at their full depth.

tifffile by itself decodes files without compression and with deflate, PackBits, LZMA or Zstandard;
where the package imagecodecs is installed, all others, too. Other files are left to Pillow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from skimage.color import lab2rgb
from tifffile import EXTRASAMPLE, PHOTOMETRIC, RESUNIT

from score_embedding.errors import DataError
from score_embedding.restoration.photographs import exif, tiff_tags
from score_embedding.restoration.photographs.photograph import Photograph
from score_embedding.restoration.photographs.scale import converted, opaque

log = logging.getLogger(__name__)

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_LAB = (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB)
_REDUCED_OR_MASK = 1 | 4  # of the tag NewSubfileType
_UPRIGHT = {  # by the tag Orientation, for (h, w, c)
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


class TiffPages:
    """The pages of an open TIFF file, without those that are previews or masks of others."""

    def __init__(self, path: Path, file: tifffile.TiffFile):
        self._path, self._file = path, file
        pages = _directories(path, file)
        if _next_directory(file, pages[-1]) >= file.filehandle.size:
            raise DataError(f"{path}: truncated after {len(pages)} page(s)")
        whole = [i for i, page in enumerate(pages) if not page.subfiletype & _REDUCED_OR_MASK]
        self._places = whole or [0]
        self.left_out = len(pages) - len(self._places)
        self._damage_named = False
        self._stack = _stack_of_one_page(path, file) if len(pages) == 1 else None

    def __len__(self) -> int:
        return len(self._places) if self._stack is None else len(self._stack)

    @property
    def lost_tags(self) -> list[int]:
        """The tags of all pages that cannot be kept."""
        return sorted(set().union(*(tiff_tags.lost(self._page(k)) for k in range(len(self)))))

    def place(self, index: int) -> int:
        """The position of a page among all directories of the file."""
        return self._places[index if self._stack is None else 0]

    def shape(self, index: int) -> tuple[int, int, int]:
        """Channels without alpha, height and width before the orientation is applied."""
        page = self._page(index)
        return _colours(page), page.imagelength, page.imagewidth

    def fits_only_tiff(self, index: int) -> bool:
        """Whether a page holds what other formats cannot: floating point, signs, bands."""
        page = self._page(index)
        bands = page.samplesperpixel - _colours(page) - any(e in _ALPHA for e in page.extrasamples)
        return self.readable(index) and (page.dtype not in (np.uint8, np.uint16) or bands > 0)

    def readable(self, index: int) -> bool:
        """Whether `read` can read the page: whole numbers or floating point, grey, RGB or LAB."""
        page = self._page(index)
        if page.dtype is None or page.dtype.kind not in "uif":
            return False
        if page.photometric in _LAB:
            return page.dtype.itemsize == 2 and page.samplesperpixel == 3
        whole = page.bitspersample == 8 * page.dtype.itemsize
        return whole and page.photometric in (*_GREY, PHOTOMETRIC.RGB)

    def read(self, index: int) -> Photograph:
        page = self._page(index)
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and page.imagelength * page.imagewidth > 2 * limit:
            raise ValueError("more pixels than allowed")
        pixels = page.asarray(maxworkers=1) if self._stack is None else self._stack[index]
        colour, alpha = _colour_and_alpha(page, _native(np.asarray(pixels)))
        resolution = page.tags.valueof(282), page.tags.valueof(283)
        return Photograph(
            colour,
            alpha,
            min(_colours(page), colour.shape[2]),
            self._exif(page),
            b"" if page.photometric in _LAB else bytes(page.iccprofile or b""),
            _dots_per_inch(page) if all(resolution) else None,
            tiff=self._origin(page),
        )

    def with_origin(self, found: Photograph, index: int) -> Photograph:
        """A page that another library read, with its own tags and type, which Pillow widens."""
        page, kind = self._page(index), found.colour.dtype.kind
        colour = found.colour
        if self.readable(index) and page.dtype is not None and kind in "if" and colour.itemsize > 2:
            colour = colour.astype(page.dtype)
        origin = self._origin(page)
        if not self.readable(index):  # it has other channels now than its description says
            origin = origin.alone()
        return replace(found, colour=colour, tiff=origin)

    def _origin(self, page: tifffile.TiffPage) -> tiff_tags.TiffOrigin:
        """ImageJ describes a stack, and the pixels of each page, in the first."""
        return tiff_tags.of_page(self._file, self._page(0) if self._file.is_imagej else page)

    def _exif(self, page: tifffile.TiffPage) -> bytes:
        try:
            return exif.of_directory(self._path, self._file, page)
        except Exception as error:  # damaged EXIF can raise nearly anything
            if not self._damage_named:
                log.warning("%s: its EXIF is damaged and not kept (%s)", self._path, error)
            self._damage_named = True
            return b""

    def _page(self, index: int) -> tifffile.TiffPage:
        page = self._file.pages[self.place(index)]
        assert isinstance(page, tifffile.TiffPage)
        return page


@contextmanager
def opened(path: Path) -> Iterator[TiffPages | None]:
    """The pages of a TIFF file; None of another file, or a damaged one, of which Pillow says what
    is wrong. Meanwhile tifffile logs nothing of what is damaged."""
    with path.open("rb") as stream:
        if stream.read(4) not in _MAGIC:
            yield None
            return
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    file = None
    try:
        try:
            file = tifffile.TiffFile(path)
            pages = TiffPages(path, file)
        except (MemoryError, DataError):
            raise
        except Exception:  # a damaged file can raise nearly anything
            pages = None
        yield pages
    finally:
        if file is not None:
            file.close()
        logger.disabled = before


def _stack_of_one_page(path: Path, file: tifffile.TiffFile) -> NDArray[Any] | None:
    """The pages (n, h, w) or (n, h, w, c) of a stack of which only the first has a directory, as
    ImageJ and MetaMorph write large ones, mapped into memory, or of a volume; None of others."""
    page = file.pages.first
    assert isinstance(page, tifffile.TiffPage)
    if page.imagedepth > 1:
        if page.planarconfig == 2:
            raise DataError(f"{path}: a volume of separate channels; save it as pages")
        return np.asarray(page.asarray(maxworkers=1))
    if not (file.is_imagej or file.is_stk or file.is_shaped):
        return None
    series = file.series[0]
    start, one = series.dataoffset, math.prod(page.shape)
    if start is None or page.compression != 1 or page.dtype is None or series.size <= one:
        return None
    count = series.size // one
    if (whole := (path.stat().st_size - start) // (one * page.dtype.itemsize)) < count:
        raise DataError(f"{path}: truncated after {whole} of {count} pages")
    dtype = page.dtype.newbyteorder(file.byteorder)
    return np.memmap(path, dtype, "r", start, (count, *page.shape))


def _directories(path: Path, file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """All pages of a file. Raises DataError where one names an earlier one as the next."""
    pages: dict[int, tifffile.TiffPage] = {}
    for page in file.pages:
        assert isinstance(page, tifffile.TiffPage)
        if page.offset in pages:
            raise DataError(f"{path}: damaged, its pages form a circle")
        pages[page.offset] = page
    return list(pages.values())


def _next_directory(file: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Where the file says that the directory after that of a page is, 0 for the last."""
    layout, stream = file.tiff, file.filehandle
    order: Literal["little", "big"] = "big" if file.byteorder == ">" else "little"
    stream.seek(page.offset)
    count = int.from_bytes(stream.read(layout.tagnosize), order)
    stream.seek(page.offset + layout.tagnosize + count * layout.tagsize)
    return int.from_bytes(stream.read(layout.offsetsize), order)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _colours(page: tifffile.TiffPage) -> int:
    return 3 if page.photometric in (PHOTOMETRIC.RGB, *_LAB) else 1


def _dots_per_inch(page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = {int(RESUNIT.INCH): 1.0, int(RESUNIT.CENTIMETER): 2.54}.get(page.resolutionunit, 0.0)
    across, down = page.resolution
    return (across * unit, down * unit) if unit else None


def _colour_and_alpha(
    page: tifffile.TiffPage, pixels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colour and bands (h, w, n), upright and not multiplied by alpha, and alpha (h, w)."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif page.axes.startswith("S"):  # channels in separate planes
        pixels = pixels.transpose(1, 2, 0)
    pixels = _UPRIGHT.get(page.tags.valueof(Base.Orientation), lambda x: x)(pixels)
    if page.photometric in _LAB:
        return _rgb_of_lab(pixels, page.photometric == PHOTOMETRIC.ICCLAB), None
    if page.photometric == PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    c, extras = _colours(page), tuple(page.extrasamples)
    kind = next((e for e in extras if e in _ALPHA), None)
    if kind is None:
        return pixels, None
    place = c + extras.index(kind)
    share, colour = pixels[:, :, place], np.delete(pixels, place, axis=2)
    if kind == EXTRASAMPLE.ASSOCALPHA:
        colour[:, :, :c] = _without_alpha(colour[:, :, :c], share)
    if share.dtype.kind == "f":
        share = share.clip(0, 1)
    return colour, converted(share, np.dtype(np.uint8 if share.dtype == np.uint8 else np.uint16))


def _rgb_of_lab(pixels: NDArray[Any], offset: bool) -> NDArray[Any]:
    """16-bit LAB (h, w, 3) as sRGB, uint16; `offset`: with a and b as unsigned, 0 in the middle."""
    lab = pixels.astype(np.uint16).astype(np.float64)
    signed = lab[:, :, 1:] - 32768 if offset else pixels.astype(np.uint16).view(np.int16)[:, :, 1:]
    rgb = np.asarray(lab2rgb(np.dstack([lab[:, :, :1] / 655.35, signed / 256])))
    return (rgb.clip(0, 1) * 65535).round().astype(np.uint16)


def _without_alpha(colour: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Colour (h, w, c) that was multiplied by alpha (h, w); 0 where alpha is."""
    white = opaque(alpha.dtype)
    share = np.maximum(alpha, 1e-12)[:, :, None] / white
    found = np.where(alpha[:, :, None] > 0, colour / share, 0)
    return found if alpha.dtype.kind == "f" else found.clip(0, white).round()
