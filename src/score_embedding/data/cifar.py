"""CIFAR-10 in its published Python format: from a folder, an archive, or the network."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from score_embedding.config.sections import DataLoader
from score_embedding.data import pickles
from score_embedding.data.files import data_folder, download, given, listed, places
from score_embedding.data.labelled import Keep, Labelled, Part, check_labels, joined
from score_embedding.errors import DataError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]  # the training split, in file order
PARTS: dict[Part, list[str]] = {"train": BATCHES, "test": ["test_batch"]}
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def read_part(options: DataLoader, part: Part, keep: Keep) -> Labelled:
    """The images of a part that `keep` returns: from data_loader.path, else from where data sets
    are looked for, else from the network.

    Raises
    ------
    DataError : the data set is not there, or a batch is damaged.
    """
    archive = find(places(options))
    if archive is None and options.path:
        raise DataError(f"{listed(given(options))}: no CIFAR-10 here (data_loader.path)")
    return split(archive or fetch(data_folder()), part, keep)


def class_names(options: DataLoader) -> tuple[str, ...]:
    """The names of the classes, by their numbers."""
    del options
    return CLASSES


def fetch(folder: Path, url: str = URL, known_hash: str = SHA256) -> Path:
    """The archive in `folder`, downloaded when it is not there, its checksum verified.

    Raises
    ------
    DataError : no network, or a file that does not have the checksum.
    """
    remedy = f"put {ARCHIVE} or the folder {FOLDER} into {folder}, or name it"
    return download(url, known_hash, folder, "CIFAR-10", remedy)


def find(folders: list[Path]) -> Path | None:
    """The first folder or archive of CIFAR-10 at or in one of `folders`."""
    for folder in folders:
        for candidate in (folder, folder / FOLDER, folder / ARCHIVE):
            if (candidate / BATCHES[0]).is_file() or (
                candidate.is_file() and candidate.name.endswith((".tar.gz", ".tgz", ".tar"))
            ):
                return candidate
    return None


def split(source: Path, part: Part, keep: Keep) -> Labelled:
    """The images of a part of the data set, 32 x 32 in colour, in file order, from a folder or an
    archive: of each batch those that `keep` returns. An archive is unpacked once.

    Raises
    ------
    DataError : a batch is missing or damaged.
    """
    names = PARTS[part]
    kept = {
        name: keep(_batch(f"{source}/{name}", content)) for name, content in _read(source, names)
    }
    return joined([kept[name] for name in names])


def _read(source: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """The batches of these names, in the order of the folder or the archive."""
    missing = list(names)
    try:
        if source.is_dir():
            while missing:
                content = (source / missing[0]).read_bytes()
                yield missing.pop(0), content
            return
        with tarfile.open(source) as archive:
            wanted = {f"{FOLDER}/{name}": name for name in names}
            for member in archive:
                name = wanted.get(member.name, "")
                file = archive.extractfile(member) if name in missing else None
                if file is not None:
                    content = file.read()
                    missing.remove(name)
                    yield name, content
                if not missing:
                    return
        raise KeyError(f"{FOLDER}/{missing[0]} is not in the archive")
    except (OSError, KeyError, EOFError, zlib.error, tarfile.TarError) as error:
        where = f"{source}/{missing[0]}"
        raise DataError(f"{where}: not readable as a batch of CIFAR-10 ({error})") from error


def _batch(where: str, content: bytes) -> Labelled:
    batch = pickles.read(content, where, encoding="bytes")
    try:
        images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[b"labels"], dtype=np.int64)
        if labels.shape != (len(images),):
            raise ValueError(f"{len(images)} images, labels of shape {labels.shape}")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{where}: not a batch of CIFAR-10 ({error!r})") from error
    check_labels(labels, CLASSES, where)
    return Labelled(images.transpose(0, 2, 3, 1), labels, CLASSES)
