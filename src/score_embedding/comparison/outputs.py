"""What is written of a comparison's finished runs: of methods, of the settings of a sweep, or of
methods that denoise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from score_embedding.comparison import denoising, denoising_tables, pictures, tables
from score_embedding.comparison.description import describe
from score_embedding.comparison.spec import Comparison, Job
from score_embedding.comparison.summary import Summary, frame, outcomes, summarise
from score_embedding.comparison.sweeps import pictures as sweep_pictures
from score_embedding.comparison.sweeps import results as sweep_results
from score_embedding.comparison.sweeps import runtimes as sweep_runtimes
from score_embedding.comparison.sweeps import tables as sweep_tables
from score_embedding.config.sections import HeldOut
from score_embedding.errors import RunFolderError
from score_embedding.report.parts import Table

CURVES = "ssim_over_time.png"
SHEET = "samples.png"
DENOISING_CURVES = "psnr_over_time.png"
DENOISING_SHEET = "denoised.png"
SETTINGS = "settings.csv"
METRICS = "metrics_over_keys.png"
STAGES = "seconds_by_stage.png"
RESIDUALS = "residuals.png"
OF_SWEEP = (METRICS, STAGES, RESIDUALS, SHEET)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Made:
    """What is written of the finished runs, by form."""

    description: str
    tables: list[Table]
    short: list[Table]
    summaries: list[Summary]
    runs: pd.DataFrame  # of runs.csv
    values: dict[str, Any]  # of comparison.json
    pictures: dict[str, Callable[[], Figure]]  # by file name
    others: dict[str, pd.DataFrame] = field(default_factory=dict)  # further CSV files, by name


def made_of(comparison: Comparison, done: list[Job], missing: dict[str, str]) -> Made:
    """Of the finished runs `done`; those whose files turn out to be damaged move to `missing`."""
    if comparison.held_out:
        return _of_denoising(comparison, comparison.held_out, done, missing)
    if comparison.sweep:
        return _of_sweep(comparison, done, missing)
    return _of_samples(comparison, done, missing)


def _of_samples(comparison: Comparison, done: list[Job], missing: dict[str, str]) -> Made:
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
    return Made(
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


def _of_sweep(comparison: Comparison, done: list[Job], missing: dict[str, str]) -> Made:
    found = _readable(done, missing, lambda job: sweep_results.read(job, comparison.targets))
    runs = sweep_results.frame(found, comparison, missing)
    measured = sweep_results.statistics(runs, comparison)
    caption = describe(comparison, done)
    shown_tables = sweep_tables.all_tables(measured, comparison, missing, caption)
    if found:
        images = max(run.images for run in found)
        shown_tables.append(sweep_tables.fid_table(images, len(comparison.seeds)))
    shown: dict[str, Callable[[], Figure]] = {
        METRICS: lambda: sweep_pictures.metrics_over_keys(runs, measured, comparison, caption),
        STAGES: lambda: sweep_runtimes.stages(found, comparison, caption),
        SHEET: lambda: sweep_pictures.samples(done, comparison, caption),
    }
    if any(map(sweep_results.iterates, found)):
        shown[RESIDUALS] = lambda: sweep_runtimes.residuals(found, comparison, caption)
    return Made(
        caption,
        shown_tables,
        sweep_tables.short_tables(measured, comparison),
        summarise([outcome for run in found for outcome in run.outcomes], comparison.targets),
        runs,
        {
            "targets": list(comparison.targets),
            "runs": runs.astype(object).where(runs.notna(), None).to_dict("records"),
            "statistics": measured.to_dict("records"),
        },
        shown,
        {SETTINGS: measured},
    )


def _of_denoising(
    comparison: Comparison, held_out: HeldOut, done: list[Job], missing: dict[str, str]
) -> Made:
    levels = held_out.levels
    found = _readable(done, missing, lambda job: denoising.course(job, levels))
    classical = done and not held_out.of_dataset  # of a data set a run keeps a few images only
    beside, failed = denoising.rivals(done[0], levels) if classical else ([], {})
    missing |= failed
    caption = describe(comparison, done)
    goal = denoising.goal(found, levels)
    leads = denoising.leads(found, levels)
    return Made(
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
