"""DDPM and DDIM against Ho et al. 2020 and Song et al. 2021, written out in numpy in float64."""

import math

import numpy as np
import pytest
import torch

from score_embedding.config import loading
from score_embedding.errors import DivergenceError
from score_embedding.methods import ddpm
from score_embedding.methods.base import Batch
from score_embedding.methods.samplers import SNAPSHOTS, generator_of

BETAS = (1e-4, 0.02, 1000)
EIGHT = (0.01, 0.3, 8)  # as many steps as a path keeps: it holds every state
MU, S = 0.1, 0.15  # of the data in [-1, 1]; |E[x_0 | x_t]| < 1, so that nothing is clipped
METHODS = ["ddpm", "ddim"]
CHAINS = ["published", "clipped"]


def config_of(method, betas=BETAS, batch_size=20, seed=3, **sample):
    values = {
        "name": "baseline",
        "sample_method": method,
        "data_loader": {"dataset": "cifar", "batch_size": batch_size},
        "diffusion": dict(zip(("beta_min", "beta_max", "num_timesteps"), betas, strict=True)),
        "training": {"seed": seed},
        "sample": sample,
    }
    return loading.validate(values, "test")


def products(betas):
    """abar_t for t = 0 .. T - 1."""
    beta_min, beta_max, T = betas
    abar, product = [], 1.0
    for t in range(T):
        product *= 1 - (beta_min + (beta_max - beta_min) * t / (T - 1))
        abar.append(product)
    return np.array(abar)


class Exact:
    """The exact noise prediction for data N(MU, S^2 I); records the times it is called with."""

    def __init__(self, betas):
        self.abar, self.times = products(betas), []

    def __call__(self, x, t, index):
        (step,) = set(t.tolist())
        assert t.shape == index.shape == x.shape[:1]
        self.times.append(step)
        return exact_noise(x.double(), self.abar[step]).to(x)


def exact_noise(x, abar):
    return math.sqrt(1 - abar) * (x - math.sqrt(abar) * MU) / (abar * S**2 + 1 - abar)


def in_symmetric(x):
    return 2 * x.double().numpy() - 1


# Training


@pytest.mark.parametrize("betas", [BETAS, (5e-4, 0.001, 1000), EIGHT])
@pytest.mark.parametrize("method", METHODS)
def test_a_noisy_image_is_the_closed_form_of_its_noise(method, betas, generator):
    images = torch.rand(3, 2, 4, 5, generator=generator)
    batch = ddpm.objective(images, config_of(method, betas, 50)).draw_batch(0, generator)
    abar = products(betas)
    clean = 2 * images.double().numpy() - 1
    for x, t, i, z in zip(
        batch.x, batch.condition.tolist(), batch.index.tolist(), batch.target, strict=True
    ):
        expected = math.sqrt(abar[t]) * clean[i] + math.sqrt(1 - abar[t]) * z.double().numpy()
        np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=3e-6)


def test_the_forward_marginals_have_their_mean_and_variance(generator):
    image = torch.tensor([0.15, 0.8]).reshape(1, 1, 1, 2).expand(1, 400, 1, 2)
    batch = ddpm.objective(image, config_of("ddpm", EIGHT, 400)).draw_batch(0, generator)
    for t, abar in enumerate(products(EIGHT)):
        of_t = batch.x[batch.condition == t].double().flatten(0, 1)[:, 0]  # about 20,000 x 2
        assert len(of_t) > 10_000
        for values, pixel in zip(of_t.T, (0.15, 0.8), strict=True):
            mean = math.sqrt(abar) * (2 * pixel - 1)
            error = 4.5 * math.sqrt((1 - abar) / len(of_t))
            assert float(values.mean()) == pytest.approx(mean, abs=error)
            assert float(values.var()) == pytest.approx(1 - abar, rel=4.5 * math.sqrt(2 / 10_000))


def test_a_batch_draws_images_with_replacement_and_times_uniformly(generator):
    objective = ddpm.objective(torch.zeros(3, 1, 1, 1), config_of("ddpm", EIGHT, 24_000))
    batch = objective.draw_batch(0, generator)
    pairs = torch.bincount(batch.index * 8 + batch.condition, minlength=24)
    assert (len(objective), int(pairs.sum()), len(pairs)) == (3, 24_000, 24)
    assert float((pairs - 1000).abs().max()) < 4.5 * math.sqrt(1000)
    assert float(batch.target.mean()) == pytest.approx(0, abs=0.03)
    assert float(batch.target.var()) == pytest.approx(1, abs=0.04)


def test_the_turn_of_an_image_does_not_choose_what_is_drawn():
    objective = ddpm.objective(torch.zeros(3, 1, 2, 2), config_of("ddpm"))
    first, second, other = (
        objective.draw_batch(turn, torch.Generator().manual_seed(seed))
        for turn, seed in ((0, 5), (2, 5), (0, 6))
    )
    for name in ("x", "condition", "index", "target"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_the_loss_is_the_mean_of_squares_and_the_network_is_told_time_and_index(generator):
    x, z = torch.randn(2, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    batch = Batch(x, torch.tensor([0, 7, 3]), torch.tensor([2, 0, 1]), z)

    def network(x, t, index):
        return x * t[:, None, None, None] - index[:, None, None, None]

    total = 0.0
    for b, (t, i) in enumerate(((0, 2), (7, 0), (3, 1))):
        for x_, z_ in zip(x[b].flatten().tolist(), z[b].flatten().tolist(), strict=True):
            total += (x_ * t - i - z_) ** 2
    loss = ddpm.objective(torch.zeros(3, 2, 4, 5), config_of("ddpm")).loss(network, batch)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(total / z.numel(), rel=1e-12)


# The start


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("betas", [BETAS, (5e-4, 0.001, 1000), EIGHT])
def test_the_start_is_as_wide_as_the_forward_chain_ends_where_asked(method, betas):
    matched = math.sqrt(1 - products(betas)[-1])
    assert ddpm.start_std(config_of(method, betas)) == 1
    config = config_of(method, betas, prior="matched")
    assert ddpm.start_std(config) == pytest.approx(matched, rel=1e-5)
    conditional = {"type": "conditional", "conditional_weight": 0.3}
    assert ddpm.start_std(config_of(method, betas, prior="matched", **conditional)) == 1


@pytest.mark.parametrize("prior", ["unit", "matched"])
def test_a_chain_starts_from_noise_of_that_width(prior):
    config = config_of("ddim", (5e-4, 0.001, 8), prior=prior)
    samples = ddpm.sample(Exact((5e-4, 0.001, 8)), torch.zeros(4, 3, 64, 64), config)
    x = in_symmetric(samples.path[0])
    width = 1 if prior == "unit" else math.sqrt(1 - products((5e-4, 0.001, 8))[-1])
    assert x.std() == pytest.approx(width, rel=0.015)
    assert x.mean() == pytest.approx(0, abs=0.02 * width)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_conditional_start_mixes_image_and_noise_between_minus_one_and_one(
    method, weight, generator
):
    images = torch.rand(2, 3, 4, 5, generator=generator)
    config = config_of(method, EIGHT, type="conditional", conditional_weight=weight)
    samples = ddpm.sample(Exact(EIGHT), images, config)
    for i in range(2):
        noise = torch.randn(3, 4, 5, generator=generator_of(3, i)).double().numpy()
        expected = weight * in_symmetric(images[i]) + (1 - weight) * noise
        np.testing.assert_allclose(in_symmetric(samples.path[0, i]), expected, rtol=0, atol=1e-6)


# The reverse chain


@pytest.mark.parametrize("chain", CHAINS)
def test_every_step_of_ddpm_is_that_of_ho_et_al(chain):
    """Equations 6 and 7, with the noise of each image drawn from its own generator; the published
    chain has variance beta instead of the posterior's."""
    config = config_of("ddpm", EIGHT, chain=chain)
    samples = ddpm.sample(Exact(EIGHT), torch.zeros(3, 1, 4, 5), config)
    abar, states = products(EIGHT), in_symmetric(samples.path)
    noises = [generator_of(3, i, stream=1) for i in range(3)]
    for t, x, following in zip(range(7, -1, -1), states[:-1], states[1:], strict=True):
        before = abar[t - 1] if t else 1.0
        beta = 1 - abar[t] / before
        x_0 = (x - math.sqrt(1 - abar[t]) * exact_noise(x, abar[t])) / math.sqrt(abar[t])
        assert np.abs(x_0).max() < 1
        mean = math.sqrt(before) * beta / (1 - abar[t]) * x_0
        mean += math.sqrt(1 - beta) * (1 - before) / (1 - abar[t]) * x
        variance = beta if chain == "published" else (1 - before) / (1 - abar[t]) * beta
        z = 0.0  # the last step adds no noise
        if t:
            z = torch.stack([torch.randn(1, 4, 5, generator=g) for g in noises]).double().numpy()
        np.testing.assert_allclose(following, mean + math.sqrt(variance) * z, rtol=0, atol=3e-6)


def test_every_step_of_ddim_is_the_closed_form_of_a_gaussian():
    """x - sqrt(abar_t) MU is scaled by one number a step: Song et al. 2021, eq. 12, sigma = 0."""
    samples = ddpm.sample(Exact(EIGHT), torch.zeros(3, 1, 4, 5), config_of("ddim", EIGHT))
    abar, states = products(EIGHT), in_symmetric(samples.path)
    for t, x, following in zip(range(7, -1, -1), states[:-1], states[1:], strict=True):
        before = abar[t - 1] if t else 1.0
        variance = abar[t] * S**2 + 1 - abar[t]  # of x_t
        scale = math.sqrt(abar[t] * before) * S**2 + math.sqrt((1 - abar[t]) * (1 - before))
        expected = math.sqrt(before) * MU + scale / variance * (x - math.sqrt(abar[t]) * MU)
        np.testing.assert_allclose(following, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("method", METHODS)
def test_the_predicted_image_is_clipped_in_the_clipped_chain(method, chain):
    def outside(x, t, _):  # the noise of an image that is 5 everywhere
        abar = float(products(EIGHT)[int(t[0])])
        return (x - 5 * math.sqrt(abar)) / math.sqrt(1 - abar)

    config = config_of(method, EIGHT, chain=chain)
    samples = ddpm.sample(outside, torch.zeros(1, 1, 4, 4), config)
    expected = torch.full((1, 1, 4, 4), 1.0 if chain == "clipped" else 3.0)  # 5 in [0, 1]
    torch.testing.assert_close(samples.x, expected, rtol=0, atol=1e-5)


def test_a_whole_chain_of_ddim_is_the_probability_flow_of_a_gaussian():
    samples = ddpm.sample(Exact(BETAS), torch.zeros(2, 1, 8, 8), config_of("ddim"))
    abar, x = products(BETAS)[-1], in_symmetric(samples.path[0])
    standardised = (x - math.sqrt(abar) * MU) / math.sqrt(abar * S**2 + 1 - abar)
    expected = MU + S * standardised
    np.testing.assert_allclose(in_symmetric(samples.x), expected, rtol=0, atol=0.02 * S * 3)
    assert np.abs(expected - MU).max() > 2 * S


def moments_of_a_chain(method, chain, times):
    """Mean and variance of the last state: every step is linear in x, plus noise."""
    abar, mean, variance = products(BETAS), 0.0, 1.0
    for t, following in zip(times, [*times[1:], -1], strict=True):
        before = abar[following] if following >= 0 else 1.0
        slope, beta = math.sqrt(1 - abar[t]) / (abar[t] * S**2 + 1 - abar[t]), 1 - abar[t] / before
        of_x = (1 - math.sqrt(1 - abar[t]) * slope) / math.sqrt(abar[t])  # of x_0's prediction
        if method == "ddpm":
            scale = math.sqrt(before) * beta / (1 - abar[t]) * of_x
            scale += math.sqrt(1 - beta) * (1 - before) / (1 - abar[t])
            added = beta if chain == "published" else (1 - before) / (1 - abar[t]) * beta
            added = added if following >= 0 else 0.0
        else:
            scale, added = math.sqrt(before) * of_x + math.sqrt(1 - before) * slope, 0.0
        mean = math.sqrt(before) * MU + scale * (mean - math.sqrt(abar[t]) * MU)
        variance = scale**2 * variance + added
    return mean, variance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("chain", "steps", "near"),
    [
        ("published", None, 0.04),
        pytest.param("clipped", None, 0.04, marks=pytest.mark.slow),
        *((chain, 100, 0.2) for chain in CHAINS),
    ],
)
def test_the_distribution_of_the_data_comes_out(method, chain, steps, near):
    network = Exact(BETAS)
    config = config_of(method, steps=steps, chain=chain)
    samples = ddpm.sample(network, torch.zeros(4, 1, 50, 50), config)
    mean, variance = moments_of_a_chain(method, chain, network.times)
    x = in_symmetric(samples.x)
    assert x.mean() == pytest.approx(mean, abs=4.5 * S / 100)
    assert x.std() == pytest.approx(math.sqrt(variance), rel=4.5 / math.sqrt(2 * x.size))
    assert mean == pytest.approx(MU, abs=1e-2 * S)
    assert variance == pytest.approx(S**2, rel=2 * near)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("steps", "nfe"),
    [pytest.param(None, 1000, marks=pytest.mark.slow), (50, 50), (5, 5), (1, 1)],
)
def test_nfe_is_the_number_of_calls_and_times_fall_to_zero(method, steps, nfe):
    network = Exact(BETAS)
    samples = ddpm.sample(network, torch.zeros(2, 1, 2, 3), config_of(method, steps=steps))
    assert samples.nfe == len(network.times) == nfe
    assert network.times == list(range(999, -1, -1000 // nfe))  # the last of the T steps included
    assert samples.path.shape == (SNAPSHOTS, 2, 1, 2, 3)
    assert torch.equal(samples.path[-1], samples.x)
    assert float(samples.path_times[0]) == 1
    assert float(samples.path_times[-1]) == 0
    assert (samples.path_times.diff() <= 0).all()
    assert len(samples.path_times) == SNAPSHOTS


@pytest.mark.parametrize("method", METHODS)
def test_samples_come_back_between_zero_and_one(method):
    def noise_of_white(x, t, _):
        abar = float(products(EIGHT)[int(t[0])])
        return (x - 0.5 * math.sqrt(abar)) / math.sqrt(1 - abar)  # of an image that is 0.5

    samples = ddpm.sample(noise_of_white, torch.zeros(1, 1, 4, 4), config_of(method, EIGHT))
    torch.testing.assert_close(samples.x, torch.full((1, 1, 4, 4), 0.75), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("conditional", [False, True])
def test_the_sample_of_an_image_does_not_depend_on_the_size_of_the_batch(
    method, conditional, generator
):
    images = torch.rand(3, 2, 4, 5, generator=generator)
    how = {"type": "conditional", "conditional_weight": 0.3} if conditional else {}
    config = config_of(method, EIGHT, **how)
    whole = ddpm.sample(Exact(EIGHT), images, config)
    for n in (1, 2):
        part = ddpm.sample(Exact(EIGHT), images[:n], config)
        assert torch.equal(part.path, whole.path[:, :n])
    assert len(whole.x.flatten(1).unique(dim=0)) == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_repeats_the_samples_and_leaves_the_global_generator(method):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    images = torch.zeros(2, 1, 3, 3)
    first, second, other = (
        ddpm.sample(Exact(EIGHT), images, config_of(method, EIGHT, seed=seed)).x
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, second)
    assert float((first - other).abs().max()) > 0.01


def test_the_network_is_told_which_image_is_meant():
    def network(x, t, index):  # the noise of an image that is index / 4 - 0.5 everywhere
        abar = products(EIGHT)[int(t[0])]
        clean = (index / 4 - 0.5)[:, None, None, None]
        return (x - clean * math.sqrt(abar)) / math.sqrt(1 - abar)

    samples = ddpm.sample(network, torch.zeros(3, 1, 2, 2), config_of("ddpm", EIGHT))
    expected = torch.tensor([0.25, 0.375, 0.5])[:, None, None, None].expand(3, 1, 2, 2)
    torch.testing.assert_close(samples.x, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_no_gradients_are_asked_for(method):
    weight = torch.ones((), requires_grad=True)
    samples = ddpm.sample(
        lambda x, *_: weight * x, torch.zeros(1, 1, 2, 2), config_of(method, EIGHT)
    )
    assert not samples.x.requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [7, 0])
def test_a_prediction_that_is_not_finite_raises(method, value, at):
    def network(x, t, _):
        return torch.full_like(x, value) if int(t[0]) == at else 0 * x

    with pytest.raises(DivergenceError, match=f"not finite at step {at} of the chain"):
        ddpm.sample(network, torch.zeros(2, 1, 2, 2), config_of(method, EIGHT))
