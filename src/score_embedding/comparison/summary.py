"""From the folders of a comparison's runs to statistics: time to each target, quality, quartiles.

Times are the training clock's (training/loop.py): pre-computation included, evaluation excluded. A
target counts as reached at the first evaluation at or above it. Quartiles over the seeds
interpolate linearly; a run that did not reach a target counts as infinitely long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from score_embedding.comparison.spec import PRIORS, Comparison, Job
from score_embedding.config.schema import AnyConfig
from score_embedding.errors import RunFolderError
from score_embedding.evaluation import metrics
from score_embedding.methods.base import method_of
from score_embedding.runs import artifacts
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder

FINAL = ("ssim_minmax", "psnr_minmax", "mse_minmax", "ssim_clipped", "nfe")


@dataclass(frozen=True)
class Outcome:
    """One finished run under one prior ("" where it denoises): where each target was reached,
    (seconds, step) or None, the metrics at the end, and SSIM over time as (seconds, SSIM)."""

    method: str
    seed: int
    prior: str
    seconds: float
    steps: int
    reached: dict[float, tuple[float, int] | None]
    final: dict[str, float]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Quartiles:
    lower: float
    median: float
    upper: float


@dataclass(frozen=True)
class Summary:
    """One method under one prior, over its finished runs; `reached`: how many reached a target."""

    method: str
    prior: str
    runs: int
    seconds: Quartiles
    steps: int
    time_to: dict[float, Quartiles]
    steps_to: dict[float, Quartiles]
    reached: dict[float, int]
    final: dict[str, Quartiles]


def outcomes(job: Job, targets: tuple[float, ...]) -> list[Outcome]:
    """The content of a finished run's folder, under each prior that it was evaluated under; a
    conditional start has no prior. Raises RunFolderError where its files are damaged."""
    folder, config = run_folder.open_existing(job.path, (run_folder.METRICS, run_folder.TIMING))
    rows = artifacts.read_metrics(folder)
    conditional = config.sample.type == "conditional"
    found = []
    for prior in (config.sample.prior,) if conditional else PRIORS:
        prefix = prefix_of(config, prior)
        column = f"{prefix}ssim_minmax"
        last = last_row(folder, rows, [prefix + name for name in FINAL])
        found.append(
            Outcome(
                job.method,
                config.training.seed,
                "conditional" if conditional else prior,
                last["training_seconds"],
                int(last["step"]),
                {target: first_reaching(rows, target, column) for target in targets},
                {name: last[prefix + name] for name in FINAL},
                tuple((row["training_seconds"], row[column]) for row in rows if column in row),
            )
        )
    return found


def prefix_of(config: AnyConfig, prior: str) -> str:
    """What the columns of metrics under a prior begin with; a conditional start has no prior."""
    own = config.sample.type == "conditional" or prior == config.sample.prior
    return "" if own else f"{prior}_"


def first_reaching(
    rows: list[dict[str, float]], target: float, column: str
) -> tuple[float, int] | None:
    """Seconds and step of the first evaluation at or above the target; None where there is none."""
    row = metrics.first_reaching(rows, target, column)
    return (row["training_seconds"], int(row["step"])) if row else None


def last_row(
    folder: RunFolder, rows: list[dict[str, float]], needed: list[str]
) -> dict[str, float]:
    """The end of a run. Raises RunFolderError where it lacks one of the columns."""
    if any(name not in rows[-1] for name in needed):
        raise RunFolderError(
            f"{folder / run_folder.METRICS}: damaged, its last row is not that of a finished "
            f"run; --overwrite runs it again"
        )
    return rows[-1]


def frame(found: list[Outcome], goal: str = "") -> pd.DataFrame:
    """A row for each outcome: method, seed, prior, training_seconds, steps, for each target
    seconds_to_<goal><target> and steps_to_<goal><target> (missing where it was not reached), and
    the metrics at the end."""
    rows = [
        {
            "method": outcome.method,
            "seed": outcome.seed,
            "prior": outcome.prior,
            "training_seconds": outcome.seconds,
            "steps": outcome.steps,
        }
        | {
            f"{what}_to_{goal}{target:g}": value
            for target, hit in outcome.reached.items()
            for what, value in zip(("seconds", "steps"), hit or (math.nan, None), strict=True)
        }
        | outcome.final
        for outcome in found
    ]
    made = pd.DataFrame(rows)
    return made.astype(dict.fromkeys(made.filter(regex="^steps_to_"), "Int64"))


def quartiles(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Lower quartile, median and upper quartile (0.25, 0.5, 0.75, the last level of the index) of
    each column over the groups, in the order of their first rows. A missing value counts as
    infinite, and a quartile is infinite where it has a share of an infinite value."""
    values = runs.drop(columns=by).astype(float).fillna(math.inf)
    grouped = values.groupby([runs[name] for name in by], sort=False)
    spread = grouped.quantile(np.array([0.25, 0.5, 0.75]))
    return spread.fillna(math.inf)  # inf - inf of the interpolation


def summarise(found: list[Outcome], targets: tuple[float, ...]) -> list[Summary]:
    """One summary for each method and prior, in the order of the outcomes, prior by prior."""
    if not found:
        return []
    runs = frame(found)
    runs = runs.iloc[np.argsort(pd.factorize(runs["prior"])[0], kind="stable")]
    by, summaries = ["prior", "method"], []
    for key, own in runs.groupby(by, sort=False):
        prior, method = map(str, key)
        spread = {name: Quartiles(*values) for name, values in quartiles(own, by).items()}
        summaries.append(
            Summary(
                method,
                prior,
                len(own),
                spread["training_seconds"],
                int(own["steps"].max()),
                {target: spread[f"seconds_to_{target:g}"] for target in targets},
                {target: spread[f"steps_to_{target:g}"] for target in targets},
                {target: int(own[f"seconds_to_{target:g}"].count()) for target in targets},
                {name: spread[name] for name in found[0].final},
            )
        )
    return summaries


def baselines(comparison: Comparison) -> list[str]:
    """The methods that the others are measured against."""
    configs = comparison.configs.items()
    return [name for name, config in configs if method_of(config).baseline]


def ratio(summary: Summary, baseline: Summary, target: float) -> tuple[str, float]:
    """How many times longer the baseline's median run takes to the target: ("=", ratio), or
    (">", ratio) where the baseline ended before it got there, ("-", nan) where the method did."""
    own, other = summary.time_to[target].median, baseline.time_to[target].median
    if not math.isfinite(own) or own == 0:
        return "-", math.nan
    if math.isfinite(other):
        return "=", other / own
    return ">", baseline.seconds.median / own
