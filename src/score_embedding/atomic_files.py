"""Files that are complete or missing: they are written beside their place and renamed into it. A
file that is damaged when it is read is named in the error."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_embedding.errors import RunFolderError

PARTIAL = ".partial"  # ending of a file that is being written


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on disk."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success the file is flushed to disk and renamed.

    Raises
    ------
    RunFolderError : it cannot be written (the disk is full, for one); `path` is unchanged.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_names(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def replace_end(path: Path, length: int, content: bytes) -> None:
    """Write `content` after the first `length` bytes of a file, in place of what follows them, and
    flush it to the disk. The file is made where it is missing.

    Raises
    ------
    RunFolderError : it cannot be written; the first `length` bytes are unchanged.
    """
    try:
        new = not path.exists()
        with path.open("wb" if new else "r+b") as file:
            file.truncate(length)
            file.seek(length)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _flush_names(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{path}: cannot be written ({error.strerror or error}); what was whole before still is"
    )


def _flush_names(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """The object of a JSON file. Raises RunFolderError when it is damaged or lacks a key."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise RunFolderError(f"{path}: not a JSON object")
    _require(path, values, needed)
    return values


def _require(path: Path, values: dict[str, Any], needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in values]
    if missing:
        raise RunFolderError(f"{path}: damaged, it lacks {', '.join(missing)}")


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """An .npz file."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path, *needed: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; no pickle in it is ever opened. Raises RunFolderError when it is
    damaged or lacks an array."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except Exception as error:  # a damaged zip can raise nearly anything
        raise RunFolderError(f"{path}: truncated or damaged ({error})") from error
    _require(path, arrays, needed)
    return arrays


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of the entries of a JSON file, in any order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_rows(path: Path, names: list[str], rows: list[dict[str, Any]]) -> None:
    """A CSV file; keys that a row lacks are left empty."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV file of numbers; empty cells are left out."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise RunFolderError(f"{path}: not a table of numbers ({error})") from error
