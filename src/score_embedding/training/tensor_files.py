"""Tensors and numbers in one safetensors file, with one SHA-256 over both in its metadata.

The metadata has one entry (safetensors writes several in any order): the numbers as JSON, among
them `sha256`, of the whole file with 64 zeros in its place. So a change of any byte is found, also
of the header, and equal tensors and numbers give equal files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.errors import CheckpointError

NO_DIGEST = 64 * "0"


def write(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> str:
    """Write the file, with tensors of any device and numbers that JSON has, and return its SHA-256.
    It appears under its name only when all of it is on the disk. Raises RunFolderError where it
    cannot be written."""
    content = to_bytes(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        metadata={"values": json.dumps({**values, "sha256": NO_DIGEST})},
    )
    header, data = _parts(content)
    digest = _digest(header, data)
    header = header.replace(_entry(NO_DIGEST), _entry(digest))
    with atomic_files.replacing(path) as partial, partial.open("wb") as file:
        file.write(header)
        file.write(data)
    return digest


def read(path: Path, *needed: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the numbers, with the file's `sha256`.

    Raises
    ------
    CheckpointError : the file is missing, truncated or changed, or lacks one of the `needed`
        numbers.
    """
    try:
        content = path.read_bytes()
        header, data = _parts(content)
        values = json.loads(json.loads(header[8:])["__metadata__"]["values"])
        unsigned = header.replace(_entry(values["sha256"]), _entry(NO_DIGEST))
        if values["sha256"] != _digest(unsigned, data):
            raise CheckpointError(
                f"{path}: truncated or changed since it was written (its SHA-256 is not the one in "
                f"its metadata); nothing was loaded"
            )
        missing = [name for name in needed if name not in values]
        if missing:
            raise CheckpointError(f"{path}: damaged, it lacks {', '.join(missing)}")
        return from_bytes(content), values
    except (OSError, SafetensorError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable checkpoint ({error})") from error
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no readable checkpoint (damaged, or not a file of this program: {error})"
        ) from error


def _parts(content: bytes) -> tuple[bytes, memoryview]:
    """The header with its length in front, and the tensors."""
    length = 8 + int.from_bytes(content[:8], "little")
    return content[:length], memoryview(content)[length:]


def _entry(digest: str) -> bytes:
    """The digest as the header has it: JSON within JSON."""
    return f'\\"sha256\\": \\"{digest}\\"'.encode()


def _digest(header: bytes, data: memoryview) -> str:
    digest = hashlib.sha256(header)
    digest.update(data)
    return digest.hexdigest()
