"""Methods x seeds on the same images: runs, tables and pictures in one folder.

The folder holds comparison.yml (all configs, to run it again), runs/ (a run folder each), and their
evaluation: table.md, table.tex, runs.csv, comparison.json, ssim_over_time.png, samples.png, or for
a config with held_out psnr_over_time.png and denoised.png.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from matplotlib.figure import Figure

from score_embedding import atomic_files, pipeline
from score_embedding.comparison import (
    denoising,
    denoising_tables,
    execution,
    pictures,
    spec,
    tables,
)
from score_embedding.comparison.description import describe
from score_embedding.comparison.spec import Comparison, Job
from score_embedding.comparison.summary import Summary, frame, outcomes, summarise
from score_embedding.config.sections import HeldOut
from score_embedding.data.datasets import load_dataset
from score_embedding.errors import RunFolderError
from score_embedding.methods.base import method_of
from score_embedding.report import figures
from score_embedding.report.content import Table
from score_embedding.runs import folder as run_folder
from score_embedding.runs import resources
from score_embedding.training import signals

log = logging.getLogger(__name__)

MARKDOWN = "table.md"
LATEX = "table.tex"
CSV = "runs.csv"
JSON = "comparison.json"
CURVES = "ssim_over_time.png"
SHEET = "samples.png"
DENOISING_CURVES = "psnr_over_time.png"
DENOISING_SHEET = "denoised.png"

Found = TypeVar("Found")


@dataclass(frozen=True)
class Result:
    """The evaluation of a comparison.

    Attributes
    ----------
    tables, short : all of them, and those for a terminal.
    summaries : statistics of each method.
    missing : runs that are in no statistic, with the reason.
    description : one line on data, network, seeds, samplers or noise, and machine.
    picture : name of the picture of quality over time.
    """

    tables: list[Table]
    short: list[Table]
    summaries: list[Summary]
    missing: dict[str, str]
    description: str
    picture: str

    @property
    def reasons(self) -> str:
        return ", ".join(f"{name} ({why})" for name, why in self.missing.items())


def compare(
    comparison: Comparison,
    folder: Path,
    device: torch.device,
    processes: int = 1,
    slurm: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Result:
    """Make the runs that are not in the folder yet, then tables and pictures of all of them.

    Raises
    ------
    RunFolderError : the folder holds other files, or runs of other configs without `overwrite`.
    ConfigError, DataError : a method that cannot be run on these images, or a cluster that cannot
        be used. Nothing was created.
    Interrupted : SIGINT or SIGTERM came; each run that trains writes its checkpoint first.
    """
    run_folder.check_place(folder)
    run_folder.check_own(folder, spec.SPEC)
    if slurm is not None:
        execution.check_cluster(slurm)
    jobs = spec.jobs(comparison, folder)
    pending = [job for job in jobs if overwrite or not execution.is_complete(job)]
    if pending:
        images = load_dataset(pending[0].config.data_loader)
        for job in pending:
            pipeline.check(images, method_of(job.config))
        if slurm is None:
            needs = [resources.need(job.config, len(images)) for job in pending]
            together = resources.together(needs, processes)
            resources.check_fits(comparison.name, together, device, folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec.write(comparison, folder)
    log.info("%d runs, %d of them there already", len(jobs), len(jobs) - len(pending))
    with signals.handled(), signals.advising("the same command continues it"):
        failures = execution.execute(pending, device, processes, slurm, overwrite)
    return collect(comparison, folder, failures)


def collect(comparison: Comparison, folder: Path, failures: dict[str, str]) -> Result:
    """Tables and pictures of the finished runs in the folder."""
    jobs = spec.jobs(comparison, folder)
    done = [job for job in jobs if execution.is_complete(job)]
    missing = {
        job.path.name: failures.get(job.path.name, "not run") for job in jobs if job not in done
    }
    if comparison.held_out:
        made = _of_denoising(comparison, comparison.held_out, done, missing)
    else:
        made = _of_samples(comparison, done, missing)
    shown = [*made.tables, tables.missing_table(missing)] if missing else made.tables
    result = Result(
        shown, made.short, made.summaries, missing, made.description, next(iter(made.pictures))
    )
    _write(comparison, folder, made, result)
    return result


@dataclass(frozen=True)
class _Made:
    """What is written of the finished runs, by form."""

    description: str
    tables: list[Table]
    short: list[Table]
    summaries: list[Summary]
    runs: pd.DataFrame  # of the CSV file
    values: dict[str, Any]  # of the JSON file
    pictures: dict[str, Callable[[], Figure]]


def _of_samples(comparison: Comparison, done: list[Job], missing: dict[str, str]) -> _Made:
    parts = _readable(done, missing, lambda job: outcomes(job, comparison.targets))
    found = [outcome for part in parts for outcome in part]
    summaries = summarise(found, comparison.targets)
    caption = describe(comparison, done)
    note = (
        f"{caption}. Median [quartiles] over the seeds of the training time to the target, "
        "pre-computation included, evaluation excluded. SSIM, PSNR and MSE of the min-max scaled "
        "sample."
    )
    shown = tables.time_tables(summaries, comparison, note)
    ratios = tables.ratio_table(summaries, comparison)
    if ratios and ratios.rows:
        shown.append(ratios)
    return _Made(
        caption,
        shown,
        tables.short_tables(summaries, comparison),
        summaries,
        frame(found),
        {
            "targets": list(comparison.targets),
            "runs": [dataclasses.asdict(outcome) for outcome in found],
        },
        {
            CURVES: lambda: pictures.ssim_over_time(found, comparison, caption),
            SHEET: lambda: pictures.sample_sheet(done, comparison, caption),
        },
    )


def _of_denoising(
    comparison: Comparison, held_out: HeldOut, done: list[Job], missing: dict[str, str]
) -> _Made:
    levels = held_out.levels
    found = _readable(done, missing, lambda job: denoising.course(job, levels))
    beside, failed = denoising.rivals(done[0], levels) if done else ([], {})
    missing |= failed
    caption = describe(comparison, done)
    goal = denoising.goal(found, levels)
    leads = denoising.leads(found, levels)
    return _Made(
        caption,
        denoising_tables.all_tables(found, beside, levels, caption),
        denoising_tables.short_tables(found, beside, levels),
        denoising.summaries(found, levels),
        denoising.runs(found, levels),
        {
            "levels": list(levels),
            "runs": [dataclasses.asdict(course) for course in found],
            "goal": dataclasses.asdict(goal) if goal else None,
            "equal_times": [dataclasses.asdict(lead) for lead in leads],
            "classical": [
                {
                    "method": rival.name,
                    denoising.SECONDS: rival.seconds_a_photograph,
                    **rival.measured.means(),
                }
                for rival in beside
            ],
        },
        {
            DENOISING_CURVES: lambda: pictures.psnr_over_time(found, beside, comparison, caption),
            DENOISING_SHEET: lambda: pictures.denoised_sheet(done, beside, comparison, caption),
        },
    )


def _readable(
    done: list[Job], missing: dict[str, str], read: Callable[[Job], Found]
) -> list[Found]:
    """What is read of each finished run; those that are damaged move from `done` to `missing`."""
    found = []
    for job in list(done):
        try:
            found.append(read(job))
        except RunFolderError as error:
            missing[job.path.name] = str(error)
            done.remove(job)
    return found


def _write(comparison: Comparison, folder: Path, made: _Made, result: Result) -> None:
    texts = {
        MARKDOWN: "\n".join(map(tables.markdown, result.tables)),
        LATEX: "\n".join(map(tables.latex, result.tables)),
        CSV: made.runs.to_csv(index=False, lineterminator="\n"),
    }
    for name, text in texts.items():
        atomic_files.write_text(folder / name, text)
    values = {
        "comparison": comparison.name,
        "description": result.description,
        **made.values,
        "summaries": [dataclasses.asdict(summary) for summary in result.summaries],
        "missing": result.missing,
    }
    atomic_files.write_json(folder / JSON, finite(values))
    if made.runs.empty:
        return
    for name, draw in made.pictures.items():
        with atomic_files.replacing(folder / name) as partial:
            figures.save(draw(), partial)


def finite(values: Any) -> Any:
    """The values for JSON, which knows no infinity: null instead, and keys as text."""
    if isinstance(values, dict):
        return {str(key): finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
