"""What a report says, in order, from nothing but the files of a run folder."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from score_embedding import atomic_files
from score_embedding.config.schema import AnyConfig
from score_embedding.evaluation import metrics
from score_embedding.methods.base import method_of
from score_embedding.report import figures
from score_embedding.runs import artifacts
from score_embedding.runs import environment as environments
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder

THRESHOLDS = (0.90, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    title: str
    caption: str
    png: bytes
    inches: tuple[float, float]  # width and height at which its text has the report's size


@dataclass(frozen=True)
class Content:
    """What both formats show, in order."""

    title: str
    subtitle: str
    tables: list[Table]
    pictures: list[Picture]


def needs(config: AnyConfig) -> tuple[str, ...]:
    """The files that a report is made from."""
    method = method_of(config)
    result = run_folder.DENOISED if config.held_out else run_folder.SAMPLES
    needed = [run_folder.ENVIRONMENT, result, run_folder.METRICS, run_folder.TIMING]
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
    result = (_of_denoising if config.held_out else _of_samples)(folder, config, rows)
    config, tables, pictures = result.config, [*result.tables, _timing(timing)], result.pictures
    method = method_of(config)
    training = _training(folder, config, len(rows)) if method.trained else ""
    if run_folder.SCORES in method.kind.files:
        scores = atomic_files.read_arrays(folder / run_folder.SCORES, *artifacts.SCORE_ARRAYS)
        tables.append(
            _solve(json.loads(str(scores["diagnostics"])), config.model_dump()["diffusion"])
        )
        pictures += _fields(scores)
    by_clock = method.trained and _depends_on_clock(folder, config, timing)
    tables += [_parameters(config), _environment(environment, by_clock)]
    subtitle = (
        f"{method.label}, {result.data}, {training}seed "
        f"{config.training.seed}, {environment['processor']}"
    )
    return Content(config.name, subtitle, tables, pictures)


@dataclass(frozen=True)
class _Result:
    """What a run ended with: its config, tables, pictures, and a few words on the data."""

    config: AnyConfig
    tables: list[Table]
    pictures: list[Picture]
    data: str


def _of_samples(folder: RunFolder, config: AnyConfig, rows: list[dict[str, float]]) -> _Result:
    """The samples, and the config as they were drawn last."""
    samples = artifacts.read_sample_arrays(folder)
    description = json.loads(str(samples["description"]))
    options = type(config.sample)
    # Samples of an earlier version lack the keys that it did not have.
    known = {**config.sample.model_dump(), **description}
    drawn = options(**{key: known[key] for key in options.model_fields})
    how = figures.how_sampled(description)
    otherwise = ""
    if drawn != config.sample:
        sampler = method_of(config).sampler
        otherwise = (
            f" These are samples from prior {config.sample.prior} with {sampler}; the samples "
            "shown were drawn later, with other options."
        )
    strip = figures.strip(samples)
    pictures = [
        _picture("From noise to sample", f"{how}. Each state is min-max scaled.", strip),
        _picture("Samples", "Beside the ground truth.", figures.samples(samples)),
    ]
    if "loss" in rows[0]:
        caption = "Evaluation stops the clock; the last point is the sample drawn after training."
        caption += otherwise
        pictures.append(_picture("Training", caption, figures.curves(rows)))
    tables = [_quality(description["metrics"], how), _passed(rows, otherwise)]
    n, data = len(samples["images"]), config.data_loader
    of = f"{n} image{'s' if n > 1 else ''} of {_size(config)} ({data.dataset})"
    return _Result(config.model_copy(update={"sample": drawn}), tables, pictures, of)


def _of_denoising(folder: RunFolder, config: AnyConfig, rows: list[dict[str, float]]) -> _Result:
    """The denoised photographs."""
    arrays = atomic_files.read_arrays(folder / run_folder.DENOISED, "description")
    description = json.loads(str(arrays["description"]))
    names, levels = description["names"], description["levels"]
    lines = [
        (name, *(f"{p:.2f} / {s:.3f}" for p, s in zip(psnr, ssim, strict=True)))
        for name, psnr, ssim in zip(names, description["psnr"], description["ssim"], strict=True)
    ]
    header = ("photograph", *(f"noise {level:g}" for level in levels))
    note = "PSNR in dB / SSIM of the answer clipped to [0, 1]; training has not seen them."
    pictures = [_picture("Denoised", "Photographs held out.", figures.denoised(arrays))]
    if "loss" in rows[0]:
        caption = "Means over the photographs. Evaluation stops the clock."
        pictures.append(_picture("Training", caption, figures.denoising_curves(rows, levels)))
    data = config.data_loader
    what = f"crops of {_size(config)}" if data.crops else f"images of {_size(config)}"
    of = f"{what} ({', '.join([data.dataset, *(data.image or [])])})"
    return _Result(config, [Table("Denoising", header, lines, note)], pictures, of)


def _size(config: AnyConfig) -> str:
    h, w = config.data_loader.image_size
    return f"{h} x {w} x {config.data_loader.channels}"


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
        _picture(
            "Log-density and score over time",
            "Means over the channels; the score's colours span the bound above each field.",
            figures.score_fields(scores),
        ),
        _picture(
            "Embedded images",
            "What the network is trained on, min-max scaled; below the time, their range.",
            figures.embedded(scores),
        ),
    ]


def _quality(values: dict[str, float], how: str) -> Table:
    labels = {"minmax": "min-max scaled (the paper's)", "clipped": "clipped to [0, 1]"}
    others = [key.removesuffix("_ssim_minmax") for key in values if key.endswith("_ssim_minmax")]
    rows = []
    for prior in ("", *others):
        for key, label in labels.items():
            names = (f"{prior}_{metric}" if prior else metric for metric in ("ssim", "psnr", "mse"))
            ssim, psnr, mse = (values[f"{name}_{key}"] for name in names)
            of = f", {prior} prior" if prior else ""
            rows.append((label + of, f"{ssim:.4f}", f"{psnr:.2f}", f"{mse:.2e}"))
    return Table("Quality of the samples", ("normalisation", "SSIM", "PSNR (dB)", "MSE"), rows, how)


def _passed(rows: list[dict[str, float]], how: str) -> Table:
    evaluated = [row for row in rows if "ssim_minmax" in row]
    lines = []
    for threshold in THRESHOLDS:
        first = metrics.first_reaching(evaluated, threshold)
        if first is None:
            lines.append((f"{threshold:.2f}", "not reached", "-"))
        else:
            lines.append(
                (f"{threshold:.2f}", f"{first['training_seconds']:.1f}", f"{first['step']:.0f}")
            )
    if len(evaluated) > 1:
        note = f"First of {len(evaluated)} evaluations at or above the threshold."
    elif rows[-1]["step"] == 0:
        note = "Without training: the sample is all there is to evaluate."
    else:
        note = "Only the final sample was evaluated; --profile evaluates during training."
    header = ("SSIM (min-max)", "training time (s)", "step")
    return Table("Time to quality", header, lines, note + how)


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


def _picture(title: str, caption: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    figures.save(figure, buffer)
    return Picture(title, caption, buffer.getvalue(), tuple(figure.get_size_inches()))
