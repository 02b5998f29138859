"""Checkpoints and trained models as version 0.1.0 wrote them: tensors as safetensors, numbers as
JSON beside them with the SHA-256 of the tensors and one of the JSON's other entries. Only read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.errors import CheckpointError, RunFolderError

OWN_DIGEST = "sha256_of_this"  # of the other entries of the JSON file


def read(tensors_path: Path, values_path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the numbers. Raises CheckpointError where one of the files is missing,
    truncated or changed."""
    try:
        values = atomic_files.read_json(values_path, "step", "sha256", OWN_DIGEST)
        if values.pop(OWN_DIGEST) != atomic_files.digest_of(values):
            raise CheckpointError(
                f"{values_path}: changed since it was written; nothing was loaded"
            )
        if values["sha256"] != atomic_files.sha256_of(tensors_path):
            raise CheckpointError(
                f"{tensors_path}: truncated or changed since it was written (its SHA-256 is not "
                f"the one in {values_path.name}); nothing was loaded"
            )
        return load_file(tensors_path), values
    except (OSError, RunFolderError, SafetensorError) as error:
        raise CheckpointError(f"{values_path.parent}: no readable checkpoint ({error})") from error


def rows_of(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of metrics, which were stored with the numbers. Raises CheckpointError where there
    are none."""
    try:
        rows: list[dict[str, Any]] = values["history"].pop("rows")
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"a checkpoint without rows of metrics ({error})") from error
    return rows
