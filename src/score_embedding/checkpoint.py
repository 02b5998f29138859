"""Weights as safetensors, their description as JSON with a content hash."""

from __future__ import annotations

import hashlib
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from score_embedding import run_folder
from score_embedding.errors import CheckpointError, RunFolderError
from score_embedding.network import ScoreNetwork
from score_embedding.run_folder import STATE, WEIGHTS, RunFolder


def save(folder: RunFolder, network: ScoreNetwork, step: int, training_seconds: float) -> None:
    """Write the weights, then the state that names their SHA-256."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with run_folder.replacing(folder / WEIGHTS) as partial:
        partial.write_bytes(to_bytes(weights))
    state = {
        "step": step,
        "training_seconds": training_seconds,
        "parameters": network.num_parameters,
        "sha256": _sha256(folder),
    }
    run_folder.write_json(folder / STATE, state)


def load(folder: RunFolder, network: ScoreNetwork) -> dict[str, Any]:
    """Load the weights into `network`; returns the state.

    Raises
    ------
    CheckpointError : a file is missing, truncated or changed, or the weights are another network's.
        The network is left as it was.
    """
    try:
        state = run_folder.read_json(folder / STATE, "step", "sha256")
        if state["sha256"] != _sha256(folder):
            raise CheckpointError(
                f"{folder / WEIGHTS}: truncated or changed since it was written (its SHA-256 is "
                f"not the one in {STATE}); nothing was loaded"
            )
        weights = load_file(folder / WEIGHTS)
    except (OSError, RunFolderError, SafetensorError) as error:
        raise CheckpointError(f"{folder.path}: no readable checkpoint ({error})") from error
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS}: the weights are not those of the network in config.yml"
        )
    network.load_state_dict(weights)
    return state


def _sha256(folder: RunFolder) -> str:
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
