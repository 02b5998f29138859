"""The training loop and its clock.

The clock starts at the seconds that the pre-computation took and runs while steps are made;
evaluation stops it. It is the time that every "seconds to an SSIM" of this project means.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from score_embedding import progress
from score_embedding.config import Config
from score_embedding.errors import DivergenceError
from score_embedding.methods import score_embedding as method
from score_embedding.network import ScoreNetwork
from score_embedding.precomputation import EmbeddedImages
from score_embedding.sde import VarianceExploding

log = logging.getLogger(__name__)

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


class LossNotFiniteError(DivergenceError):
    """A loss that is not finite, with what reproduces it."""

    def __init__(self, message: str, batch: method.Batch, z: Tensor):
        super().__init__(message)
        self.batch, self.z = batch, z


def train(
    network: ScoreNetwork,
    embedded: Tensor | EmbeddedImages,
    config: Config,
    precompute_seconds: float,
    evaluate: Evaluate | None = None,
) -> History:
    """Train `network` in place on embedded images (n, N, c, h, w): epochs times one step an image.
    What is computed only in the loop counts as training time.

    With `evaluate` the metrics are taken every misc.profile_freq training seconds, and training
    ends early when the min-max SSIM reaches training.target_ssim.

    Raises
    ------
    LossNotFiniteError : the loss is not finite; the weights are those before the step.
    """
    options, device = config.training, embedded.device
    sde = VarianceExploding(config.diffusion.sigma)
    generator = torch.Generator().manual_seed(options.seed)  # on the CPU: the same on any device
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr, fused=device.type != "mps")
    forward = _forward(network, config, device)
    history = History()
    clock, next_evaluation = precompute_seconds, precompute_seconds + config.misc.profile_freq
    steps = [index for _ in range(options.epochs) for index in range(len(embedded))]

    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        progress.stage("training", total=len(steps)) as stage,
    ):
        torch.manual_seed(options.seed)  # dropout
        for index in steps:
            started = time.perf_counter()
            batch = method.draw_batch(
                embedded, index, config.data_loader.batch_size, config.misc.eps, generator
            )
            z = torch.randn(batch.x.shape, generator=generator).to(device)
            loss = _step(forward, network, optimizer, sde, batch, z, options.grad_clip)
            clock += time.perf_counter() - started
            history.rows.append({"step": history.step + 1, "training_seconds": clock, "loss": loss})
            stage.to(history.step, note=f"loss {loss:.4g}")
            if evaluate and clock >= next_evaluation:
                next_evaluation = clock + config.misc.profile_freq
                ssim = _evaluate(evaluate, network, history)
                if options.target_ssim is not None and ssim >= options.target_ssim:
                    log.info("SSIM %.4f reached the target after %d steps", ssim, history.step)
                    break
    return history


def _step(
    forward: ScoreNetwork,
    network: ScoreNetwork,
    optimizer: torch.optim.Optimizer,
    sde: VarianceExploding,
    batch: method.Batch,
    z: Tensor,
    grad_clip: float | None,
) -> float:
    network.train()
    loss = method.loss(lambda x, t: forward(x, t, batch.index), sde, batch, z)
    value = loss.item()
    if not torch.isfinite(loss):
        raise LossNotFiniteError(f"the loss is {value}; a smaller training.lr may help", batch, z)
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


def _forward(network: ScoreNetwork, config: Config, device: torch.device) -> ScoreNetwork:
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
