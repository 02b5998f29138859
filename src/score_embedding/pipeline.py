"""The run, top to bottom: images, density, solve, score, embedding, training, samples, report."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.config.schema import AnyConfig, BaselineConfig, Config
from score_embedding.config.sections import DiscreteSample, Sample
from score_embedding.data.datasets import check_apart, load_dataset, load_held_out, load_photographs
from score_embedding.errors import DivergenceError
from score_embedding.evaluation import held_out, metrics
from score_embedding.evaluation import samples as evaluation
from score_embedding.methods import ddpm, precomputation, residual
from score_embedding.methods import embedded as score_embedding
from score_embedding.methods.base import Objective
from score_embedding.methods.model import Trained, build_network, load
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.precomputation import EmbeddedImages, Precomputed
from score_embedding.report import content
from score_embedding.report import render as report
from score_embedding.runs import artifacts, environment, resources
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder
from score_embedding.training import checkpoints as checkpoint
from score_embedding.training import signals
from score_embedding.training.checkpoints import Checkpoints
from score_embedding.training.loop import train
from score_embedding.training.state import History

log = logging.getLogger(__name__)


def needed_to_finish(config: AnyConfig) -> tuple[str, ...]:
    """The files of a run folder that samples are drawn, or photographs denoised, from."""
    needed = [] if config.method == "closed_form" else [run_folder.WEIGHTS]
    needed.append(run_folder.METRICS)
    if isinstance(config, Config) and config.residual:
        needed += [run_folder.DENSITY, run_folder.PRECONDITIONING]
    if config.held_out is None:
        needed.append(artifacts.images_file(config))
    return tuple(needed)


def run(
    config: AnyConfig,
    path: Path,
    device: torch.device,
    profile: bool,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Train a model of `config` and leave its run folder at `path`; with `resume` go on with the
    run that is there.

    Nothing is created or removed before the config, the images and the folder were found good.

    Raises
    ------
    ScoreEmbeddingError : one of its kinds, named and with the remedy.
    Interrupted : SIGINT or SIGTERM came; while training, a checkpoint is written first.
    """
    started = time.perf_counter()
    if resume:
        run_folder.check_resumable(path, config)
    else:
        run_folder.check_free(path, config, overwrite)
    images = load_dataset(config.data_loader)
    check(images, config)
    resources.check(config, len(images), device, path)
    with (
        run_folder.locked(path),
        signals.handled(),
        signals.advising("what was done is kept, --resume goes on"),
    ):
        folder = RunFolder(path) if resume else run_folder.create(path, config)
        description = environment.describe(device, config.training.seed, images)
        if resume and folder.has(run_folder.ENVIRONMENT):
            before = atomic_files.read_json(folder / run_folder.ENVIRONMENT)
            environment.check_same(before, description, path)
        atomic_files.write_json(folder / run_folder.ENVIRONMENT, description)

        trained, history, seconds = train_model(folder, images, config, device, profile)
        with dumping_divergence(folder, trained.network):
            values, stage = finish(folder, trained, images.to(device), config)
        seconds |= stage
        history.add_final(values)
        artifacts.write_metrics(folder, history)

        seconds["total"] = time.perf_counter() - started
        atomic_files.write_json(folder / run_folder.TIMING, seconds)
        report.write(folder)
        run_folder.remove_checkpoints(path)


def check(images: Tensor, config: AnyConfig) -> None:
    """Raise DataError or ConfigError where the images cannot be trained on as asked, or what is
    held out cannot be read or is trained on."""
    if isinstance(config, Config) and not config.residual:
        score_embedding.check(images, config)
    if config.held_out:
        check_apart(config.held_out, config.data_loader)
        load_held_out(config.held_out, config.data_loader.channels)


def train_model(
    folder: RunFolder, images: Tensor, config: AnyConfig, device: torch.device, profile: bool
) -> tuple[Trained, History, dict[str, float]]:
    """The trained model, saved in the folder, the history of its training and stage seconds; with
    `profile` it is measured along the way."""
    if config.method == "closed_form" and not config.residual:
        return Trained(config, None), History(), {"training": 0.0, "evaluation": 0.0}
    objective, precomputed, seconds = prepare(folder, images, config, device)
    images = images.to(device)
    if config.method == "closed_form":  # of a density
        clock = sum(seconds.values())
        history = History([{"step": 0, "training_seconds": clock}], clock, 0.0, seconds)
        return (
            Trained(config, None, precomputed),
            history,
            {**seconds, "training": 0.0, "evaluation": 0.0},
        )
    network = build_network(config, len(images), device)
    log.info("network of %.1f M parameters on %s", network.num_parameters / 1e6, device)

    photographs = evaluation.photographs_of(config, device) if profile else {}

    def evaluate(network: ScoreNetwork) -> dict[str, float]:
        model = Trained(config, network, precomputed)
        return evaluation.measured_now(model, images, photographs, config)

    checkpoints = Checkpoints(folder, config.misc.checkpoint_freq)
    with dumping_divergence(folder, network):
        history = train(
            network, objective, config, seconds, evaluate if profile else None, checkpoints
        )
    checkpoint.save(folder, network, history)
    artifacts.write_metrics(folder, history)
    before = sum(history.precompute_seconds.values())
    stages = {
        "training": history.training_seconds - before,
        "evaluation": history.evaluation_seconds,
    }
    trained = Trained(config, network, precomputed)
    return trained, history, {**history.precompute_seconds, **stages}


def prepare(
    folder: RunFolder, images: Tensor, config: AnyConfig, device: torch.device
) -> tuple[Objective, residual.Precomputed | None, dict[str, float]]:
    """What is trained on, what a residual method has computed, and the seconds by stage that both
    took."""
    if isinstance(config, BaselineConfig):
        return ddpm.objective(images.to(device), config), None, {}
    if config.residual:
        data = config.data_loader
        photographs = load_photographs(data) if data.crops else list(images)
        photographs = [photograph.to(device) for photograph in photographs]
        known, seconds = residual.precompute(photographs, config)
        artifacts.write_density(folder, known)
        return residual.objective(photographs, known, config, len(images)), known, seconds
    precomputed, embedded = precompute(images, config, device)
    artifacts.write_scores(folder, images, precomputed)
    return score_embedding.objective(embedded, config), None, precomputed.seconds


def precompute(
    images: Tensor, config: Config, device: torch.device
) -> tuple[Precomputed, Tensor | EmbeddedImages]:
    """Everything that is known before training, and the embedded images for it on `device`.

    Of more images than fit into memory only the first SHOWN are computed now, for the pictures.
    """
    images = images.to(environment.with_float64(device))
    if precomputation.fits_in_memory(images, config.diffusion):
        precomputed = precomputation.precompute(images, config.diffusion, config.misc)
        log.info("%s", precomputed.diagnostics.summary())
        return precomputed, precomputed.embedded.to(device)
    started = time.perf_counter()
    embedded = EmbeddedImages(images, config.diffusion, config.misc, device)
    seconds = {"density": time.perf_counter() - started, "solve": 0.0, "embedding": 0.0}
    shown = precomputation.precompute(images[: precomputation.SHOWN], config.diffusion, config.misc)
    log.info("log-density of %d images; their scores are computed during training", len(images))
    return dataclasses.replace(shown, seconds=seconds), embedded


@contextmanager
def dumping_divergence(folder: RunFolder, network: ScoreNetwork | None) -> Iterator[None]:
    """A loss or score that is not finite leaves the weights, and the batch, in the folder."""
    try:
        yield
    except DivergenceError as error:
        artifacts.write_divergence(folder, network, error)
        log.error("what reproduces it is in %s", folder / run_folder.DUMP)
        raise


def sample_again(
    path: Path, device: torch.device, options: Sample | DiscreteSample, seed: int
) -> None:
    """New samples from the trained model of a run folder, into it, and the report made anew.

    `options` and `seed` say how to sample; all else is as the model was trained.
    """
    folder, config = run_folder.open_existing(path)
    needed = dict.fromkeys((*needed_to_finish(config), *content.needs(config)))
    run_folder.check_has(path, tuple(needed))
    content.read_course(folder)  # found damaged before the samples are replaced
    training = config.training.model_copy(update={"seed": seed})
    again = config.model_copy(update={"sample": options, "training": training})
    images = torch.empty(0, device=device)
    if config.held_out is None:
        images = artifacts.read_images(folder, config).to(device)
    trained = dataclasses.replace(load(folder, config, len(images), device), config=again)
    with run_folder.locked(path):
        finish(folder, trained, images, again)
        report.write(folder)


def solve(config: Config, path: Path, device: torch.device) -> None:
    """Only the pre-computation of the config's images, into the folder `path`.

    Of more images than fit into memory all scores go to a file of their own, block by block; the
    other fields, and the picture, are those of the first SHOWN.
    """
    diffusion, misc = config.diffusion, config.misc
    images = load_dataset(config.data_loader).to(environment.with_float64(device))
    resources.check_fits("solve", resources.need_of_solve(config, len(images)), device, path)
    many = not precomputation.fits_in_memory(images, diffusion)
    precomputed = precomputation.precompute(
        images[: precomputation.SHOWN] if many else images, diffusion, misc
    )
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    if many:
        with atomic_files.replacing(folder / run_folder.ALL_SCORES) as partial:
            diagnostics = precomputation.write_scores(images, diffusion, misc, partial)
        precomputed = dataclasses.replace(precomputed, diagnostics=diagnostics)
    log.info("%s", precomputed.diagnostics.summary())
    artifacts.write_scores(folder, images, precomputed)
    artifacts.write_diagnostics(folder, len(images), precomputed, config)


def finish(
    folder: RunFolder, trained: Trained, images: Tensor, config: AnyConfig
) -> tuple[dict[str, float], dict[str, float]]:
    """Samples, or denoised photographs, into the run folder; returns their metrics, and the seconds
    that it took by stage."""
    if config.held_out:
        photographs = evaluation.photographs_of(config, images.device)
        measured = held_out.measure(trained.denoise, photographs, config.held_out.levels)
        artifacts.write_denoised(folder, measured, photographs, config)
        values = measured.means()
        log.info("%d photograph(s) denoised: %s", len(photographs), metrics.told(values))
        return values, {"denoising": measured.seconds}
    started = time.perf_counter()
    drawn = evaluation.sample_all(trained, images, config)
    seconds = time.perf_counter() - started
    values = evaluation.measure(drawn, images, config)
    truth = evaluation.truth_of(drawn[""], images, config)
    artifacts.write_samples(folder, drawn, images, truth, config, values, seconds)
    log.info(
        "%d sample(s) in %.1f s, %d evaluations: %s",
        len(images),
        seconds,
        drawn[""].nfe,
        metrics.told(values),
    )
    return values, {"sampling": seconds}
