"""JPEG files with further pictures behind the first: phones keep brightness and depth maps there,
stereo cameras the other eye (Multi-Picture Format, CIPA DC-007).

Each picture is a JPEG file of its own. A segment APP2 of the first lists the kind, the size and the
place of all; places are counted from the header within that segment.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

VERSION, COUNT, ENTRIES = 0xB000, 0xB001, 0xB002  # tags of the list
_KIND = 0xFFFFFF  # of an attribute
_PREVIEWS = (0x010001, 0x010002)  # kinds: smaller copies of the first picture
_LISTED = "LLLHH"  # attribute, size, place, and the numbers of pictures that it depends on
_APP0, _APP1, _APP2 = 0xE0, 0xE1, 0xE2
_NAME, _JPEG = b"MPF\0", b"\xff\xd8"  # of the segment; what a JPEG file begins with
_HEADER = 8  # bytes of a segment before its own header: marker, length, "MPF\0"


@dataclass(frozen=True)
class FurtherPictures:
    """What a file holds behind its first picture.

    Attributes
    ----------
    attributes : of the first picture and of those after it.
    pictures : those after the first, as JPEG files.
    xmp : metadata of the first, which say what the others are for.
    previews : how many others are smaller copies of the first, which are not kept.
    """

    attributes: tuple[int, ...]
    pictures: tuple[bytes, ...]
    xmp: bytes = b""
    previews: int = 0


def further(path: Path, info: dict[Any, Any], upright: bool) -> FurtherPictures | None:
    """Those of a JPEG file of which Pillow has read this `info`; None where there are none, or the
    list of them is damaged. XMP of a picture that is not `upright` is left out: it may hold the
    orientation, too."""
    content = info.get("mp")
    if not content:
        return None
    data = path.read_bytes()
    start = data.find(_NAME + content) + len(_NAME)
    try:
        (first, *_), *entries = _entries(content)
    except Exception:  # a damaged list can raise nearly anything
        return None
    attributes, pictures, previews = [first], [], 0
    for attribute, size, place, *_ in entries:
        picture = data[start + place : start + place + size]
        if attribute & _KIND in _PREVIEWS:
            previews += 1
        elif picture.startswith(_JPEG):
            attributes.append(attribute)
            pictures.append(picture)
    xmp = info.get("xmp", b"") if upright else b""
    return FurtherPictures(tuple(attributes), tuple(pictures), xmp, previews)


def append(path: Path, others: FurtherPictures) -> None:
    """Write further pictures behind that of a JPEG file, and the list of all into it."""
    first = path.read_bytes()
    place = _after_exif(first)
    count = len(others.attributes)
    directory = ImageFileDirectory_v2()
    directory[VERSION], directory[COUNT] = b"0100", count
    directory[ENTRIES] = bytes(16 * count)
    length = 8 + len(directory.tobytes(8))
    sizes = [len(first) + _HEADER + length, *map(len, others.pictures)]
    entries, at = [], 0
    for attribute, size in zip(others.attributes, sizes, strict=True):
        entries.append(struct.pack(f"<{_LISTED}", attribute, size, at, 0, 0))
        at += size - (place + _HEADER if at == 0 else 0)
    directory[ENTRIES] = b"".join(entries)
    listed = b"II*\0" + struct.pack("<L", 8) + directory.tobytes(8)
    head = struct.pack(">BBH", 0xFF, _APP2, 6 + len(listed)) + _NAME
    path.write_bytes(b"".join([first[:place], head, listed, first[place:], *others.pictures]))


def _entries(content: bytes) -> list[tuple[int, ...]]:
    stream = io.BytesIO(content)
    header = stream.read(8)
    directory = ImageFileDirectory_v2(header)
    stream.seek(directory.next)
    directory.load(stream)
    order = ">" if header.startswith(b"MM") else "<"
    return list(struct.iter_unpack(f"{order}{_LISTED}", directory[ENTRIES]))


def _after_exif(data: bytes) -> int:
    """Where the segments JFIF, EXIF and XMP of a JPEG file end."""
    place = 2
    while data[place] == 0xFF and data[place + 1] in (_APP0, _APP1):
        place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
    return place
