"""The network of the paper's published runs, to the parameter.

It is the DDPM network in the code of Song et al. 2021 (arXiv 2011.13456; the U-Net of Ho et al.
2020, arXiv 2006.11239, with one attention layer less for every residual block but the last of an
attending level of the up path). diffusers' UNet2DModel, as unet.py builds it, is changed where the
two differ:

- the input is 2x - 1;
- a level of the up path attends once, after its last residual block (diffusers: after each);
- downsampling pads (0, 1, 0, 1), that is at the right and at the bottom (unet.py: on all sides);
- the weights are drawn as in that code, and the output before training is almost 0.

With the config cifar1 it has 35,218,947 parameters, 527,360 fewer than `unet`.
"""

from __future__ import annotations

from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from score_embedding.config.sections import Model
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.unet import UNet

# Scales of the variance of weights, beside 1: of the layers that start near 0, and of convolutions
# of one pixel and the linear layers of attention.
NEAR_ZERO = 1e-10
PIXELWISE = 0.1


def create(
    model: Model, size: tuple[int, int], num_indices: int, timestep_multiplier: float
) -> ScoreNetwork:
    """The network of a config's model section for images of a size (h, w), which tells
    `num_indices` images apart."""
    network = UNet(
        model,
        size,
        num_indices,
        timestep_multiplier,
        center_input_sample=True,  # 2x - 1
        downsample_padding=0,  # diffusers' sign for the padding (0, 1, 0, 1)
    )
    _attend_once(network.unet)
    _initialise(network.unet)
    return network


def _attend_once(unet: UNet2DModel) -> None:
    """On the way up only the last residual block of a level is followed by attention."""
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", None)
        if attentions is not None:
            kept = attentions[-1]
            block.attentions = nn.ModuleList([*(nn.Identity() for _ in attentions[1:]), kept])


def _initialise(unet: UNet2DModel) -> None:
    """Weights uniform with variance scale / ((fan in + fan out) / 2), and biases 0. The embedding
    of the index and the scales of normalisation are left as they are."""
    for module in unet.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _draw(module, 1.0)
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            _draw(module.conv2, NEAR_ZERO)
            if module.conv_shortcut is not None:
                _draw(module.conv_shortcut, PIXELWISE)
        elif isinstance(module, Attention):
            for layer in (module.to_q, module.to_k, module.to_v):
                _draw(layer, PIXELWISE)
            _draw(module.to_out[0], NEAR_ZERO)
    _draw(unet.conv_out, NEAR_ZERO)


def _draw(layer: nn.Conv2d | nn.Linear, scale: float) -> None:
    nn.init.xavier_uniform_(layer.weight, gain=scale**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
