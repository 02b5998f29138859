import math
import sys
import weakref

import numpy as np
import pytest
import torch

from command_line import start_calling
from score_embedding.config.sections import Sample
from score_embedding.errors import DivergenceError
from score_embedding.methods.samplers import (
    SNAPSHOTS,
    Samples,
    batches,
    denoised,
    describe,
    draw,
    generator_of,
    in_batches,
    start,
    start_std,
)
from score_embedding.methods.samplers.heun import heun, noise_level_times
from score_embedding.methods.samplers.rk45 import rk45
from score_embedding.sde import VarianceExploding

EPS, MU, S0 = 1e-3, 0.4, 0.3
SAMPLERS = [rk45, heun]


def variance(sigma, t):
    """Of N(mu, s0^2 I) diffused to t, written out."""
    return S0**2 + (sigma ** (2 * t) - 1) / (2 * math.log(sigma))


class GaussianScore:
    """Exact score of the diffused Gaussian; counts and records its calls."""

    def __init__(self, sigma):
        self.sigma = sigma
        self.times, self.forms = [], set()

    def __call__(self, x, t):
        self.times.append(float(t[0]))
        self.forms.add((x.shape, x.dtype, t.shape, t.dtype))
        return -(x - MU) / variance(self.sigma, t)[:, None, None, None]


def exact_flow(x, sigma, t):
    return MU + (x - MU) * math.sqrt(variance(sigma, t) / variance(sigma, 1.0))


@pytest.fixture
def x1(generator):
    return 2 * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 25.0])
@pytest.mark.parametrize(("tolerance", "atol"), [(1e-5, 2e-4), (1e-10, 1e-8)])
def test_rk45_follows_the_exact_flow_of_a_gaussian(sigma, tolerance, atol, x1):
    samples = rk45(GaussianScore(sigma), VarianceExploding(sigma), x1, EPS, tolerance=tolerance)
    torch.testing.assert_close(samples.x, exact_flow(x1, sigma, EPS), rtol=0, atol=atol)
    for state, t in zip(samples.path, samples.path_times.tolist(), strict=True):
        expected = exact_flow(x1, sigma, t)
        torch.testing.assert_close(state, expected, rtol=0, atol=5 * atol)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 25.0])
def test_heun_follows_the_exact_flow_of_a_gaussian_at_second_order(sigma, x1):
    errors, counts = [], [16, 32, 64, 128, 256]
    for steps in counts:
        samples = heun(GaussianScore(sigma), VarianceExploding(sigma), x1, EPS, steps=steps)
        errors.append(float((samples.x - exact_flow(x1, sigma, EPS)).abs().max()))
    assert errors[-1] < 1e-3
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-2, abs=0.2)


def test_the_path_of_heun_follows_the_exact_flow(x1):
    samples = heun(GaussianScore(5.0), VarianceExploding(5.0), x1, EPS, steps=200)
    for state, t in zip(samples.path, samples.path_times.tolist(), strict=True):
        torch.testing.assert_close(state, exact_flow(x1, 5.0, t), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "finely"), [(rk45, {"tolerance": 1e-4}), (heun, {"steps": 80})]
)
def test_the_distribution_of_the_data_comes_out_of_the_matched_prior(sampler, finely):
    sde = VarianceExploding(25.0)
    std = start_std(sde, Sample(prior="matched"))
    x = start(torch.zeros(8, 1, 40, 40), std, seed=1)
    samples = sampler(GaussianScore(25.0), sde, x, EPS, **finely).x
    assert float(samples.mean()) == pytest.approx(MU, abs=0.02)
    assert float(samples.std()) == pytest.approx(S0, rel=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nfe_is_the_number_of_calls_made(sampler, x1):
    score = GaussianScore(5.0)
    assert sampler(score, VarianceExploding(5.0), x1, EPS).nfe == len(score.times) > 0


@pytest.mark.parametrize("steps", [1, 3, 10, 50])
def test_heun_makes_two_calls_per_step(steps, x1):
    score = GaussianScore(5.0)
    samples = heun(score, VarianceExploding(5.0), x1, EPS, steps=steps)
    assert samples.nfe == len(score.times) == 2 * steps


def test_rk45_makes_more_calls_for_a_finer_tolerance(x1):
    coarse, fine = (
        rk45(GaussianScore(5.0), VarianceExploding(5.0), x1, EPS, tolerance=tolerance).nfe
        for tolerance in (1e-3, 1e-9)
    )
    assert coarse < fine


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_path_leads_from_the_start_to_x_in_the_form_of_the_start(sampler, dtype, x1):
    x, before = x1.to(dtype), x1.to(dtype)
    score = GaussianScore(5.0)
    samples = sampler(score, VarianceExploding(5.0), x, EPS)
    assert torch.equal(samples.path[0], x)
    assert torch.equal(samples.path[-1], samples.x)
    assert torch.equal(x, before)
    assert samples.path.shape == (SNAPSHOTS, *x.shape)
    assert samples.x.dtype == samples.path.dtype == dtype
    assert samples.path_times.shape == (SNAPSHOTS,)
    assert (samples.path_times[0], samples.path_times[-1]) == (1.0, EPS)
    assert (samples.path_times.diff() < 0).all()
    assert score.forms == {(x.shape, dtype, (2,), dtype)}
    assert EPS * (1 - 1e-6) <= min(score.times) <= max(score.times) <= 1


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 9, 30])
def test_heun_keeps_snapshots_of_any_number_of_steps(steps, x1):
    samples = heun(GaussianScore(2.0), VarianceExploding(2.0), x1, EPS, steps=steps)
    assert samples.path.shape == (SNAPSHOTS, *x1.shape)
    assert (samples.path_times.diff() <= 0).all()
    assert len(samples.path_times.unique()) == min(steps + 1, SNAPSHOTS)


def test_heun_frees_the_states_that_are_not_shown(x1):
    states, alive = [], []

    def score(x, _):
        states.append(weakref.ref(x))
        alive.append(sum(state() is not None for state in states))
        return -x / 10

    heun(score, VarianceExploding(2.0), x1, EPS, steps=100)
    assert len(states) == 200
    assert max(alive) <= SNAPSHOTS + 2


def test_heun_does_the_same_to_an_image_in_any_batch(x1):
    sde = VarianceExploding(5.0)
    together = heun(GaussianScore(5.0), sde, x1, EPS).x
    alone = heun(GaussianScore(5.0), sde, x1[1:], EPS).x
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_ask_for_no_gradients(sampler):
    weight = torch.ones((), requires_grad=True)
    x = torch.ones(1, 1, 2, 2)
    samples = sampler(lambda x, _: -weight * x, VarianceExploding(2.0), x, EPS)
    assert not samples.x.requires_grad


@pytest.mark.parametrize("sigma", [0.5, 1.0, 5.0, 25.0])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_noise_level_times_are_even_in_the_logarithm_of_std(sigma, steps):
    sde = VarianceExploding(sigma)
    times = noise_level_times(sde, EPS, steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert (times[0], times[-1]) == (1.0, EPS)
    decrements = sde.std(times).log().diff()
    expected = torch.full((steps,), (sde.std(EPS).log() - sde.std(1.0).log()).item() / steps)
    torch.testing.assert_close(decrements, expected.double(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("from_time", [1.0, 0.3])
def test_a_score_that_is_not_finite_raises(sampler, value, from_time):
    def score(x, t):
        return torch.full_like(x, value) if float(t[0]) <= from_time else -x

    with pytest.raises(DivergenceError, match="the score is not finite at t ="):
        sampler(score, VarianceExploding(2.0), torch.ones(1, 1, 2, 2), EPS)


@pytest.mark.parametrize(
    ("prior", "std"), [("unit", 1.0), ("matched", math.sqrt(12 / math.log(5)))]
)
def test_the_start_has_the_std_of_its_prior(prior, std):
    asked = start_std(VarianceExploding(5.0), Sample(prior=prior))
    assert asked == pytest.approx(std, rel=1e-6)
    x = start(torch.zeros(4, 3, 64, 64), asked, seed=3)
    assert (x.shape, x.dtype) == ((4, 3, 64, 64), torch.float32)
    assert float(x.std()) == pytest.approx(std, rel=0.015)
    assert float(x.mean()) == pytest.approx(0, abs=0.02 * std)
    correlations = torch.corrcoef(x.flatten(1)) - torch.eye(4)
    assert float(correlations.abs().max()) < 0.04


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("prior", ["unit", "matched"])
def test_a_conditional_start_is_the_weighted_sum_of_image_and_noise(weight, prior, generator):
    images, sde = torch.rand(2, 3, 4, 5, generator=generator), VarianceExploding(5.0)
    noise = start(images, 1.0, seed=11)
    options = Sample(type="conditional", conditional_weight=weight, prior=prior)
    x = start(images, start_std(sde, options), seed=11, conditional_weight=weight)
    expected = weight * images + (1 - weight) * 5.0 * noise
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [None, 0.6])
def test_a_start_has_the_dtype_of_the_images(dtype, weight):
    images = torch.zeros(1, 1, 2, 2, dtype=dtype)
    assert start(images, 1.5, 0, weight).dtype == dtype


@pytest.mark.parametrize("weight", [None, 0.6])
def test_the_start_of_an_image_does_not_depend_on_the_size_of_the_batch(weight, generator):
    images = torch.rand(5, 3, 4, 5, generator=generator)
    whole = start(images, 1.5, 7, weight)
    for n in (1, 2, 4):
        assert torch.equal(start(images[:n], 1.5, 7, weight), whole[:n])


def test_every_seed_and_every_image_starts_elsewhere():
    images = torch.zeros(3, 1, 4, 4)
    starts = [start(images, 1.0, seed) for seed in (0, 1, 2, 2**32 - 1)]
    assert len(torch.cat(starts).flatten(1).unique(dim=0)) == 12


def test_every_image_has_random_numbers_of_its_own_in_each_stream():
    keys = [(seed, i, stream) for seed in (0, 1) for i in (0, 1, 2) for stream in (0, 1)]
    drawn = [float(torch.rand((), generator=generator_of(*key))) for key in keys]
    assert len(set(drawn)) == 12
    assert [float(torch.rand((), generator=generator_of(*key))) for key in keys] == drawn
    assert torch.equal(
        start(torch.zeros(2, 1, 3, 3), 1.0, 5)[1],
        torch.randn(1, 3, 3, generator=generator_of(5, 1, stream=0)),
    )


def test_the_start_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    start(torch.zeros(1, 1, 2, 2), 1.0, 5)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        (Sample(solver="heun", steps=7, prior="matched"), 14),
        (Sample(solver="heun", steps=3, type="conditional", conditional_weight=0.6), 6),
        (Sample(solver="rk45", tolerance=1e-7), None),
        # A weight without the type is not used.
        (Sample(solver="rk45", tolerance=1e-2, conditional_weight=0.6), None),
        (Sample(solver="heun", steps=4, denoise=True), 9),
    ],
)
def test_draw_does_what_the_sample_section_says(options, nfe, generator):
    images, sde = torch.rand(2, 1, 4, 5, generator=generator), VarianceExploding(5.0)
    samples = draw(GaussianScore(5.0), images, sde, options, EPS, seed=9)
    weight = 0.6 if options.type == "conditional" else None
    x = start(images, start_std(sde, options), 9, weight)
    assert describe(options).startswith("Heun" if options.solver == "heun" else "RK45, tolerance")
    if options.solver == "heun":
        expected = heun(GaussianScore(5.0), sde, x, EPS, steps=options.steps)
    else:
        expected = rk45(GaussianScore(5.0), sde, x, EPS, tolerance=options.tolerance)
    if options.denoise:
        expected = denoised(GaussianScore(5.0), sde, expected, EPS)
    assert torch.equal(samples.path, expected.path)
    assert torch.equal(samples.x, expected.x)
    assert samples.nfe == (nfe or expected.nfe)


@pytest.mark.parametrize("sigma", [2.0, 25.0])
def test_denoising_ends_with_the_posterior_mean_of_the_gaussian(sigma, x1):
    before = Samples(x1, torch.stack([x1 + 1] * (SNAPSHOTS - 1) + [x1]), torch.ones(SNAPSHOTS), 7)
    score, eps = GaussianScore(sigma), 0.05
    after = denoised(score, VarianceExploding(sigma), before, eps)
    noise = variance(sigma, eps) - S0**2  # std(eps)^2
    expected = (S0**2 * x1 + noise * MU) / (S0**2 + noise)
    torch.testing.assert_close(after.x, expected, rtol=0, atol=1e-6)
    assert torch.equal(after.path[:-1], before.path[:-1])
    assert torch.equal(after.path[-1], after.x)
    assert (after.nfe, score.times) == (8, [eps])


# Many images, in batches


@pytest.mark.parametrize(
    ("n", "size", "expected"),
    [
        (64, (32, 32), [(0, 64)]),
        (130, (32, 32), [(0, 64), (64, 128), (128, 130)]),
        (3, (256, 256), [(0, 1), (1, 2), (2, 3)]),
        (2, (512, 300), [(0, 1), (1, 2)]),  # at least one at a time
        (1, (1, 2**17), [(0, 1)]),
        (0, (8, 8), []),
    ],
)
def test_batches_are_of_a_fixed_number_of_pixels(n, size, expected):
    assert list(batches(n, size)) == expected


OPTIONS = Sample(solver="heun", steps=20, prior="matched", denoise=True)


@pytest.mark.parametrize(
    "options",
    [OPTIONS, Sample(solver="heun", steps=3, type="conditional", conditional_weight=0.6)],
)
def test_images_sampled_in_batches_are_those_sampled_at_once(options, generator):
    images, sde = torch.rand(10, 3, 128, 128, generator=generator), VarianceExploding(5.0)
    sizes = []

    def part(first, last):
        sizes.append(last - first)
        score = GaussianScore(5.0)
        return draw(score, images[first:last], sde, options, EPS, seed=9, first=first)

    together = draw(GaussianScore(5.0), images, sde, options, EPS, seed=9)
    divided = in_batches(part, 10, (128, 128))
    assert sizes == [4, 4, 2]
    assert torch.equal(divided.x, together.x)
    assert torch.equal(divided.path, together.path[:, :4])  # of the first batch
    assert torch.equal(divided.path_times, together.path_times)
    assert divided.nfe == together.nfe


def test_the_evaluations_of_batches_are_those_of_the_most_demanding_one():
    images, sde = torch.zeros(3, 1, 256, 256), VarianceExploding(2.0)
    images[1] = 100.0
    options = Sample(solver="rk45", type="conditional", conditional_weight=0.9)
    counts = []

    def part(first, last):
        score = GaussianScore(2.0)
        samples = draw(score, images[first:last], sde, options, EPS, seed=0, first=first)
        counts.append(samples.nfe)
        return samples

    assert in_batches(part, 3, (256, 256)).nfe == max(counts) > min(counts)


def test_no_images_have_no_samples():
    with pytest.raises(ValueError, match="no images"):
        in_batches(lambda *_: None, 0, (8, 8))


def peak():
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def memory_of_sampling():
    """In a process of its own: MiB of 256 samples over those of 64 and over their results."""
    images, sde = torch.zeros(256, 3, 32, 32), VarianceExploding(2.0)
    forward, back = (torch.nn.Conv2d(*ends, 3, padding=1) for ends in ((3, 64), (64, 3)))

    def sample(n, solver):
        options = Sample(solver=solver, steps=2, tolerance=0.5)

        def part(a, b):
            return draw(score, images[a:b], sde, options, 1e-3, 0, a)

        return in_batches(part, n, (32, 32))

    def score(x, t):  # noqa: ARG001
        return -back(forward(x).relu()) / 100

    for n in (64, 256):
        before = peak()
        results = [sample(n, solver) for solver in ("heun", "rk45")]
    size = sum(samples.x.nbytes + samples.path.nbytes for samples in results)
    print((peak() - before - size) / 2**20)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux reports it")
def test_the_memory_of_sampling_is_that_of_a_batch_and_the_results():
    with start_calling(memory_of_sampling) as sampling:
        stdout, stderr = sampling.communicate(timeout=300)
    assert sampling.returncode == 0, stderr
    # Measured: 6 to 30 MiB, as the allocator reuses memory or not; 196 with all images at once.
    assert float(stdout) < 64
