"""What a trained model is measured by: its samples, or its denoising of held-out photographs."""

from __future__ import annotations

import torch
from torch import Tensor

from score_embedding.config.schema import AnyConfig
from score_embedding.data.datasets import load_held_out
from score_embedding.evaluation import held_out, metrics
from score_embedding.methods.model import TrainedModel
from score_embedding.methods.samplers import Samples


def sample_all(model: TrainedModel, images: Tensor, count: int | None = None) -> dict[str, Samples]:
    """Samples from sample.prior, under the name "", and from each other prior of
    misc.profile_priors, under its own; `count` of each, by default one for each image."""
    config = model.config
    drawn = {"": model.sample(images, count)}
    for prior in config.misc.profile_priors:
        if prior != config.sample.prior and config.sample.type == "unconditional":
            options = config.sample.model_copy(update={"prior": prior})
            other = config.model_copy(update={"sample": options})
            drawn[prior] = model.with_config(other).sample(images, count)
    return drawn


def photographs_of(config: AnyConfig, device: torch.device) -> dict[str, Tensor]:
    """The photographs of held_out by their names, on the device; none without it."""
    if config.held_out is None:
        return {}
    found = load_held_out(config.held_out, config.data_loader.channels)
    return {name: photograph.to(device) for name, photograph in found.items()}


def evaluate(
    model: TrainedModel, images: Tensor, photographs: dict[str, Tensor]
) -> dict[str, float]:
    """The metrics of an evaluation: of denoising held-out photographs, or of samples."""
    if model.config.held_out is None:
        return measure(model, sample_all(model, images), images)
    return held_out.measure(model.denoise, photographs, model.config.held_out.levels).means()


def measure(model: TrainedModel, drawn: dict[str, Samples], images: Tensor) -> dict[str, float]:
    """The metrics of the samples and their cost in function evaluations; those of another prior
    than the config's have its name as prefix: matched_ssim_minmax."""
    values: dict[str, float] = {}
    for name, samples in drawn.items():
        truth = images[truth_of(model, samples, images)]
        found = {**metrics.evaluate(samples.x, truth), "nfe": float(samples.nfe)}
        prefix = f"{name}_" if name else ""
        values |= {prefix + key: value for key, value in found.items()}
    return values


def truth_of(model: TrainedModel, samples: Samples, images: Tensor) -> Tensor:
    """Which of the images each sample is compared with: the one it was meant to be or, where the
    model is not conditioned on that, the nearest one."""
    if model.method.uses_index:
        return torch.arange(len(samples.x), device=images.device) % len(images)
    return metrics.nearest(samples.x, images)
