"""The training loop and its clock.

The clock starts at the seconds that the pre-computation took and runs while steps are made;
evaluation and checkpoints stop it. It is the time that every "seconds to an SSIM" of this project
means.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import torch

from score_embedding import progress
from score_embedding.config.schema import AnyConfig
from score_embedding.errors import DivergenceError, Interrupted
from score_embedding.methods.base import Batch, Network, Objective
from score_embedding.methods.network import ScoreNetwork
from score_embedding.training import signals as interruption
from score_embedding.training import state as training_state
from score_embedding.training.checkpoints import Checkpoints, restart, resume, save_state
from score_embedding.training.signals import Signals
from score_embedding.training.state import History, TrainingState, lr_factor

log = logging.getLogger(__name__)

Evaluate = Callable[[ScoreNetwork], dict[str, float]]  # must leave the generators unchanged


_REMEDY = "a smaller training.lr may help, or training.on_divergence: restart"


class NotFiniteError(DivergenceError):
    """A loss or gradient that is not finite, with the batch that reproduces it."""

    def __init__(self, message: str, batch: Batch):
        super().__init__(message)
        self.batch = batch


def train(
    network: ScoreNetwork,
    objective: Objective,
    config: AnyConfig,
    precompute_seconds: dict[str, float] | None = None,
    evaluate: Evaluate | None = None,
    checkpoints: Checkpoints | None = None,
    describe: Callable[[dict[str, float]], str] = str,
) -> History:
    """Train `network` in place, for training.epochs epochs. With training.ema the averaged weights
    are evaluated, and are the result.

    With `evaluate` the metrics are taken every misc.profile_freq training seconds, with held_out
    also after the first step, and training ends early when the min-max SSIM reaches
    training.target_ssim. What is computed only in the loop counts as training time. With
    `checkpoints` training resumes from the last of them, bit for bit, and writes one every
    `checkpoints.every` seconds of training, at the end, and when it is interrupted; with
    training.on_divergence "restart" it goes back to the last one at a divergence, with half the lr.
    `describe` puts the metrics of an evaluation into words, for the log.

    Raises
    ------
    NotFiniteError : loss or gradient is not finite; the weights are those before the step.
    DivergenceError : weights or a sample are not finite.
    Interrupted : SIGINT or SIGTERM came; the checkpoint is written.
    CheckpointError : none of the checkpoints can be read.
    """
    options, device = config.training, objective.device
    steps, seconds = options.steps(len(objective)), options.seconds or math.inf
    forward = forward_of(network, config, device)
    before, first = precompute_seconds or {}, 0 if config.held_out else config.misc.profile_freq
    state = training_state.start(network, options, device, before, first)

    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        progress.stage("training", total=steps) as stage,
        interruption.handled() as signals,
    ):
        torch.manual_seed(options.seed)  # dropout
        if checkpoints:
            resume(state, checkpoints, device)
        if checkpoints and options.on_divergence == "restart" and not checkpoints.steps():
            save_state(state, checkpoints, device)  # something to go back to

        def done() -> bool:
            history = state.history
            return state.finished or history.step >= steps or history.training_seconds >= seconds

        def advance() -> None:
            """Steps and evaluations until the next checkpoint is due, then that checkpoint."""
            due = state.history.training_seconds + (checkpoints.every if checkpoints else math.inf)
            _evaluate_when_due(state, evaluate, config, signals, describe)
            while not done() and state.history.training_seconds < due:
                with signals.postponed():
                    step(forward, state, objective, config)
                stage.to(state.history.step, note=f"loss {state.history.rows[-1]['loss']:.4g}")
                _evaluate_when_due(state, evaluate, config, signals, describe)
            state.finished = done()
            if checkpoints:
                with signals.postponed():
                    save_state(state, checkpoints, device)

        try:
            while not state.finished:
                try:
                    advance()
                except DivergenceError as error:
                    if checkpoints is None or options.on_divergence == "stop":
                        raise
                    restart(state, checkpoints, device, options.lr, error)
        except Interrupted:
            with signals.postponed():
                if checkpoints and state.is_finite():
                    save_state(state, checkpoints, device)
            raise
    network.load_state_dict(state.averaged.state_dict())
    return state.history


def step(forward: Network, state: TrainingState, objective: Objective, config: AnyConfig) -> None:
    """One step of the optimiser and its row of the history."""
    options, history = config.training, state.history
    started = time.perf_counter()
    state.network.train()
    batch = objective.draw_batch(history.step % len(objective), state.generator)
    loss = objective.loss(forward, batch)
    value = loss.item()
    if not torch.isfinite(loss):
        raise NotFiniteError(f"the loss is {value}; {_REMEDY}", batch)
    for group in state.optimizer.param_groups:
        group["lr"] = options.lr * lr_factor(history.step, options, len(history.restarts))
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    limit = math.inf if options.grad_clip is None else options.grad_clip
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), limit)
    if not torch.isfinite(norm):
        raise NotFiniteError(f"the gradient's norm is {norm.item()}; {_REMEDY}", batch)
    state.optimizer.step()
    if state.average:
        state.average.update_parameters(state.network)
    history.training_seconds += time.perf_counter() - started
    clock = history.training_seconds
    history.rows.append({"step": history.step + 1, "training_seconds": clock, "loss": value})


def _evaluate_when_due(
    state: TrainingState,
    evaluate: Evaluate | None,
    config: AnyConfig,
    signals: Signals,
    describe: Callable[[dict[str, float]], str],
) -> None:
    """The metrics, when the clock says that they are due; training is finished at the target."""
    history, target = state.history, config.training.target_ssim
    if evaluate is None or history.step == 0 or history.training_seconds < state.next_evaluation:
        return
    started = time.perf_counter()
    metrics = evaluate(state.averaged)
    with signals.postponed():
        history.rows[-1].update(metrics)
        history.evaluation_seconds += time.perf_counter() - started
        state.next_evaluation = history.training_seconds + config.misc.profile_freq
        state.finished = target is not None and metrics["ssim_minmax"] >= target
    log.info(
        "step %d, %.1f training seconds: %s",
        history.step,
        history.training_seconds,
        describe(metrics),
    )
    if state.finished:
        log.info("the target %g is reached after %d steps", target, history.step)


def forward_of(network: ScoreNetwork, config: AnyConfig, device: torch.device) -> ScoreNetwork:
    """The network as training calls it: compiled, and under bfloat16 autocast, where the config
    asks for it.

    Outside CUDA the network is not compiled: on two CPU cores that took longer than a whole
    quickstart and gained nothing. bfloat16 is faster where the processor has it in hardware
    (benchmarks/training_step.py measures both).
    """
    forward = network
    if config.training.compile and device.type == "cuda":
        forward = torch.compile(forward)  # type: ignore[assignment]
    elif config.training.compile:
        log.warning("training.compile does not pay on %s and is left off", device.type)
    if config.training.precision == "bfloat16":
        forward = torch.autocast(device.type, dtype=torch.bfloat16)(forward)
    return forward
