"""Photograph files: pixels to a float tensor and back, with alpha, EXIF, profile and resolution."""

from __future__ import annotations

import logging
import struct
import sys
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.ImageFile import ImageFile
from PIL.ImageOps import exif_transpose
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.data import image_files
from score_embedding.errors import DataError, DivergenceError
from score_embedding.restoration import tiff

log = logging.getLogger(__name__)

# EXIF tags about the photograph; the others, in TIFF, are about how the file stores it.
_KEPT = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist),
    *(Base.Copyright, Base.Rating, Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords),
    *(IFD.Exif, IFD.GPSInfo),
}
_OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


@dataclass(frozen=True)
class Photograph:
    """One photograph, upright.

    Attributes
    ----------
    pixels : float32 (c, h, w) in [0, 1], c = 1 or 3. Where alpha is 0 they keep their colour.
    alpha : (h, w), uint8 or uint16 as `depth` says, or None.
    depth : bits of a channel of the file, 8 or 16; fewer count as 8, floating point as 16.
    exif : without its thumbnail, orientation 1; empty if the file has none.
    icc : colour profile that suits the channels of `pixels`, or empty.
    dpi : dots per inch across and down, or None.
    """

    pixels: Tensor
    alpha: NDArray[Any] | None
    depth: int
    exif: bytes = b""
    icc: bytes = b""
    dpi: tuple[float, float] | None = None


# By the ending of the file name; some hold less than a photograph may have.
FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
FORMATS |= {".webp": "WEBP", ".bmp": "BMP"}
_DEEP, _TRANSPARENT, _BARE = ("PNG", "TIFF"), ("PNG", "TIFF", "WEBP"), ("BMP",)
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},  # exact: with the colour under alpha 0
}


def read(path: Path) -> Photograph:
    """The photograph in a file that Pillow or tifffile reads; of several pictures in it the first.

    Grey is one channel, everything else RGB. PNG and TIFF are read at 16 bits a channel, other
    formats at 8 where they are in colour; a PNG or TIFF that can only be read at 8 is logged.

    Raises
    ------
    DataError : a file that is missing, empty, truncated or not an image; pixels that are not finite
        or outside the range of their type.
    """
    image_files.check_file(path)
    try:
        stored = tiff.read(path)
        if stored is not None:
            exif = _exif_bytes(path, stored.exif)
            return _photograph(path, stored.colour, stored.alpha, exif, stored.icc, stored.dpi)
        return _read_by_pillow(path)
    except MemoryError:
        raise DataError(f"{path}: too large for the memory that is free") from None
    except (AttributeError, LookupError, TypeError, struct.error) as error:  # EXIF of a turned one
        raise DataError(f"{path}: truncated or damaged ({error})") from None
    except PermissionError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from None


def shape_of(path: Path) -> tuple[int, int, int]:
    """Channels without alpha (1 or 3), height and width of a file that `read` reads, before its
    orientation is applied; only its header is read. Raises DataError as `read`."""
    image_files.check_file(path)
    return tiff.shape_of(path) or image_files.shape_of(path)


def write(photograph: Photograph, pixels: Tensor, path: Path) -> None:
    """`pixels` with the photograph's depth, alpha, EXIF, colour profile and resolution as a file,
    written completely or not at all; what its format cannot hold is left out and logged.

    Parameters
    ----------
    pixels : (c, h, w) with c = 1 or 3, clipped to [0, 1] and rounded.
    path : its ending selects the format. JPEG has quality 95, the others are lossless.

    Raises
    ------
    DataError : another ending, or a picture that the format cannot hold, too large for one.
    DivergenceError : pixels that are NaN.
    RunFolderError : `path` cannot be written.
    """
    format = format_of(path)
    if pixels.isnan().any():
        raise DivergenceError(f"{path}: not written, the result holds pixels that are NaN")
    alpha, depth, exif, icc = photograph.alpha, photograph.depth, photograph.exif, photograph.icc
    if depth == 16 and format not in _DEEP:
        log.info("%s: 16 bits a channel become 8, %s has no more", path, format)
        depth = 8
    if alpha is not None and format not in _TRANSPARENT:
        log.info("%s: transparency is left out, %s has none", path, format)
        alpha = None
    if (exif or icc) and format in _BARE:
        log.info("%s: EXIF and colour profile are left out, %s has none", path, format)
        exif, icc = b"", b""
    unit = pixels.detach().to("cpu", torch.float32).clamp(0, 1).numpy().transpose(1, 2, 0)
    if alpha is not None:
        unit = np.dstack([unit, alpha.astype(np.float32) / (2**photograph.depth - 1)])
    values = (unit * (2**depth - 1)).round().astype(f"u{depth // 8}")
    with atomic_files.replacing(path) as partial:
        if depth == 16 and format == "PNG":
            partial.write_bytes(_png_bytes(values, photograph))
            return
        kept = {"exif": exif, "icc_profile": icc, "dpi": photograph.dpi}
        options = {name: value for name, value in kept.items() if value} | _OPTIONS.get(format, {})
        try:
            if format == "TIFF":
                tiff.write(partial, values, exif, icc, photograph.dpi)
                return
            picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
            picture.save(partial, format=format, **options)
        except (ValueError, RuntimeError, struct.error) as error:
            raise DataError(f"{path}: {format} cannot hold this picture ({error})") from None


def format_of(path: Path) -> str:
    """Pillow's name of the format of the ending of `path`. Raises DataError for an ending that
    cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def output_path(path: Path, suffix: str) -> Path:
    """The path beside `path` with the suffix after the stem: photo.png to photo_denoised.png. A
    format that cannot be written becomes PNG."""
    ending = path.suffix if path.suffix.lower() in FORMATS else ".png"
    return path.with_name(f"{path.stem}{suffix}{ending}")


def _read_by_pillow(path: Path) -> Photograph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large pictures and of damaged tags
        values = image_files.read(path, log_conversion=False)
        with Image.open(path) as opened:
            colour, alpha = _colour_and_alpha(path, values, opened)
            if (count := getattr(opened, "n_frames", 1)) > 1:
                log.info("%s: the first of its %d pictures is taken", path, count)
            exif, info = _exif_bytes(path, opened), opened.info
    dpi = tuple(float(x) for x in info.get("dpi", (0, 0)))
    return _photograph(path, colour, alpha, exif, info.get("icc_profile") or b"", dpi)


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
    if mode == "P" and transparent is None:
        alpha = None
    elif values.dtype.itemsize > 1 and transparent is not None:
        alpha = np.where((colour == transparent).all(axis=2), 0, 65535).astype(np.uint16)
    return colour, alpha


def _photograph(
    path: Path,
    colour: NDArray[Any],
    alpha: NDArray[Any] | None,
    exif: bytes,
    icc: bytes,
    dpi: tuple[float, ...],
) -> Photograph:
    """From colour (h, w, c) at the depth of the file."""
    depth, white = (8, 255.0) if colour.dtype == np.uint8 else (16, 65535.0)
    if colour.dtype.kind == "f":
        white = 1.0
        log.info("%s: floating point, taken as 16 bits a channel", path)
    if not np.isfinite(colour).all():
        raise DataError(f"{path}: holds pixels that are NaN or infinite")
    low_end, high_end = colour.min(), colour.max()
    if low_end < 0 or high_end > white:
        raise DataError(f"{path}: pixels from {low_end:g} to {high_end:g}, not in 0 to {white:g}")
    unit = torch.from_numpy(colour.astype(np.float32) / np.float32(white))
    space = b"GRAY" if colour.shape[2] == 1 else b"RGB "
    across, down = dpi
    return Photograph(
        unit.permute(2, 0, 1).contiguous(),
        alpha,
        depth,
        exif,
        icc if icc[16:20] == space else b"",  # a CMYK file's profile is wrong for its RGB
        (across, down) if 1 < across < 65536 and 1 < down < 65536 else None,
    )


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


def _exif_bytes(path: Path, source: ImageFile | Image.Exif) -> bytes:
    """What is kept of the EXIF of a file."""
    try:
        exif = source if isinstance(source, Image.Exif) else source.getexif()
        kept = Image.Exif()
        kept.endian = exif.endian  # `bigtiff` is not kept: other formats have no such EXIF
        for tag in exif:
            if tag in (IFD.Exif, IFD.GPSInfo):
                kept[tag] = dict(exif.get_ifd(tag))
            elif tag in _KEPT:
                kept[tag] = exif[tag]
        if IFD.Interop in kept.get(IFD.Exif, {}):
            kept[IFD.Exif][IFD.Interop] = dict(exif.get_ifd(IFD.Interop))
        if len(kept) == 0:
            return b""
        kept[Base.Orientation] = 1
        return kept.tobytes()
    except Exception as error:  # damaged EXIF can raise nearly anything
        log.warning("%s: its EXIF is damaged and not kept (%s)", path, error)
        return b""


def _png_bytes(values: NDArray[Any], photograph: Photograph) -> bytes:
    """A 16-bit PNG; values uint16 (h, w, 1 to 4). No library that the package depends on writes
    these in colour: Pillow only in grey, imageio and matplotlib through Pillow."""
    h, w, c = values.shape
    rows = values.astype(">u2", order="C").view(np.uint8).reshape(h, w, 2 * c)
    differences = np.diff(rows, axis=1, prepend=np.uint8(0)).reshape(h, -1)  # filter 1, "Sub"
    chunks = [(b"IHDR", struct.pack(">2I5B", w, h, 16, (0, 4, 2, 6)[c - 1], 0, 0, 0))]
    if photograph.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(photograph.icc)))
    if photograph.dpi:
        per_metre = (round(x / 0.0254) for x in photograph.dpi)
        chunks.append((b"pHYs", struct.pack(">2IB", *per_metre, 1)))
    if photograph.exif:
        chunks.append((b"eXIf", photograph.exif.removeprefix(b"Exif\0\0")))
    filtered = np.pad(differences, ((0, 0), (1, 0)), constant_values=1)
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
