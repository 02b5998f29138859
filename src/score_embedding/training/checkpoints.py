"""Checkpoints: tensors as safetensors, numbers as JSON, with the SHA-256 of both.

The trained model is one (model.safetensors, state.json); while training, the loop's whole state is
written again and again, and the last two are kept. A file appears under its name only when all of
it is on the disk, the JSON last: whatever moment a process is killed at, what has a name is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.errors import CheckpointError, RunFolderError
from score_embedding.methods.network import ScoreNetwork
from score_embedding.runs.folder import STATE, WEIGHTS, RunFolder
from score_embedding.training.state import History

log = logging.getLogger(__name__)

KEPT = 2
OWN_DIGEST = "sha256_of_this"  # of the other entries of the JSON file


def save(folder: RunFolder, network: ScoreNetwork, history: History) -> None:
    """The trained model: its weights, then the state that names their SHA-256."""
    values = {
        "step": history.step,
        "training_seconds": history.training_seconds,
        "parameters": network.num_parameters,
        "restarts": [asdict(restart) for restart in history.restarts],
    }
    _write(folder, WEIGHTS, STATE, dict(network.state_dict()), values)


def load(folder: RunFolder, network: ScoreNetwork) -> dict[str, Any]:
    """Load the trained weights into `network`; returns the state.

    Raises
    ------
    CheckpointError : a file is missing, truncated or changed, or the weights are another network's.
        The network is left as it was.
    """
    weights, state = _read(folder, WEIGHTS, STATE)
    if _kinds(weights) != _kinds(network.state_dict()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: the weights are not those of the network in config.yml"
        )
    network.load_state_dict(weights)
    return state


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run under way: written every so many seconds of training, by step."""

    folder: RunFolder
    every: float

    def save(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Write one, then remove all but the last two."""
        _write(self.folder, *_names(step), tensors, {"step": step, **values})
        for old in self.steps()[:-KEPT]:
            tensors_name, values_name = _names(old)
            (self.folder / values_name).unlink(missing_ok=True)
            (self.folder / tensors_name).unlink(missing_ok=True)

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last whole checkpoint; None when none was written yet. A damaged one is named in the
        log and the one before it taken.

        Raises
        ------
        CheckpointError : all of them are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return _read(self.folder, *_names(step))
            except CheckpointError as error:
                log.warning("%s", error)
        if steps:
            raise CheckpointError(
                f"{self.folder.path}: no checkpoint can be read; --overwrite starts the run again"
            )
        return None

    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, ascending."""
        paths = self.folder.path.glob("checkpoint_*.json")
        stems = [path.stem.removeprefix("checkpoint_") for path in paths]
        return sorted(int(stem) for stem in stems if stem.isdecimal())


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _names(step: int) -> tuple[str, str]:
    return f"checkpoint_{step:08d}.safetensors", f"checkpoint_{step:08d}.json"


def _write(
    folder: RunFolder,
    tensors_name: str,
    values_name: str,
    tensors: dict[str, Tensor],
    values: dict[str, Any],
) -> None:
    content = to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()})
    with atomic_files.replacing(folder / tensors_name) as partial:
        partial.write_bytes(content)
    values = {**values, "sha256": hashlib.sha256(content).hexdigest()}
    atomic_files.write_json(folder / values_name, {**values, OWN_DIGEST: digest(values)})


def _read(
    folder: RunFolder, tensors_name: str, values_name: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        values = atomic_files.read_json(folder / values_name, "step", "sha256", OWN_DIGEST)
        if values.pop(OWN_DIGEST) != digest(values):
            raise CheckpointError(
                f"{folder / values_name}: changed since it was written; nothing was loaded"
            )
        if values["sha256"] != sha256_of(folder / tensors_name):
            raise CheckpointError(
                f"{folder / tensors_name}: truncated or changed since it was written (its SHA-256 "
                f"is not the one in {values_name}); nothing was loaded"
            )
        return load_file(folder / tensors_name), values
    except (OSError, RunFolderError, SafetensorError) as error:
        raise CheckpointError(f"{folder.path}: no readable checkpoint ({error})") from error


def digest(values: dict[str, Any]) -> str:
    """Of the entries of a JSON file, to tell whether it was changed."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
