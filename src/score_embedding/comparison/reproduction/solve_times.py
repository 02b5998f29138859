"""Seconds of a Fokker-Planck solve with the Krylov projection and with a sparse direct solver.

The published comparison changes two things at once: the linear systems are solved iteratively
instead of directly, and the iteration starts from a projection. The same iteration without the
projection is timed beside both, so that each of the two can be seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import cast

import torch

from score_embedding.comparison.reproduction import findings
from score_embedding.comparison.reproduction.findings import Finding, seconds_text
from score_embedding.comparison.reproduction.published import KRYLOV, KRYLOV_SAVES
from score_embedding.comparison.reproduction.scales import PICTURES, Scale
from score_embedding.config import loading
from score_embedding.config.schema import Config
from score_embedding.data.datasets import load_dataset
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solve import solve
from score_embedding.sde import VarianceExploding

ROUNDS = 3
DIRECT, ITERATIVE, PROJECTED = "sparse direct", "iterative", "projected"
NAME = f"{KRYLOV} (2025)"
PUBLISHED = f"{KRYLOV_SAVES[0]} % to {KRYLOV_SAVES[1]} % less than by {DIRECT} solves"
BRIEF = f"{KRYLOV_SAVES[0]} to {KRYLOV_SAVES[1]} % less"


def seconds(scale: Scale, device: torch.device) -> dict[str, list[float]]:
    """Of each way to solve, one after another in each of ROUNDS rounds, so that other work on the
    machine affects all of them. On crops of pictures that installed packages ship, with the
    parameters of cifar1."""
    loaded = loading.load(
        "cifar1",
        [
            *("data_loader.dataset=sample", f"data_loader.image=[{','.join(PICTURES)}]"),
            *("data_loader.crops=True", f"data_loader.num_images={scale.images}"),
            *(f"data_loader.image_size={scale.grid}", "data_loader.shrink=4"),
            f"diffusion.num_timesteps={scale.steps}",
        ],
    )
    config = cast(Config, loaded)
    options, images = config.diffusion, load_dataset(config.data_loader).to(device)
    times = torch.linspace(config.misc.eps, 1, options.num_timesteps, dtype=torch.float64)
    run = partial(
        solve,
        log_density(images),
        VarianceExploding(sigma=options.sigma),
        times.to(device),
        dh=options.dh,
        tolerance=options.solve_tolerance,
    )
    solvers: dict[str, Callable[[], object]] = {
        DIRECT: partial(run, scheme="implicit", linear="direct"),
        ITERATIVE: partial(run, scheme="implicit"),
        PROJECTED: partial(run, scheme="krylov"),
    }
    solvers[PROJECTED]()  # the first solve prepares the libraries
    measured: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(ROUNDS):
        for name, solver in solvers.items():
            started = time.perf_counter()
            solver()
            measured[name].append(time.perf_counter() - started)
    return measured


def judge(measured: dict[str, list[float]], images: int, grid: int) -> list[Finding]:
    """The published claim, and what the projection alone changes. Reproduced: in every round the
    projection takes at least the smallest published share less."""
    middle = {name: median(times) for name, times in measured.items()}
    saved = _percent_less(measured[DIRECT], measured[PROJECTED])
    alone = _percent_less(measured[ITERATIVE], measured[PROJECTED])
    low, on = KRYLOV_SAVES[0], f"{images} images of {grid} x {grid}"
    rows = [
        (NAME, DIRECT, PUBLISHED, saved, findings.decided(saved[0], saved[2], low)),
        (f"{KRYLOV} / {ITERATIVE}", ITERATIVE, "-", alone, findings.NO_FIGURE),
    ]
    return [
        Finding(
            KRYLOV,
            name,
            published,
            f"{seconds_text(middle[PROJECTED])} instead of {seconds_text(middle[other])} = "
            f"{_less(share[1])} ({_less(share[0])} to {_less(share[2])}), {on}",
            verdict=verdict,
            reason="the rounds differ by more than the claim" * (verdict == findings.NOT_RESOLVED),
            brief=(BRIEF if other == DIRECT else published, _less(share[1])),
            values={"saved_percent": share[1], "low": share[0], "high": share[2]},
        )
        for name, other, published, share, verdict in rows
    ]


def not_run(reason: str) -> list[Finding]:
    return [Finding(KRYLOV, NAME, PUBLISHED, reason=reason)]


def _percent_less(slower: list[float], faster: list[float]) -> tuple[float, float, float]:
    """How much less time `faster` takes, in percent: least, median and most of the rounds."""
    shares = [100 * (1 - b / a) for a, b in zip(slower, faster, strict=True)]
    return min(shares), median(shares), max(shares)


def _less(percent: float) -> str:
    return f"{percent:.1f} % less" if percent >= 0 else f"{-percent:.1f} % more"
