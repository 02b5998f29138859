"""The published network against counts of its parameters and a forward pass written out here."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from command_line import OWN_CONFIGS
from score_embedding.config import loading
from score_embedding.config.sections import Model
from score_embedding.methods.network import build

CPU = torch.device("cpu")
PUBLISHED = [name for name in loading.bundled() if name not in OWN_CONFIGS]


def network_of(size=(32, 32), num_images=1, multiplier=1.0, seed=0, **options):
    return build(Model(**options), size, num_images, multiplier, seed, CPU).eval()


# ------------------------------------------------------------------ the number of parameters


def conv(inside, outside, side=3):
    return side * side * inside * outside + outside


def linear(inside, outside):
    return inside * outside + outside


def block(inside, outside, time=512):
    """Two normalisations and convolutions, the time, and a shortcut between different widths."""
    shortcut = linear(inside, outside) if inside != outside else 0
    norms = 2 * inside + 2 * outside
    return norms + conv(inside, outside) + linear(time, outside) + conv(outside, outside) + shortcut


ATTENTION = 2 * 256 + 4 * linear(256, 256)
PARTS = {
    "conv_in": conv(3, 128),
    "time_embedding": linear(128, 512) + linear(512, 512),
    "down_blocks.0": 2 * block(128, 128) + conv(128, 128),
    "down_blocks.1": block(128, 256) + block(256, 256) + 2 * ATTENTION + conv(256, 256),
    "down_blocks.2": 2 * block(256, 256) + conv(256, 256),
    "down_blocks.3": 2 * block(256, 256),
    "mid_block": 2 * block(256, 256) + ATTENTION,
    "up_blocks.0": 3 * block(512, 256) + conv(256, 256),
    "up_blocks.1": 3 * block(512, 256) + conv(256, 256),
    "up_blocks.2": 2 * block(512, 256) + block(384, 256) + ATTENTION + conv(256, 256),
    "up_blocks.3": block(384, 128) + 2 * block(256, 128),
    "conv_norm_out": 2 * 128,
    "conv_out": conv(128, 3),
}


def test_cifar1_has_the_published_number_of_parameters_part_by_part():
    network = build(loading.load("cifar1").model, (32, 32), 1, 1.0, 0, CPU)
    found = dict.fromkeys(PARTS, 0)
    for name, weight in network.unet.named_parameters():
        (part,) = [part for part in PARTS if name.startswith(f"{part}.")]
        found[part] += weight.numel()
    assert found == PARTS
    assert network.num_parameters == sum(PARTS.values()) == 35_218_947


def test_several_images_add_an_embedding_of_the_index():
    model = loading.load("cifar3_conditional").model
    network = build(model, (32, 32), 3, 1.0, 0, CPU)
    assert network.num_parameters == 35_218_947 + 3 * 4 * 128


def test_the_other_network_attends_twice_more():
    model = loading.load("cifar1", ["model.network=unet"]).model
    network = build(model, (32, 32), 1, 1.0, 0, CPU)
    assert network.num_parameters == 35_218_947 + 527_360
    assert 2 * ATTENTION == 527_360


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_train_the_published_network(name):
    assert loading.load(name).model.network == "published"


@pytest.mark.parametrize("name", ["quickstart", "photographs"])
def test_other_bundled_configs_name_their_network(name):
    assert loading.read(loading.find(name))["model"]["network"] == "unet"


# -------------------------------------------------------------------------- the forward pass


class Reference:
    """The published network, evaluated with the weights of one and nothing else of it."""

    def __init__(self, network, model, multiplier):
        self.weights = {
            name.removeprefix("unet."): w.double() for name, w in network.state_dict().items()
        }
        self.model, self.multiplier = model, multiplier
        self.groups = math.gcd(32, model.ch)

    def layer(self, apply, name, x, **options):
        return apply(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **options)

    def conv(self, name, x, **options):
        return self.layer(F.conv2d, name, x, **options)

    def norm(self, name, x):
        groups = x.unflatten(1, (self.groups, -1))
        mean = groups.mean(dim=(2, 3, 4), keepdim=True)
        variance = (groups - mean).square().mean(dim=(2, 3, 4), keepdim=True)
        x = ((groups - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return x * scale[:, None, None] + shift[:, None, None]

    def block(self, name, x, condition):
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = h + self.layer(F.linear, f"{name}.time_emb_proj", F.silu(condition))[:, :, None, None]
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        if f"{name}.conv_shortcut.weight" in self.weights:
            x = self.conv(f"{name}.conv_shortcut", x)
        return x + h

    def attend(self, name, x):
        pixels = self.norm(f"{name}.group_norm", x).flatten(2).transpose(1, 2)
        q, k, v = (self.layer(F.linear, f"{name}.to_{part}", pixels) for part in "qkv")
        shares = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
        h = self.layer(F.linear, f"{name}.to_out.0", shares @ v)
        return x + h.transpose(1, 2).reshape(x.shape)

    def condition(self, t, index):
        repeated = (t * self.multiplier)[:, None].repeat(1, self.model.ch)
        h = F.silu(self.layer(F.linear, "time_embedding.linear_1", repeated))
        return (
            self.layer(F.linear, "time_embedding.linear_2", h)
            + (self.weights["class_embedding.weight"][index])
        )

    def __call__(self, x, t, index):
        levels, blocks = len(self.model.ch_mult), self.model.num_res_blocks
        condition = self.condition(t, index)
        h = self.conv("conv_in", 2 * x - 1, padding=1)
        skipped = [h]
        for level in range(levels):
            attends = max(h.shape[-2:]) in self.model.attention_resolutions
            for i in range(blocks):
                h = self.block(f"down_blocks.{level}.resnets.{i}", h, condition)
                if attends:
                    h = self.attend(f"down_blocks.{level}.attentions.{i}", h)
                skipped.append(h)
            if level < levels - 1:
                padded = F.pad(h, (0, 1, 0, 1))
                h = self.conv(f"down_blocks.{level}.downsamplers.0.conv", padded, stride=2)
                skipped.append(h)
        h = self.block("mid_block.resnets.0", h, condition)
        h = self.attend("mid_block.attentions.0", h)
        h = self.block("mid_block.resnets.1", h, condition)
        for level in range(levels):
            attends = max(h.shape[-2:]) in self.model.attention_resolutions
            for i in range(blocks + 1):
                h = torch.cat([h, skipped.pop()], dim=1)
                h = self.block(f"up_blocks.{level}.resnets.{i}", h, condition)
            if attends:
                h = self.attend(f"up_blocks.{level}.attentions.{blocks}", h)
            if level < levels - 1:
                h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                h = self.conv(f"up_blocks.{level}.upsamplers.0.conv", h, padding=1)
        assert not skipped
        return self.conv("conv_out", F.silu(self.norm("conv_norm_out", h)), padding=1)


@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
def test_the_network_computes_what_is_written_out_here(size):
    options = {"ch": 8, "ch_mult": [1, 2, 2], "attention_resolutions": [8]}
    network = network_of(size, num_images=3, multiplier=4.0, **options).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():  # of a size that lets every layer matter
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) / 4)
    x = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    t, index = torch.tensor([0.1, 0.8], dtype=torch.float64), torch.tensor([2, 0])
    expected = Reference(network, Model(**options), 4.0)(x, t, index)
    with torch.no_grad():
        found = network(x, t, index)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------- before training


def nearly_zero_layers(model):
    """The second convolution of every residual block, what attention ends with, and the last
    convolution."""
    levels = range(len(model.ch_mult))
    blocks = ["mid_block.resnets.0", "mid_block.resnets.1"]
    blocks += [f"down_blocks.{k}.resnets.{i}" for k in levels for i in range(model.num_res_blocks)]
    blocks += [
        f"up_blocks.{k}.resnets.{i}" for k in levels for i in range(model.num_res_blocks + 1)
    ]
    attentions = ["down_blocks.1.attentions.0", "down_blocks.1.attentions.1"]
    attentions += ["mid_block.attentions.0", "up_blocks.2.attentions.2"]
    return {
        *(f"{name}.conv2" for name in blocks),
        *(f"{name}.to_out.0" for name in attentions),
        "conv_out",
    }


def test_weights_have_the_scale_of_their_layer_and_biases_are_zero():
    model = Model(ch=32)
    network = network_of(ch=32).unet
    near_zero = set()
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        weight = layer.weight.detach()
        pixels = weight[0, 0].numel() if weight.ndim == 4 else 1
        fans = (weight.shape[1] * pixels + weight.shape[0] * pixels) / 2
        scale = float(weight.square().mean()) * fans
        bound = float(weight.abs().max()) * (fans / 3) ** 0.5
        if scale < 1e-6:
            near_zero.add(name)
            expected = 1e-10
        else:
            inner = name.rsplit(".", 1)[-1] in ("to_q", "to_k", "to_v", "conv_shortcut")
            expected = 0.1 if inner else 1.0
        assert scale == pytest.approx(expected, rel=0.15), name
        assert 0.98 * expected**0.5 < bound <= 1.0001 * expected**0.5, name
        assert not layer.bias.any(), name
    assert near_zero == nearly_zero_layers(model)


@pytest.mark.parametrize("ch", [32, pytest.param(128, marks=pytest.mark.slow)])
def test_the_output_before_training_is_of_the_published_size(ch):
    """About 7.7e-6 at ch 128. In closed form: the last convolution of normalised features."""
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = float(network_of(ch=ch)(x, torch.linspace(0, 1, 2)).square().mean().sqrt())
    z = torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    density = (-(z**2) / 2).exp() / (2 * math.pi) ** 0.5
    activated = float(torch.trapezoid(F.silu(z) ** 2 * density, z))
    inside = (94 / 96) ** 2  # of the nine pixels that a convolution sees, those within the image
    variance = 1e-10 / (9 * (ch + 3) / 2)
    expected = (variance * 9 * ch * inside * activated) ** 0.5
    assert found == pytest.approx(expected, rel=0.3)
    if ch == 128:
        assert found == pytest.approx(7.7e-6, rel=0.2)
