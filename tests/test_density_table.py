"""Every density x every public call: images, noise levels, dtypes, files, gradients."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch

import score_embedding as se
from score_embedding import densities
from score_embedding.kinds import DENSITIES

KINDS = tuple(DENSITIES)
LIKELIHOODS = tuple(kind for kind in KINDS if DENSITIES[kind].likelihood)
CALLS = ("denoise", "score", "log_density")
CALLS_OF_KINDS = [
    (kind, call) for kind in KINDS for call in CALLS if call != "log_density" or kind in LIKELIHOODS
]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)
SIDE = 4  # of all arrays here, but one pixel of those of fixed side


def random(*shape, seed=0, dtype=torch.float64):
    """Smooth in part: neighbours are correlated, as in an image."""
    rng = np.random.default_rng(seed)
    values = rng.random(shape)
    values = (values + np.roll(values, 1, axis=-1) + np.roll(values, 1, axis=-2)) / 3
    return torch.from_numpy(values).to(dtype)


@lru_cache
def fitted(kind, c=3, dtype=torch.float64):
    images = random(6, c, 12, 13, seed=1, dtype=dtype)
    return se.fit(kind, images, side=SIDE, arrays=200, components=3, rank=5, em_steps=3)


def images_for(call, n, c=3):
    """Of any size, or of the size of the arrays, which alone all kinds have a log-density of."""
    return random(n, c, *((SIDE, SIDE) if call == "log_density" else (9, 11)), seed=3)


@pytest.mark.parametrize(("kind", "call"), CALLS_OF_KINDS)
@pytest.mark.parametrize("c", [1, 3])
def test_many_images_are_each_image_by_itself(kind, call, c):
    evaluate, x = getattr(fitted(kind, c), call), images_for(call, 5, c)
    levels = torch.tensor([0.3, 0.1, 0.3, 1.7, 0.1], dtype=torch.float64)
    together = evaluate(x, levels)
    assert together.shape == ((5,) if call == "log_density" else x.shape)
    for i, s in enumerate(levels.tolist()):
        torch.testing.assert_close(evaluate(x[i : i + 1], s)[0], together[i], rtol=1e-9, atol=1e-9)
    for same in (levels.tolist(), levels.numpy(), levels.float().double()):
        torch.testing.assert_close(evaluate(x, same), together, rtol=1e-6, atol=1e-6)
    scalar = evaluate(x, 0.3)
    torch.testing.assert_close(scalar[[0, 2]], together[[0, 2]], rtol=1e-9, atol=1e-9)
    assert evaluate(x[:0], 0.3).shape == together[:0].shape


@pytest.mark.parametrize(("kind", "call"), CALLS_OF_KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_dtype_of_the_images(kind, call, dtype):
    evaluate = getattr(fitted(kind, dtype=torch.float32), call)
    x = images_for(call, 2)
    x = (255 * x).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    found = evaluate(x, 0.5)
    assert found.dtype == (torch.float64 if dtype == torch.uint8 else dtype)
    expected = evaluate(x.double(), 0.5)
    eps = torch.finfo(found.dtype).eps
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=eps, atol=1e-4 * scale + 1e-4)
    if dtype != torch.bfloat16:  # numpy has none
        assert torch.equal(evaluate(x.numpy(), 0.5), found)
        swapped = x.numpy().astype(x.numpy().dtype.newbyteorder(">"))
        assert torch.equal(evaluate(swapped, 0.5), found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_fitting_is_in_float32_at_least_and_saving_keeps_every_bit(kind, dtype, tmp_path):
    density = fitted(kind, dtype=dtype)
    tensors = density.model.tensors()
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert {value.dtype for value in tensors.values()} == {wanted}
    densities.save(density, tmp_path / "density")
    read = densities.load(tmp_path / "density")
    assert (read.kind, read.stride) == (kind, density.stride)
    for name, value in read.model.tensors().items():
        assert torch.equal(value, tensors[name]), name
    x = images_for("denoise", 2).to(dtype)
    torch.testing.assert_close(read.denoise(x, 0.2), density.denoise(x, 0.2), rtol=0, atol=1e-5)
    other = density.to(torch.zeros(1, dtype=torch.float64))
    assert {value.dtype for value in other.model.tensors().values()} == {torch.float64}
    assert (other.kind, other.stride, other.channels) == (kind, density.stride, 3)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_the_score_is_that_of_the_denoiser_and_of_the_log_density(kind):
    density, x, s = fitted(kind), images_for("log_density", 3), 0.4
    score = density.score(x, s)
    torch.testing.assert_close(score, (density.denoise(x, s) - x) / s**2, rtol=1e-9, atol=1e-9)
    for i in range(3):  # along a random direction
        direction = random(1, 3, SIDE, SIDE, seed=i) - 0.3
        h = 1e-5
        ahead, behind = (density.log_density(x[i : i + 1] + t * direction, s) for t in (h, -h))
        slope = float((ahead - behind)[0]) / (2 * h)
        # Axes of variance below 0.03 s^2 are merged in the denoiser, not in the log-density.
        assert float((score[i] * direction).sum()) == pytest.approx(slope, rel=3e-3, abs=3e-3)


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "call"), CALLS_OF_KINDS)
def test_gradients_are_right(kind, call):
    evaluate, x = getattr(fitted(kind), call), images_for(call, 2)
    weights = random(*evaluate(x, 0.4).shape, seed=5) if call != "log_density" else torch.ones(2)
    levels = torch.tensor([0.4, 0.9], dtype=torch.float64)

    def functional(y):
        return (weights * evaluate(y, levels)).sum()

    tracked = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional(tracked), tracked)
    direction = random(*x.shape, seed=6) - 0.5
    h = 1e-5
    slope = float(functional(x + h * direction) - functional(x - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_the_gradient_is_the_identity_and_sigma_has_none(kind):
    x = random(1, 3, 6, 7).requires_grad_()
    fitted(kind).denoise(x, 0).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    sigma = torch.tensor(0.3, requires_grad=True)
    for call in CALLS:
        with pytest.raises(ValueError, match=r"sigma requires a gradient.*sigma\.detach\(\)"):
            getattr(fitted(kind), call)(x, sigma)
    with torch.no_grad():
        assert torch.isfinite(fitted(kind).denoise(x, sigma)).all()
    with pytest.raises(ValueError, match=r"image requires a gradient.*image\.detach\(\)"):
        se.fit(kind, x, side=SIDE)


# --- the table itself --------------------------------------------------------------------------


def test_a_kind_is_fitted_from_a_list_of_images_of_any_sizes():
    listed = [random(3, 8, 9), random(3, 5, 14), random(3, 3, 3)]
    for kind in KINDS:
        density = se.fit(kind, listed, side=SIDE, arrays=60, components=2)
        assert torch.isfinite(density.denoise(random(1, 3, 5, 6), 0.2)).all()


def test_the_default_side_is_that_of_the_table():
    for kind, about in DENSITIES.items():
        density = se.fit(kind, random(2, 1, 40, 40, dtype=torch.float32), arrays=40, components=2)
        tensors = density.model.tensors()
        found = density.model.shape[1] if hasattr(density.model, "shape") else None
        assert (found or tensors["variances"].shape[-1]) == about.side


def test_the_bundled_density_of_the_last_release_is_read():
    from importlib import resources

    path = resources.files("score_embedding") / "densities" / "photographs.safetensors"
    density = densities.load(str(path))
    assert (density.kind, density.channels, density.model.shape) == ("patch_mixture", 3, (3, 8, 8))
    x = random(1, 3, 20, 20, dtype=torch.float32)
    assert math.isfinite(float(density.denoise(x, 0.1).sum()))
