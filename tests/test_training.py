import dataclasses
import time

import pytest
import torch

from score_embedding import configuration
from score_embedding.methods import score_embedding as method
from score_embedding.network import build
from score_embedding.precomputation import precompute
from score_embedding.sde import VarianceExploding
from score_embedding.training import LossNotFiniteError, train


def tiny_config(**training):
    values = {
        "name": "tiny",
        "data_loader": {"dataset": "sample", "image": ["astronaut"], "batch_size": 4},
        "diffusion": {"sigma": 2, "num_timesteps": 4},
        "training": {"epochs": 4, "lr": 1e-3, **training},
        "model": {"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]},
        "misc": {"profile_freq": 1e-6},
    }
    return configuration.validate(values, "test")


def network_for(config, size=8, images=1):
    return build(config.model, (size, size), images, 1.0, 0, torch.device("cpu"))


@pytest.fixture
def embedded(photographs):
    config = tiny_config()
    images = photographs(8, 8, 1)
    return precompute(images, config.diffusion, config.misc).embedded


def test_a_step_is_adam_on_the_published_loss(embedded):
    config = tiny_config(epochs=1)
    trained, expected = network_for(config), network_for(config)
    train(trained, embedded, config, precompute_seconds=0.0)

    generator = torch.Generator().manual_seed(config.training.seed)
    batch = method.draw_batch(embedded, 0, 4, config.misc.eps, generator)
    z = torch.randn(batch.x.shape, generator=generator)
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-3)
    torch.manual_seed(config.training.seed)
    method.loss(lambda x, t: expected(x, t), VarianceExploding(2.0), batch, z).backward()
    optimizer.step()
    for ours, theirs in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_an_epoch_is_one_step_an_image_and_the_loss_falls(embedded):
    config = tiny_config(epochs=60)
    network = network_for(config, images=2)
    history = train(network, torch.cat([embedded, embedded.flip(-1)]), config, 0.0)
    losses = [row["loss"] for row in history.rows]
    assert [row["step"] for row in history.rows] == list(range(1, 121))
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator(embedded):
    config = tiny_config()
    state = torch.random.get_rng_state()
    networks = [network_for(config), network_for(config)]
    for network in networks:
        train(network, embedded, config, 0.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_evaluation_changes_nothing_but_the_rows_and_stops_the_clock(embedded):
    config = tiny_config()
    plain, evaluated = network_for(config), network_for(config)
    train(plain, embedded, config, 0.0)

    def evaluate(network):
        time.sleep(0.2)
        network.eval()
        return {"ssim_minmax": 0.5, "ssim_clipped": 0.25}

    started = time.perf_counter()
    history = train(evaluated, embedded, config, precompute_seconds=7.0, evaluate=evaluate)
    wall = time.perf_counter() - started
    assert all(row["ssim_minmax"] == 0.5 for row in history.rows)
    assert history.evaluation_seconds >= 0.8
    assert history.rows[0]["training_seconds"] > 7.0
    assert history.training_seconds - 7.0 <= wall - 0.8
    first, second = plain.state_dict(), evaluated.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_target_ends_training_early(embedded):
    config = tiny_config(target_ssim=0.9)
    values = iter([0.5, 0.95])
    history = train(
        network_for(config),
        embedded,
        config,
        0.0,
        lambda _: {"ssim_minmax": next(values), "ssim_clipped": 0.0},
    )
    assert history.step == 2


def test_bfloat16_trains_to_nearly_the_same_weights_and_keeps_them_in_float32(embedded):
    config, low = tiny_config(lr=1e-4), tiny_config(lr=1e-4, precision="bfloat16")
    full, half = network_for(config), network_for(low)
    losses = train(full, embedded, config, 0.0), train(half, embedded, low, 0.0)
    assert losses[0].rows[-1]["loss"] != losses[1].rows[-1]["loss"]
    assert losses[0].rows[-1]["loss"] == pytest.approx(losses[1].rows[-1]["loss"], rel=0.03)
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


def test_compile_on_the_cpu_is_said_to_be_left_off(embedded, caplog):
    config = tiny_config(epochs=1, compile=True)
    train(network_for(config), embedded, config, 0.0)
    assert "training.compile" in caplog.text


def test_clipping_bounds_the_gradient(embedded):
    config = tiny_config(epochs=1, grad_clip=1e-3)
    network = network_for(config)
    train(network, embedded, config, 0.0)
    norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_what_reproduces_it(embedded):
    config = tiny_config()
    network = network_for(config)
    with torch.no_grad():
        network.unet.conv_out.bias.fill_(float("inf"))
    before = {name: w.clone() for name, w in network.state_dict().items()}
    with pytest.raises(LossNotFiniteError, match=r"training\.lr") as caught:
        train(network, embedded, config, 0.0)
    batch, z = caught.value.batch, caught.value.z
    assert not torch.isfinite(method.loss(network, VarianceExploding(2.0), batch, z))
    assert all(torch.equal(w, before[name]) for name, w in network.state_dict().items())
    assert dataclasses.is_dataclass(batch)
