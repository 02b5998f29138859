"""The run, top to bottom: images, pre-computation, training, samples, report."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from score_embedding import atomic_files, results
from score_embedding.arrays import torch_defaults, with_float64
from score_embedding.config.schema import AnyConfig, Config
from score_embedding.config.sections import DiscreteSample, Sample
from score_embedding.data.datasets import check_apart, load_dataset, load_training
from score_embedding.errors import ConfigError, DivergenceError
from score_embedding.evaluation import metrics
from score_embedding.evaluation import samples as evaluation
from score_embedding.evaluation.samples import HeldOut
from score_embedding.methods import precomputation
from score_embedding.methods.base import Known, Method, method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.methods.network import ScoreNetwork
from score_embedding.report import content, pictures, render
from score_embedding.runs import artifacts, environment, loading, resources
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder
from score_embedding.training import checkpoints, signals
from score_embedding.training.checkpoints import Checkpoints
from score_embedding.training.loop import train
from score_embedding.training.state import History
from score_embedding.training.warm_up import warm_up

log = logging.getLogger(__name__)


@torch_defaults()
def run(
    config: AnyConfig,
    path: Path,
    device: torch.device,
    profile: bool,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Train a model of `config` and leave its run folder at `path`; with `resume` continue the run
    that is there.

    Nothing is created or removed before the config, the images and the folder were found good. A
    run that is overwritten stays until the pre-computation of the new one has come to its end.

    Raises
    ------
    ScoreEmbeddingError : one of its kinds, named and with the remedy.
    Interrupted : SIGINT or SIGTERM came; while training, a checkpoint is written first.
    """
    started = time.perf_counter()
    method = method_of(config)
    run_folder.check(path, config, overwrite, resume)
    data = load_training(config)
    images = data.images
    held = check(images, method)
    resources.check(config, len(images), device, path)
    with (
        run_folder.locked_for(path, config, overwrite, resume),
        signals.handled(),
        contextlib.ExitStack() as until_end,
    ):
        known = _precompute(method, images, device) if overwrite else None
        until_end.enter_context(signals.advising("what was done is kept, --resume continues"))
        folder = RunFolder(path) if resume else run_folder.create(path, config)
        _describe_environment(folder, config, images, device, resume)
        known = known or _precompute(method, images, device)
        method.save(path, images, known)
        if run_folder.SCORES in method.kind.files:
            pictures.write(path, run_folder.SCORES)
        model, history, seconds = train_model(
            folder, images, method, known, device, profile, data.labels, held
        )
        with dumping_divergence(folder, model.network):
            values, stage = results.finish(folder, model, images.to(device), held)
        seconds |= stage
        history.add_final(values)
        artifacts.write_metrics(folder, history)

        seconds["total"] = time.perf_counter() - started
        atomic_files.write_json(folder / run_folder.TIMING, seconds)
        render.write(folder)
        run_folder.remove_checkpoints(path)


def check(images: Tensor, method: Method) -> HeldOut:
    """What the config holds out. Raises DataError or ConfigError where the images cannot be trained
    on as asked, where there is no such class to sample, or where what is held out cannot be read or
    is trained on."""
    method.check(images)
    method.sampled_index(1, 1)
    config = method.config
    if config.held_out is None and min(images.shape[2:]) < metrics.LEAST_SIDE:
        h, w = images.shape[2:]
        raise ConfigError(
            f"data_loader.image_size: {h}x{w}: SSIM needs sides of {metrics.LEAST_SIDE} or more"
        )
    if config.held_out and not config.held_out.of_dataset:
        check_apart(config.held_out, config.data_loader)
    return evaluation.held_out_of(config, torch.device("cpu"))


def _precompute(method: Method, images: Tensor, device: torch.device) -> Known:
    warm_up(method, device)
    return method.precompute(images, device)


def train_model(
    folder: RunFolder,
    images: Tensor,
    method: Method,
    known: Known,
    device: torch.device,
    profile: bool,
    labels: Tensor | None = None,
    held: HeldOut | None = None,
) -> tuple[TrainedModel, History, dict[str, float]]:
    """The trained model of images (n, c, h, w) with labels (n,), saved in the folder, the history
    of its training and stage seconds; with `profile` it is evaluated during training, on what is
    `held` out where the config holds out anything."""
    config, clock = method.config, sum(known.seconds.values())
    if not method.trained:
        history = History([{"step": 0, "training_seconds": clock}], clock, 0.0, known.seconds)
        seconds = {**known.seconds, "training": 0.0, "evaluation": 0.0}
        return TrainedModel(method, None, known), history, seconds
    images = images.to(device)
    labels = None if labels is None else labels.to(device)
    objective = method.objective(images, known, labels)
    network = build_network(method, len(images), device)
    log.info("network of %.1f M parameters on %s", network.num_parameters / 1e6, device)
    held = evaluation.on_device({} if held is None else held, device)

    def evaluate(network: ScoreNetwork) -> dict[str, float]:
        return evaluation.evaluate(TrainedModel(method, network, known), images, held)

    with dumping_divergence(folder, network):
        history = train(
            network,
            objective,
            config,
            known.seconds,
            evaluate if profile else None,
            Checkpoints(folder, config.misc.checkpoint_freq),
            metrics.format_metrics,
        )
    checkpoints.save(folder, network, history)
    artifacts.write_metrics(folder, history)
    before = sum(history.precompute_seconds.values())
    if not history.rows:
        log.warning(
            "warning: no step was trained: training.seconds is %g, and what is computed before "
            "training took %.1f s of it; give more",
            config.training.seconds or 0,
            before,
        )
    stages = {
        "training": history.training_seconds - before,
        "evaluation": history.evaluation_seconds,
    }
    return TrainedModel(method, network, known), history, {**history.precompute_seconds, **stages}


@contextlib.contextmanager
def dumping_divergence(folder: RunFolder, network: ScoreNetwork | None) -> Iterator[None]:
    """A loss or score that is not finite leaves the weights, and the batch, in the folder."""
    try:
        yield
    except DivergenceError as error:
        artifacts.write_divergence(folder, network, error)
        log.error("what reproduces it is in %s", folder / run_folder.DUMP)
        raise


@torch_defaults()
def sample_again(
    path: Path,
    device: torch.device,
    options: Sample | DiscreteSample,
    seed: int,
    count: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """New samples from the trained model of a run folder: into it, with the report made anew, or
    into the folder `out`.

    `options` and `seed` say how to sample, the rest is as the model was trained. `count`: how many
    samples; by default options.count, else one for each training image. Of a run that draws no
    samples, photographs are denoised again.

    Raises
    ------
    RunFolderError : samples are there already and `overwrite` is not given; `out` is the folder of
        another run.
    """
    folder, config = run_folder.open_existing(path)
    method = method_of(config)
    needed = dict.fromkeys((*needed_to_sample(method), *content.needs(config)))
    run_folder.check_has(path, tuple(needed))
    content.read_course(folder)  # found damaged before the samples are replaced
    target = RunFolder(out or path)
    elsewhere = target.path.resolve() != path.resolve()
    training = config.training.model_copy(update={"seed": seed})
    again = config.model_copy(update={"sample": options, "training": training})
    method_of(again).sampled_index(1, 1)  # finds a class that there is not
    result = run_folder.SAMPLES if again.draws_samples else run_folder.DENOISED
    run_folder.check_place(target.path)
    if elsewhere:
        run_folder.check_no_run(target.path)
    run_folder.check_not_there(target, result, overwrite)
    images = artifacts.start_images(folder, method_of(again)).to(device)
    if again.draws_samples:
        resources.check_sampling(again, len(images), count, device, target.path)
    model = loading.load_model(folder, config, len(images), device).with_config(again)
    with run_folder.locked(target.path):
        run_folder.check_not_there(target, result, overwrite)  # others may have sampled since
        if again.draws_samples:
            results.draw_samples(target, model, images, count, folder.path, overwrite)
        else:
            results.denoise(target, model, evaluation.held_out_of(config, device))
        if not elsewhere:
            render.write(folder)


def needed_to_sample(method: Method) -> tuple[str, ...]:
    """The files of a run folder that samples are drawn, or photographs denoised, from."""
    needed = [run_folder.WEIGHTS] if method.trained else []
    needed += [run_folder.METRICS, *method.kind.files]
    if method.config.held_out is None:
        needed.append(method.images_file)
    return tuple(needed)


@torch_defaults()
def solve(config: Config, path: Path, device: torch.device, overwrite: bool = False) -> None:
    """Only the pre-computation of the config's images, into the folder `path`.

    Raises RunFolderError where it is a run folder, or has scores already and `overwrite` is not
    given.

    Of more images than fit into memory all scores go to a file of their own, block by block; the
    other fields, and the picture, are those of the first SHOWN.
    """
    run_folder.check_no_run(path)
    run_folder.check_not_there(RunFolder(path), run_folder.SCORES, overwrite)
    diffusion, misc = config.diffusion, config.misc
    images = load_dataset(config.data_loader).to(with_float64(device))
    resources.check_fits("solve", resources.need_of_solve(config, len(images)), device, path)
    many = not precomputation.fits_in_memory(images, diffusion)
    sources = precomputation.score_sources(images, diffusion)
    shown = precomputation.SHOWN if many else len(images)
    precomputed = precomputation.precompute(images[:shown], diffusion, misc, sources[:shown])
    folder = RunFolder(path)
    with run_folder.locked(path):
        # Others may have solved since.
        run_folder.check_not_there(folder, run_folder.SCORES, overwrite)
        if many:
            with atomic_files.replacing(folder / run_folder.ALL_SCORES) as partial:
                diagnostics = precomputation.write_all_scores(images, diffusion, misc, partial)
            precomputed = dataclasses.replace(precomputed, diagnostics=diagnostics)
        else:
            (folder / run_folder.ALL_SCORES).unlink(missing_ok=True)  # of an earlier solve
        log.info("%s", precomputed.diagnostics.summary())
        precomputation.save(folder / run_folder.SCORES, images, precomputed)
        pictures.write(path, run_folder.SCORES)
        artifacts.write_diagnostics(folder, len(images), precomputed, config)


def _describe_environment(
    folder: RunFolder, config: AnyConfig, images: Tensor, device: torch.device, resume: bool
) -> None:
    """environment.json; of a run that is continued it is compared with the one it began in."""
    description = environment.describe(device, config.training.seed, images)
    if resume and folder.has(run_folder.ENVIRONMENT):
        before = atomic_files.read_json(folder / run_folder.ENVIRONMENT)
        environment.check_same(before, description, folder.path)
    atomic_files.write_json(folder / run_folder.ENVIRONMENT, description)
