"""Training steps that benchmarks time: plain diffusers, and this package's own.

Plain diffusers is what a user would write: UNet2DModel of the same size, noise of a random step of
DDPM, mean squared error, backward, Adam. It neither clips gradients nor averages weights. The step
of this package is that of its training loop: drawing the batch, the loss and its check, the
gradient's norm, the optimiser, and the average of the weights where the config has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from score_embedding.config.schema import AnyConfig
from score_embedding.config.sections import Model
from score_embedding.methods.base import method_of
from score_embedding.methods.model import build_network
from score_embedding.training import loop
from score_embedding.training import state as training_state

Step = Callable[[], None]


@dataclass(frozen=True)
class Variant:
    """How a step is computed.

    package : this package's step, which chooses memory format and optimiser itself, instead of that
        of plain diffusers.
    channels_last : memory format of weights and images.
    fused : Adam in one kernel; False is torch's default for the device.
    bfloat16 : autocast of the network.
    compiled : torch.compile of the network.
    tf32 : of matrix products and convolutions in float32 on CUDA; None leaves torch's defaults,
        which have it in convolutions only.
    """

    package: bool = False
    channels_last: bool = False
    fused: bool = False
    bfloat16: bool = False
    compiled: bool = False
    tf32: bool | None = None


def prepared(variant: Variant, config: AnyConfig, images: Tensor) -> Step:
    """A function that does one step with the batch and network of a config on images (n, c, h, w),
    on their device."""
    if variant.package:
        return with_tf32(package_step(config, images, variant), variant.tf32)
    count = config.data_loader.batch_size
    batch = images.repeat(-(-count // len(images)), 1, 1, 1)[:count]
    return with_tf32(diffusers_step(config.model, batch, variant), variant.tf32)


def diffusers_step(model: Model, images: Tensor, variant: Variant) -> Step:
    """A step of plain diffusers on a batch of images (b, c, h, w), on their device."""
    device = images.device
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    network = plain_unet(model, images).to(device).to(memory_format=layout).train()
    images = images.contiguous(memory_format=layout)
    fused = True if variant.fused else None
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-4, fused=fused)
    scheduler = DDPMScheduler()
    forward = torch.compile(network) if variant.compiled else network

    def step() -> None:
        noise = torch.randn_like(images)
        steps = scheduler.config.num_train_timesteps
        t = torch.randint(steps, (len(images),), device=device)
        noisy = scheduler.add_noise(images, noise, t)
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.bfloat16):
            predicted = forward(noisy, t).sample
        loss = nn.functional.mse_loss(predicted.float(), noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def plain_unet(model: Model, images: Tensor) -> UNet2DModel:
    """diffusers' U-Net of the size of a config's model section, for images (b, c, h, w)."""
    side = images.shape[-1]
    levels = range(len(model.ch_mult))
    attends = [side >> level in model.attention_resolutions for level in levels]
    return UNet2DModel(
        sample_size=side,
        in_channels=images.shape[1],
        out_channels=images.shape[1],
        block_out_channels=[model.ch * mult for mult in model.ch_mult],
        layers_per_block=model.num_res_blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        dropout=model.dropout,
        attention_head_dim=None,  # one head
        norm_num_groups=math.gcd(32, model.ch),
        add_attention=bool(model.attention_resolutions),
    )


def package_step(config: AnyConfig, images: Tensor, variant: Variant) -> Step:
    """A step of this package's training loop with a config on images (n, c, h, w)."""
    precision = "bfloat16" if variant.bfloat16 else "float32"
    changes = {"precision": precision, "compile": variant.compiled}
    training = config.training.model_copy(update=changes)
    config = config.model_copy(update={"training": training})
    method, device = method_of(config), images.device
    known = method.precompute(images, device)
    network = build_network(method, len(images), device)
    objective = method.objective(images, known)
    state = training_state.start(network, training, device, {}, 0.0)
    forward = loop.forward_of(network, config, device)
    return lambda: loop.step(forward, state, objective, config)


def with_tf32(step: Step, allowed: bool | None) -> Step:
    """The step with or without TF32; None is torch's default."""

    def chosen() -> None:
        with tf32(allowed):
            step()

    return chosen


@contextmanager
def tf32(allowed: bool | None) -> Iterator[None]:
    """TF32 in float32 matrix products and convolutions on CUDA within it; None changes nothing."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            if allowed is not None:
                setting.allow_tf32 = allowed
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


PLAIN = "diffusers, eager"

# What each change makes of plain diffusers, and what this package makes of a step.
EAGER = {
    PLAIN: Variant(),
    "diffusers, channels-last": Variant(channels_last=True),
    "diffusers, fused Adam": Variant(fused=True),
    "diffusers, channels-last, fused Adam": Variant(channels_last=True, fused=True),
    "diffusers, bfloat16": Variant(bfloat16=True),
    "diffusers, channels-last, fused Adam, bfloat16": Variant(
        channels_last=True, fused=True, bfloat16=True
    ),
    "this package": Variant(package=True),
    "this package, bfloat16": Variant(package=True, bfloat16=True),
}
TF32 = {
    "diffusers, no TF32": Variant(tf32=False),
    "this package, no TF32": Variant(package=True, tf32=False),
    "this package, TF32 everywhere": Variant(package=True, tf32=True),
}
COMPILED = {
    "this package, compiled, bfloat16": Variant(package=True, compiled=True, bfloat16=True),
    "this package, compiled": Variant(package=True, compiled=True),
}
