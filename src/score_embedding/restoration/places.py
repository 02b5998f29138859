"""From the paths that a command is given to photographs and the places of their results."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from score_embedding.errors import DataError, RunFolderError
from score_embedding.restoration import before_after
from score_embedding.restoration.photographs import raw
from score_embedding.runs import folder as run_folder

DENOISED, INPAINTED, PREVIEW = "_denoised", "_inpainted", "_preview"
RESULTS = (
    DENOISED,
    INPAINTED,
    before_after.SUFFIX,
    DENOISED + PREVIEW,
)  # ends of the names of results
# Formats that Pillow only recognises, or draws: no photographs.
_NOT_PHOTOGRAPHS = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF", "XBM", "XPM")
_MORE = {".heic", ".heif", ".hif", ".lsm", ".stk", ".btf", ".tf8"}  # pillow-heif; TIFF
_NAMED = 5  # of many names in an error


@dataclass(frozen=True)
class Given:
    """A photograph that a command is given.

    Attributes
    ----------
    path : of its file.
    of_folder : whether it was found in a folder that was given.
    stem : what the name of its result begins with.
    """

    path: Path
    of_folder: bool
    stem: str

    def result(self, suffix: str, ending: str, out: Path | None) -> Path:
        """The place of its result, beside it or in the folder `out`."""
        return (self.path.parent if out is None else out) / f"{self.stem}{suffix}{ending}"


def photographs_of(paths: Sequence[Path]) -> list[Given]:
    """The photographs that are named, and in the place of each folder the pictures in it, by their
    endings and sorted by name, without results of earlier calls, hidden files and those that are
    named or listed already.

    Raises
    ------
    DataError : a folder without pictures, or one that cannot be read.
    """
    named = {os.path.realpath(path) for path in paths}
    found: list[Given] = []
    for path in paths:
        if not path.is_dir():
            found.append(Given(path, False, path.stem))
            continue
        inside = _pictures_in(path)
        stems = Counter(picture.stem.casefold() for picture in inside)
        for picture in inside:
            place = os.path.realpath(picture)
            if place not in named:
                # photo.raw and photo.jpg have results, and pictures of them, of different names
                alone = stems[picture.stem.casefold()] == 1
                found.append(Given(picture, True, picture.stem if alone else picture.name))
                named.add(place)
    return found


def _pictures_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: not readable ({error.strerror})") from None
    endings = {
        ending
        for ending, format in Image.registered_extensions().items()
        if format in Image.OPEN and format not in _NOT_PHOTOGRAPHS
    }
    endings |= raw.ENDINGS | _MORE
    found = [
        path
        for path in entries
        if path.suffix.lower() in endings
        and not path.name.startswith(".")
        and not path.stem.endswith(RESULTS)
        and not path.is_dir()
    ]
    if not found:
        raise DataError(
            f"{folder}: a folder without pictures; results of earlier calls, names that end in "
            f"{', '.join(RESULTS)}, are not counted"
        )
    return found


def check_free(
    written: Sequence[Path], given: Sequence[Path], overwrite: bool, remedy: str = ""
) -> None:
    """Raise DataError or RunFolderError where files, results or pictures of them, may not be
    written; with a further remedy for those that exist."""
    places, taken = ([os.path.realpath(path) for path in paths] for paths in (written, given))
    counts = Counter(places)
    twice = sorted(place for place, count in counts.items() if count > 1)
    if twice:
        raise DataError(
            f"{_names(twice)}: of two photographs; give them one after the other, or with another "
            f"--out"
        )
    own = sorted(set(places) & set(taken))
    if own:
        raise DataError(f"{_names(own)}: would be written, and is itself given")
    existing = [str(path) for path in written if path.exists()]
    if existing and not overwrite:
        raise RunFolderError(
            f"{_names(existing)}: already there; --overwrite replaces, {remedy}--out DIR writes "
            f"elsewhere"
        )
    for folder in {path.parent for path in written}:
        run_folder.check_place(folder)


def _names(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more
