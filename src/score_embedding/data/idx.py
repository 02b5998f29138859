"""MNIST and Fashion-MNIST in their IDX files, packed by gzip or not."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from score_embedding.config.sections import DataLoader
from score_embedding.data.files import data_folder, download, given, listed, places
from score_embedding.data.labelled import Keep, Labelled, Part, check_labels
from score_embedding.errors import DataError

SIDE = 28  # pixels
_IMAGES, _LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"  # bytes, in three dimensions or in one
_WHAT = {_IMAGES: "images", _LABELS: "labels"}
_FILES: dict[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class Source:
    """Where a data set is: `debian`, the folder of Debian's package for it; `url`, of the folder of
    its packed files; `md5` of these, by name; `classes`, their names."""

    debian: Path
    url: str
    md5: dict[str, str]
    classes: tuple[str, ...]


SOURCES = {
    "fashion_mnist": Source(
        Path("/usr/share/datasets/fashion-mnist"),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        (
            *("t-shirt", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle_boot"),
        ),
    ),
    "mnist": Source(
        Path("/usr/share/datasets/mnist"),
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        {
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        tuple("0123456789"),
    ),
}


def read_part(options: DataLoader, part: Part, keep: Keep) -> Labelled:
    """The images of a part that `keep` returns, in the middle of black ones of
    data_loader.image_size: from data_loader.path, else from where data sets are looked for, from
    the place of Debian's package, or from the network.

    Raises
    ------
    DataError : a file is missing, damaged or of something else.
    """
    source = SOURCES[options.dataset]
    found = [_path(options, name) for name in _FILES[part]]
    images, labels = (_read(path, kind) for path, kind in zip(found, _WHAT, strict=True))
    if images.shape[1:] != (SIDE, SIDE):
        h, w = images.shape[1:]
        raise DataError(
            f"{found[0]}: images of {h}x{w}, those of {options.dataset} are {SIDE}x{SIDE}"
        )
    if len(images) != len(labels):
        raise DataError(f"{found[0]}: {len(images)} images, but {len(labels)} labels in {found[1]}")
    numbers = labels.astype(np.int64)
    check_labels(numbers, source.classes, str(found[1]))
    return keep(Labelled(images[..., None], numbers, source.classes)).padded(options.image_size)


def class_names(options: DataLoader) -> tuple[str, ...]:
    """The names of the classes, by their numbers."""
    return SOURCES[options.dataset].classes


def _path(options: DataLoader, name: str) -> Path:
    """A file of the data set, packed or not; downloaded where it is nowhere."""
    source = SOURCES[options.dataset]
    folders = [*places(options), data_folder() / options.dataset]
    if not options.path:
        folders.append(source.debian)
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    if options.path:
        looked = listed(given(options))
        raise DataError(f"{looked}: no {name} or {name}.gz here (data_loader.path)")
    return fetch(options.dataset, name, data_folder() / options.dataset)


def fetch(dataset: str, name: str, folder: Path) -> Path:
    """A file of a data set, packed, in `folder`; downloaded when it is not there. DataError as of
    `files.download`."""
    source = SOURCES[dataset]
    remedy = f"put its four files into {folder}, or name their folder"
    url, checksum = f"{source.url}/{name}.gz", f"md5:{source.md5[name]}"
    return download(url, checksum, folder, dataset, remedy)


def _read(path: Path, kind: bytes) -> NDArray[np.uint8]:
    """The content of an IDX file of this kind: (n, h, w) or (n,)."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable, or damaged ({error})") from error
    dimensions = kind[3]
    start = 4 + 4 * dimensions
    if not content.startswith(kind) or len(content) < start:
        raise DataError(f"{path}: not an IDX file of {_WHAT[kind]}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    if len(content) != start + math.prod(shape):
        raise DataError(
            f"{path}: {len(content)} bytes, {start + math.prod(shape)} are needed for shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # writable
