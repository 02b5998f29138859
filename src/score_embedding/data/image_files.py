"""Reading the pixels of an image file, and converting pixels to 1 or 3 channels."""

from __future__ import annotations

import logging
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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

# Weights of red, green and blue in luminance: ITU-R 601, as in Pillow.
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device="cpu")


def read(path: Path, log_conversion: bool = True) -> NDArray[Any]:
    """Pixels of an image file, (h, w), (h, w, 3) or (h, w, 4), upright, at their own depth; with
    `log_conversion` a conversion is logged.

    Raises
    ------
    DataError : a file that is missing, empty, truncated, or no image.
    """
    with _opened(path) as opened:
        picture = ImageOps.exif_transpose(opened)
        transparent = _transparent_grey(picture)
        if transparent is not None:
            return transparent
        if picture.mode in ("P", "PA", "LA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
        elif picture.mode == "1":
            picture = picture.convert("L")
        elif not (picture.mode in ("L", "F", "RGB", "RGBA") or picture.mode.startswith("I")):
            picture = picture.convert("RGB")  # CMYK, YCbCr, LAB, HSV
        if log_conversion and opened.mode != "RGB":
            log.info("%s: %s converted", path, opened.mode)
        return np.asarray(picture)


def shape_of(path: Path) -> tuple[int, int, int]:
    """Channels without alpha (1 or 3), height and width of an image file, not turned, from its head
    alone. Errors as `read`."""
    with _opened(path) as opened:
        grey = opened.mode in ("1", "L", "LA", "F") or opened.mode.startswith("I")
        return 1 if grey else 3, opened.height, opened.width


@contextmanager
def of_any_size() -> Iterator[None]:
    """Pillow refuses pictures of more than 179 megapixels; within this context it reads them, too.
    For callers that have checked `shape_of` before."""
    largest, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = largest


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile]:
    """An image file, its pixels not read yet; what goes wrong with it as DataError."""
    try:
        kind = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not stat.S_ISREG(kind.st_mode):
        raise DataError(f"{path}: no regular file")
    if kind.st_size == 0:
        raise DataError(f"{path}: an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, and allowed
            opened = Image.open(path)
        with opened:
            yield opened
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}") from None
    except PermissionError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None
    except (
        *(OSError, SyntaxError, ValueError, EOFError),
        *(AttributeError, TypeError, struct.error),  # a damaged EXIF, where it must be turned
    ) as error:
        raise DataError(f"{path}: truncated or damaged ({error})") from None


def _transparent_grey(picture: Image.Image) -> NDArray[Any] | None:
    """16-bit grey with a colour declared transparent, which turns white: Pillow's own conversion
    would cut the other values off at 255. None for all other pictures."""
    transparent = picture.info.get("transparency")
    if not picture.mode.startswith("I") or not isinstance(transparent, int):
        return None
    pixels = np.array(picture)
    return np.where(pixels == transparent, np.asarray(65535, pixels.dtype), pixels)


def to_channels(pixels: NDArray[Any], name: str, channels: int) -> Tensor:
    """(h, w) or (h, w, c) of any dtype to float64 (channels, h, w), 0 black and 1 white;
    transparency is laid on white, colours become luminance where one channel is wanted."""
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
    if channels == 1 and len(x) == 3:
        x = (x * LUMA[:, None, None]).sum(dim=0, keepdim=True)
    return x.expand(channels, -1, -1)


def _white(pixels: NDArray[Any]) -> float:
    """The value that stands for white, so that a constant image and alpha keep their meaning."""
    if pixels.dtype.kind == "f" or pixels.dtype == bool:
        return 1.0
    if pixels.dtype.itemsize == 1:
        return 255.0
    return 65535.0  # 16-bit pictures; Pillow opens some of them as 32-bit integers
