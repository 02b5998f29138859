"""Image files to pixels, and pixels of any dtype to floats of one or three channels."""

from __future__ import annotations

import logging
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor

from score_embedding.errors import DataError

Named = tuple[str, Path | NDArray[Any]]  # the name that errors give, and the image

log = logging.getLogger(__name__)

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Weights of red, green and blue in luminance: ITU-R 601, as in Pillow.
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device="cpu")


def read(path: Path, log_conversion: bool = True, page: int = 0) -> NDArray[Any]:
    """Pixels of an image file, (h, w), (h, w, 3) or (h, w, 4), upright, at their own depth; with
    `log_conversion` a change of the colour mode is logged. `page`: of several images in it, from 0.

    Raises
    ------
    DataError : a file that is missing, empty, truncated, or not an image.
    """
    with opened(path, page) as source:
        picture = ImageOps.exif_transpose(source)
        transparent = _transparent_grey(picture)
        if transparent is not None:
            return transparent
        if picture.mode in ("P", "PA", "LA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
        elif picture.mode == "1":
            picture = picture.convert("L")
        elif not (picture.mode in ("L", "F", "RGB", "RGBA") or picture.mode.startswith("I")):
            picture = picture.convert("RGB")  # CMYK, YCbCr, LAB, HSV
        if log_conversion and source.mode != "RGB":
            log.info("%s: %s converted", path, source.mode)
        return np.asarray(picture)


def shape_of(path: Path, page: int = 0) -> tuple[int, int, int]:
    """Channels without alpha (1 or 3), height and width of an image file, before its orientation is
    applied; only its header is read. Errors as `read`."""
    with opened(path, page) as source:
        grey = source.mode in ("1", "L", "LA", "F") or source.mode.startswith("I")
        return 1 if grey else 3, source.height, source.width


@contextmanager
def of_any_size() -> Iterator[None]:
    """Within this context Pillow also reads images of more than 179 megapixels, which it refuses
    by default. For callers that have compared `shape_of` with the free memory."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def check_file(path: Path) -> None:
    """Raise DataError where `path` is not a regular file, or an empty one."""
    try:
        kind = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not stat.S_ISREG(kind.st_mode):
        raise DataError(f"{path}: no regular file")  # reading a named pipe would wait for ever
    if kind.st_size == 0:
        raise DataError(f"{path}: an empty file")


@contextmanager
def opened(path: Path, page: int = 0) -> Iterator[ImageFile]:
    """An image file, its pixels not read yet, at one of its images; all errors of reading it, also
    those inside this context, become DataError."""
    check_file(path)
    _support_heif(path)
    with damage_named(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and allowed
            source = Image.open(path)
        with source:
            if page:
                source.seek(page)
            yield source


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Errors of reading an image file inside this context become DataError, which names it."""
    try:
        yield
    except UnidentifiedImageError:
        if _is_heif(path) and not find_spec("pillow_heif"):
            raise DataError(
                f"{path}: HEIC, which needs the extra heic: pip install 'score-embedding[heic]'"
            ) from None
        raise DataError(f"{path}: not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}") from None
    except PermissionError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None
    except (
        *(OSError, SyntaxError, ValueError, EOFError),
        *(AttributeError, LookupError, TypeError, struct.error),  # such as a damaged orientation
    ) as error:
        raise DataError(f"{path}: truncated or damaged ({error})") from None


def _support_heif(path: Path) -> None:
    """Make Pillow read a HEIC file, where the package for it is installed."""
    if _is_heif(path) and find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _is_heif(path: Path) -> bool:
    """Whether the file says that it is one of those that pillow-heif reads."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:  # the caller finds out why
        return False
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def _transparent_grey(picture: Image.Image) -> NDArray[Any] | None:
    """16-bit grey with one value declared transparent, which becomes white: Pillow's own conversion
    would clip the other values at 255. None for all other images."""
    transparent = picture.info.get("transparency")
    if not picture.mode.startswith("I") or not isinstance(transparent, int):
        return None
    pixels = np.array(picture)
    return np.where(pixels == transparent, np.asarray(65535, pixels.dtype), pixels)


def to_channels(pixels: NDArray[Any], name: str, channels: int) -> Tensor:
    """(h, w) or (h, w, c) of any dtype to float64 (channels, h, w), 0 black and 1 white;
    transparent pixels are blended with white, and colour becomes luminance for channels = 1.

    Raises
    ------
    DataError : another shape, a dtype that holds no numbers, values that are NaN or infinite.
    """
    if np.ma.is_masked(pixels):
        raise DataError(f"{name}: holds masked pixels; fill them first, with array.filled(value)")
    pixels = np.asarray(pixels)
    if pixels.dtype.kind not in "buif":
        raise DataError(f"{name}: pixels of dtype {pixels.dtype}, numbers are needed")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise DataError(f"{name}: shape {pixels.shape} is not (h, w) or (h, w, 1, 3 or 4)")
    if not np.isfinite(pixels).all():
        raise DataError(f"{name}: holds pixels that are NaN or infinite")
    x = torch.from_numpy(pixels.astype(np.float64) / _white(pixels)).permute(2, 0, 1)
    if len(x) == 4:
        x = x[:3] * x[3:] + (1 - x[3:])
    return as_channels(x, channels)


def as_channels(x: Tensor, channels: int) -> Tensor:
    """Images (..., c, h, w) with 1 or 3 channels: colour as its luminance, grey repeated."""
    if channels == 1 and x.shape[-3] == 3:
        x = (x * LUMA[:, None, None]).sum(dim=-3, keepdim=True)
    return x.expand(*x.shape[:-3], channels, *x.shape[-2:])


def _white(pixels: NDArray[Any]) -> float:
    """The value of white for the dtype, whatever values occur in the image."""
    if pixels.dtype.kind == "f" or pixels.dtype == bool:
        return 1.0
    if pixels.dtype.itemsize == 1:
        return 255.0
    return 65535.0  # 16-bit images; Pillow opens some of them as 32-bit integers
