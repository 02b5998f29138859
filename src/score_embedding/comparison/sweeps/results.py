"""From the run folders of a sweep to a table of runs and statistics of each setting.

A measure that a run does not have (the loss of a method without training, the time to a target that
was not reached) is missing. The standard deviation is that of a sample (n - 1), missing for one
run.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from score_embedding import atomic_files
from score_embedding.comparison import summary
from score_embedding.comparison.spec import Comparison, Job, run_name
from score_embedding.comparison.summary import Outcome
from score_embedding.comparison.sweeps.settings import value_at
from score_embedding.config.schema import AnyConfig
from score_embedding.methods.base import method_of
from score_embedding.runs import artifacts
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder

STAGES = ("density", "preconditioning", "solve", "embedding", "training", "evaluation", "sampling")
BEFORE_TRAINING = STAGES[:4]
FINISHED = "finished"  # status of a run that is in the statistics
STATISTICS = ("count", "mean", "std", "lower", "median", "upper")


@dataclass(frozen=True)
class Run:
    """One finished run of a sweep.

    Attributes
    ----------
    outcomes : what a comparison reads, under each prior.
    images : number of training images.
    loss : of the last step; NaN without training.
    stages : seconds by stage.
    diagnostics : of the solve, as the run folder has them; {} without a solve.
    """

    setting: str
    seed: int
    outcomes: list[Outcome]
    images: int
    loss: float
    stages: dict[str, float]
    diagnostics: dict[str, Any]

    @property
    def iterations(self) -> float:
        """Of the solve in total, 0 where it needs none; NaN without a solve."""
        return sum(self.diagnostics["iterations"]) if self.diagnostics else math.nan


def read(job: Job, targets: tuple[float, ...]) -> Run:
    """The content of a finished run's folder. Raises RunFolderError where its files are damaged."""
    folder, config = run_folder.open_existing(job.path, (run_folder.METRICS, run_folder.TIMING))
    timing = atomic_files.read_json(folder / run_folder.TIMING, "training", "evaluation")
    return Run(
        job.method,
        config.training.seed,
        summary.outcomes(job, targets),
        len(atomic_files.read_arrays(folder / run_folder.SAMPLES, "images")["images"]),
        artifacts.read_metrics(folder)[-1].get("loss", math.nan),
        {stage: float(timing[stage]) for stage in STAGES if stage in timing},
        _diagnostics(folder, config),
    )


def _diagnostics(folder: RunFolder, config: AnyConfig) -> dict[str, Any]:
    if run_folder.SCORES not in method_of(config).kind.files:
        return {}
    arrays = atomic_files.read_arrays(folder / run_folder.SCORES, "diagnostics")
    found: dict[str, Any] = json.loads(str(arrays["diagnostics"]))
    return found


def iterates(run: Run) -> bool:
    """Whether the run has a solve with an iteration, and so residuals."""
    return any(run.diagnostics.get("residuals", ()))


def is_time(measure: str) -> bool:
    """Whether the measure is the time to a target."""
    return measure.startswith("seconds_to_")


def frame(found: list[Run], comparison: Comparison, missing: dict[str, str]) -> pd.DataFrame:
    """A row for each run and prior: setting, the value of each key that is varied, seed, prior,
    status, loss, iterations, seconds by stage, and what `summary.frame` has. A run that is missing
    has one row with its reason as status and no measures."""
    rows: list[dict[str, Any]] = []
    for run in found:
        own = {"status": FINISHED, "loss": run.loss, "iterations": run.iterations}
        stages = {f"{stage}_seconds": seconds for stage, seconds in run.stages.items()}
        stages.pop("training_seconds")  # the clock's, with the pre-computation, is in the outcomes
        measured = summary.frame(run.outcomes).drop(columns=["method", "seed"])
        for record in measured.to_dict("records"):
            place = {"setting": run.setting, **_values(comparison, run.setting), "seed": run.seed}
            rows.append(
                {
                    **place,
                    "prior": record["prior"],
                    **own,
                    **stages,
                    **{str(key): value for key, value in record.items()},
                }
            )
    of_name = {
        run_name(s, seed): (s, seed) for s in comparison.configs for seed in comparison.seeds
    }
    for name, reason in missing.items():
        setting, seed = of_name[name]
        values = _values(comparison, setting)
        rows.append({"setting": setting, **values, "seed": seed, "status": reason})
    made = pd.DataFrame(rows) if found else pd.DataFrame(rows, columns=[*rows[0], "prior"])
    steps = made.filter(regex="^steps").columns
    return made.astype(dict.fromkeys(steps, "Int64"))


def _values(comparison: Comparison, setting: str) -> dict[str, Any]:
    """The values of the keys that are varied, as a cell of a CSV file."""
    assert comparison.sweep is not None
    config = comparison.configs[setting]
    return {key: value_at(config, key) for key in comparison.sweep.series}


def measures(comparison: Comparison) -> dict[str, str]:
    """The columns of a run that are summarised, and their headings."""
    return {
        "loss": "final loss",
        "ssim_minmax": "final SSIM",
        **{f"seconds_to_{t:g}": f"SSIM {t:g}: s" for t in comparison.targets},
        "solve_seconds": "solve (s)",
        "iterations": "iterations",
    }


def statistics(runs: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """A row for each prior and setting: how many runs there are (`runs`), and for each measure
    `count`, `mean`, `std`, `lower`, `median`, `upper` as <measure>_<statistic>, missing where the
    setting has no finished run. A mean of times is missing where one of them is; in quartiles a
    time that is missing counts as infinite."""
    columns = [name for name in measures(comparison) if name in runs]
    finished = runs[runs["status"] == FINISHED]
    by = ["prior", "setting"]
    quartiles = (
        summary.quartiles(finished[by + columns], by).sort_index() if len(finished) else None
    )
    rows = []
    for prior in dict.fromkeys(finished["prior"]):
        for setting in comparison.configs:
            own = finished[(finished["prior"] == prior) & (finished["setting"] == setting)]
            row: dict[str, Any] = {"prior": prior, "setting": setting, "runs": len(own)}
            for name in columns:
                values = own[name].astype(float)
                found = _mean_and_std(values)
                known = len(own) if is_time(name) else values.count()
                spread = quartiles[name][prior, setting] if quartiles is not None and known else ()
                found |= dict(zip(("lower", "median", "upper"), spread, strict=False))
                row |= {f"{name}_{key}": found.get(key, math.nan) for key in STATISTICS}
            rows.append(row)
    return pd.DataFrame(rows)


def _mean_and_std(values: pd.Series[float]) -> dict[str, float]:
    complete = len(values) > 0 and bool(values.notna().all())
    return {
        "count": int(values.count()),
        "mean": values.mean() if complete else math.nan,
        "std": values.std() if complete else math.nan,
    }
