"""The training loop and its clock.

The clock starts at the seconds that the pre-computation took and runs while steps are made;
evaluation stops it. It is the time that every "seconds to an SSIM" of this project means.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from score_embedding import progress
from score_embedding.config import AnyConfig, Training
from score_embedding.errors import DivergenceError
from score_embedding.methods.objective import Batch, Network, Objective
from score_embedding.network import ScoreNetwork

log = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...] | list[Tensor]
Evaluate = Callable[[ScoreNetwork], dict[str, float]]  # must leave the generators as they are


@dataclass
class History:
    """One row a step: step, training_seconds, loss, and the metrics where one was evaluated."""

    rows: list[dict[str, float]] = field(default_factory=list)
    evaluation_seconds: float = 0.0

    @property
    def step(self) -> int:
        return len(self.rows)

    @property
    def training_seconds(self) -> float:
        return self.rows[-1]["training_seconds"] if self.rows else 0.0

    def add_final(self, metrics: dict[str, float]) -> None:
        """The metrics at the end of training, or of a method that is not trained."""
        if not self.rows:
            self.rows.append({"step": 0, "training_seconds": 0.0})
        self.rows[-1].update(metrics)


class LossNotFiniteError(DivergenceError):
    """A loss that is not finite, with the batch that reproduces it."""

    def __init__(self, message: str, batch: Batch):
        super().__init__(message)
        self.batch = batch


def train(
    network: ScoreNetwork,
    objective: Objective,
    config: AnyConfig,
    precompute_seconds: float = 0.0,
    evaluate: Evaluate | None = None,
) -> History:
    """Train `network` in place, epochs times one step an image. With training.ema it is the
    averaged weights that are evaluated, and that it ends with.

    With `evaluate` the metrics are taken every misc.profile_freq training seconds, and training
    ends early when the min-max SSIM reaches training.target_ssim. What is computed only in the loop
    counts as training time.

    Raises
    ------
    LossNotFiniteError : the loss is not finite; the weights are those before the step.
    """
    options, device = config.training, objective.device
    generator = torch.Generator().manual_seed(options.seed)  # on the CPU: the same on any device
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr, fused=device.type != "mps")
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: lr_factor(k, options))
    average = _average(network, options)
    averaged = cast(ScoreNetwork, average.module) if average else network
    forward = _forward(network, config, device)
    history = History()
    clock, next_evaluation = precompute_seconds, precompute_seconds + config.misc.profile_freq
    turns = [index for _ in range(options.epochs) for index in range(len(objective))]

    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        progress.stage("training", total=len(turns)) as stage,
    ):
        torch.manual_seed(options.seed)  # dropout
        for index in turns:
            started = time.perf_counter()
            batch = objective.draw_batch(index, generator)
            loss = _step(forward, network, optimizer, objective, batch, options.grad_clip)
            warmup.step()
            if average:
                average.update_parameters(network)
            clock += time.perf_counter() - started
            history.rows.append({"step": history.step + 1, "training_seconds": clock, "loss": loss})
            stage.to(history.step, note=f"loss {loss:.4g}")
            if evaluate and clock >= next_evaluation:
                next_evaluation = clock + config.misc.profile_freq
                ssim = _evaluate(evaluate, averaged, history)
                if options.target_ssim is not None and ssim >= options.target_ssim:
                    log.info("SSIM %.4f reached the target after %d steps", ssim, history.step)
                    break
    network.load_state_dict(averaged.state_dict())
    return history


def lr_factor(k: int, options: Training) -> float:
    """What lr is multiplied by in the step after k steps: rising linearly over training.warmup."""
    return min(1.0, (k + 1) / options.warmup) if options.warmup else 1.0


def ema_decay(k: int, decay: float) -> float:
    """The share of the average that stays at update k = 1, 2, ..."""
    return min(decay, (1 + k) / (10 + k))


def _average(network: ScoreNetwork, options: Training) -> AveragedModel | None:
    """The exponential moving average of the weights, which starts at the untrained ones."""
    if options.ema is None:
        return None
    decay = options.ema

    def update(average: Tensors, current: Tensors, k: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, 1 - ema_decay(int(k), decay))

    average = AveragedModel(network, multi_avg_fn=update)
    average.n_averaged.fill_(1)  # at 0 the first update would copy the weights instead
    return average


def _step(
    forward: Network,
    network: ScoreNetwork,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batch: Batch,
    grad_clip: float | None,
) -> float:
    network.train()
    loss = objective.loss(forward, batch)
    value = loss.item()
    if not torch.isfinite(loss):
        raise LossNotFiniteError(f"the loss is {value}; a smaller training.lr may help", batch)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), grad_clip)
    optimizer.step()
    return value


def _evaluate(evaluate: Evaluate, network: ScoreNetwork, history: History) -> float:
    started = time.perf_counter()
    metrics = evaluate(network)
    history.rows[-1].update(metrics)
    history.evaluation_seconds += time.perf_counter() - started
    log.info(
        "step %d, %.1f training seconds: SSIM %.4f (min-max), %.4f (clipped)",
        history.step,
        history.training_seconds,
        metrics["ssim_minmax"],
        metrics["ssim_clipped"],
    )
    return metrics["ssim_minmax"]


def _forward(network: ScoreNetwork, config: AnyConfig, device: torch.device) -> ScoreNetwork:
    """The network as training calls it: compiled, and under bfloat16 autocast, where asked for.

    Compiling is left off outside CUDA: on two CPU cores it took longer than a whole quickstart and
    gained nothing. bfloat16 is a gain where the processor has it in hardware
    (benchmarks/training_step.py has both).
    """
    forward = network
    if config.training.compile and device.type == "cuda":
        forward = torch.compile(forward)  # type: ignore[assignment]
    elif config.training.compile:
        log.warning("training.compile does not pay on %s and is left off", device.type)
    if config.training.precision == "bfloat16":
        forward = torch.autocast(device.type, dtype=torch.bfloat16)(forward)
    return forward
