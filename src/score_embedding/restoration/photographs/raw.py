"""Photographs in the raw files of cameras, demosaiced by the package rawpy (the extra `raw`)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import ImageCms

from score_embedding.errors import DataError
from score_embedding.restoration.photographs import exif
from score_embedding.restoration.photographs.photograph import Photograph

ENDINGS = {
    *(".3fr", ".ari", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq"),
    *(".k25", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2"),
    *(".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}
_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # of a profile, in place of the present time
_OTHERS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM")  # how no raw file begins
_LINEAR = (1.0, 1.0, 0.0, 1.0, 0.0)  # of the curve (a x + b)^g: g, a, b; c, d for dark values


def is_raw(path: Path) -> bool:
    """Whether a file is a camera's raw file, by its ending: many are TIFF files with a preview."""
    if path.suffix.lower() not in ENDINGS:
        return False
    with path.open("rb") as file:
        return not file.read(4).startswith(_OTHERS)


class RawFile:
    """A raw file. Raises DataError for one that LibRaw cannot read, and where rawpy is missing."""

    def __init__(self, path: Path):
        try:
            import rawpy
        except ImportError:
            raise DataError(
                f"{path}: a camera's raw file, which needs the extra raw: "
                f"pip install 'score-embedding[raw]'"
            ) from None
        self._path, self._rawpy = path, rawpy

    def shape(self) -> tuple[int, int, int]:
        """3 channels, height and width; only the header is read."""
        try:
            with self._rawpy.imread(str(self._path)) as raw:
                return 3, raw.sizes.iheight, raw.sizes.iwidth
        except self._rawpy.LibRawError as error:
            raise self._refused(error) from None

    def read(self) -> Photograph:
        """Linear RGB of 16 bits with the primaries of sRGB, upright, white balanced as the camera
        did it."""
        try:
            with self._rawpy.imread(str(self._path)) as raw:
                values = raw.postprocess(
                    gamma=(1, 1), no_auto_bright=True, use_camera_wb=True, output_bps=16
                )
        except self._rawpy.LibRawError as error:
            raise self._refused(error) from None
        colour = np.array(values if values.ndim == 3 else values[:, :, None])
        grey = colour.shape[2] == 1 or bool((colour == colour[:, :, :1]).all())
        return Photograph(
            colour[:, :, :1] if grey else colour,
            colours=1 if grey else 3,
            exif=_exif(self._path),
            icc=b"" if grey else linear_profile(),
        )

    def _refused(self, error: Exception) -> DataError:
        text: Any = error.args[0] if error.args else error
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        return DataError(f"{self._path}: not a raw file that LibRaw can read ({text})")


def linear_profile() -> bytes:
    """The sRGB profile of LittleCMS with a linear curve in place of its own."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    place = profile.index(b"para\0\0\0\0\0\3\0\0") + 12  # a curve of five parameters, s15Fixed16
    linear = struct.pack(">5i", *(round(x * 65536) for x in _LINEAR))
    profile = profile.replace(profile[place : place + 20], linear)
    return profile[:24] + _DATE + profile[36:]


def _exif(path: Path) -> bytes:
    """Of the raw files that are TIFF files, as most are."""
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            assert isinstance(page, tifffile.TiffPage)
            return exif.of_directory(path, file, page)
    except Exception:  # of another format, or damaged
        return b""
