"""Training on a data set, Fashion-MNIST: error of held-out images over the training time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_embedding.arrays import normal
from score_embedding.config import loading
from score_embedding.config.schema import AnyConfig
from score_embedding.data.datasets import load_labelled
from score_embedding.methods.base import Known, Method, method_of
from score_embedding.methods.model import build_network
from score_embedding.methods.network import ScoreNetwork
from score_embedding.training.loop import train
from score_embedding.training.warm_up import warm_up

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # noise; images are in [0, 1]
INTERVAL = 10.0  # training seconds between evaluations
RESERVE = 25.0  # seconds for reading, fitting and evaluating, of each method

_OVERRIDES = (
    "diffusion.embedding=residual",
    "diffusion.sigma=12",  # noise of up to 5.4
    "training.epochs=1000000",
    "training.lr=5e-4",
    "training.ema=0.995",
    "training.warmup=100",
    "training.grad_clip=1",
    "model.network=unet",
    "model.dropout=0",
    "model.embedding_method=fourier",
    "sample.prior=matched",
    "sample.solver=heun",
    "sample.steps=18",
    f"misc.profile_freq={INTERVAL}",
)
_FASHION = (
    "data_loader.dataset=fashion_mnist",
    "data_loader.classes=[all]",
    "data_loader.contrast=own",
    "model.ch_mult=[1,2,2]",
)


@dataclass(frozen=True)
class Size:
    """The images trained on (None: all) and held out, the network and the training seconds."""

    images: int | None = None
    held_out: int = 512
    ch: int = 64
    batch: int = 128
    seconds: float = 60.0


TINY = Size(64, 8, 8, 4, 3.0)


def config(density: str, channels: int, changes: list[str]) -> AnyConfig:
    """A residual model of a density on images of 32 x 32, with cifar1's network unless `changes`
    have another."""
    sections = ("data_loader.channels", "model.in_channels", "model.out_channels")
    shape = [f"{key}={channels}" for key in sections]
    overrides = [*_OVERRIDES, f"image_density.kind={density}", *shape, *changes]
    return loading.load("cifar1", overrides)


def fashion(density: str, size: Size, path: Path | None) -> AnyConfig:
    """The config of one method; `path`: the folder of the IDX files, None for the usual places."""
    changes = [*_FASHION, f"model.ch={size.ch}", f"data_loader.batch_size={size.batch}"]
    changes.append(f"data_loader.num_images={size.images or 'null'}")
    if path is not None:
        changes.append(f"data_loader.path={json.dumps([str(path)])}")
    return config(density, 1, changes)


def compared(
    densities: tuple[str, ...],
    size: Size,
    path: Path | None,
    device: torch.device,
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """Rows of each method at each evaluation: training seconds, steps, and the mean squared error
    x 1000 on held-out images at each noise level. At 0 seconds the network is untrained. All in
    about `seconds`, which may leave less than size.seconds for each method."""
    clock = min(size.seconds, max(1.0, seconds / len(densities) - RESERVE))
    options = fashion(densities[0], size, path).data_loader
    images = load_labelled(options).images
    held_out = load_labelled(options, "test").images[: size.held_out].to(device)
    for density in densities:
        yield from _trained(fashion(density, size, path), images, held_out, device, clock)


def _trained(
    config: AnyConfig, images: Tensor, held_out: Tensor, device: torch.device, clock: float
) -> Iterator[dict[str, Any]]:
    limited = config.training.model_copy(update={"seconds": clock})
    config = config.model_copy(update={"training": limited})
    method, images = method_of(config), images.to(device)
    warm_up(method, device)
    known = method.precompute(images, device)
    network = build_network(method, len(images), device)
    before = {"density": config.image_density.kind, "fitting, s": sum(known.seconds.values())}

    def evaluate(network: ScoreNetwork) -> dict[str, float]:
        errors = held_out_errors(method, known, network, held_out)
        print(before, errors, flush=True)
        return errors

    yield before | {"training, s": 0.0, "steps": 0} | evaluate(network)
    history = train(network, method.objective(images, known), config, evaluate=evaluate)
    history.add_final(evaluate(network))
    for row in history.rows:
        errors = {name: row[name] for name in map(str, LEVELS) if name in row}
        if errors:
            yield before | {"training, s": row["training_seconds"], "steps": row["step"]} | errors


@torch.no_grad()
def held_out_errors(
    method: Method, known: Known, network: ScoreNetwork, images: Tensor
) -> dict[str, float]:
    """Mean squared error x 1000 of the denoiser on images (n, c, h, w) at each of LEVELS; noise is
    the same each time."""
    network.eval()
    errors = {}
    for level in LEVELS:
        noise = normal(images.shape, torch.Generator().manual_seed(0)).to(images)
        parts = zip(images.split(256), noise.split(256), strict=True)
        squares = [
            (method.denoise(network, x + level * z, x.new_full((len(x),), level), known) - x) ** 2
            for x, z in parts
        ]
        errors[str(level)] = 1e3 * float(torch.cat(squares).mean())
    return errors
