"""What a run ends with: samples, denoised images of those that are held out, or both."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from torch import Tensor

from score_embedding.evaluation import metrics
from score_embedding.evaluation import samples as evaluation
from score_embedding.evaluation.samples import HeldOut
from score_embedding.methods import samplers
from score_embedding.methods.model import TrainedModel
from score_embedding.report import pictures
from score_embedding.runs import artifacts, sample_batches
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder
from score_embedding.runs.sample_batches import SampleBatches

log = logging.getLogger(__name__)


def finish(
    folder: RunFolder, model: TrainedModel, images: Tensor, held: HeldOut
) -> tuple[dict[str, float], dict[str, float]]:
    """Samples, denoised images of those that are held out, or both, as the config has it, into the
    folder; returns their metrics, and the seconds that it took by stage."""
    values: dict[str, float] = {}
    seconds: dict[str, float] = {}
    if model.config.held_out:
        values, seconds = denoise(folder, model, evaluation.on_device(held, images.device))
    if model.config.draws_samples:
        found, sampling = draw_samples(folder, model, images)
        values, seconds = values | found, seconds | sampling
    return values, seconds


def denoise(
    folder: RunFolder, model: TrainedModel, held: HeldOut
) -> tuple[dict[str, float], dict[str, float]]:
    """Denoised images of those that are held out, into the folder; returns as `finish`."""
    measured = evaluation.denoise(model, held)
    truths = list(held.values() if isinstance(held, dict) else held)
    artifacts.write_denoised(folder, measured, truths, model.method)
    pictures.write(folder.path, run_folder.DENOISED)
    values = measured.means()
    log.info("%d image(s) denoised: %s", len(truths), metrics.format_metrics(values))
    return values, {"denoising": measured.seconds}


def draw_samples(
    folder: RunFolder,
    model: TrainedModel,
    images: Tensor,
    count: int | None = None,
    source: Path | None = None,
    overwrite: bool = True,
) -> tuple[dict[str, float], dict[str, float]]:
    """Samples into the folder; returns as `finish`. What is interrupted is continued by another
    call. `source`: the model's run folder, by default `folder`. `overwrite`: whether finished
    batches of other samples are removed, or refused by a RunFolderError."""
    number, (h, w) = count or model.config.sample.count or len(images), images.shape[-2:]
    kept = None
    if number > samplers.batch_size((h, w)):
        place = sample_batches.kept_in(folder.path, source or folder.path, model, images, overwrite)
        kept = partial(SampleBatches, place, images.device)
    started = time.perf_counter()
    drawn = evaluation.sample_all(model, images, count, kept)
    seconds = time.perf_counter() - started
    values = evaluation.measure(model, drawn, images)
    truth = evaluation.truth_of(model, drawn[""], images)
    artifacts.write_samples(folder, drawn, images, truth, model.method, values, seconds)
    sample_batches.remove(folder.path)
    pictures.write(folder.path, run_folder.SAMPLES)
    described = f": {metrics.format_metrics(values)}" if "ssim_minmax" in values else ""
    number, nfe = len(drawn[""].x), drawn[""].nfe
    log.info("%d sample(s) in %.1f s, %d evaluations%s", number, seconds, nfe, described)
    return values, {"sampling": seconds}
