import copy
import time

import pytest
import torch

from score_embedding.config import loading
from score_embedding.methods import ddpm
from score_embedding.methods import embedded as method
from score_embedding.methods.network import build
from score_embedding.methods.precomputation import precompute
from score_embedding.training.loop import NotFiniteError, train
from score_embedding.training.state import ema_decay, lr_factor


def tiny_config(**training):
    values = {
        "name": "tiny",
        "data_loader": {"dataset": "sample", "image": ["astronaut"], "batch_size": 4},
        "diffusion": {"sigma": 2, "num_timesteps": 4},
        "training": {"epochs": 4, "lr": 1e-3, **training},
        "model": {
            "network": "unet",  # the published one starts so close to 0 that Adam's 1e-8 shows
            **{"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]},
        },
        "misc": {"profile_freq": 1e-6},
    }
    return loading.validate(values, "test")


def network_for(config, size=8, images=1):
    return build(config.model, (size, size), images, 1.0, 0, torch.device("cpu"))


def tiny_baseline(sample_method="ddpm", **training):
    values = {
        **tiny_config(**training).model_dump(mode="json"),
        "sample_method": sample_method,
        "diffusion": {"num_timesteps": 10},
        "sample": {},
    }
    del values["image_density"]  # a baseline embeds none
    return loading.validate(values, "test")


def objective(embedded):
    return method.objective(embedded, tiny_config())


@pytest.fixture
def embedded(photographs):
    config = tiny_config()
    images = photographs(8, 8, 1)
    return precompute(images, config.diffusion, config.misc).embedded


def test_a_step_is_adam_on_the_published_loss(embedded):
    config = tiny_config(epochs=1)
    trained, expected = network_for(config), network_for(config)
    train(
        trained,
        objective(embedded),
        config,
    )

    generator = torch.Generator().manual_seed(config.training.seed)
    batch = objective(embedded).draw_batch(0, generator)
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-3)
    torch.manual_seed(config.training.seed)
    objective(embedded).loss(lambda x, t, _: expected(x, t), batch).backward()
    optimizer.step()
    for actual, wanted in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-7)


def test_an_epoch_is_one_step_an_image_and_the_loss_falls(embedded):
    config = tiny_config(epochs=60)
    network = network_for(config, images=2)
    history = train(network, objective(torch.cat([embedded, embedded.flip(-1)])), config)
    losses = [row["loss"] for row in history.rows]
    assert [row["step"] for row in history.rows] == list(range(1, 121))
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_an_epoch_of_one_step_is_one_whatever_the_number_of_images(embedded):
    config = tiny_config(epochs=6, steps_per_epoch="one")
    history = train(
        network_for(config, images=2), objective(torch.cat([embedded, embedded.flip(-1)])), config
    )
    assert history.step == 6


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator(embedded):
    config = tiny_config()
    state = torch.random.get_rng_state()
    networks = [network_for(config), network_for(config)]
    for network in networks:
        train(network, objective(embedded), config)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_evaluation_changes_nothing_but_the_rows_and_stops_the_clock(embedded):
    config = tiny_config()
    plain, evaluated = network_for(config), network_for(config)
    train(plain, objective(embedded), config)

    def evaluate(network):
        time.sleep(0.2)
        network.eval()
        return {"ssim_minmax": 0.5, "ssim_clipped": 0.25}

    started = time.perf_counter()
    history = train(evaluated, objective(embedded), config, {"solve": 7.0}, evaluate)
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
        objective(embedded),
        config,
        evaluate=lambda _: {"ssim_minmax": next(values), "ssim_clipped": 0.0},
    )
    assert history.step == 2


def test_bfloat16_trains_to_nearly_the_same_weights_and_keeps_them_in_float32(embedded):
    config, low = tiny_config(lr=1e-4), tiny_config(lr=1e-4, precision="bfloat16")
    full, half = network_for(config), network_for(low)
    losses = tuple(
        train(network, objective(embedded), c) for network, c in ((full, config), (half, low))
    )
    assert losses[0].rows[-1]["loss"] != losses[1].rows[-1]["loss"]
    assert losses[0].rows[-1]["loss"] == pytest.approx(losses[1].rows[-1]["loss"], rel=0.03)
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


def test_compile_on_the_cpu_is_said_to_be_left_off(embedded, caplog):
    config = tiny_config(epochs=1, compile=True)
    train(network_for(config), objective(embedded), config)
    assert "training.compile" in caplog.text


def test_clipping_bounds_the_gradient(embedded):
    config = tiny_config(epochs=1, grad_clip=1e-3)
    network = network_for(config)
    train(network, objective(embedded), config)
    norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_with_what_reproduces_it(embedded):
    config = tiny_config()
    network = network_for(config)
    with torch.no_grad():
        network.unet.conv_out.bias.fill_(float("inf"))
    before = {name: w.clone() for name, w in network.state_dict().items()}
    with pytest.raises(NotFiniteError, match=r"training\.lr") as caught:
        train(network, objective(embedded), config)
    batch = caught.value.batch
    assert batch.x.shape == batch.target.shape == (4, 3, 8, 8)
    assert not torch.isfinite(objective(embedded).loss(network, batch))
    assert all(torch.equal(w, before[name]) for name, w in network.state_dict().items())


# Averaged weights


def weights_by_step(embedded, steps, **training):
    """The weights before training and after each of its steps, by trainings of 1, 2, ... steps."""
    by_step = []
    for k in range(steps + 1):
        network = network_for(tiny_config())
        if k:
            train(network, objective(embedded), tiny_config(epochs=k, **training))
        by_step.append({name: w.double() for name, w in network.state_dict().items()})
    return by_step


@pytest.mark.parametrize("decay", [0.9999, 0.2, 0.0])
def test_training_ends_with_the_average_of_the_weights_by_hand(decay, embedded):
    by_step = weights_by_step(embedded, 4)
    expected = by_step[0]
    for k, current in enumerate(by_step[1:], start=1):
        d = min(decay, (1 + k) / (10 + k))
        expected = {name: d * w + (1 - d) * current[name] for name, w in expected.items()}
    averaged = network_for(tiny_config())
    train(averaged, objective(embedded), tiny_config(epochs=4, ema=decay))
    for name, w in averaged.state_dict().items():
        torch.testing.assert_close(w.double(), expected[name], rtol=0, atol=1e-7)
    off_the_last = max(float((w - by_step[-1][name]).abs().max()) for name, w in expected.items())
    assert (off_the_last > 1e-4) == (decay > 0)


def test_the_average_is_evaluated_and_does_not_change_the_training(embedded):
    plain, averaged = tiny_config(epochs=3), tiny_config(epochs=3, ema=0.9999)
    seen, losses = [], []

    def evaluate(network):
        network.eval()
        seen.append(copy.deepcopy(network.state_dict()))
        return {"ssim_minmax": 0.0, "ssim_clipped": 0.0}

    network = network_for(averaged)
    for config, net in ((plain, network_for(plain)), (averaged, network)):
        history = train(net, objective(embedded), config, evaluate=evaluate)
        losses.append([row["loss"] for row in history.rows])
    assert losses[0] == losses[1]
    by_step, expected = weights_by_step(embedded, 3), None
    for k in range(1, 4):
        before = expected or by_step[0]
        d = (1 + k) / (10 + k)
        expected = {name: d * w + (1 - d) * by_step[k][name] for name, w in before.items()}
        for name, w in seen[2 + k].items():
            torch.testing.assert_close(w.double(), expected[name], rtol=0, atol=1e-7)
    for name, w in network.state_dict().items():
        assert torch.equal(w, seen[-1][name])


def test_the_decay_grows_to_the_one_asked_for():
    decays = [ema_decay(k, 0.9999) for k in (1, 2, 8, 100, 10**6)]
    assert decays == pytest.approx([2 / 11, 3 / 12, 0.5, 101 / 110, 0.9999])


# Warm-up


def test_the_rate_rises_linearly_over_the_warm_up():
    options = tiny_config(warmup=4).training
    assert [lr_factor(k, options) for k in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [lr_factor(k, tiny_config().training) for k in (0, 7)] == [1, 1]


def test_the_first_steps_of_adam_are_as_wide_as_the_warm_up_lets_them(embedded):
    before = network_for(tiny_config())
    for warmup, width in ((False, 1e-3), (50, 1e-3 / 50)):
        after = network_for(tiny_config())
        train(after, objective(embedded), tiny_config(epochs=1, warmup=warmup))
        moves = torch.cat(
            [
                (new - old).detach().abs().flatten()
                for new, old in zip(after.parameters(), before.parameters(), strict=True)
            ]
        )
        # Adam's first step is lr * sign(gradient), less where the gradient is about its 1e-8
        assert float(moves.max()) == pytest.approx(width, rel=2e-3)
        assert float(moves.median()) == pytest.approx(width, rel=1e-2)


def test_each_step_of_a_warm_up_has_its_own_rate(embedded):
    config = tiny_config(epochs=3, warmup=2)
    trained, expected = network_for(config), network_for(config)
    train(trained, objective(embedded), config)
    generator = torch.Generator().manual_seed(config.training.seed)
    optimizer = torch.optim.Adam(expected.parameters(), fused=True)
    torch.manual_seed(config.training.seed)
    for lr in (5e-4, 1e-3, 1e-3):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        batch = objective(embedded).draw_batch(0, generator)
        objective(embedded).loss(expected, batch).backward()
        optimizer.step()
    for actual, wanted in zip(trained.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-7)


# Baselines


@pytest.mark.parametrize("sample_method", ["ddpm", "ddim"])
def test_a_baseline_trains_in_the_same_loop(sample_method, photographs):
    config = tiny_baseline(sample_method, epochs=15, lr=3e-3, warmup=2, ema=0.99)
    images = photographs(8, 8, 2).float()
    networks = [network_for(config, images=2) for _ in range(2)]
    histories = [train(net, ddpm.objective(images, config), config) for net in networks]
    losses = [row["loss"] for row in histories[0].rows]
    assert len(losses) == 30
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)
