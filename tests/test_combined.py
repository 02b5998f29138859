"""The combined density and the mixture of whole images: brute force, limits, held-out images."""

import math
from functools import lru_cache

import numpy as np
import pytest
import skimage.data
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.fft import dctn, idctn
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits

from score_embedding import densities, frequencies
from score_embedding.data import crops
from score_embedding.densities import combined, image_mixture, splitting
from score_embedding.densities.density import Density
from score_embedding.densities.image_mixture import ImageMixture
from score_embedding.errors import CheckpointError, ConfigError
from score_embedding.kinds import DENSITIES
from score_embedding.methods import preconditioning
from test_residual import GREY, config_of
from test_scores import random_mixture

SIDE = 12


@lru_cache
def digits():
    """Handwritten ones in the middle of black 12 x 12 images: 1500 to fit to, 297 others."""
    pixels = torch.from_numpy(load_digits().images / 16)[:, None]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(pixels)))
    framed = torch.nn.functional.pad(pixels, (2, 2, 2, 2)).float()[order]
    return framed[:1500], framed[1500:]


@lru_cache
def fitted():
    return densities.fit("combined", digits()[0], components=10)


@lru_cache
def of_windows():
    """A density of 16 x 16 windows of photographs, and other windows of the same photographs."""
    pictures = [getattr(skimage.data, name)() for name in ("camera", "moon", "coins")]
    pictures = [torch.from_numpy(p.copy()).float()[None] / 255 for p in pictures]
    generator = torch.Generator().manual_seed(0)
    left, right = (
        [half(p) for p in pictures] for half in (lambda p: p[:, :200], lambda p: p[:, 200:])
    )
    windows = crops.draw(left, (16, 16), 2000, generator)
    density = densities.fit("combined", windows, components=10)
    return density, crops.draw(right, (16, 16), 400, generator)


def mean_squared_errors(density, x_0, s):
    """Of a combined density and of each of its parts, on images (n, c, h, w)."""
    x = x_0 + s * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3))
    parts = {"image_mixture": density.model.images, "patch_mixture": density.model.patches}
    all_three = [density, *(Density(kind, part, density.stride) for kind, part in parts.items())]
    return [float((each.denoise(x, s) - x_0).square().mean()) for each in all_three]


# --- the mixture of whole images ---------------------------------------------------------------


@pytest.mark.parametrize("s", [0.05, 0.3, 2.0])
def test_a_mixture_in_principal_axes_is_the_one_by_brute_force(s, generator):
    inner = random_mixture(generator, shape=(5, 1, 1))
    axes = torch.linalg.qr(torch.randn(12, 5, generator=generator, dtype=torch.float64))[0]
    mean = torch.randn(12, generator=generator, dtype=torch.float64)
    rest = torch.tensor([0.2], dtype=torch.float64)
    model = ImageMixture((3, 2, 2), mean, axes, inner, rest)
    others = float(rest) * (torch.eye(12, dtype=torch.float64) - axes @ axes.T)
    y = mean + (0.5 + s) * torch.randn(9, 12, generator=generator, dtype=torch.float64)
    logs, means = [], []
    for weight, m, C in zip(inner.weights, inner.means, inner.covariances(), strict=True):
        center, full = mean + axes @ m, axes @ C @ axes.T + others
        noisy = full + s**2 * torch.eye(12, dtype=torch.float64)
        log_p = multivariate_normal(center.numpy(), noisy.numpy()).logpdf(y.numpy())
        logs.append(math.log(weight) + log_p)
        means.append(center + (y - center) @ torch.linalg.solve(noisy, full))
    log_density = np.logaddexp.reduce(logs, axis=0)
    shares = torch.from_numpy(np.exp(np.array(logs) - log_density))
    expected = (shares[..., None] * torch.stack(means)).sum(dim=0)
    torch.testing.assert_close(model.denoise(y, s), expected, rtol=0, atol=3e-6)
    np.testing.assert_allclose(model.log_density(y, s), log_density, rtol=1e-10)


def test_one_component_with_all_axes_is_the_gaussian():
    images = digits()[0].double()
    one = densities.fit("image_mixture", images, components=1)
    gaussian = densities.fit("gaussian", images, side=SIDE)
    x = digits()[1][:8].double()
    for s in (0.1, 1.0):
        found = one.denoise(x, s)
        torch.testing.assert_close(found, gaussian.denoise(x, s), rtol=0, atol=0.005 * s)
    few = image_mixture.fit(images[:120], densities.model.FitOptions(components=20))
    assert len(few.coordinates.weights) == 2  # 50 images each
    assert 30 < few.axes.shape[1] < 120  # those of a variance that counts


def test_only_as_many_images_as_are_enough_are_fitted_to(monkeypatch):
    images = digits()[0]
    monkeypatch.setattr(image_mixture, "MOST_NUMBERS", 300 * SIDE**2)
    some, again = (densities.fit("image_mixture", images).model for _ in range(2))
    assert torch.equal(some.mean, again.mean)
    assert not torch.allclose(some.mean, images.flatten(1).mean(dim=0), atol=1e-4)
    torch.testing.assert_close(some.mean, images.flatten(1).mean(dim=0), rtol=0, atol=0.1)
    assert len(some.coordinates.weights) == 6


# --- combined ----------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [0.02, 0.07, 0.15, 0.4, 0.9, 2.2, 5.0])
def test_of_digits_it_is_never_worse_than_its_best_part(s):
    own, *parts = mean_squared_errors(fitted(), digits()[1], s)
    assert own < 1.005 * min(parts)  # round-off of so small a set


@pytest.mark.parametrize(
    ("s", "gain"), [(0.03, 0.0), (0.1, 0.01), (0.3, 0.01), (1.0, 0.0), (4.0, 0)]
)
def test_of_windows_of_photographs_it_is_better_than_both_parts(s, gain):
    density, windows = of_windows()
    own, *parts = mean_squared_errors(density, windows, s)
    assert own < (1.005 - gain) * min(parts)


@pytest.mark.parametrize("rings", [1, 4])
def test_the_least_squares_are_those_of_the_written_out_matrix(rings, generator):
    directions = torch.randn(2, 6, 1, 8, 9, generator=generator, dtype=torch.float64)
    target = 0.7 * directions[0] + torch.randn(6, 1, 8, 9, generator=generator).double()
    hat = frequencies.at_frequencies(torch.eye(rings, dtype=torch.float64), 8, 9).numpy()
    columns = [(h * d.numpy()).ravel() for d in directions for h in hat]
    price = [combined.PRIOR / 6 * (h * target.numpy() ** 2).sum() for h in hat] * 2
    rows = np.concatenate([np.stack(columns, axis=1), np.diag(np.sqrt(price))])
    wanted = np.concatenate([target.numpy().ravel(), np.zeros(2 * rings)])
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0].reshape(2, rings)
    found = combined.least_squares(directions, target, rings)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert np.abs(expected[0]).min() > 0.3


def test_it_is_the_sum_of_its_parts_written_out():
    model = fitted().model
    x = digits()[1][:3].double() + 0.1
    s = float((model.levels[4] * model.levels[5]).sqrt())  # halfway
    weights = (model.weights[4] + model.weights[5]).double() / 2
    mean = model.images.mean.double().view(1, 1, SIDE, SIDE)
    total = torch.zeros_like(x)
    kinds = ("image_mixture", "patch_mixture")
    for kind, part, a in zip(kinds, (model.images, model.patches), weights, strict=True):
        spectrum = dctn(
            (Density(kind, part).denoise(x, s) - mean).numpy(), axes=(2, 3), norm="ortho"
        )
        spectrum *= frequencies.at_frequencies(a[None], SIDE, SIDE).numpy()
        total += torch.from_numpy(idctn(spectrum, axes=(2, 3), norm="ortho"))
    torch.testing.assert_close(fitted().denoise(x, s), mean + total, rtol=0, atol=1e-6)


def test_without_noise_it_is_the_image_and_without_information_the_mean():
    x, model = digits()[1][:4], fitted().model
    for s, least in ((1e-5, 1e-6), (1e-4, 1e-4)):
        assert float((fitted().denoise(x, s) - x).abs().max()) < least
    mean = model.images.mean.view(1, 1, SIDE, SIDE).expand_as(x)
    torch.testing.assert_close(fitted().denoise(x, 1e6), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.weights[0].sum(dim=0), torch.ones(6))
    assert torch.equal(model.weights[-1], torch.tensor([[1.0], [0.0]]).expand(2, 6))


def test_the_parts_are_fitted_to_other_images_than_the_weights():
    images = digits()[0]
    own, held_out = splitting.split(len(images), 0, combined.HELD_OUT)
    assert len(held_out) == 128
    assert sorted([*own.tolist(), *held_out.tolist()]) == list(range(1500))
    torch.testing.assert_close(fitted().model.images.mean, images[own].flatten(1).mean(dim=0))
    assert not torch.equal(splitting.split(1500, 1, 128)[1], held_out)
    assert [len(part) for part in splitting.split(20, 0, 128)] == [18, 2]


def test_too_few_images_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"at least 20 .* got 19; use patch_mixture"):
        densities.fit("combined", digits()[0][:19])
    assert DENSITIES["combined"].least == splitting.LEAST
    options = config_of("combined", image_density={"side": SIDE}).image_density
    with pytest.raises(ConfigError, match=r"combined needs 20 images or windows.* there are 19"):
        preconditioning.check(digits()[0][:19], options)


def test_it_has_no_log_density():
    with pytest.raises(ValueError, match=r"combined has no log-density.*use image_mixture"):
        fitted().log_density(digits()[1], 0.3)


def test_larger_and_smaller_images_are_denoised_too():
    generator = torch.Generator().manual_seed(2)
    large = torch.nn.functional.pad(digits()[1][:2], (9, 4, 3, 8))
    for x_0 in (large, digits()[1][:2, :, :9, :7]):
        x = x_0 + 0.3 * torch.randn(x_0.shape, generator=generator)
        error = float((fitted().denoise(x, 0.3) - x_0).square().mean())
        assert error < 0.35 * 0.3**2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(levels=t["levels"].flip(0)), "do not increase"),
        (lambda t: t.update(weights=t["weights"][:-1]), "shapes"),
        (lambda t: t.pop("images.rest"), "rest"),
        (lambda t: t.update({"patches.weights": -t["patches.weights"]}), "below 0"),
        (lambda t: t.update({"others.means": t["levels"].clone()}), "no part others"),
        (lambda t: t.update({"images.coordinates.means": t["levels"].clone()}), "not a density"),
    ],
)
def test_a_file_whose_parts_do_not_fit_together_is_refused(change, words, tmp_path):
    path = tmp_path / "density.safetensors"
    densities.save(fitted(), path)
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, path, about)
    with pytest.raises(CheckpointError, match=words):
        densities.load(path)


def test_a_residual_run_on_it_starts_as_the_density(tmp_path):
    config = config_of(
        "combined", **GREY | {"data_loader": {**GREY["data_loader"], "image_size": SIDE}}
    )
    config = config.model_copy(
        update={"image_density": config.image_density.model_copy(update={"side": None})}
    )
    known, _ = preconditioning.precompute(list(digits()[0][:200]), config)
    assert known.density.model.shape == (1, SIDE, SIDE)
    preconditioning.save(tmp_path, known)
    loaded = preconditioning.load(tmp_path, torch.device("cpu"))
    x, s = digits()[1][:2], torch.tensor([0.1, 0.5])
    torch.testing.assert_close(loaded.denoise(None, x, s), known.denoise(None, x, s))
