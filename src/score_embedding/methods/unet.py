"""The U-Net of the paper, as diffusers' UNet2DModel, with the paper's time embeddings."""

from __future__ import annotations

import math
from typing import Any

from diffusers import UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from score_embedding.config.sections import Model
from score_embedding.methods.network import ScoreNetwork, memory_format


def create(
    model: Model, size: tuple[int, int], num_indices: int, timestep_multiplier: float
) -> ScoreNetwork:
    """The network of a config's model section for images of a size (h, w), which tells
    `num_indices` images apart."""
    return UNet(model, size, num_indices, timestep_multiplier)


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


class ResidualBlock(ResnetBlock2D):  # type: ignore[misc]
    """diffusers' residual block, which keeps the memory format of its input in training, too.

    Where `training` is set, ResnetBlock2D.forward copies the input of its shortcut into NCHW, to
    avoid a warning of DistributedDataParallel, and in channels-last memory that convolution has to
    copy it back. It reads `training` for nothing else; dropout is a module with its own.
    """

    def train(self, mode: bool = True) -> ResidualBlock:
        super().train(mode)
        self.training = False
        return self


class UNet(ScoreNetwork):
    """s_theta(x, t): images (b, c, h, w), times (b,) and image indices (b,) to scores like x.

    The index is needed when the network was built for several images; it is added to the time
    embedding, as in the paper. With one image it may be left out.
    """

    def __init__(
        self,
        model: Model,
        size: tuple[int, int],
        num_images: int,
        timestep_multiplier: float,
        **options: Any,
    ):
        """`options`: more arguments of UNet2DModel."""
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
            **options,
        )
        unet.time_proj = TimeProjection(
            model.embedding_method, model.ch, timestep_multiplier, model.max_positions
        )
        if not model.resample_with_conv:
            _resample_without_convolution(unet)
        for module in unet.modules():
            if isinstance(module, ResnetBlock2D):
                module.__class__ = ResidualBlock
        self.unet = unet.train()
        self.ch = model.ch

    def forward(self, x: Tensor, t: Tensor, index: Tensor | None = None) -> Tensor:
        if self.unet.class_embedding is None:
            index = None
        x = x.contiguous(memory_format=memory_format(self.ch, x.device))
        score: Tensor = self.unet(x, t, class_labels=index, return_dict=False)[0]
        return score

    def zero_output(self) -> None:
        """Make the output 0 everywhere until the next step of training."""
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)


def _resample_without_convolution(unet: UNet2DModel) -> None:
    """Average pooling on the way down, nearest neighbour on the way up."""
    for block in unet.down_blocks:
        for downsampler in block.downsamplers or []:
            downsampler.use_conv, downsampler.conv = False, nn.AvgPool2d(2)
    for block in unet.up_blocks:
        for upsampler in block.upsamplers or []:
            upsampler.use_conv, upsampler.conv = False, None
