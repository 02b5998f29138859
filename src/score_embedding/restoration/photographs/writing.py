"""Photographs as files, each written completely or not at all."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from score_embedding import atomic_files
from score_embedding.errors import DataError
from score_embedding.restoration.photographs import multi_picture, png, tiff_writing
from score_embedding.restoration.photographs.multi_picture import FurtherPictures
from score_embedding.restoration.photographs.photograph import Photograph
from score_embedding.restoration.photographs.scale import converted

log = logging.getLogger(__name__)

Kind = Literal["single", "pages", "frames"]

# By the ending of the file name; some hold less than a photograph may have.
FORMATS = {".png": "PNG", ".apng": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}
FORMATS |= dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG") | {".bmp": "BMP"}
_DEEP, _TRANSPARENT, _BARE = ("PNG", "TIFF"), ("PNG", "TIFF", "WEBP"), ("BMP",)
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},  # exact: with the colour under alpha 0
}
_HOLDS = {"single": tuple(FORMATS.values()), "pages": ("TIFF",), "frames": ("PNG", "WEBP")}
_LOSSY = "JPEG"


def write(photograph: Photograph, path: Path) -> None:
    """A photograph with its alpha, EXIF, colour profile and resolution as a file; what its format
    cannot hold is left out and logged.

    Parameters
    ----------
    path : its ending selects the format. JPEG has quality 95, the others are lossless.

    Raises
    ------
    DataError : another ending, or a picture that the format cannot hold, too large for one.
    RunFolderError : `path` cannot be written.
    """
    format = format_of(path)
    with atomic_files.replacing(path) as partial:
        try:
            if format == "TIFF":
                tiff_writing.write(partial, [photograph])
            elif photograph.colour.dtype != np.uint8 and format == "PNG":
                values = _values(photograph, path, np.dtype(np.uint16))
                kept = photograph.exif, photograph.icc, photograph.dpi
                partial.write_bytes(png.encoded(values, *kept))
            else:
                _save_by_pillow(photograph, path, partial, format)
        except (ValueError, RuntimeError, struct.error) as error:
            raise DataError(f"{path}: {format} cannot hold this picture ({error})") from None


def write_pages(photographs: Iterable[Photograph], count: int, path: Path) -> None:
    """`count` photographs as the pages of one TIFF file, each written before the next is taken.
    Errors as `write`."""
    with atomic_files.replacing(path) as partial:
        try:
            tiff_writing.write(partial, photographs, count)
        except (ValueError, RuntimeError, struct.error) as error:
            raise DataError(f"{path}: TIFF cannot hold these pages ({error})") from None


def write_frames(
    photographs: Iterable[Photograph], path: Path, plays: int, starts_with_still: bool = False
) -> None:
    """Photographs of 8 bits as the frames of an animation, APNG or lossless WebP, that is played
    `plays` times, 0 for ever. Errors as `write`."""
    pages = list(photographs)
    format, dtype = format_of(path), np.dtype(np.uint8)
    depths = [_values(page, path, dtype, opaque_too=True) for page in pages]
    if all(values[:, :, -1].min() == 255 for values in depths):
        depths = [values[:, :, :3] for values in depths]
    first, *others = [Image.fromarray(values) for values in depths]
    durations = [page.duration for page in pages]
    options: dict[str, Any] = _OPTIONS.get(format, {}) | _kept(pages[0])
    if format == "PNG" and starts_with_still:
        options["default_image"], durations = True, durations[1:]
    if format == "WEBP":
        durations = [round(duration) for duration in durations]
    with atomic_files.replacing(path) as partial:
        try:
            first.save(
                partial,
                format=format,
                save_all=True,
                append_images=others,
                duration=durations,
                loop=plays,
                **options,
            )
        except (ValueError, RuntimeError, struct.error) as error:
            raise DataError(f"{path}: {format} cannot hold this animation ({error})") from None


def format_of(path: Path) -> str:
    """Pillow's name of the format of the ending of `path`. Raises DataError for an ending that
    cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def ending_for(
    ending: str, several: Kind = "single", only_tiff: bool = False, lossless: bool = False
) -> str:
    """The ending of a result: that of its photograph where such a file can hold the result, else
    .png, and .tif for several pages and for what `only_tiff` holds."""
    format = FORMATS.get(ending.lower())
    fits = format in _HOLDS[several] and not (only_tiff and format != "TIFF")
    if fits and not (lossless and format == _LOSSY):
        return ending
    return ".tif" if only_tiff or several == "pages" else ".png"


def _values(
    photograph: Photograph, path: Path, dtype: np.dtype[Any], opaque_too: bool = False
) -> NDArray[Any]:
    """Colour and alpha (h, w, 1 to 4) as uint8 or uint16; with `opaque_too` RGBA in any case."""
    colour, alpha = photograph.colour[:, :, photograph.parts[0]], photograph.alpha
    if len(photograph.parts) > 1:
        log.info("%s: bands besides colour are left out, only TIFF has them", path)
    if colour.dtype != dtype:
        if colour.dtype == np.uint16:
            unit = colour / np.float64(65535)
        else:
            log.info("%s: %s becomes %s, only TIFF has more", path, colour.dtype, dtype)
            unit = photograph.pixels.permute(1, 2, 0).numpy().astype(np.float64)
        colour = (unit * np.iinfo(dtype).max).round().astype(dtype)
    if opaque_too:
        colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
        alpha = np.full(colour.shape[:2], 255, np.uint8) if alpha is None else alpha
    return colour if alpha is None else np.dstack([colour, converted(alpha, dtype)])


def _save_by_pillow(photograph: Photograph, path: Path, partial: Path, format: str) -> None:
    if photograph.depth > 8 and format not in _DEEP:
        log.info("%s: %d bits a channel become 8, %s has no more", path, photograph.depth, format)
    values = _values(photograph, path, np.dtype(np.uint8))
    if photograph.alpha is not None and format not in _TRANSPARENT:
        log.info("%s: transparency is left out, %s has none", path, format)
        values = values[:, :, :-1]
    kept = _kept(photograph)
    if (photograph.exif or photograph.icc) and format in _BARE:
        log.info("%s: EXIF and colour profile are left out, %s has none", path, format)
        kept = {name: value for name, value in kept.items() if name == "dpi"}
    picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    others = photograph.others
    if others is None:
        picture.save(partial, format=format, **kept, **_OPTIONS.get(format, {}))
        return
    _log_others(path, format, others)
    if format == "JPEG" and others.pictures:
        picture.save(partial, format=format, xmp=others.xmp, **kept, **_OPTIONS[format])
        multi_picture.append(partial, others)
    else:
        picture.save(partial, format=format, **kept, **_OPTIONS.get(format, {}))


def _log_others(path: Path, format: str, others: FurtherPictures) -> None:
    count = len(others.pictures)
    if count and format == "JPEG":
        log.info("%s: further pictures in it (%d) are kept unchanged", path, count)
    elif count:
        log.info("%s: further pictures (%d) are left out, %s has none", path, count, format)
    if others.previews:
        log.info("%s: previews (%d) of it as it was are left out", path, others.previews)


def _kept(photograph: Photograph) -> dict[str, Any]:
    """Pillow's options of what a file holds besides pixels."""
    of = {"exif": photograph.exif, "icc_profile": photograph.icc, "dpi": photograph.dpi}
    return {name: value for name, value in of.items() if value}
