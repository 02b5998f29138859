"""What a report says, in order, from nothing but the files of a run folder."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from score_embedding import atomic_files
from score_embedding.config.schema import AnyConfig
from score_embedding.methods.base import method_of
from score_embedding.report import denoising, figures, sampling
from score_embedding.report.parts import Content, Picture, Table, picture_of
from score_embedding.runs import artifacts
from score_embedding.runs import environment as environments
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder


def needs(config: AnyConfig) -> tuple[str, ...]:
    """The files that a report is made from."""
    method = method_of(config)
    needed = [run_folder.ENVIRONMENT, run_folder.METRICS, run_folder.TIMING]
    needed += [run_folder.DENOISED] if config.held_out else []
    needed += [run_folder.SAMPLES] if config.draws_samples else []
    if method.trained:
        needed.append(run_folder.STATE)
    if run_folder.SCORES in method.kind.files:
        needed.append(run_folder.SCORES)
    return tuple(needed)


def read_course(
    folder: RunFolder,
) -> tuple[list[dict[str, float]], dict[str, Any], dict[str, Any]]:
    """How the run went: metrics, environment and seconds by stage; no sample changes them. Raises
    RunFolderError where one of them is damaged."""
    return (
        artifacts.read_metrics(folder),
        atomic_files.read_json(folder / run_folder.ENVIRONMENT, "processor", "device"),
        atomic_files.read_json(folder / run_folder.TIMING, "training", "total"),
    )


def collect(folder: RunFolder, config: AnyConfig) -> Content:
    """The report's content, from the files of the folder."""
    rows, environment, timing = read_course(folder)
    results = [sampling.of_samples(folder, config, rows)] if config.draws_samples else []
    results += [denoising.of_denoising(folder, config, rows)] if config.held_out else []
    config = results[0].config
    tables = [table for result in results for table in result.tables] + [_timing(timing)]
    pictures = [picture for result in results for picture in result.pictures]
    method = method_of(config)
    training = _training(folder, config, int(rows[-1]["step"])) if method.trained else ""
    if run_folder.SCORES in method.kind.files:
        scores = atomic_files.read_arrays(folder / run_folder.SCORES, *artifacts.SCORE_ARRAYS)
        tables.append(
            _solve(json.loads(str(scores["diagnostics"])), config.model_dump()["diffusion"])
        )
        pictures += _fields(scores)
    by_clock = method.trained and _depends_on_clock(folder, config, timing)
    tables += [_parameters(config), _environment(environment, by_clock)]
    subtitle = (
        f"{method.label}, {results[-1].data}, {training}seed "
        f"{config.training.seed}, {environment['processor']}"
    )
    return Content(config.name, subtitle, tables, pictures)


def _training(folder: RunFolder, config: AnyConfig, steps: int) -> str:
    state = atomic_files.read_json(folder / run_folder.STATE, "parameters")
    diverged = ", ".join(str(restart["step"]) for restart in state.get("restarts", []))
    halved = f" (diverged in step {diverged}: the rate was halved each time)" if diverged else ""
    size = f"{state['parameters'] / 1e6:.1f} M parameters"
    return f"network {config.model.network} of {size}, {steps} steps{halved}, "


def _depends_on_clock(folder: RunFolder, config: AnyConfig, timing: dict[str, Any]) -> bool:
    """Whether seconds decided when training stopped, or which checkpoint a restart went back to.
    A target SSIM only stops a run that is evaluated along the way."""
    options = config.training
    targeted = options.target_ssim is not None and timing.get("evaluation", 0) > 0
    restarts = atomic_files.read_json(folder / run_folder.STATE).get("restarts")
    return bool(restarts) or options.seconds is not None or targeted


def _fields(scores: dict[str, Any]) -> list[Picture]:
    return [
        picture_of(
            "Log-density and score over time",
            "Means over the channels; the score's colours span the bound above each field.",
            figures.score_fields(scores),
        ),
        picture_of(
            "Embedded images",
            "What the network is trained on, min-max scaled; below the time, their range.",
            figures.embedded(scores),
        ),
    ]


def _timing(timing: dict[str, float]) -> Table:
    rows = [(stage, f"{seconds:.3f}") for stage, seconds in timing.items()]
    stages = list(timing)  # all stages before training, and training, are on its clock
    clock = stages[: stages.index("training") + 1]
    note = f"The training clock of all figures is {' + '.join(clock)}."
    return Table("Seconds by stage", ("stage", "seconds"), rows, note)


def _solve(diagnostics: dict[str, object], diffusion: dict[str, Any]) -> Table:
    iterations = diagnostics["iterations"]
    counts = ", ".join(map(str, iterations)) if isinstance(iterations, list) else ""
    rows = [
        ("scheme", str(diagnostics["scheme"])),
        ("density", diffusion["density"]),
        ("boundary", str(diagnostics["boundary"])),
        ("drift on the grid", str(diagnostics["drift"])),
        ("embedding", diffusion["embedding"]),
        ("tolerance (config)", f"{diffusion['solve_tolerance']:g}"),
        ("iterations", counts or "none"),
    ]
    warnings = diagnostics["warnings"]
    if isinstance(warnings, list):
        rows += [("warning", str(warning)) for warning in warnings[:3]]
    return Table("Fokker-Planck solve", ("", ""), rows)


def _parameters(config: AnyConfig) -> Table:
    rows = [
        (f"{section}.{key}", textwrap.shorten(str(value), 300, placeholder=" ..."))
        for section, values in config.model_dump(mode="json").items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value is not None
    ]
    return Table("Parameters", ("key", "value"), rows)


def _environment(environment: dict[str, object], by_clock: bool) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, value in environment.items():
        if isinstance(value, dict):
            rows += [(name, str(version)) for name, version in value.items()]
        elif value is not None:
            rows.append((key.replace("_", " "), str(value)))
    note = environments.determinism(str(environment["device"]), by_clock)
    return Table("Environment", ("", ""), rows, note)
