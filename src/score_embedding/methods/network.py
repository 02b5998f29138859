"""The time-conditioned U-Net: diffusers' UNet2DModel, configured to the published network.

At ch = 128 with ch_mult [1, 2, 2, 2] it has about 35 million parameters. Two things are not in
UNet2DModel and are exchanged here: the embedding of continuous time, and resampling without a
convolution.
"""

from __future__ import annotations

import math

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from score_embedding.config.schema import AnyConfig, Config
from score_embedding.config.sections import Model


class TimeProjection(nn.Module):
    """Time (b,) to features (b, ch), before the two linear layers with SiLU.

    "linear" repeats t * multiplier over all features; "fourier" takes sines and cosines of
    t * multiplier with frequencies from 1 down to 1 / max_positions.
    """

    def __init__(self, method: str, ch: int, multiplier: float, max_positions: float):
        super().__init__()
        self.method, self.ch = method, ch
        self.multiplier, self.max_positions = multiplier, max_positions

    def forward(self, t: Tensor) -> Tensor:
        scaled = t * self.multiplier
        if self.method == "linear":
            return scaled[:, None].expand(-1, self.ch)
        features: Tensor = get_timestep_embedding(
            scaled, self.ch, downscale_freq_shift=1, max_period=self.max_positions
        )
        return features


class ScoreNetwork(nn.Module):
    """s_theta(x, t): images (b, c, h, w), times (b,) and image indices (b,) to scores like x.

    The index is needed when the network was built for several images; it is added to the time
    embedding, as in the paper. With one image it may be left out.
    """

    def __init__(
        self, model: Model, size: tuple[int, int], num_images: int, timestep_multiplier: float
    ):
        super().__init__()
        levels = len(model.ch_mult)
        # A level attends where its longer side is one of attention_resolutions.
        attends = [(max(size) >> level) in model.attention_resolutions for level in range(levels)]
        down = ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends]
        up = ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)]
        unet = UNet2DModel(
            sample_size=size,
            in_channels=model.in_channels,
            out_channels=model.out_channels,
            block_out_channels=[model.ch * mult for mult in model.ch_mult],
            layers_per_block=model.num_res_blocks,
            down_block_types=down,
            up_block_types=up,
            dropout=model.dropout,
            attention_head_dim=None,  # one head
            # In the middle, too, unless there is none at all: it looks at a whole image at once,
            # and does not serve images of another size than it was trained on.
            add_attention=bool(model.attention_resolutions),
            norm_num_groups=math.gcd(32, model.ch),
            norm_eps=1e-6,
            num_class_embeds=num_images if num_images > 1 else None,
        )
        unet.time_proj = TimeProjection(
            model.embedding_method, model.ch, timestep_multiplier, model.max_positions
        )
        if not model.resample_with_conv:
            _resample_without_convolution(unet)
        self.unet = unet
        self.ch = model.ch

    def forward(self, x: Tensor, t: Tensor, index: Tensor | None = None) -> Tensor:
        if self.unet.class_embedding is None:
            index = None
        x = x.contiguous(memory_format=memory_format(self.ch, x.device))
        score: Tensor = self.unet(x, t, class_labels=index, return_dict=False)[0]
        return score

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


def model_of(config: AnyConfig) -> Model:
    """The config's model as its method needs it. A residual network is given the denoiser's answer
    beside the image, unless that tells it nothing; neither it nor a network that is measured on
    other photographs is told which image is meant."""
    model = config.model
    residual = isinstance(config, Config) and config.residual
    if residual or config.held_out:
        model = model.model_copy(update={"image_index": False})
    if isinstance(config, Config) and residual and config.image_density.kind != "white":
        model = model.model_copy(update={"in_channels": 2 * model.in_channels})
    return model


def num_indices(model: Model, num_images: int) -> int:
    """How many images the network tells apart: at least `num_images`, unless it is not to be told
    which one is meant."""
    return max(num_images, model.num_images or 1) if model.image_index else 1


def _resample_without_convolution(unet: UNet2DModel) -> None:
    """Average pooling on the way down, nearest neighbour on the way up."""
    for block in unet.down_blocks:
        for downsampler in block.downsamplers or []:
            downsampler.use_conv, downsampler.conv = False, nn.AvgPool2d(2)
    for block in unet.up_blocks:
        for upsampler in block.upsamplers or []:
            upsampler.use_conv, upsampler.conv = False, None


def build(
    model: Model,
    size: tuple[int, int],
    num_images: int,
    timestep_multiplier: float,
    seed: int,
    device: torch.device,
) -> ScoreNetwork:
    """A network with weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        network = ScoreNetwork(model, size, num_images, timestep_multiplier)
    layout = memory_format(model.ch, device)
    on_device: ScoreNetwork = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    return on_device


def memory_format(ch: int, device: torch.device) -> torch.memory_format:
    """Channels-last, in which wide convolutions are fastest; narrow ones on the CPU are not
    (benchmarks/training_step.py)."""
    if device.type == "cpu" and ch < 64:
        return torch.contiguous_format
    return torch.channels_last
