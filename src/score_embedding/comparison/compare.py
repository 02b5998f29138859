"""Methods, or the settings of a sweep, x seeds: runs, tables and pictures in one folder.

The folder holds comparison.yml (all configs, to run it again), runs/ (a run folder each), and their
evaluation: table.md, table.tex, runs.csv, comparison.json, and pictures (outputs.py).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from score_embedding import atomic_files, pipeline
from score_embedding.comparison import execution, outputs, spec, tables
from score_embedding.comparison.outputs import Made
from score_embedding.comparison.spec import Comparison, Job
from score_embedding.comparison.summary import Summary
from score_embedding.data.datasets import load_dataset
from score_embedding.errors import RunFolderError
from score_embedding.methods.base import method_of
from score_embedding.report import figures
from score_embedding.report.parts import Table
from score_embedding.runs import folder as run_folder
from score_embedding.runs import resources
from score_embedding.training import signals

log = logging.getLogger(__name__)

MARKDOWN = "table.md"
LATEX = "table.tex"
CSV = "runs.csv"
JSON = "comparison.json"


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
    methods: Collection[str] | None = None,
) -> Result:
    """Make the runs that are not in the folder yet, of `methods` alone where they are given, then
    tables and pictures of all that are there.

    Raises
    ------
    RunFolderError : the folder holds other files, or without `overwrite` runs of other configs or a
        comparison of more methods or seeds.
    ConfigError, DataError : a method that cannot be run on these images, or a cluster that cannot
        be used. Nothing was created.
    Interrupted : SIGINT or SIGTERM came; each run that trains writes its checkpoint first.
    """
    run_folder.check_place(folder)
    run_folder.check_own(folder, spec.SPEC)
    if not overwrite:
        spec.check_extends(comparison, folder)
    if slurm is not None:
        execution.check_cluster(slurm)
    jobs = spec.jobs(comparison, folder)
    made = [job for job in jobs if methods is None or job.method in methods]
    pending = [job for job in made if overwrite or not execution.is_complete(job)]
    if pending:
        needs = _checked(pending)
        if slurm is None:
            together = resources.together(needs, processes)
            resources.check_fits(comparison.name, together, device, folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec.write(comparison, folder)
    log.info("%d runs, %d of them there already", len(made), len(made) - len(pending))
    with signals.handled(), signals.advising("the same command continues it"):
        failures = execution.execute(pending, device, processes, slurm, overwrite)
    return collect(comparison, folder, failures)


def _checked(pending: list[Job]) -> list[resources.Need]:
    """What each run needs. Raises ConfigError or DataError where one cannot be run on its images;
    those of equal options, the usual case, are loaded once."""
    loaded, images = None, torch.empty(0)
    needs = []
    for job in pending:
        wanted = spec.pictures_of(job.config.data_loader)
        if wanted != loaded:
            loaded, images = wanted, load_dataset(job.config.data_loader)
        pipeline.check(images, method_of(job.config))
        needs.append(resources.need(job.config, len(images)))
    return needs


def collect(comparison: Comparison, folder: Path, failures: dict[str, str]) -> Result:
    """Tables and pictures of the finished runs in the folder."""
    jobs = spec.jobs(comparison, folder)
    done = [job for job in jobs if execution.is_complete(job)]
    missing = {
        job.path.name: failures.get(job.path.name, spec.NOT_RUN) for job in jobs if job not in done
    }
    made = outputs.made_of(comparison, done, missing)
    shown = [*made.tables, tables.missing_table(missing)] if missing else made.tables
    result = Result(
        shown, made.short, made.summaries, missing, made.description, next(iter(made.pictures))
    )
    _write(comparison, folder, made, result)
    return result


def _write(comparison: Comparison, folder: Path, made: Made, result: Result) -> None:
    texts = {
        MARKDOWN: "\n".join(map(tables.markdown, result.tables)),
        LATEX: "\n".join(map(tables.latex, result.tables)),
        **{
            name: table.to_csv(index=False, lineterminator="\n")
            for name, table in {CSV: made.runs, **made.others}.items()
        },
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
    if not made.summaries:
        return
    if comparison.sweep:  # pictures of earlier runs that have no successor
        for name in set(outputs.OF_SWEEP) - set(made.pictures):
            (folder / name).unlink(missing_ok=True)
    for name, draw in made.pictures.items():
        _draw(folder / name, draw)


def _draw(place: Path, draw: Callable[[], Figure]) -> None:
    """A picture of tables that are written already: where the samples of a run are missing or
    damaged, the tables stand without it, and without one of earlier runs in its place. Raises
    RunFolderError where it cannot be written, with one of earlier runs unchanged."""
    try:
        figure = draw()
    except RunFolderError as error:
        place.unlink(missing_ok=True)
        log.warning("warning: %s could not be drawn (%s)", place, error)
        return
    with atomic_files.replacing(place) as partial:
        figures.save(figure, partial)


def finite(values: Any) -> Any:
    """The values for JSON, which knows no infinity: null instead, and keys as text."""
    if isinstance(values, dict):
        return {str(key): finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
