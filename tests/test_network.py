import math

import pytest
import torch
from torch import nn

from score_embedding.config.sections import Model
from score_embedding.methods.network import build
from score_embedding.methods.unet import TimeProjection

CPU = torch.device("cpu")


both = pytest.mark.parametrize("name", ["unet", "published"])


def small_network(size=(16, 16), num_images=1, seed=0, **options):
    options = {"ch": 8, "num_res_blocks": 1, "attention_resolutions": [8], **options}
    return build(Model(**options), size, num_images, 1.0, seed, CPU).eval()


def redrawn(network):
    """With weights that are not near 0, as after training."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return network


def score(network, size, channels=3, n=2, index=None):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, channels, *size, generator=generator)
    with torch.no_grad():
        return network(x, torch.linspace(0.1, 0.9, n), index)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (32, 48), (48, 32), (8, 8)])
@both
def test_the_score_has_the_shape_of_the_image(name, size, channels):
    network = small_network(size, in_channels=channels, out_channels=channels, network=name)
    result = score(network, size, channels)
    assert result.shape == (2, channels, *size)
    assert result.isfinite().all()
    assert result.std() > 0


@pytest.mark.parametrize(("size", "levels"), [((16, 16), 1), ((32, 32), 1), ((12, 8), 0)])
@both
def test_attention_sits_where_the_config_puts_it(name, size, levels):
    network = small_network(size, attention_resolutions=[16], network=name)
    attending = [b for b in network.unet.down_blocks if type(b).__name__ == "AttnDownBlock2D"]
    assert len(attending) == levels


@pytest.mark.parametrize("multiplier", [1.0, 2.0, 1000.0])
def test_the_linear_time_embedding_repeats_the_scaled_time(multiplier):
    t = torch.tensor([0.001, 0.25, 1.0])
    features = TimeProjection("linear", 8, multiplier, 10000.0)(t)
    expected = torch.tensor([[value * multiplier] * 8 for value in (0.001, 0.25, 1.0)])
    torch.testing.assert_close(features, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("max_positions", [1000.0, 10000.0])
@pytest.mark.parametrize(("ch", "multiplier"), [(4, 1.0), (32, 1.0), (128, 1000.0)])
def test_the_fourier_time_embedding_is_sines_then_cosines(ch, multiplier, max_positions):
    times = [0.001, 0.25, 1.0]
    half = ch // 2
    frequencies = [max_positions ** (-k / (half - 1)) for k in range(half)]
    assert frequencies[0] == 1
    assert frequencies[-1] == pytest.approx(1 / max_positions)
    expected = [
        [math.sin(t * multiplier * f) for f in frequencies]
        + [math.cos(t * multiplier * f) for f in frequencies]
        for t in times
    ]
    features = TimeProjection("fourier", ch, multiplier, max_positions)(torch.tensor(times))
    # float32 carries a phase of 1000 to about 6e-5
    torch.testing.assert_close(features, torch.tensor(expected), rtol=0, atol=1e-4)


@both
def test_the_score_depends_on_time_and_on_the_way_it_is_embedded(name):
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    t = torch.tensor([0.1, 0.9])
    with torch.no_grad():
        linear, fourier = (
            redrawn(small_network(embedding_method=method, network=name))(x, t)
            for method in ("linear", "fourier")
        )
    assert not torch.allclose(linear[0], linear[1])
    assert not torch.allclose(linear, fourier)


@both
def test_the_index_matters_to_a_network_for_several_images(name):
    network = redrawn(small_network(num_images=3, network=name))
    by_index = [score(network, (16, 16), index=torch.full((2,), i)) for i in range(3)]
    assert not torch.allclose(by_index[0], by_index[1])
    assert not torch.allclose(by_index[1], by_index[2])


def test_the_index_is_ignored_by_a_network_for_one_image():
    network = small_network(num_images=1)
    assert torch.equal(
        score(network, (16, 16)), score(network, (16, 16), index=torch.tensor([1, 2]))
    )


def resamplers(network):
    blocks = [*network.unet.down_blocks, *network.unet.up_blocks]
    found = [
        sampler
        for block in blocks
        for name in ("downsamplers", "upsamplers")
        for sampler in getattr(block, name, None) or []
    ]
    assert len(found) == 6  # three halvings, three doublings
    return found


@pytest.mark.parametrize("with_conv", [True, False])
@both
def test_resampling_has_a_convolution_only_where_asked(name, with_conv):
    network = small_network(resample_with_conv=with_conv, network=name)
    for sampler in resamplers(network):
        assert any(isinstance(m, nn.Conv2d) for m in sampler.modules()) is with_conv
    assert score(network, (16, 16)).shape == (2, 3, 16, 16)


@both
def test_resampling_without_convolution_averages_and_repeats(name):
    network = small_network(resample_with_conv=False, network=name)
    x = torch.randn(1, 8, 6, 4, generator=torch.Generator().manual_seed(0))
    down = network.unet.down_blocks[0].downsamplers[0](x)
    torch.testing.assert_close(down, x.reshape(1, 8, 3, 2, 2, 2).mean(dim=(3, 5)))
    x = x.repeat(1, 2, 1, 1)  # the deepest level is twice as wide
    up = network.unet.up_blocks[0].upsamplers[0](x)
    assert torch.equal(up, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_a_seed_fixes_the_weights():
    one, same, other = (small_network(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["unet.conv_in.weight"], other["unet.conv_in.weight"])


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(77)
    expected = torch.rand(5)
    torch.manual_seed(77)
    small_network(seed=1)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_building_leaves_the_generator_of_the_gpu_alone():
    before = torch.cuda.get_rng_state()
    small_network(seed=1)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@both
def test_all_weights_take_part_in_the_score(name):
    network = small_network(num_images=2, network=name)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network(x, torch.tensor([0.2, 0.8]), torch.tensor([0, 1])).square().sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert without == []


@both
def test_dropout_acts_in_training_only(name):
    network = redrawn(small_network(dropout=0.5, network=name))
    assert torch.equal(score(network, (16, 16)), score(network, (16, 16)))
    network.train()
    assert not torch.equal(score(network, (16, 16)), score(network, (16, 16)))


@both
def test_time_intervals_tell_images_apart_by_the_time_alone(name):
    """Image i of n is diffused from t + i - n / 2: 3 images, so - 3/2, - 1/2, 1/2."""
    told = {"image_conditioning": "time_interval", "network": name}
    network = redrawn(small_network(num_images=3, **told))
    alone = redrawn(small_network(num_images=1, network=name))
    alone.load_state_dict(network.network.state_dict())
    assert network.num_parameters == alone.num_parameters  # no embedding of the index
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    t, index = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        expected = alone(x, torch.tensor([0.6, -1.0, 0.4]))
        torch.testing.assert_close(network(x, t, index), expected)
        other = network(x, t, index.flip(0))
    assert (other - expected).abs().max() > 0.01
    with pytest.raises(ValueError, match="index is needed"):
        network(x, t)


def test_time_intervals_of_one_image_are_the_time_itself():
    network = small_network(image_conditioning="time_interval")
    assert set(network.state_dict()) == set(small_network().state_dict())


@both
def test_training_keeps_the_memory_format_and_drops_out(name):
    network = small_network(network=name, dropout=0.5).to(memory_format=torch.channels_last)
    inputs = []
    for name_of, module in network.named_modules():
        if name_of.endswith("conv_shortcut"):
            module.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    x, t = torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last), torch.rand(2)
    network.train()
    network.unet(x, t)
    assert inputs
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in inputs)
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert all(module.training for module in dropouts)
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))
