"""Image files and folders of them, and the folders in which data sets are looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pooch

from score_embedding import progress
from score_embedding.config.sections import DataLoader
from score_embedding.data.image_files import Named
from score_embedding.errors import DataError


def read(options: DataLoader) -> list[Named]:
    """The files and folders of data_loader.path in their order; the first num_images of them."""
    found = [named for path in given(options) for named in expand(path)]
    n = options.num_images
    if n is not None and n > len(found):
        raise DataError(f"data_loader.num_images: {n}, but only {len(found)} images given")
    return found[:n]


def given(options: DataLoader) -> list[Path]:
    """data_loader.path."""
    return [Path(path).expanduser() for path in options.path or []]


def expand(path: Path) -> list[Named]:
    """A file as itself, a folder as the files in it by name; hidden files are left out.

    Raises
    ------
    DataError : an empty folder, or one that cannot be read.
    """
    try:
        if not path.is_dir():
            return [(str(path), path)]
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if not files:
        raise DataError(f"{path}: an empty folder")
    return [(str(file), file) for file in files]


def data_folder() -> Path:
    """Where data sets are kept: $SCORE_EMBEDDING_DATA, else the user's cache folder."""
    return Path(os.environ.get("SCORE_EMBEDDING_DATA") or pooch.os_cache("score-embedding"))


def places(options: DataLoader) -> list[Path]:
    """Where a data set is looked for: data_loader.path, else ./data, here and `data_folder`."""
    return given(options) or [Path("data"), Path(), data_folder()]


def download(url: str, checksum: str, folder: Path, what: str, remedy: str) -> Path:
    """The file at `url` in `folder`, under its own name: downloaded when it is not there, its
    checksum verified.

    Raises
    ------
    DataError : no network, or a file that does not have the checksum; names `what` and `remedy`.
    """
    name = url.rpartition("/")[2]
    try:
        with progress.stage(f"downloading {what}", total=0) as bar:
            downloader = pooch.HTTPDownloader(progressbar=bar)
            return Path(pooch.retrieve(url, checksum, name, folder, downloader=downloader))
    except Exception as error:  # requests, urllib3, OSError and ValueError (checksum)
        raise DataError(
            f"{what} is not on disk and could not be downloaded from {url} ({error}); {remedy} "
            f"with --set data_loader.path=PATH"
        ) from error


def listed(paths: list[Path]) -> str:
    """Paths for an error message."""
    return ", ".join(str(path) for path in paths)
