"""What a TIFF page holds besides pixels: its own tags, as bytes, to be written again unchanged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import tifffile
from PIL.ExifTags import Base

# Tags about how a page is stored, or that hold places in the file: the writer makes its own.
_STORAGE = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281),
    *(282, 283, 284, 288, 289, 290, 291, 292, 293, 296, 300, 301, 317, 320, 321, 322, 323, 324),
    *(325, 330, 332, 333, 334, 336, 338, 339, 340, 341, 342, 347, 400, 512, 513, 514, 515, 517),
    *(518, 519, 520, 521, 529, 530, 531, 532, 34675, 34665, 34853, 40965, 32995, 32997, 32998),
}
# Of programs that keep a second picture or places in the file there: Photoshop's resources and
# layers, MetaMorph's and Zeiss' tables.
_STALE = {34377, 37724, 33628, 33629, 33630, 33631, 34412}
_IMAGEJ = {50838, 50839}  # labels, overlays and colour tables of a whole stack
_IMAGEJ_STACK = ("images", "channels", "slices", "frames", "hyperstack", "mode", "loop")
_POINTERS = {13, 18}  # types of places of directories in the file
XMP = 700

Order = Literal["<", ">"]
Tag = tuple[int, int, bytes]  # code, type, content


@dataclass(frozen=True)
class TiffOrigin:
    """Of the page that a photograph was read from.

    Attributes
    ----------
    order : byte order of the file, and of the tags' content.
    big : whether it is a BigTIFF.
    compressed : whether its pixels are.
    imagej : whether ImageJ wrote it, which expects the pages of a stack without gaps.
    tags : all but those about storage.
    resolution : XResolution and YResolution as fractions, and ResolutionUnit; or None.
    """

    order: Order
    big: bool
    compressed: bool
    imagej: bool
    tags: tuple[Tag, ...]
    resolution: tuple[tuple[int, int], tuple[int, int], int] | None

    def alone(self) -> TiffOrigin:
        """For a page that is written without the others of its file: what describes them all is
        left out."""
        tags = []
        for code, kind, content in self.tags:
            if code == Base.ImageDescription:
                content = _description_of_one(content)
            if code not in _IMAGEJ and content:
                tags.append((code, kind, content))
        return replace(self, tags=tuple(tags))


def of_page(file: tifffile.TiffFile, page: tifffile.TiffPage) -> TiffOrigin:
    """The origin of a page, whose file is open."""
    orientation = page.tags.valueof(Base.Orientation) or 1
    tags = []
    for tag in page.tags:
        if tag.code in _STORAGE or _is_lost(tag):
            continue
        if tag.code == XMP and orientation != 1:  # it may hold the orientation, too
            continue
        file.filehandle.seek(tag.valueoffset)
        content = file.filehandle.read(tag.valuebytecount)
        if tag.code == Base.ImageDescription:
            content = content.replace(b', "truncated": true', b"")  # all pages are written
            if page.planarconfig == 2 or page.imagedepth > 1:  # planes are written otherwise
                content = _description_of_one(content)
        if content:
            tags.append((tag.code, int(tag.dtype), content))
    across, down = (page.tags.valueof(code) for code in (282, 283))
    unit, resolution = page.tags.valueof(296), None
    if _is_fraction(across) and _is_fraction(down):
        if orientation >= 5:
            across, down = down, across
        resolution = tuple(across), tuple(down), unit if unit in (1, 2, 3) else 2
    return TiffOrigin(
        ">" if file.byteorder == ">" else "<",
        file.is_bigtiff,
        page.compression != 1,
        bool(file.is_imagej),
        tuple(tags),
        resolution,
    )


def lost(page: tifffile.TiffPage) -> set[int]:
    """The tags of programs that cannot be kept, as they point to other places of the file."""
    return {tag.code for tag in page.tags if tag.code not in _STORAGE and _is_lost(tag)}


def _is_lost(tag: tifffile.TiffTag) -> bool:
    return tag.code in _STALE or int(tag.dtype) in _POINTERS


def _is_fraction(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and 0 not in value


def _description_of_one(content: bytes) -> bytes:
    """The description of a page of a stack, for that page alone; empty where nothing is left."""
    text = content.rstrip(b"\0").decode("latin-1")
    if text.startswith("ImageJ="):
        lines = [x for x in text.splitlines() if x.partition("=")[0] not in _IMAGEJ_STACK]
        return "\n".join([*lines, ""]).encode("latin-1") + b"\0"
    if text.startswith('{"shape"') or text.rstrip().endswith("OME>"):
        return b""
    return content
