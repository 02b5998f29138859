"""The trained model, and the checkpoints of a run under way: written, resumed from, gone back to.

The trained model is model.safetensors with state.json, a readable copy of its numbers. While
training, the whole state of the loop is written again and again as checkpoint_<step>.safetensors,
and its rows of metrics apart (rows.py); the last two checkpoints are kept. A process may be killed
at any moment: a file that has its name is whole.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.atomic_files import RunFolder
from score_embedding.errors import CheckpointError, DivergenceError, RunFolderError
from score_embedding.methods.network import ScoreNetwork
from score_embedding.training import old_checkpoints, tensor_files
from score_embedding.training.names import CHECKPOINT_ROWS, STATE, WEIGHTS
from score_embedding.training.rows import Row, RowFile
from score_embedding.training.state import History, Restart, TrainingState

log = logging.getLogger(__name__)

KEPT = 2
MAX_RESTARTS = 10  # the learning rate is then a thousandth


def save(folder: RunFolder, network: ScoreNetwork, history: History) -> None:
    """The trained model: its weights with the numbers of its training, then these numbers again,
    with the seconds, as state.json. Two runs with equal weights have equal model.safetensors."""
    values = {
        "step": history.step,
        "parameters": network.num_parameters,
        "restarts": [asdict(restart) for restart in history.restarts],
    }
    digest = tensor_files.write(folder / WEIGHTS, dict(network.state_dict()), values)
    seconds = {"training_seconds": history.training_seconds}
    atomic_files.write_json(folder / STATE, {**values, **seconds, "sha256": digest})


def load(folder: RunFolder, network: ScoreNetwork) -> dict[str, Any]:
    """Load the trained weights into `network`; returns the state.

    Raises
    ------
    CheckpointError : a file is missing, truncated or changed, the two do not belong together, or
        the weights are another network's. The network is left unchanged.
    """
    try:
        state = atomic_files.read_json(folder / STATE, "step")
    except RunFolderError as error:
        raise CheckpointError(f"{folder.path}: no readable checkpoint ({error})") from error
    if old_checkpoints.OWN_DIGEST in state:
        weights, state = old_checkpoints.read(folder / WEIGHTS, folder / STATE)
    else:
        weights, values = tensor_files.read(folder / WEIGHTS, "step")
        if any(state.get(name) != value for name, value in values.items()):
            raise CheckpointError(
                f"{folder / STATE}: changed since it was written, or not that of the {WEIGHTS} "
                f"beside it; nothing was loaded"
            )
    if _kinds(weights) != _kinds(network.state_dict()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: the weights are not those of the network in config.yml"
        )
    network.load_state_dict(weights)
    return state


class Checkpoints:
    """The checkpoints of a run under way: written every `every` seconds of training, by step."""

    def __init__(self, folder: RunFolder, every: float):
        self.folder, self.every = folder, every
        self._rows = RowFile(folder / CHECKPOINT_ROWS)

    def save(
        self, step: int, tensors: dict[str, Tensor], values: dict[str, Any], rows: list[Row]
    ) -> None:
        """Write one: first the rows of metrics, then the checkpoint that they belong to. Then
        remove all but the last two. Raises RunFolderError where it cannot be written."""
        values = {"step": step, **values, "rows": self._rows.append(rows)}
        tensor_files.write(self.path(step), tensors, values)
        for old in self.steps()[:-KEPT]:
            self._old_path(old).unlink(missing_ok=True)
            self.path(old).unlink(missing_ok=True)

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any], list[Row]] | None:
        """Tensors, numbers and rows of the last whole checkpoint; None when none was written yet. A
        damaged one is named in the log, and the one before it is taken.

        Raises
        ------
        CheckpointError : all of them are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.read(step)
            except CheckpointError as error:
                log.warning("%s", error)
        if steps:
            raise CheckpointError(
                f"{self.folder.path}: no checkpoint can be read; --overwrite starts the run again"
            )
        return None

    def read(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any], list[Row]]:
        """Tensors, numbers and rows of the checkpoint after that many steps. Raises CheckpointError
        where it is damaged."""
        if self._old_path(step).exists():
            tensors, values = old_checkpoints.read(self.path(step), self._old_path(step))
            return tensors, values, old_checkpoints.rows_of(values)
        tensors, values = tensor_files.read(self.path(step), "step", "rows")
        return tensors, values, self._rows.read(values["rows"], values["step"])

    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, ascending."""
        paths = self.folder.path.glob("checkpoint_*")
        stems = {
            path.stem.removeprefix("checkpoint_")
            for path in paths
            if path.suffix in (".safetensors", ".json")
        }
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def path(self, step: int) -> Path:
        """The file of the checkpoint after that many steps."""
        return self.folder / f"checkpoint_{step:08d}.safetensors"

    def _old_path(self, step: int) -> Path:
        return self.path(step).with_suffix(".json")


def save_state(state: TrainingState, checkpoints: Checkpoints, device: torch.device) -> None:
    """Write a checkpoint.

    Raises
    ------
    DivergenceError : a weight is not finite: that is no state to go back to, and none is written.
    """
    if not state.is_finite():
        raise DivergenceError(f"weights are not finite after step {state.history.step}")
    history = state.history
    checkpoints.save(history.step, state.tensors(device), state.values(), history.rows)


def resume(state: TrainingState, checkpoints: Checkpoints, device: torch.device) -> None:
    """Take the state of the last checkpoint, where there is one. Raises CheckpointError where none
    of them can be read."""
    found = checkpoints.latest()
    if found is not None:
        state.restore(*found, device)
        seconds = state.history.training_seconds
        log.info("resuming after step %d, %.1f training seconds", state.history.step, seconds)


def restart(
    state: TrainingState,
    checkpoints: Checkpoints,
    device: torch.device,
    lr: float,
    error: DivergenceError,
) -> None:
    """Go back to the last checkpoint with half the learning rate. The clock is not turned back: the
    steps that are undone have been paid for. Raises `error` itself after MAX_RESTARTS."""
    diverged, clock = state.history.step + 1, state.history.training_seconds
    found = checkpoints.latest()
    if found is None or len(state.history.restarts) == MAX_RESTARTS:
        raise error
    state.restore(*found, device)
    history = state.history
    history.training_seconds = clock
    reason, _, _ = str(error).partition(";")  # without the remedy
    history.restarts.append(Restart(diverged, history.step, reason))
    lr = lr / 2 ** len(history.restarts)
    log.warning("step %d: %s; back to step %d, lr %.3g", diverged, reason, history.step, lr)
    save_state(state, checkpoints, device)


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
