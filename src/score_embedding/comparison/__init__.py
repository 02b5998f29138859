"""Methods x seeds on the same images: runs, tables and pictures in one folder.

The folder holds comparison.yml (all configs, to run it again), runs/ (a run folder each), and what
is made of them: table.md, table.tex, runs.csv, comparison.json, ssim_over_time.png, samples.png.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from score_embedding import figures, files, interruption, limits, pipeline, run_folder
from score_embedding.comparison import execution, pictures, spec, tables
from score_embedding.comparison.spec import Comparison, Job
from score_embedding.comparison.summary import Outcome, Summary, outcomes, summarise
from score_embedding.config import BaselineConfig, Config
from score_embedding.content import Table
from score_embedding.data import load_dataset
from score_embedding.errors import RunFolderError

log = logging.getLogger(__name__)

MARKDOWN = "table.md"
LATEX = "table.tex"
CSV = "runs.csv"
JSON = "comparison.json"
CURVES = "ssim_over_time.png"
SHEET = "samples.png"


@dataclass(frozen=True)
class Result:
    """The tables of a comparison, its summaries, the runs that are missing, with the reason, and
    one line on data, network, seeds, samplers and machine."""

    tables: list[Table]
    summaries: list[Summary]
    missing: dict[str, str]
    description: str

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
    RunFolderError : the folder holds other files, or runs of other configs and `overwrite` is not
        given.
    ConfigError, DataError : a method that cannot be run on these images, or a cluster that cannot
        be used. Nothing was created.
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
            pipeline.check(images, job.config)
        if slurm is None:
            needs = [limits.need(job.config, len(images)) for job in pending]
            together = limits.together(needs, processes)
            limits.check_fits(comparison.name, together, device, folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec.write(comparison, folder)
    log.info("%d runs, %d of them there already", len(jobs), len(jobs) - len(pending))
    with interruption.handled(), interruption.advising("the same command goes on"):
        failures = execution.execute(pending, device, processes, slurm)
    return collect(comparison, folder, failures)


def collect(comparison: Comparison, folder: Path, failures: dict[str, str]) -> Result:
    """Tables and pictures of the finished runs in the folder."""
    jobs = spec.jobs(comparison, folder)
    done = [job for job in jobs if execution.is_complete(job)]
    missing = {
        job.path.name: failures.get(job.path.name, "not run") for job in jobs if job not in done
    }
    found: list[Outcome] = []
    for job in list(done):
        try:
            found += outcomes(job, comparison.targets)
        except RunFolderError as error:
            missing[job.path.name] = str(error)
            done.remove(job)
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
    if missing:
        shown.append(tables.missing_table(missing))
    result = Result(shown, summaries, missing, caption)
    _write(comparison, folder, done, found, result)
    return result


def _write(
    comparison: Comparison,
    folder: Path,
    done: list[Job],
    found: list[Outcome],
    result: Result,
) -> None:
    texts = {
        MARKDOWN: "\n".join(map(tables.markdown, result.tables)),
        LATEX: "\n".join(map(tables.latex, result.tables)),
    }
    for name, text in texts.items():
        files.write_text(folder / name, text)
    records = tables.records(found)
    columns = list(dict.fromkeys(key for record in records for key in record))
    files.write_rows(folder / CSV, columns, records)
    values = {
        "comparison": comparison.name,
        "description": result.description,
        "targets": list(comparison.targets),
        "runs": [dataclasses.asdict(outcome) for outcome in found],
        "summaries": [dataclasses.asdict(summary) for summary in result.summaries],
        "missing": result.missing,
    }
    files.write_json(folder / JSON, finite(values))
    if not found:
        return
    with files.replacing(folder / CURVES) as partial:
        figures.save(pictures.ssim_over_time(found, comparison, result.description), partial)
    with files.replacing(folder / SHEET) as partial:
        figures.save(pictures.sample_sheet(done, comparison, result.description), partial)


def describe(comparison: Comparison, done: list[Job]) -> str:
    """Data, network, seeds, samplers and machine, in one line."""
    first = next(iter(comparison.configs.values()))
    data, model, training = first.data_loader, first.model, first.training
    h, w = data.image_size
    n = _number_of_images(done) or data.num_images or 1
    parts = [
        f"{n} image{'s' if n > 1 else ''} of {h} x {w} x {data.channels} "
        f"({', '.join([data.dataset, *(data.image or [])])})",
        f"U-Net ch {model.ch}, ch_mult {list(model.ch_mult)}, {training.precision}",
        f"batch {data.batch_size}",
        f"seeds {', '.join(map(str, comparison.seeds))}",
        *_samplers(comparison),
        *_machines(done),
    ]
    return "; ".join(parts)


def _number_of_images(done: list[Job]) -> int:
    """How many images the first finished run was trained on; 0 where none is finished."""
    if not done:
        return 0
    return len(files.read_arrays(done[0].path / run_folder.SAMPLES, "images")["images"])


def _samplers(comparison: Comparison) -> list[str]:
    """How the methods are sampled from, each sampler once."""
    named = {}
    for config in comparison.configs.values():
        if isinstance(config, Config):
            options = config.sample
            rk45 = options.solver == "rk45"
            how = f"RK45 {options.tolerance:g}" if rk45 else f"Heun {options.steps} steps"
            named[how] = f"probability flow by {how}"
        elif isinstance(config, BaselineConfig):
            steps = config.sample.steps or config.diffusion.num_timesteps
            how = f"{config.method.upper()} {steps} steps"
            named[how] = how
    return list(named.values())


def _machines(done: list[Job]) -> list[str]:
    """Processor and threads of the runs; of unlike ones, times are not comparable."""
    kinds = set()
    for job in done:
        described = files.read_json(
            job.path / run_folder.ENVIRONMENT, "processor", "device", "threads"
        )
        threads = f", {described['threads']} thread(s)" if described["device"] == "cpu" else ""
        kinds.add(f"{described['processor']}{threads}")
    if len(kinds) > 1:
        return [f"MIXED machines, times are not comparable: {' / '.join(sorted(kinds))}"]
    return list(kinds)


def finite(values: Any) -> Any:
    """The values for JSON, which knows no infinity: null instead, and keys as text."""
    if isinstance(values, dict):
        return {str(key): finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
