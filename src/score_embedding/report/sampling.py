"""The part of a report on samples: beside the images that they are compared with, or alone."""

from __future__ import annotations

import json

from score_embedding.config.schema import AnyConfig
from score_embedding.evaluation import metrics
from score_embedding.methods.base import method_of
from score_embedding.report import figures, sheets
from score_embedding.report.parts import Result, Table, picture_of, size_of
from score_embedding.runs import artifacts
from score_embedding.runs.folder import RunFolder

THRESHOLDS = (0.90, 0.95, 0.98, 0.99)


def of_samples(folder: RunFolder, config: AnyConfig, rows: list[dict[str, float]]) -> Result:
    """The samples, and the config as they were drawn last."""
    samples = artifacts.read_sample_arrays(folder)
    description = json.loads(str(samples["description"]))
    options = type(config.sample)
    known = [key for key in options.model_fields if key in description]  # of this version or before
    drawn = options(**{key: description[key] for key in known})
    how = figures.how_sampled(description)
    otherwise = ""
    if drawn != config.sample:
        sampler = method_of(config).sampler
        otherwise = (
            f" These are samples from prior {config.sample.prior} with {sampler}; the samples "
            "shown were drawn later, with other options."
        )
    config = config.model_copy(update={"sample": drawn})
    strip = figures.strip(samples)
    way = picture_of("From noise to sample", f"{how}. Each state is min-max scaled.", strip)
    if not len(samples["truth"]):  # with held_out
        sheet = picture_of("Samples", f"{how}. Clipped to [0, 1].", sheets.sheet(samples))
        return Result(config, [], [sheet, way], "")
    pictures = [way, picture_of("Samples", "Beside the ground truth.", figures.samples(samples))]
    if "loss" in rows[0]:
        caption = "Evaluation stops the clock; the last point is the sample drawn after training."
        caption += otherwise
        pictures.append(picture_of("Training", caption, figures.curves(rows)))
    tables = [_quality(description["metrics"], how), _passed(rows, otherwise)]
    n, data = len(samples["images"]), config.data_loader
    of = f"{n} image{'s' if n > 1 else ''} of {size_of(config)} ({data.dataset})"
    return Result(config, tables, pictures, of)


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
