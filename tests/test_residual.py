"""The residual of a closed-form denoiser: what it is made of, its training, its samples."""

import itertools
import math
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.fft import dctn, idctn
from sklearn.datasets import load_digits

from score_embedding import densities
from score_embedding.config import loading
from score_embedding.methods import preconditioning, residual
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.methods.residual import KnownDensity, Precomputed
from score_embedding.training import loop as training


def model_of(config, network, known):
    return TrainedModel(method_of(config), network, KnownDensity({}, known, []))


def config_of(kind="white", **sections):
    values = {
        "name": "residual",
        "data_loader": {"dataset": "sample", "image": "chelsea", "image_size": 8, "batch_size": 3},
        "diffusion": {"sigma": 2, "embedding": "residual"},
        "image_density": {"kind": kind, "side": 4},
        "model": {"ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": []},
    }
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return loading.validate(values, "test")


GREY = {"data_loader": {"channels": 1}, "model": {"in_channels": 1, "out_channels": 1}}


def noise_pictures(channels=1, mean=0.4, std=0.2, count=3):
    """Pictures whose pixels are independent and Gaussian."""
    generator = torch.Generator().manual_seed(1)
    return [mean + std * torch.randn(channels, 64, 48, generator=generator) for _ in range(count)]


@pytest.fixture
def white():
    """Of Gaussian pixels; their mean, and their standard deviation."""
    pictures = noise_pictures()
    pixels = np.concatenate([picture.numpy().ravel() for picture in pictures])
    return preconditioning.precompute(pictures, config_of(**GREY))[0], pixels.mean(), pixels.std()


def by_hand(levels=(0.1, 1.0, 10.0), spread=(0.05, 0.2, 0.3)):
    """A white density of variance 1/4, with a table of c_out of its own."""
    density = densities.fit("white", torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
    return Precomputed(density, 0.5, 0.5, torch.tensor(levels), torch.tensor(spread)[:, None])


def a_network(inputs, t, index):
    """Anything that depends on all it is given."""
    assert torch.equal(index, torch.zeros(len(inputs), dtype=torch.long))
    return torch.sin(3 * inputs[:, :1]) + inputs[:, -1:] * t[:, None, None, None]


LEVELS = [0.04, 0.1, 0.2, 0.5, 1.4]


def test_with_white_it_is_the_preconditioning_of_karras_et_al(white):
    known, mean, sd = white
    s = torch.tensor(LEVELS)
    x = mean + 2 * torch.randn(len(s), 1, 6, 5, generator=torch.Generator().manual_seed(2))
    answer = known.denoise(a_network, x, s)
    centred = x.numpy() - mean
    for i, level in enumerate(LEVELS):  # their table 1, the EDM column
        c_skip = sd**2 / (level**2 + sd**2)
        c_out = level * sd / math.sqrt(sd**2 + level**2)
        c_in = 1 / math.sqrt(level**2 + sd**2)
        c_noise = math.log(level) / 4
        skipped = known.denoise(None, x[i : i + 1], s[i : i + 1])[0].numpy() - mean
        # The density's variance is of 20,000 pixels, and c_out's of 32 crops of 64.
        np.testing.assert_allclose(skipped, c_skip * centred[i], rtol=0.03, atol=0.005)
        assert float(known.c_out(s[i : i + 1])) == pytest.approx(c_out, rel=0.06)
        F = np.sin(3 * c_in * centred[i]) + c_in * centred[i] * c_noise
        expected = skipped + mean + float(known.c_out(s[i : i + 1])) * F
        np.testing.assert_allclose(answer[i].numpy(), expected, rtol=0, atol=1e-3)
    assert (known.mean, known.sigma_data) == pytest.approx((mean, sd), rel=1e-4)
    assert not known.uses_density_input


def test_the_levels_are_those_of_the_diffusion_and_the_spread_is_what_the_density_leaves():
    pictures = noise_pictures(3)
    config = config_of("gaussian", diffusion={"sigma": 5}, misc={"eps": 0.01})
    known, seconds = preconditioning.precompute(pictures, config)
    ends = [integrate.quad(lambda t: 5 ** (2 * t), 0, end)[0] ** 0.5 for end in (0.01, 1)]
    np.testing.assert_allclose(known.levels.numpy(), np.geomspace(*ends, 9), rtol=1e-5)
    assert known.residual_std.shape == (9, 4)  # rings of crops of 8 x 8
    for s, rings in zip(known.levels.tolist(), known.residual_std.tolist(), strict=True):
        assert rings == pytest.approx(4 * [0.2 * s / math.hypot(0.2, s)], rel=0.1)
    assert set(seconds) == {"density", "preconditioning"}
    assert min(seconds.values()) > 0
    again, _ = preconditioning.precompute(pictures, config)
    assert torch.equal(again.residual_std, known.residual_std)


def test_c_out_is_interpolated_in_both_logarithms_and_clamped():
    known = by_hand()
    asked = torch.tensor([0.1, 1.0, 10.0, 1e-3, 1e3, 0.3, 4.0])
    log_log = np.interp(asked.log().numpy(), np.log([0.1, 1, 10]), np.log([0.05, 0.2, 0.3]))
    found = known.c_out(asked, 6, 5)
    assert found.shape == (7, 1, 1, 1)  # one ring is all frequencies
    np.testing.assert_allclose(found.flatten().numpy(), np.exp(log_log), rtol=1e-5)
    np.testing.assert_allclose(found.flatten()[:3].numpy(), [0.05, 0.2, 0.3], rtol=1e-6)
    assert found.flatten()[3:5].tolist() == pytest.approx([0.05, 0.3])


def test_the_network_is_asked_for_what_is_left_at_each_frequency(generator):
    """By a loop, with SciPy's DCT."""
    rings = torch.tensor([[0.3, 0.1], [0.5, 0.4]])
    known = replace(by_hand((0.1, 1.0), (1.0, 1.0)), residual_std=rings)
    s, (h, w) = torch.tensor([0.1, 0.3]), (6, 9)
    x = torch.randn(2, 1, h, w, generator=generator)
    c_out = np.empty((2, h, w))
    for b, level in enumerate(s.tolist()):
        of_rings = [np.interp(math.log(level), np.log([0.1, 1]), r.log()) for r in rings.T]
        for i, j in np.ndindex(h, w):
            radius = math.hypot(i / h, j / w) / math.sqrt(2)  # two rings: middles at 1/4 and 3/4
            c_out[b, i, j] = np.exp(np.interp(radius, [0.25, 0.75], of_rings))
    np.testing.assert_allclose(known.c_out(s, h, w)[:, 0].numpy(), c_out, rtol=1e-5)
    inputs = (x - 0.5) * (s**2 + 0.25).rsqrt()[:, None, None, None]
    F = a_network(inputs, s.log() / 4, torch.zeros(2, dtype=torch.long))[:, 0].double().numpy()
    expected = idctn(c_out * dctn(F, axes=(1, 2), norm="ortho"), axes=(1, 2), norm="ortho")
    found = known.denoise(a_network, x, s) - known.denoise(None, x, s)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=0, atol=1e-5)


def test_a_network_that_sees_the_density_is_given_its_answer_standardised(photographs):
    pictures = list(photographs(16, 12, 2).float())
    known, _ = preconditioning.precompute(pictures, config_of("gaussian"))
    pixels = torch.stack(pictures).double().numpy()
    mean, sd = pixels.mean(), pixels.std()
    s = torch.tensor([0.05, 0.4])
    x = torch.stack(pictures) + s[:, None, None, None]
    seen = []

    def network(inputs, t, index):
        seen.append((inputs, t, index))
        return torch.zeros_like(x)

    answer = known.denoise(network, x, s)
    assert torch.equal(answer, known.density.denoise(x, s))
    inputs, t, _ = seen[0]
    for i, level in enumerate(s.tolist()):
        own = (x[i].numpy() - mean) / math.sqrt(level**2 + sd**2)
        prior = known.density.denoise(x[i : i + 1], level)[0]
        expected = np.concatenate([own, (prior.numpy() - mean) / sd])
        np.testing.assert_allclose(inputs[i].numpy(), expected, rtol=0, atol=2e-3)
        assert float(t[i]) == pytest.approx(math.log(level) / 4)


@pytest.mark.parametrize("kind", ["white", "stationary", "gaussian"])
def test_an_untrained_network_answers_as_the_density_to_the_bit(kind, photographs):
    pictures = list(photographs(16, 12, 2).float())
    config = config_of(kind)
    known, _ = preconditioning.precompute(pictures, config)
    network = build_network(method_of(config), 2, torch.device("cpu"))
    assert network.unet.conv_in.in_channels == (3 if kind == "white" else 6)
    x, s = torch.stack(pictures) + 0.1, torch.tensor([0.1, 0.7])
    together = model_of(config, None, known).denoise(x, s)
    assert torch.equal(together, known.density.denoise(x, s))
    assert torch.equal(model_of(config, network, known).denoise(x, s), together)
    # One image after the other: the same but for round-off.
    alone = torch.cat([known.density.denoise(x[i : i + 1], s[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    torch.nn.init.ones_(network.unet.conv_out.bias)  # F = 1
    moved = model_of(config, network, known).denoise(x, s) - together
    expected = known.c_out(s, *x.shape[-2:])[..., :1, :1].expand_as(moved)  # at frequency 0
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


def digits(count):
    pixels = torch.from_numpy(load_digits().images[:count] / 16).float()
    return list(pixels[:, None])


def test_of_many_images_the_residual_is_that_of_images_that_were_not_fitted_to():
    config = config_of("empirical", **GREY, image_density={"side": 8})
    images = digits(400)
    known, _ = preconditioning.precompute(images, config)
    fitted, others = preconditioning.divided(images, 0)
    assert (len(fitted), len(others)) == (360, 40)
    assert {id(x) for x in fitted}.isdisjoint(id(x) for x in others)
    assert torch.equal(known.density.model.points, torch.stack(fitted).flatten(1))
    again = densities.fit("empirical", torch.stack(fitted), side=8)
    measured = preconditioning.measure_residual(again, others, known.levels, (8, 8), 4, 0)
    torch.testing.assert_close(known.residual_std, measured)
    # On its own images it is nearly exact, and c_out would be far too small.
    on_fitted = preconditioning.measure_residual(again, fitted, known.levels, (8, 8), 4, 0)
    assert float(on_fitted[0].mean()) < 0.01 * float(known.residual_std[0].mean())
    error = again.denoise(torch.stack(others), float(known.levels[0])) - torch.stack(others)
    assert float(known.residual_std[0].square().mean()) == pytest.approx(
        float(error.square().mean()), rel=0.4
    )
    pixels = torch.stack(images).numpy()
    assert (known.mean, known.sigma_data) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-4)


def test_of_few_images_the_density_is_fitted_to_all():
    for count in (1, 99):
        images = digits(count)
        fitted, measured = preconditioning.divided(images, 3)
        assert fitted is measured is images


# Training


@pytest.mark.parametrize("kind", ["white", "gaussian"])
def test_the_loss_is_that_of_a_loop_over_images(kind, generator):
    pictures = noise_pictures()
    config = config_of(kind, **GREY)
    known, _ = preconditioning.precompute(pictures, config)
    objective = residual.objective(pictures, known, config, 5)
    batch = objective.draw_batch(0, generator)
    total = 0.0
    for x, s, x_0 in zip(batch.x, batch.condition, batch.target, strict=True):
        D = known.denoise(a_network, x[None], s[None])[0]
        error = dctn((D - x_0).double().numpy(), axes=(1, 2), norm="ortho")
        weight = known.c_out(s[None], *error.shape[1:])[0].double().numpy() ** -2
        total += np.mean(weight * error**2)
    assert float(objective.loss(a_network, batch)) == pytest.approx(total / 3, rel=1e-4)
    assert len(objective) == 5


def test_before_training_the_loss_is_one_on_average(generator):
    pictures = noise_pictures()
    config = config_of("gaussian", data_loader={**GREY["data_loader"], "batch_size": 200},
                       model=GREY["model"])  # fmt: skip
    known, _ = preconditioning.precompute(pictures, config)
    objective = residual.objective(pictures, known, config, 1)
    loss = objective.loss(lambda x, *_: 0 * x[:, :1], objective.draw_batch(0, generator))
    assert float(loss) == pytest.approx(1, rel=0.08)


@pytest.mark.parametrize("crops", [True, False])
def test_a_batch_is_crops_with_noise_of_its_levels(crops):
    size = 8 if crops else [64, 48]
    options = {**GREY["data_loader"], "batch_size": 60, "crops": crops, "image_size": size}
    config = config_of(**{**GREY, "data_loader": options})
    pictures = noise_pictures()
    objective = residual.objective(pictures, by_hand((0.2, 0.8), (0.1, 0.2)), config, 1)
    batches = [objective.draw_batch(i, torch.Generator().manual_seed(7)) for i in (0, 5)]
    assert all(torch.equal(vars(batches[0])[k], vars(batches[1])[k]) for k in vars(batches[0]))
    other = objective.draw_batch(0, torch.Generator().manual_seed(8))
    assert not torch.equal(other.condition, batches[0].condition)
    batch = batches[0]
    noise = ((batch.x - batch.target) / batch.condition[:, None, None, None]).numpy().ravel()
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    h, w = batch.target.shape[-2:]
    known = [p.unfold(1, h, 1).unfold(2, w, 1)[0].reshape(-1, h, w) for p in pictures]
    own = {array.numpy().tobytes() for windows in known for array in windows}
    plain = [crop[0].numpy().tobytes() in own for crop in batch.target]
    turned = [crop[0].flip(1).numpy().tobytes() in own for crop in batch.target]
    assert all(a != b for a, b in zip(plain, turned, strict=True))
    flipped = sum(turned)
    assert stats.binomtest(flipped, 60).pvalue > 1e-3 if crops else flipped == 0


def test_noise_levels_are_drawn_as_they_are_called():
    generator = torch.Generator().manual_seed(5)
    drawn = residual.draw_levels(by_hand(), "log_uniform", 5000, generator)
    assert 0.1 <= float(drawn.min()) < float(drawn.max()) <= 10
    uniform = stats.uniform(math.log(0.1), math.log(100))
    assert stats.kstest(drawn.log().numpy(), uniform.cdf).pvalue > 1e-3
    wide = by_hand((1e-5, 1.0, 1e4))
    drawn = residual.draw_levels(wide, "log_normal", 5000, generator)
    assert stats.kstest(drawn.log().numpy(), stats.norm(-1.9, 1.2).cdf).pvalue > 1e-3
    narrow = residual.draw_levels(by_hand((0.1, 0.5, 0.6)), "log_normal", 5000, generator)
    assert (float(narrow.min()), float(narrow.max())) == pytest.approx((0.1, 0.6))
    below = int((narrow < 0.1001).sum())
    expected = stats.norm(-1.9, 1.2).cdf(math.log(0.1))
    assert stats.binomtest(below, 5000, expected).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["empirical", "gaussian", "stationary", "white"])
@pytest.mark.parametrize("std", [0.0, 0.2])
def test_a_density_that_knows_its_only_image_by_heart_can_be_trained_on(kind, std):
    pictures = [noise_pictures(std=std)[0][:, :8, :8]]
    changes = {"image_density": {"side": 8}, "training": {"epochs": 3}}
    config = config_of(kind, **changes, **GREY)
    known, _ = preconditioning.precompute(pictures, config)
    assert float(known.residual_std.min()) > 0
    network = build_network(method_of(config), 1, torch.device("cpu"))
    history = training.train(network, residual.objective(pictures, known, config, 1), config)
    assert len(history.rows) == 3
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    s = torch.tensor([float(known.levels[0]), 1.0])
    assert torch.isfinite(known.denoise(network, torch.rand(2, 1, 8, 8), s)).all()


def test_seconds_end_the_training_at_the_first_step_past_them(monkeypatch):
    now = itertools.count(0, 0.3)
    clock = types.SimpleNamespace(perf_counter=lambda: next(now))
    monkeypatch.setattr(training, "time", clock)
    config = config_of(training={"seconds": 5, "epochs": 10**6}, **GREY)
    objective = residual.objective(noise_pictures(), by_hand(), config, 7)
    network = build_network(method_of(config), 7, torch.device("cpu"))
    history = training.train(network, objective, config, {"density": 4.0})
    found = [row["training_seconds"] for row in history.rows]
    assert found == pytest.approx([4.3, 4.6, 4.9, 5.2])
    assert history.training_seconds == found[-1]


# Sampling and denoising


def test_samples_of_a_gaussian_have_its_mean_and_covariance():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(4, 4)) / 8
    data = 0.5 + rng.normal(size=(3000, 4)) @ A.T
    images = torch.from_numpy(data).float().reshape(-1, 1, 2, 2)
    sample = {"solver": "heun", "steps": 40}
    config = config_of(
        "gaussian",
        data_loader={**GREY["data_loader"], "image_size": 2},
        model=GREY["model"],
        diffusion={"sigma": 8},
        image_density={"side": 2},
        sample=sample,
    )
    known, _ = preconditioning.precompute(list(images), config)
    samples = model_of(config, None, known).sample(images[:100])
    x = samples.x.flatten(1).double().numpy()
    # std(1) = 3.9: what the start lacks of the data's own spread is then nothing
    np.testing.assert_allclose(x.mean(axis=0), 0.5, atol=0.15)
    np.testing.assert_allclose(np.cov(x.T), A @ A.T, atol=0.4 * np.abs(A @ A.T).max())
    # Each path is the linear map of its start that the flow of a Gaussian is.
    mean, C = data.mean(axis=0), np.cov(data.T, bias=True)
    V, axes = np.linalg.eigh(C)
    ends = [integrate.quad(lambda t: 8 ** (2 * t), 0, end)[0] for end in (1e-3, 1)]
    start = samples.path[0].flatten(1).double().numpy() - mean
    expected = mean + start @ axes @ np.diag(np.sqrt((V + ends[0]) / (V + ends[1]))) @ axes.T
    np.testing.assert_allclose(x, expected, rtol=0, atol=5e-3)


def test_a_residual_model_denoises_sides_that_its_network_cannot_halve(photographs):
    config = config_of("stationary")
    known, _ = preconditioning.precompute(list(photographs(16, 12, 2).float()), config)
    known = replace(
        known, residual_std=torch.zeros_like(known.residual_std) + 1e-30
    )  # F counts for nothing
    network = build_network(method_of(config), 2, torch.device("cpu"))
    x, s = photographs(7, 9, 2).float(), torch.tensor([0.1, 0.3])
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 1), (0, 1)), mode="symmetric")
    expected = known.density.denoise(padded, s)[:, :, :7, :9]
    answer = model_of(config, network, known).denoise(x, s)
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-6)
