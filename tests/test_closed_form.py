"""The exact score of the images against the mixture of Gaussians, written out."""

import math

import numpy as np
import pytest
import torch

from score_embedding.config import loading
from score_embedding.errors import ConfigError, DataError
from score_embedding.methods import embedded as method
from score_embedding.methods import precomputation
from score_embedding.methods.embedded import ScoreMatching, draw_times
from score_embedding.methods.exact import create, posterior_mean, score_of
from score_embedding.methods.model import TrainedModel
from score_embedding.sde import VarianceExploding

EPS = 1e-3


def sampled(images, config):
    method = create(config)
    known = method.precompute(images, torch.device("cpu"))
    return TrainedModel(method, None, known).sample(images)


def config_of(sample=None, **sections):
    values = {
        "name": "closed",
        "data_loader": {"dataset": "cifar"},
        "diffusion": {"sigma": 3},
        "sample": sample or {},
        **sections,
    }
    return loading.validate(values, "test")


def std_of(sigma, t):
    return math.sqrt((sigma ** (2 * t) - 1) / (2 * math.log(sigma)))


def mean_by_loops(x, images, std):
    """D at one x, a flat list, for flat images."""
    logs = [
        -sum((a - b) ** 2 for a, b in zip(x, image, strict=True)) / (2 * std**2) for image in images
    ]
    weights = [math.exp(value - max(logs)) for value in logs]
    total = sum(weights)
    return [
        sum(w * image[p] for w, image in zip(weights, images, strict=True)) / total
        for p in range(len(x))
    ]


def by_loops(x, images, std):
    """images: (n, c, h, w) or (b, n, c, h, w)."""
    own = images.dim() == 5
    rows = [
        mean_by_loops(
            x_.flatten().tolist(), (images[b] if own else images).flatten(1).tolist(), float(std[b])
        )
        for b, x_ in enumerate(x)
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


@pytest.fixture
def images(generator):
    return torch.rand(3, 2, 3, 2, generator=generator, dtype=torch.float64)


# The posterior mean and the score


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_one_image_the_posterior_mean_is_that_image_to_the_bit(dtype, generator):
    image = torch.rand(1, 3, 4, 5, generator=generator, dtype=dtype)
    x = torch.randn(6, 3, 4, 5, generator=generator, dtype=dtype)
    std = torch.tensor([1e-4, 1e-2, 0.1, 1.0, 10.0, 100.0], dtype=dtype)
    mean = posterior_mean(x, image, std)
    assert mean.dtype == dtype
    assert torch.equal(mean, image.expand(6, 3, 4, 5))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("own", [False, True])
def test_the_posterior_mean_is_the_one_by_loops(dtype, atol, own, generator):
    shape = (4, 3) if own else (3,)
    images = torch.rand(*shape, 2, 3, 2, generator=generator, dtype=torch.float64).to(dtype)
    std = torch.tensor([0.2, 0.5, 1.0, 5.0], dtype=dtype)
    noise = torch.randn(4, 2, 3, 2, generator=generator, dtype=torch.float64).to(dtype)
    x = (images[:, 0] if own else images[0]) + std[:, None, None, None] * noise
    expected = by_loops(x, images, std)
    mean = posterior_mean(x, images, std)
    torch.testing.assert_close(mean.double(), expected, rtol=0, atol=atol)
    spread = float((expected[2] - (images[2, 0] if own else images[0])).abs().max())
    assert spread > 0.01  # a mixture, not one of the images


def test_images_of_another_dtype_and_a_batch_of_any_size(images):
    x = torch.full((2, 2, 3, 2), 0.3)
    std = torch.tensor([0.7, 0.7], dtype=torch.float64)
    mean = posterior_mean(x, images, std)
    assert mean.dtype == torch.float32
    assert torch.equal(mean[0], mean[1])
    assert torch.equal(posterior_mean(x[:1], images, std[:1]), mean[:1])


@pytest.mark.parametrize("std", [1e-1, 1e-3, 1e-6, 1e-12])
def test_with_little_noise_the_posterior_mean_is_the_nearest_image(std, images):
    x = images[[2, 0, 1]] + 0.01
    mean = posterior_mean(x.float(), images.float(), torch.full((3,), std))
    torch.testing.assert_close(mean, images[[2, 0, 1]].float(), rtol=0, atol=1e-6)


def test_two_images_that_are_equally_near_are_met_in_the_middle():
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    for std in (1e-4, 1e-2, 1.0):
        mean = posterior_mean(torch.full((1, 1, 1, 1), 0.5), images, torch.tensor([std]))
        assert float(mean) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("sigma", [2.0, 25.0])
def test_the_score_is_the_gradient_of_the_logarithm_of_the_mixture(n, sigma, images, generator):
    images = images[:n]
    t = torch.tensor([0.02, 0.1, 0.5, 1.0], dtype=torch.float64)
    std = torch.tensor([std_of(sigma, time) for time in t.tolist()], dtype=torch.float64)
    x = images[[0] * 4] + std[:, None, None, None] * torch.randn(
        4, 2, 3, 2, generator=generator, dtype=torch.float64
    )
    x.requires_grad_()
    squares = (x[:, None] - images[None]).square().flatten(2).sum(2)
    log_density = torch.logsumexp(-squares / (2 * std[:, None] ** 2), dim=1)
    (expected,) = torch.autograd.grad(log_density.sum(), x)
    score = score_of(images, VarianceExploding(sigma))(x.detach(), t)
    torch.testing.assert_close(score, expected, rtol=1e-9, atol=1e-9)


# Sampling


def test_the_flow_of_one_image_has_its_closed_form(generator):
    image = torch.rand(1, 3, 4, 5, generator=generator, dtype=torch.float64)
    config = config_of({"tolerance": 1e-9, "prior": "matched"})
    samples = sampled(image, config)
    assert samples.x.shape == image.shape
    for state, t in zip(samples.path, samples.path_times.tolist(), strict=True):
        expected = image + std_of(3, t) / std_of(3, 1) * (samples.path[0] - image)
        torch.testing.assert_close(state, expected, rtol=0, atol=2e-6)
    assert float(samples.path_times[-1]) == EPS
    assert float((samples.x - image).abs().max()) > 1e-3  # the noise left at eps


@pytest.mark.parametrize("solver", ["rk45", "heun"])
def test_denoised_the_sample_of_one_image_is_that_image(solver, photographs):
    image = photographs(8, 8, 1).float()
    samples = sampled(image, config_of({"solver": solver, "denoise": True}))
    torch.testing.assert_close(samples.x, image, rtol=0, atol=1e-5)
    assert torch.equal(samples.path[-1], samples.x)


def test_of_several_images_each_denoised_sample_is_one_of_them(photographs):
    images = photographs(8, 8, 3).float()
    config = config_of({"prior": "matched", "denoise": True, "tolerance": 1e-4})
    x = sampled(images.repeat(4, 1, 1, 1)[:10], config).x
    distance = (x[:, None] - images[None]).abs().flatten(2).amax(dim=2)
    assert float(distance.amin(dim=1).max()) < 1e-3
    assert len(distance.argmin(dim=1).unique()) > 1


# The exact target


def batches(embedded, size, seed=4, index=0, sigma=3.0):
    """The same batch with the drawn noise and with the exact target."""
    return [
        ScoreMatching(embedded, VarianceExploding(sigma), size, EPS, target).draw_batch(
            index, torch.Generator().manual_seed(seed)
        )
        for target in ("noise", "exact")
    ]


def test_of_one_image_the_exact_target_is_the_drawn_noise(generator):
    embedded = torch.rand(1, 5, 2, 3, 2, generator=generator)
    noise, exact = batches(embedded, 17)
    for name in ("x", "condition", "index"):
        assert torch.equal(getattr(noise, name), getattr(exact, name))
    torch.testing.assert_close(exact.target, noise.target, rtol=0, atol=1e-4)


def test_of_three_images_the_exact_target_is_the_one_by_loops(generator):
    embedded = torch.rand(3, 5, 2, 3, 2, generator=generator, dtype=torch.float64)
    noise, exact = batches(embedded, 17, index=1)
    k, t = draw_times(5, 17, EPS, torch.Generator().manual_seed(4))
    assert torch.equal(exact.condition, t)
    assert torch.equal(exact.x, noise.x)
    for b in range(17):
        std = std_of(3.0, float(t[b]))
        x = exact.x[b].flatten().tolist()
        mean = mean_by_loops(x, embedded[:, k[b]].flatten(1).tolist(), std)
        expected = (np.array(x) - np.array(mean)) / std
        np.testing.assert_allclose(exact.target[b].flatten().numpy(), expected, rtol=0, atol=1e-5)
    assert float((exact.target - noise.target).abs().max()) > 0.1


def test_the_exact_target_is_the_mean_of_the_noise_given_the_noisy_image():
    embedded = torch.tensor([0.1, 0.4, 1.0]).reshape(3, 1, 1, 1, 1)
    pairs = [batches(embedded, 30_000, seed=i, index=i) for i in range(3)]
    x, t, exact, noise = (
        torch.cat([of(*pair).flatten() for pair in pairs]).double().numpy()
        for of in (
            lambda noise, _: noise.x,
            lambda noise, _: noise.condition,
            lambda _, exact: exact.target,
            lambda noise, _: noise.target,
        )
    )
    x_bin = np.searchsorted(np.quantile(x, np.linspace(0, 1, 13)[1:-1]), x)
    t_bin = np.searchsorted([0.1, 0.25], t)
    std = np.sqrt((3.0 ** (2 * t) - 1) / (2 * math.log(3)))
    images = embedded.flatten().double().numpy()
    weights = np.exp(-(((x - images[:, None]) / std) ** 2) / 2)
    weights /= weights.sum(0)
    mean = weights.T @ images
    variance = (weights * (images[:, None] - mean) ** 2).sum(0) / std**2  # of z given x and t
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1), abs=0.02)
    largest = 0.0
    for cell in range(36):
        inside = 3 * x_bin + t_bin == cell
        difference = (noise - exact)[inside]
        assert len(difference) > 100
        error = math.sqrt(variance[inside].sum()) / len(difference)
        assert abs(difference.mean()) < 4.5 * error
        largest = max(largest, abs(noise[inside].mean()) / error)
    assert largest > 20  # the noise itself has no such mean of zero


def test_the_exact_target_refuses_several_images_that_are_told_apart(photographs):
    config = config_of(training={"target": "exact"})
    with pytest.raises(ConfigError, match=r"model\.image_conditioning: none"):
        method.check(photographs(8, 8, 2), config)
    method.check(photographs(8, 8, 1), config)
    method.check(photographs(8, 8, 2), config_of())
    not_told = config_of(training={"target": "exact"}, model={"image_conditioning": "none"})
    method.check(photographs(8, 8, 2), not_told)


def test_the_exact_target_refuses_more_images_than_memory_holds(photographs, monkeypatch):
    monkeypatch.setattr(precomputation, "IN_MEMORY", 0)
    config = config_of(training={"target": "exact"}, model={"image_conditioning": "none"})
    with pytest.raises(DataError, match="target noise, or fewer images"):
        method.check(photographs(8, 8, 2), config)
    method.check(photographs(8, 8, 2), config_of(model={"image_conditioning": "none"}))


def test_the_target_of_the_config_is_the_objectives(photographs):
    embedded = photographs(8, 8, 1)[:, None].float()
    for target in ("noise", "exact"):
        assert method.objective(embedded, config_of(training={"target": target})).target == target
