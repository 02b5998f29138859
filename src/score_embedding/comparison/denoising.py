"""From the folders of a denoising comparison's runs to statistics.

Times are the training clock's (training/loop.py): pre-computation included, evaluation excluded.
Between two evaluations the PSNR of a run is taken to be linear in time; before the first one, and
after the end, it is not known. A method without training keeps the PSNR that it has after its fit.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from statistics import median_low

import numpy as np
import pandas as pd
import torch

from score_embedding import atomic_files
from score_embedding.comparison.spec import Job
from score_embedding.comparison.summary import (
    Outcome,
    Summary,
    first_reaching,
    frame,
    last_row,
    summarise,
)
from score_embedding.errors import DivergenceError
from score_embedding.evaluation import held_out
from score_embedding.evaluation.held_out import Measured
from score_embedding.restoration import rivals as classical
from score_embedding.runs import artifacts
from score_embedding.runs import folder as run_folder

log = logging.getLogger(__name__)

REFERENCE = "plain"
STEPS = 400  # steps after which the reference has the PSNR that the others are timed to
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the shortest run: times at which PSNRs are compared
SECONDS = "seconds_a_photograph"


@dataclass(frozen=True)
class Course:
    """One finished run: the rows of metrics.csv where it was evaluated, the last one its end, and
    the seconds that it takes to denoise a photograph."""

    method: str
    seed: int
    evaluations: tuple[dict[str, float], ...]
    seconds_a_photograph: float

    @property
    def end(self) -> dict[str, float]:
        return self.evaluations[-1]

    @property
    def trained(self) -> bool:
        return self.end["step"] > 0

    @property
    def times(self) -> list[float]:
        return [row["training_seconds"] for row in self.evaluations]


@dataclass(frozen=True)
class Rival:
    """A classical denoiser on the same noisy photographs."""

    name: str
    measured: Measured
    seconds_a_photograph: float


@dataclass(frozen=True)
class Lead:
    """A method beside the reference, from the first time to the last at which both have been
    evaluated; None where there is none. `gains`: dB above it, by time and then by level. `behind`:
    by level, the first and the last evaluation at which it is below, and by how many dB at most."""

    method: str
    span: tuple[float, float] | None
    gains: dict[float, dict[float, float]]
    behind: dict[float, tuple[float, float, float]]


@dataclass(frozen=True)
class Goal:
    """What the reference has reached: dB by level, and after which steps, seed by seed."""

    psnr: dict[float, float]
    steps: tuple[int, ...]


def course(job: Job, levels: tuple[float, ...]) -> Course:
    """The content of a finished run's folder. Raises RunFolderError where its files are damaged."""
    needs = (run_folder.METRICS, run_folder.DENOISED)
    folder, config = run_folder.open_existing(job.path, needs)
    arrays = atomic_files.read_arrays(folder / run_folder.DENOISED, "description")
    description = json.loads(str(arrays["description"]))
    of_set = description.get("set")  # of a data set, which has no SSIM
    measures = ("psnr", "mse") if of_set else ("psnr", "ssim")
    columns = [f"{measure}_{level:g}" for measure in measures for level in levels]
    rows = artifacts.read_metrics(folder)
    last_row(folder, rows, columns)
    count = of_set["count"] if of_set else len(description["names"])
    return Course(
        job.method,
        config.training.seed,
        tuple(row for row in rows if all(name in row for name in columns)),
        description["seconds"] / (count * len(levels)),
    )


def rivals(job: Job, levels: tuple[float, ...]) -> tuple[list[Rival], dict[str, str]]:
    """The classical denoisers on the photographs of a finished run, with the same noise; and why
    one of them is missing."""
    arrays = atomic_files.read_arrays(job.path / run_folder.DENOISED, "description")
    names = json.loads(str(arrays["description"]))["names"]
    photographs = {
        name: torch.from_numpy(arrays[f"photograph_{i}"]) for i, name in enumerate(names)
    }
    found, missing = [], {}
    for name in classical.available():
        log.info("%s: %d photographs, %d noise levels", name, len(names), len(levels))
        try:
            measured = held_out.measure(classical.denoiser(name), photographs, levels)
        except DivergenceError as error:
            missing[name] = str(error)
            continue
        found.append(Rival(name, measured, measured.seconds_each))
    return found, missing


def goal(found: list[Course], levels: tuple[float, ...]) -> Goal | None:
    """The PSNR of the reference at its first evaluation at or after STEPS steps, or at its end;
    of several seeds the median, of two middle ones the lower. None without a reference."""
    own = [course for course in found if course.method == REFERENCE]
    if not own:
        return None
    rows = [
        next((row for row in course.evaluations if row["step"] >= STEPS), course.end)
        for course in own
    ]
    psnr = {level: median_low(row[f"psnr_{level:g}"] for row in rows) for level in levels}
    return Goal(psnr, tuple(int(row["step"]) for row in rows))


def outcome(course: Course, goal: Goal | None) -> Outcome:
    """The run with the time at which it reached the goal, by level."""
    end, rows = course.end, list(course.evaluations)
    reached = {
        level: first_reaching(rows, psnr, f"psnr_{level:g}")
        for level, psnr in (goal.psnr.items() if goal else ())
    }
    final = {key: value for key, value in end.items() if key.startswith(("psnr_", "ssim_", "mse_"))}
    final[SECONDS] = course.seconds_a_photograph
    seconds, steps = end["training_seconds"], int(end["step"])
    return Outcome(course.method, course.seed, "", seconds, steps, reached, final, ())


def leads(found: list[Course], levels: tuple[float, ...]) -> list[Lead]:
    """Each method beside the reference; none without a reference."""
    reference = [course for course in found if course.method == REFERENCE]
    methods = [m for m in dict.fromkeys(course.method for course in found) if m != REFERENCE]
    if not reference:
        return []
    moments = _moments([course.times[-1] for course in found if course.trained])
    return [
        _lead([course for course in found if course.method == method], reference, levels, moments)
        for method in methods
    ]


def _moments(ends: list[float]) -> list[float]:
    """SHARES of the shortest run, and on by doubling to the longest."""
    moments = [share * min(ends) for share in SHARES] if ends else []
    while moments and 2 * moments[-1] <= max(ends):
        moments.append(2 * moments[-1])
    return moments


def _lead(
    own: list[Course], reference: list[Course], levels: tuple[float, ...], moments: list[float]
) -> Lead:
    both = [*own, *reference]
    start = max(course.times[0] for course in both)
    end = min((course.times[-1] for course in both if course.trained), default=math.inf)
    if start > end:
        return Lead(own[0].method, None, {}, {})

    def gain(level: float, t: float) -> float:
        return median_at(own, level, t) - median_at(reference, level, t)

    knots = sorted({t for course in both for t in course.times if start <= t <= end} | {start})
    behind = {}
    for level in levels:
        below = {t: -gain(level, t) for t in knots if gain(level, t) < 0}
        if below:
            behind[level] = (min(below), max(below), max(below.values()))
    within = [t for t in moments if start <= t <= end]
    gains = {t: {level: gain(level, t) for level in levels} for t in within}
    return Lead(own[0].method, (start, end), gains, behind)


def median_at(own: list[Course], level: float, t: float) -> float:
    """The median over the runs of their PSNR at a time at which all have been evaluated."""
    name = f"psnr_{level:g}"
    return float(
        np.median([np.interp(t, c.times, [row[name] for row in c.evaluations]) for c in own])
    )


def summaries(found: list[Course], levels: tuple[float, ...]) -> list[Summary]:
    """One for each method; the times are those to the goal, by noise level."""
    aim = goal(found, levels)
    return summarise([outcome(course, aim) for course in found], levels if aim else ())


def medians(summary: Summary) -> dict[str, float]:
    """The medians of its metrics at the end."""
    return {name: spread.median for name, spread in summary.final.items()}


def runs(found: list[Course], levels: tuple[float, ...]) -> pd.DataFrame:
    """A row for each run: method, seed, training_seconds, steps, metrics at the end, and for each
    noise level the time to the goal (missing where it was not reached)."""
    aim = goal(found, levels)
    made = frame([outcome(course, aim) for course in found], f"{REFERENCE}_")
    made = made.drop(columns="prior", errors="ignore")  # there is none without a run
    times = list(made.filter(regex="_to_"))
    return made[[*made.columns.drop(times), *times]]


def scatter(found: list[Course], levels: tuple[float, ...]) -> float:
    """The largest difference of PSNR, at any level, between two seeds of a method."""
    ends = runs(found, levels).groupby("method")[[f"psnr_{level:g}" for level in levels]]
    return float((ends.max() - ends.min()).to_numpy().max())
