"""What a trained method is measured by: its samples, or what it makes of photographs held out."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from score_embedding.config.schema import AnyConfig
from score_embedding.data.datasets import load_held_out
from score_embedding.evaluation import held_out, metrics
from score_embedding.methods.model import Trained
from score_embedding.methods.samplers import Samples


def sample_all(trained: Trained, images: Tensor, config: AnyConfig) -> dict[str, Samples]:
    """Samples from sample.prior, under the name "", and from each other prior of
    misc.profile_priors, under its own."""
    drawn = {"": trained.sample(images)}
    for prior in config.misc.profile_priors:
        if prior != config.sample.prior and config.sample.type == "unconditional":
            options = config.sample.model_copy(update={"prior": prior})
            other = config.model_copy(update={"sample": options})
            drawn[prior] = dataclasses.replace(trained, config=other).sample(images)
    return drawn


def photographs_of(config: AnyConfig, device: torch.device) -> dict[str, Tensor]:
    """The photographs of held_out by their names, on the device; none without it."""
    if config.held_out is None:
        return {}
    found = load_held_out(config.held_out, config.data_loader.channels)
    return {name: photograph.to(device) for name, photograph in found.items()}


def measured_now(
    trained: Trained, images: Tensor, photographs: dict[str, Tensor], config: AnyConfig
) -> dict[str, float]:
    """The metrics of an evaluation: of denoising what is held out, or of samples."""
    if config.held_out is None:
        return measure(sample_all(trained, images, config), images, config)
    return held_out.measure(trained.denoise, photographs, config.held_out.levels).means()


def measure(drawn: dict[str, Samples], images: Tensor, config: AnyConfig) -> dict[str, float]:
    """The metrics of the samples and what they cost in function evaluations; those of another prior
    than the config's carry its name in front: matched_ssim_minmax."""
    values: dict[str, float] = {}
    for name, samples in drawn.items():
        truth = images[truth_of(samples, images, config)]
        found = {**metrics.evaluate(samples.x, truth), "nfe": float(samples.nfe)}
        prefix = f"{name}_" if name else ""
        values |= {prefix + key: value for key, value in found.items()}
    return values


def truth_of(samples: Samples, images: Tensor, config: AnyConfig) -> Tensor:
    """Which of the images each sample is compared with: the one it was meant to be or, where
    nothing tells the method which one is meant, the one it is nearest to."""
    if config.tells_index:
        return torch.arange(len(images), device=images.device)
    return metrics.nearest(samples.x, images)
