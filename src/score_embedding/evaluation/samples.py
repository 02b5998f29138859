"""What a trained model is measured by: its samples, or its denoising of held-out photographs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_embedding.config.schema import AnyConfig
from score_embedding.data.datasets import load_held_out, load_held_out_images
from score_embedding.evaluation import held_out, held_out_set, metrics
from score_embedding.evaluation.held_out import Measured
from score_embedding.evaluation.held_out_set import MeasuredSet
from score_embedding.methods.model import TrainedModel
from score_embedding.methods.samplers import Kept, Samples


def sample_all(
    model: TrainedModel,
    images: Tensor,
    count: int | None = None,
    kept: Callable[[str], Kept] | None = None,
) -> dict[str, Samples]:
    """Samples from sample.prior, under the name "", and from each other prior of
    misc.profile_priors, under its own; `count` of each, by default sample.count, else one for each
    image. `kept` of a prior has the batches that are drawn already."""
    config = model.config
    count = config.sample.count if count is None else count
    drawn = {"": model.sample(images, count, kept("") if kept else None)}
    for prior in config.misc.profile_priors:
        if prior != config.sample.prior and config.sample.type == "unconditional":
            options = config.sample.model_copy(update={"prior": prior})
            other = config.model_copy(update={"sample": options})
            own = kept(prior) if kept else None
            drawn[prior] = model.with_config(other).sample(images, count, own)
    return drawn


HeldOut = dict[str, Tensor] | Tensor  # photographs by their names, or images of a data set


def held_out_of(config: AnyConfig, device: torch.device) -> HeldOut:
    """What a config holds out, on the device; no photographs where it has no held_out."""
    if config.held_out is None:
        return {}
    if config.held_out.of_dataset:
        return load_held_out_images(config).to(device)
    return on_device(load_held_out(config.held_out, config.data_loader.channels), device)


def on_device(held: HeldOut, device: torch.device) -> HeldOut:
    """The same on the device."""
    if isinstance(held, Tensor):
        return held.to(device)
    return {name: photograph.to(device) for name, photograph in held.items()}


def denoise(model: TrainedModel, held: HeldOut) -> Measured | MeasuredSet:
    """How well the model denoises what its config holds out."""
    assert model.config.held_out is not None
    levels = model.config.held_out.levels
    if isinstance(held, Tensor):
        return held_out_set.measure(model.denoise, held, levels)
    return held_out.measure(model.denoise, held, levels)


def evaluate(model: TrainedModel, images: Tensor, held: HeldOut) -> dict[str, float]:
    """The metrics of an evaluation: of denoising what is held out, or of samples."""
    if model.config.held_out is None:
        return measure(model, sample_all(model, images), images)
    return denoise(model, held).means()


def measure(model: TrainedModel, drawn: dict[str, Samples], images: Tensor) -> dict[str, float]:
    """The metrics of the samples and their cost in function evaluations; those of another prior
    than the config's have its name as prefix: matched_ssim_minmax. With held_out nothing is
    compared with training images: only the cost."""
    if model.config.held_out is not None:
        return {"nfe": float(drawn[""].nfe)}
    values: dict[str, float] = {}
    for name, samples in drawn.items():
        truth = images[truth_of(model, samples, images)]
        found = {**metrics.evaluate(samples.x, truth), "nfe": float(samples.nfe)}
        prefix = f"{name}_" if name else ""
        values |= {prefix + key: value for key, value in found.items()}
    return values


def truth_of(model: TrainedModel, samples: Samples, images: Tensor) -> Tensor:
    """Which of the images each sample is compared with: the one it was meant to be or, where the
    model is not conditioned on that, the nearest one; of none with held_out."""
    if model.config.held_out is not None:
        return torch.empty(0, dtype=torch.long, device=images.device)
    if model.method.uses_index:
        return torch.arange(len(samples.x), device=images.device) % len(images)
    return metrics.nearest(samples.x, images)
