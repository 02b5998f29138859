"""From the folders of a comparison's runs to figures: time to each target, quality, quartiles.

Times are the training clock's (training.py): pre-computation included, evaluation excluded. A
target counts as reached at the first evaluation at or above it. Quartiles over the seeds
interpolate linearly; a run that did not reach a target counts as infinitely long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from score_embedding.comparison.spec import PRIORS, Comparison, Job
from score_embedding.config.schema import BaselineConfig
from score_embedding.errors import RunFolderError
from score_embedding.evaluation import metrics
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
    """What a finished run's folder says, under each prior that it was evaluated under; a
    conditional start knows no prior. Raises RunFolderError where its files are damaged."""
    folder, config = run_folder.open_existing(job.path, (run_folder.METRICS, run_folder.TIMING))
    rows = artifacts.read_metrics(folder)
    conditional = config.sample.type == "conditional"
    found = []
    for prior in (config.sample.prior,) if conditional else PRIORS:
        prefix = "" if prior == config.sample.prior else f"{prior}_"
        column = f"{prefix}ssim_minmax"
        last = last_row(folder, rows, [prefix + name for name in FINAL])
        firsts = {target: metrics.first_reaching(rows, target, column) for target in targets}
        found.append(
            Outcome(
                job.method,
                config.training.seed,
                "conditional" if conditional else prior,
                last["training_seconds"],
                int(last["step"]),
                {
                    target: (row["training_seconds"], int(row["step"])) if row else None
                    for target, row in firsts.items()
                },
                {name: last[prefix + name] for name in FINAL},
                tuple((row["training_seconds"], row[column]) for row in rows if column in row),
            )
        )
    return found


def last_row(
    folder: RunFolder, rows: list[dict[str, float]], needed: list[str]
) -> dict[str, float]:
    """What a run ended with. Raises RunFolderError where it lacks one of the columns."""
    if any(name not in rows[-1] for name in needed):
        raise RunFolderError(
            f"{folder / run_folder.METRICS}: damaged, its last row is not that of a finished "
            f"run; --overwrite runs it again"
        )
    return rows[-1]


def summarise(found: list[Outcome], targets: tuple[float, ...]) -> list[Summary]:
    """One summary for each method and prior, in the order of the outcomes, prior by prior."""
    priors = dict.fromkeys(outcome.prior for outcome in found)
    methods = dict.fromkeys(outcome.method for outcome in found)
    summaries = []
    for prior in priors:
        for method in methods:
            own = [o for o in found if (o.method, o.prior) == (method, prior)]
            if own:
                summaries.append(_summary(own, targets))
    return summaries


def _summary(own: list[Outcome], targets: tuple[float, ...]) -> Summary:
    def firsts(target: float, part: int) -> list[float]:
        return [hit[part] if (hit := o.reached[target]) else math.inf for o in own]

    return Summary(
        own[0].method,
        own[0].prior,
        len(own),
        quartiles([o.seconds for o in own]),
        max(o.steps for o in own),
        {target: quartiles(firsts(target, 0)) for target in targets},
        {target: quartiles(firsts(target, 1)) for target in targets},
        {target: sum(o.reached[target] is not None for o in own) for target in targets},
        {name: quartiles([o.final[name] for o in own]) for name in own[0].final},
    )


def quartiles(values: list[float]) -> Quartiles:
    """Lower quartile, median and upper quartile; infinite where they fall on an infinite value."""
    return Quartiles(*(_quantile(sorted(values), q) for q in (0.25, 0.5, 0.75)))


def _quantile(ascending: list[float], q: float) -> float:
    position = q * (len(ascending) - 1)
    i = math.floor(position)
    share = position - i
    if share == 0 or ascending[i] == math.inf:
        return ascending[i]
    return ascending[i] + share * (ascending[i + 1] - ascending[i])


def baselines(comparison: Comparison) -> list[str]:
    """The methods that the others are measured against."""
    configs = comparison.configs.items()
    return [method for method, config in configs if isinstance(config, BaselineConfig)]


def ratio(summary: Summary, baseline: Summary, target: float) -> tuple[str, float]:
    """How many times longer the baseline's median run takes to the target: ("=", ratio), or
    (">", ratio) where the baseline ended before it got there, ("-", nan) where the method did."""
    ours, theirs = summary.time_to[target].median, baseline.time_to[target].median
    if not math.isfinite(ours) or ours == 0:
        return "-", math.nan
    if math.isfinite(theirs):
        return "=", theirs / ours
    return ">", baseline.seconds.median / ours
