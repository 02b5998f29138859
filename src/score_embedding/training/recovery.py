"""Keeping the state of training, and going back to it: after an interruption, to the bit; after a
divergence, with half the learning rate."""

from __future__ import annotations

import logging

import torch

from score_embedding.errors import DivergenceError
from score_embedding.training.checkpoints import Checkpoints
from score_embedding.training.state import Restart, TrainingState

log = logging.getLogger(__name__)

MAX_RESTARTS = 10  # the learning rate is then a thousandth


def save(state: TrainingState, checkpoints: Checkpoints, device: torch.device) -> None:
    """Write a checkpoint.

    Raises
    ------
    DivergenceError : a weight is not finite: that is no state to go back to, and none is written.
    """
    if not state.is_finite():
        raise DivergenceError(f"weights are not finite after step {state.history.step}")
    checkpoints.save(state.history.step, state.tensors(device), state.values())


def go_on(state: TrainingState, checkpoints: Checkpoints, device: torch.device) -> None:
    """Take the state of the last checkpoint, where there is one. Raises CheckpointError where none
    of them can be read."""
    found = checkpoints.latest()
    if found is not None:
        state.restore(*found, device)
        seconds = state.history.training_seconds
        log.info("going on after step %d, %.1f training seconds", state.history.step, seconds)


def restart(
    state: TrainingState,
    checkpoints: Checkpoints,
    device: torch.device,
    lr: float,
    error: DivergenceError,
) -> None:
    """Go back to the last checkpoint with half the learning rate. The clock is not turned back, so
    that the steps undone have been paid for. Raises `error` itself after MAX_RESTARTS."""
    diverged, clock = state.history.step + 1, state.history.training_seconds
    found = checkpoints.latest()
    if found is None or len(state.history.restarts) == MAX_RESTARTS:
        raise error
    state.restore(*found, device)
    history = state.history
    history.training_seconds = clock
    what, _, _ = str(error).partition(";")  # without the remedy
    history.restarts.append(Restart(diverged, history.step, what))
    lr = lr / 2 ** len(history.restarts)
    log.warning("step %d: %s; back to step %d, lr %.3g", diverged, what, history.step, lr)
    save(state, checkpoints, device)
