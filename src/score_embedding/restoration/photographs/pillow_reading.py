"""Photographs in files that Pillow reads, at the full depth of PNG and TIFF."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile
from PIL.ImageOps import exif_transpose

from score_embedding.data import image_files
from score_embedding.errors import DataError
from score_embedding.restoration.photographs import exif, multi_picture
from score_embedding.restoration.photographs.multi_picture import FurtherPictures
from score_embedding.restoration.photographs.photograph import Photograph

log = logging.getLogger(__name__)

_OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
_ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF", "FLI")
DEFAULT_DURATION = 100.0  # milliseconds, as browsers show a frame without one


def read(path: Path, page: int = 0) -> Photograph:
    """One of the images of a file, none of an animation. PNG and TIFF are read at 16 bits a
    channel, other formats at 8 where they are in colour; a PNG or TIFF that can only be read at 8
    is logged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large pictures and of damaged tags
        values = image_files.read(path, log_conversion=False, page=page)
        with image_files.opened(path, page) as opened:
            colour, alpha = _colour_and_alpha(path, values, opened)
            kept, info = exif.kept_of(path, opened), opened.info
            if opened.format != "TIFF" and colour.dtype == np.int32 and _is_deep(colour):
                colour = colour.astype(np.uint16)
            others = _others(path, opened) if page == 0 else None
    return replace(_photograph(colour, alpha, kept, info), others=others)


def _others(path: Path, opened: ImageFile) -> FurtherPictures | None:
    if opened.format not in ("JPEG", "MPO"):
        return None
    upright = opened.getexif().get(Base.Orientation, 1) == 1
    return multi_picture.further(path, opened.info, upright)


class Frames:
    """The frames of an open animation, read in order."""

    def __init__(self, path: Path, opened: ImageFile):
        self._path, self._opened = path, opened
        self.plays = int(opened.info.get("loop", 1 if opened.format == "GIF" else 0))  # 0: for ever
        # An APNG may begin with a picture for programs that show no animation.
        self.starts_with_still = bool(opened.info.get("default_image", False))

    def __len__(self) -> int:
        return int(getattr(self._opened, "n_frames", 1))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels at most, height and width."""
        return 3, self._opened.height, self._opened.width

    def read(self, index: int) -> Photograph:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._opened.seek(index)
            self._opened.load()
            info = dict(self._opened.info)
            if self._opened.mode.startswith("I"):  # 16-bit grey, which has 8 bits in an animation
                upright = Image.fromarray((np.asarray(self._opened) >> 8).astype(np.uint8))
            else:
                upright = exif_transpose(self._opened)
            values = np.asarray(upright.convert("RGBA"))
            kept = exif.kept_of(self._path, self._opened)
        colour, alpha = values[:, :, :3], values[:, :, 3]
        if (colour == colour[:, :, :1]).all():
            colour = colour[:, :, :1]
        duration = float(info.get("duration") or DEFAULT_DURATION)
        return _photograph(colour, None if (alpha == 255).all() else alpha, kept, info, duration)


@contextmanager
def frames(path: Path) -> Iterator[Frames | None]:
    """The frames of an animation; None of other files."""
    with image_files.opened(path) as opened:
        animated = opened.format in _ANIMATIONS and getattr(opened, "n_frames", 1) > 1
    if not animated:
        yield None
        return
    with Image.open(path) as opened:
        yield Frames(path, opened)


def _is_deep(colour: NDArray[Any]) -> bool:
    """Whether integers that Pillow gives 32 bits are of 16."""
    return bool(colour.min() >= 0 and colour.max() < 2**16)


def _photograph(
    colour: NDArray[Any],
    alpha: NDArray[Any] | None,
    kept: bytes,
    info: dict[Any, Any],
    duration: float = 0,
) -> Photograph:
    space = b"GRAY" if colour.shape[2] == 1 else b"RGB "
    icc = info.get("icc_profile") or b""
    across, down = (float(x) for x in info.get("dpi", (0, 0)))
    return Photograph(
        colour,
        alpha,
        colour.shape[2],
        kept,
        icc if icc[16:20] == space else b"",  # a CMYK file's profile is wrong for its RGB
        (across, down) if 1 < across < 65536 and 1 < down < 65536 else None,
        duration,
    )


def _colour_and_alpha(
    path: Path, values: NDArray[Any], opened: ImageFile
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colour (h, w, 1 or 3) and alpha (h, w). `values` are what `image_files.read` returned for the
    file; `opened` is not loaded yet."""
    mode, raw = opened.mode, _raw_mode(opened)
    transparent = opened.info.get("transparency")
    low = _low_bytes(path, opened, raw)
    if low is not None:
        c = min(values.shape[2], low.shape[2])  # `values` have alpha for a transparent colour
        values = values[:, :, :c].astype(np.uint16) << 8 | low[:, :, :c]
    elif mode.startswith("I") and transparent is not None:  # in `values` these are white
        values = np.asarray(exif_transpose(opened))
    if values.ndim == 2:
        values = values[:, :, None]
    colour, alpha = values[:, :, :3], values[:, :, 3] if values.shape[2] == 4 else None
    if mode in ("1", "L", "LA") or raw.partition(";")[0] == "LA":
        colour = colour[:, :, :1]
    if mode == "P" and (colour == colour[:, :, :1]).all():  # a palette of greys
        colour = colour[:, :, :1]
    if mode == "P" and transparent is None:
        alpha = None
    elif values.dtype.itemsize > 1 and transparent is not None:
        alpha = np.where((colour == transparent).all(axis=2), 0, 65535).astype(np.uint16)
    return colour, alpha


def _raw_mode(opened: ImageFile) -> str:
    """How the file stores its pixels, as Pillow names it: "RGB;16B" for one."""
    args: Any = opened.tile[0][3] if opened.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _low_bytes(path: Path, opened: ImageFile, raw: str) -> NDArray[Any] | None:
    """The lower bytes of 16-bit colour or grey with alpha, uint8 (h, w, 3 or 4); None for all other
    pictures. Pillow keeps the upper bytes of these, and the lower ones where the file is unpacked
    in the other byte order. For PNG, and for TIFF in a compression that tifffile lacks (LZW)."""
    tags: Any = getattr(opened, "tag_v2", {})
    deep = ";16" in raw or max(tags.get(Base.BitsPerSample, (8,))) == 16
    if opened.format not in ("PNG", "TIFF") or not deep or opened.mode.startswith("I"):
        return None
    if tags.get(Base.PlanarConfiguration) == 2:  # Pillow mixes up these bytes
        raise DataError(
            f"{path}: compressed 16-bit channels in separate planes; save it with the channels "
            f"together, or install imagecodecs"
        )
    channels, _, order = raw.partition(";")
    other = "RGBA" if channels == "LA" else f"{channels};{_OTHER_ORDER[order]}"
    try:
        if channels not in ("LA", "RGB", "RGBX", "RGBA"):
            raise ValueError(f"stored as {channels}")
        opened.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in opened.tile
        ]
        low = np.asarray(exif_transpose(opened))
    except (AttributeError, OSError, ValueError) as error:  # such as by an older Pillow
        log.warning("%s: only 8 of its 16 bits a channel can be read (%s)", path, error)
        return None
    return low[:, :, [1, 1, 1, 3]] if channels == "LA" else low  # pairs of bytes: grey, alpha
