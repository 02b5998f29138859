"""PNG files of 16 bits a channel."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encoded(
    values: NDArray[Any], exif: bytes, icc: bytes, dpi: tuple[float, float] | None
) -> bytes:
    """A 16-bit PNG; values uint16 (h, w, 1 to 4). No library that the package depends on writes
    these in colour: Pillow only in grey, imageio and matplotlib through Pillow."""
    h, w, c = values.shape
    rows = values.astype(">u2", order="C").view(np.uint8).reshape(h, w, 2 * c)
    differences = np.diff(rows, axis=1, prepend=np.uint8(0)).reshape(h, -1)  # filter 1, "Sub"
    chunks = [(b"IHDR", struct.pack(">2I5B", w, h, 16, (0, 4, 2, 6)[c - 1], 0, 0, 0))]
    if icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if dpi:
        per_metre = (round(x / 0.0254) for x in dpi)
        chunks.append((b"pHYs", struct.pack(">2IB", *per_metre, 1)))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    filtered = np.pad(differences, ((0, 0), (1, 0)), constant_values=1)
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
