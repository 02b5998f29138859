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

from score_embedding import (
    artifacts,
    checkpoint,
    environment,
    metrics,
    precomputation,
    report,
    run_folder,
)
from score_embedding import network as networks
from score_embedding.config import Config, Sample
from score_embedding.data import load_dataset
from score_embedding.errors import DivergenceError
from score_embedding.network import ScoreNetwork
from score_embedding.precomputation import EmbeddedImages, Precomputed
from score_embedding.run_folder import RunFolder
from score_embedding.sampling import Samples, draw
from score_embedding.sde import VarianceExploding
from score_embedding.training import History, train

log = logging.getLogger(__name__)

SHOWN = 16  # images whose fields are kept where not all are


def run(config: Config, path: Path, device: torch.device, profile: bool, overwrite: bool) -> None:
    """Train a model of `config` and leave its run folder at `path`.

    Nothing is created or removed before the config, the images and the folder were found good.

    Raises
    ------
    ScoreEmbeddingError : one of its kinds, named and with the remedy.
    """
    started = time.perf_counter()
    run_folder.check_free(path, config, overwrite)
    images = load_dataset(config.data_loader)
    precomputation.check(images, config.diffusion)
    folder = run_folder.create(path, config)
    description = environment.describe(device, config.training.seed)
    run_folder.write_json(folder / run_folder.ENVIRONMENT, description)

    precomputed, embedded = precompute(images, config, device)
    artifacts.write_scores(folder, images, precomputed)

    images = images.to(device)
    network = build_network(config, len(images), device)
    log.info("network of %.1f M parameters on %s", network.num_parameters / 1e6, device)
    with dumping_divergence(folder, network):
        history = train_network(
            network, images, embedded, config, sum(precomputed.seconds.values()), profile
        )
        checkpoint.save(folder, network, history.step, history.training_seconds)
        artifacts.write_metrics(folder, history)
        values, sampling_seconds = sample_into(folder, network, images, config)
    history.rows[-1].update(values)
    artifacts.write_metrics(folder, history)

    seconds = {
        **precomputed.seconds,
        "training": history.training_seconds - sum(precomputed.seconds.values()),
        "evaluation": history.evaluation_seconds,
        "sampling": sampling_seconds,
    }
    seconds["total"] = time.perf_counter() - started
    run_folder.write_json(folder / run_folder.TIMING, seconds)
    report.write(folder)


def precompute(
    images: Tensor, config: Config, device: torch.device
) -> tuple[Precomputed, Tensor | EmbeddedImages]:
    """Everything that is known before training, and the embedded images for it on `device`.

    Of more images than fit into memory only the first SHOWN are computed now, for the pictures.
    """
    images = images.to(solver_device(device))
    if precomputation.fits_in_memory(images, config.diffusion):
        precomputed = precomputation.precompute(images, config.diffusion, config.misc)
        log.info("%s", precomputed.diagnostics.summary())
        return precomputed, precomputed.embedded.to(device)
    started = time.perf_counter()
    embedded = EmbeddedImages(images, config.diffusion, config.misc, device)
    seconds = {"density": time.perf_counter() - started, "solve": 0.0, "embedding": 0.0}
    shown = precomputation.precompute(images[:SHOWN], config.diffusion, config.misc)
    log.info("log-density of %d images; their scores are computed during training", len(images))
    return dataclasses.replace(shown, seconds=seconds), embedded


def solver_device(device: torch.device) -> torch.device:
    """`device`, or the CPU where that has no float64 (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


def train_network(
    network: ScoreNetwork,
    images: Tensor,
    embedded: Tensor | EmbeddedImages,
    config: Config,
    precompute_seconds: float,
    profile: bool,
) -> History:
    """Train on the embedded images; with `profile` sample and measure along the way."""

    def evaluate(network: ScoreNetwork) -> dict[str, float]:
        return measure(sample(network, images, config), images)

    return train(
        network,
        embedded,
        config,
        precompute_seconds,
        evaluate=evaluate if profile else None,
    )


@contextmanager
def dumping_divergence(folder: RunFolder, network: ScoreNetwork) -> Iterator[None]:
    """A loss or score that is not finite leaves the weights, and the batch, in the folder."""
    try:
        yield
    except DivergenceError as error:
        artifacts.write_divergence(folder, network, error)
        log.error("what reproduces it is in %s", folder / run_folder.DUMP)
        raise


def sample_again(path: Path, device: torch.device, options: Sample, seed: int) -> None:
    """New samples from the trained model of a run folder, into it, and the report made anew.

    `options` and `seed` say how to sample; all else is as the model was trained.
    """
    needs = (run_folder.WEIGHTS, run_folder.SCORES, run_folder.METRICS)
    folder, config = run_folder.open_existing(path, needs)
    arrays = run_folder.read_arrays(folder / run_folder.SCORES, "images")
    images = torch.from_numpy(arrays["images"]).to(device)
    network = build_network(config, len(images), device)
    state = checkpoint.load(folder, network)
    log.info("model of %d steps loaded from %s", state["step"], path)
    training = config.training.model_copy(update={"seed": seed})
    config = config.model_copy(update={"sample": options, "training": training})
    sample_into(folder, network, images, config)
    report.write(folder)


def solve(config: Config, path: Path, device: torch.device) -> None:
    """Only the pre-computation of the config's images, into the folder `path`.

    Of more images than fit into memory all scores go to a file of their own, block by block; the
    other fields, and the picture, are those of the first SHOWN.
    """
    diffusion, misc = config.diffusion, config.misc
    images = load_dataset(config.data_loader).to(solver_device(device))
    many = not precomputation.fits_in_memory(images, diffusion)
    precomputed = precomputation.precompute(images[:SHOWN] if many else images, diffusion, misc)
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    if many:
        with run_folder.replacing(folder / run_folder.ALL_SCORES) as partial:
            diagnostics = precomputation.write_scores(images, diffusion, misc, partial)
        precomputed = dataclasses.replace(precomputed, diagnostics=diagnostics)
    log.info("%s", precomputed.diagnostics.summary())
    artifacts.write_scores(folder, images, precomputed)
    artifacts.write_diagnostics(folder, len(images), precomputed, config)


def build_network(config: Config, num_images: int, device: torch.device) -> ScoreNetwork:
    """The config's network, with an index embedding for at least `num_images` images."""
    return networks.build(
        config.model,
        config.data_loader.image_size,
        max(num_images, config.model.num_images or 1),
        config.training.timestep_multiplier,
        config.training.seed,
        device,
    )


def sample(network: ScoreNetwork, images: Tensor, config: Config) -> Samples:
    """One sample for each image, dropout off."""
    network.eval()
    index = torch.arange(len(images), device=images.device)
    return draw(
        lambda x, t: network(x, t, index),
        images,
        VarianceExploding(config.diffusion.sigma),
        config.sample,
        config.misc.eps,
        config.training.seed,
    )


def measure(samples: Samples, images: Tensor) -> dict[str, float]:
    """The metrics of the samples, and what they cost in function evaluations."""
    return {**metrics.evaluate(samples.x, images), "nfe": float(samples.nfe)}


def sample_into(
    folder: RunFolder, network: ScoreNetwork, images: Tensor, config: Config
) -> tuple[dict[str, float], float]:
    """Samples into the run folder; returns their metrics and the seconds it took to draw them."""
    started = time.perf_counter()
    samples = sample(network, images, config)
    seconds = time.perf_counter() - started
    values = measure(samples, images)
    artifacts.write_samples(folder, samples, images, config, values, seconds)
    log.info(
        "%d sample(s) in %.1f s, %d evaluations: SSIM %.4f (min-max), %.4f (clipped)",
        len(samples.x),
        seconds,
        samples.nfe,
        values["ssim_minmax"],
        values["ssim_clipped"],
    )
    return values, seconds
