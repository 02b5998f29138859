"""The runs of a sweep and the time that each will take, without running them.

The expected time is that of training and of its evaluations, from one step and one evaluation of
the network, timed on the device. A pre-computation, which depends on the images, is not in it.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from score_embedding.arrays import torch_defaults
from score_embedding.comparison import spec
from score_embedding.comparison.spec import Comparison
from score_embedding.config import unread
from score_embedding.config.schema import AnyConfig
from score_embedding.config.sections import DataLoader, Model
from score_embedding.data.datasets import CROPS
from score_embedding.methods.base import method_of
from score_embedding.methods.network import build, num_indices

ADAPTIVE_NFE = 150  # of an adaptive sampler: what RK45 typically takes at its default tolerance


@dataclass(frozen=True)
class Planned:
    """A run of a comparison that was not begun: its name, its config, its expected seconds."""

    name: str
    config: AnyConfig
    seconds: float


@torch_defaults()
def plan(comparison: Comparison, device: torch.device) -> list[Planned]:
    """The runs of a sweep, or of any comparison of samples, in the order in which they are made."""
    return [
        Planned(job.path.name, job.config, expected_seconds(job.config, device))
        for job in spec.jobs(comparison, Path())
    ]


def expected_seconds(config: AnyConfig, device: torch.device) -> float:
    """Of the training of a run and of its evaluations, under all priors; 0 without training."""
    method, data, training = method_of(config), config.data_loader, config.training
    if not method.trained:
        return 0.0
    n = _number_of_images(data)
    model = method.model()
    step, evaluation = _network_seconds(
        model, data.image_size, data.batch_size, num_indices(model, n), device
    )
    steps = training.epochs * (n if training.steps_per_epoch == "images" else 1)
    trained = min(steps * step, training.seconds or math.inf)
    priors = 1 if config.sample.type == "conditional" else len(spec.PRIORS)
    evaluations = math.floor(trained / config.misc.profile_freq) + 1  # one at the end
    return trained + evaluations * priors * n * _expected_nfe(config) * evaluation


def _number_of_images(data: DataLoader) -> int:
    """As the config has it; folders whose number of images it leaves open count as one image."""
    n = data.num_images or (CROPS if data.crops else len(data.image or data.path or [1]))
    h, w = data.image_size
    return n * ((4 if h == w else 2) if data.rotate_augment else 1)


def _expected_nfe(config: AnyConfig) -> int:
    steps: int | None = config.sample.steps
    if method_of(config).kind.diffusion == "steps":
        return steps or config.diffusion.num_timesteps
    if unread.why_unread(config, "sample.steps") or steps is None:
        return ADAPTIVE_NFE
    return 2 * steps  # at most two evaluations a step


@functools.cache
def _network_seconds(
    model: Model, size: tuple[int, int], batch_size: int, indices: int, device: torch.device
) -> tuple[float, float]:
    """Of a step of training with a batch, and of an evaluation on one image."""
    network = build(model, size, indices, 1.0, 0, device)

    def seconds(count: int, backward: bool) -> float:
        x = torch.zeros(count, model.in_channels, *size, device=device)
        index = torch.zeros(count, dtype=torch.long, device=device)
        started = time.perf_counter()
        with torch.set_grad_enabled(backward):
            y = network(x, torch.ones(count, device=device), index)
            if backward:
                y.square().mean().backward()
        y.sum().item()  # waits for the device
        return time.perf_counter() - started

    seconds(batch_size, backward=True)  # the first one prepares the libraries
    step = seconds(batch_size, backward=True)
    seconds(1, backward=False)
    return step, seconds(1, backward=False)
