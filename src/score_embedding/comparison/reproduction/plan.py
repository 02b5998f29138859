"""The runs of a reproduction and the time that each will take, without running them.

The expected time is that of training, of the evaluations, and of starting and reporting, from a
few steps and evaluations of the network that are timed on the device. A pre-computation, which
takes a small share, is not in it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from score_embedding.arrays import torch_defaults
from score_embedding.comparison import spec
from score_embedding.comparison.spec import Comparison
from score_embedding.config.schema import AnyConfig
from score_embedding.config.sections import DataLoader, Model
from score_embedding.data.datasets import load_dataset, quarter_turns
from score_embedding.errors import DataError, LimitError
from score_embedding.methods.base import method_of
from score_embedding.methods.network import ScoreNetwork, build
from score_embedding.report.parts import Table
from score_embedding.runs import resources

ADAPTIVE_NFE = 150  # of RK45 at its default tolerance, as the README has it
OVERHEAD = 15.0  # seconds of a run's process: imports, warm-up, report
PATIENCE = 3.0  # seconds: a step that takes longer is timed only once more
REPEATS = 3


@dataclass(frozen=True)
class Planned:
    """A run that is not begun: expected seconds of training and of its evaluations, or the reason
    why it cannot be run here."""

    name: str
    training: float
    evaluation: float
    refused: str = ""

    @property
    def seconds(self) -> float:
        return self.training + self.evaluation + OVERHEAD


@torch_defaults()
def plan(comparison: Comparison, methods: list[str], device: torch.device) -> list[Planned]:
    """The runs of a comparison of samples with these of its methods, in their order."""
    planned, checked, problem = [], None, ""
    for job in spec.jobs(comparison, Path()):
        if job.method not in methods:
            continue
        wanted = spec.pictures_of(job.config.data_loader)
        if wanted != checked:  # those of one case have the same images
            checked, problem = wanted, _problem(job.config.data_loader)
        name = f"{comparison.name}/{job.path.name}"
        planned.append(
            Planned(name, math.nan, math.nan, problem)
            if problem
            else expected(name, job.config, device)
        )
    return planned


def expected(name: str, config: AnyConfig, device: torch.device) -> Planned:
    """Of one run, whose images are on disk."""
    n = (config.data_loader.num_images or 1) * len(quarter_turns(config.data_loader))
    try:
        resources.check_fits(name, resources.need(config, n), device, Path())
    except LimitError as error:
        return Planned(name, math.nan, math.nan, str(error))
    step, evaluation = network_seconds(config, n, device)
    options = config.training
    training = min(options.steps(n) * step, options.seconds or math.inf)
    # Not more often than a step is made; and once more for the samples of the run folder.
    count = training / max(config.misc.profile_freq, step) + 1
    priors = 1 if config.sample.type == "conditional" else len(spec.PRIORS)
    return Planned(name, training, count * priors * _nfe(config) * evaluation)


def table(planned: list[Planned], processes: int) -> Table:
    """A row for each run, and the total."""
    shown = [p for p in planned if not p.refused]
    parts = [(p.training, p.evaluation, p.seconds) for p in shown]
    rows = [(p.name, *map(_clock, part)) for p, part in zip(shown, parts, strict=True)]
    sums = [sum(p.training for p in shown), sum(p.evaluation for p in shown)]
    cases = dict.fromkeys(p.name.split("/")[0] for p in shown)  # one after another
    total = sum(
        together([p.seconds for p in shown if p.name.split("/")[0] == case], processes)
        for case in cases
    )
    rows.append((f"{len(shown)} runs, {processes} at a time", *map(_clock, (*sums, total))))
    header = ("run", "training", "evaluation", "total")
    note = (
        "Expected from the steps and evaluations of each network that were timed on this device "
        f"just now, and {OVERHEAD:g} s for start and report. Runs that are in the folder already "
        "are counted as well; what is timed in this process is not."
    )
    for reason in dict.fromkeys(p.refused for p in planned if p.refused):
        names = ", ".join(p.name for p in planned if p.refused == reason)
        note += f"\n{names}: cannot be run here: {reason}"
    return Table("Runs and their expected time", header, rows, note)


def together(seconds: list[float], processes: int) -> float:
    """Of runs of which `processes` are made at a time, the longest first."""
    ends = [0.0] * processes
    for each in sorted(seconds, reverse=True):
        ends[ends.index(min(ends))] += each
    return max(ends)


def _problem(options: DataLoader) -> str:
    """Why the images cannot be loaded; "" where they can, and for CIFAR-10, which a run
    downloads."""
    try:
        if options.dataset != "cifar":
            load_dataset(options)
    except DataError as error:
        return str(error)
    return ""


def _nfe(config: AnyConfig) -> int:
    """Evaluations of the network for a sample."""
    if method_of(config).kind.diffusion == "steps":
        return config.sample.steps or config.diffusion.num_timesteps
    options = config.sample.model_dump()
    return ADAPTIVE_NFE if options["solver"] == "rk45" else 2 * int(options["steps"])


# What a network's seconds hardly depend on: equal for all, so that each size is timed once.
_NEUTRAL = {"embedding_method": "linear", "max_positions": 1.0, "image_conditioning": "none"}


def network_seconds(
    config: AnyConfig, num_images: int, device: torch.device
) -> tuple[float, float]:
    """Of a training step with a batch, and of one evaluation of the network on all images."""
    data, model = config.data_loader, config.model.model_copy(update=_NEUTRAL)
    network = _Network(model, data.image_size, config.training.precision, device)
    return network.step(data.batch_size), network.evaluation(num_images)


@dataclass(frozen=True)
class _Network:
    """A network on images of a size; its seconds are measured once in a process."""

    model: Model
    size: tuple[int, int]
    precision: str
    device: torch.device

    @functools.cache  # noqa: B019
    def step(self, batch: int) -> float:
        """Of a step of Adam."""
        network = build(self.model, self.size, 1, 1.0, 0, self.device)
        optimizer = torch.optim.Adam(network.parameters())

        def run() -> Tensor:
            optimizer.zero_grad()
            loss = self._output(network, batch).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return loss

        return _median_seconds(run)

    @functools.cache  # noqa: B019
    def evaluation(self, count: int) -> float:
        network = build(self.model, self.size, 1, 1.0, 0, self.device).eval()
        with torch.no_grad():
            return _median_seconds(lambda: self._output(network, count))

    def _output(self, network: ScoreNetwork, count: int) -> Tensor:
        x = torch.zeros(count, self.model.in_channels, *self.size, device=self.device)
        t = torch.ones(count, device=self.device)
        reduced = self.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced):
            out: Tensor = network(x, t)
        return out


def _median_seconds(run: Callable[[], Tensor]) -> float:
    """After a first one, which prepares the libraries."""
    _timed(run)
    first = _timed(run)
    if first > PATIENCE:
        return first
    return median([first, *(_timed(run) for _ in range(REPEATS - 1))])


def _timed(run: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    run().sum().item()  # waits for the device
    return time.perf_counter() - started


def _clock(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
