"""EXIF that is kept of a photograph."""

from __future__ import annotations

import logging
from pathlib import Path

import tifffile
from PIL import Image
from PIL.ExifTags import IFD, Base

log = logging.getLogger(__name__)

# Tags about the photograph; the others, in TIFF, are about how the file stores it.
_KEPT = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist),
    *(Base.Copyright, Base.Rating, Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords),
    *(IFD.Exif, IFD.GPSInfo),
}


def of_directory(path: Path, file: tifffile.TiffFile, page: tifffile.TiffPage) -> bytes:
    """What is kept of the tags of a TIFF page. Damaged EXIF can raise nearly anything."""
    tags = Image.Exif()
    tags.endian, tags.bigtiff = file.byteorder, file.is_bigtiff
    if tags.bigtiff and tags.endian == ">":  # which Pillow does not read
        return b""
    with path.open("rb") as stream:
        tags.load_from_fp(stream, page.offset)
        for tag in (IFD.Exif, IFD.GPSInfo, IFD.Interop):
            tags.get_ifd(tag)  # now, while the file is open
    return kept_of(path, tags)


def kept_of(path: Path, source: Image.Image | Image.Exif) -> bytes:
    """What is kept of the EXIF of a file, with orientation 1; empty where it has none, or damaged
    EXIF, which is logged."""
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
