"""The closed-form start of sampling: the flow of a Gaussian against a numerical integration."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from score_embedding import densities
from score_embedding.config import loading
from score_embedding.config.sections import Sample
from score_embedding.errors import ConfigError
from score_embedding.kinds import DENSITIES
from score_embedding.methods import preconditioning, samplers
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel
from score_embedding.methods.samplers.gaussian_start import Shortened
from score_embedding.sde import VarianceExploding
from test_combined import digits
from test_residual import GREY, KnownDensity, config_of

SIDE = 12


def gaussian_images(n=400, side=4):
    generator = torch.Generator().manual_seed(4)
    A = torch.randn(side**2, side**2, generator=generator, dtype=torch.float64) / 4
    rows = 0.3 + torch.randn(n, side**2, generator=generator, dtype=torch.float64) @ A.T
    return rows.reshape(n, 1, side, side)


@pytest.mark.parametrize("kind", DENSITIES)
def test_the_flow_is_that_of_a_numerical_integration(kind):
    images = gaussian_images()
    density = densities.fit(kind, images, side=4, components=3, rank=6)
    x = 3 * images[:3].flip(0)
    found = density.gaussian_flow(x, 4.0, 0.7)
    assert found.shape == x.shape
    # The Gaussian follows from where its flow takes zero and the unit vectors from far above. That
    # it is the one of the images is the next test.
    base = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    units = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    moved = density.gaussian_flow(torch.cat([base, units]), 1e6, 0.0).flatten(1)
    root = ((moved[1:] - moved[0]) * 1e6).numpy()  # C^(1/2)
    C, mean = root @ root.T, moved[0].numpy()

    def slope(s, state):
        rows = state.reshape(3, 16)
        # dx/ds = -s score, score = -(C + s^2 I)^-1 (x - mean)
        return (s * np.linalg.solve(C + s**2 * np.eye(16), (rows - mean).T).T).ravel()

    flow = solve_ivp(slope, (4.0, 0.7), x.flatten().numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.flatten(), flow.y[:, -1], rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["gaussian", "combined", "image_mixture", "empirical"])
def test_the_gaussian_has_the_mean_and_the_covariance_of_the_images(kind):
    images = gaussian_images()
    density = densities.fit(kind, images, side=4, components=3)
    base = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    units = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    moved = density.gaussian_flow(torch.cat([base, units]), 1e6, 0.0).flatten(1)
    root = ((moved[1:] - moved[0]) * 1e6).numpy()
    rows = images.flatten(1).numpy()
    C = np.cov(rows.T, bias=True)
    # combined holds out a tenth of the images
    atol = 0.25 * np.abs(C).max() if kind == "combined" else 0.02 * np.abs(C).max()
    np.testing.assert_allclose(root @ root.T, C, rtol=0, atol=atol)
    np.testing.assert_allclose(moved[0], rows.mean(axis=0), rtol=0, atol=0.1)


def test_a_density_of_windows_has_no_flow_of_whole_images():
    density = densities.fit("patch_mixture", torch.rand(2, 1, 16, 16), side=4, components=2)
    with pytest.raises(ValueError, match="windows have no joint density"):
        density.gaussian_flow(torch.rand(1, 1, 16, 16), 2.0, 1.0)
    for levels in ((0.0, 1.0), (-1.0, 1.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="sigma"):
            density.gaussian_flow(torch.rand(1, 1, 4, 4), *levels)


def test_a_shortened_diffusion_is_the_first_part_of_the_whole():
    sde = VarianceExploding(9.0)
    part = Shortened(9.0, 0.4)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(part.std(t), sde.std(0.4 * t))
    torch.testing.assert_close(part.time_of(part.std(t)), t)
    # d std^2 / dt = g^2, on its own clock
    h = 1e-6
    slope = (part.std(t + h) ** 2 - part.std(t - h) ** 2) / (2 * h)
    torch.testing.assert_close(slope, part.g(t) ** 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(part.integral_g2(0.0, t), part.std(t) ** 2)


@pytest.mark.parametrize("solver", ["heun", "rk45"])
def test_of_a_gaussian_the_sample_is_that_without_the_short_cut(solver):
    images = gaussian_images().float()
    density, sde = densities.fit("gaussian", images, side=4), VarianceExploding(8.0)

    def score(x, t):
        s = sde.std(t).to(x)
        return (density.denoise(x, s) - x) / s[:, None, None, None] ** 2

    def drawn(level, steps):
        options = Sample(solver=solver, steps=steps, prior="matched", gaussian_above=level)
        flow = density.gaussian_flow
        return samplers.draw(score, images[:5], sde, options, 1e-3, 0, gaussian_flow=flow)

    whole, shorter = drawn(None, 60), drawn(0.5, 40)
    torch.testing.assert_close(shorter.x, whole.x, rtol=0, atol=2e-2)
    assert torch.equal(shorter.path[0], whole.path[0])
    assert (float(shorter.path_times[0]), float(shorter.path_times[-1])) == (1.0, 1e-3)
    assert bool((shorter.path_times.diff() < 0).all())
    assert float(shorter.path_times[1]) < float(sde.time_of(0.5))
    assert shorter.nfe < whole.nfe
    # A level beyond the start changes nothing.
    assert torch.equal(drawn(50.0, 60).x, whole.x)


@pytest.mark.slow
def test_a_run_samples_with_fewer_evaluations_to_nearly_the_same_pictures():
    changes = {
        **GREY,
        "data_loader": {**GREY["data_loader"], "image_size": SIDE},
        "diffusion": {"sigma": 100},
        "image_density": {"side": SIDE},
    }
    images = digits()[0][:600]

    def samples(known=None, **options):
        sample = {"prior": "matched", "solver": "heun", **options}
        config = config_of("combined", **changes, sample=sample)
        known = known or preconditioning.precompute(list(images), config)[0]
        model = TrainedModel(method_of(config), None, KnownDensity({}, known, []))
        return known, model.sample(images[:6])

    known, exact = samples(steps=40)
    _, usual = samples(known, steps=8)
    _, shorter = samples(known, steps=8, gaussian_above=12)
    error = [float((each.x - exact.x).square().mean().sqrt()) for each in (usual, shorter)]
    assert error[1] < error[0]
    assert "above noise 12 the flow of the Gaussian" in samplers.describe(
        Sample(gaussian_above=12, prior="matched")
    )


def test_a_level_or_a_density_that_cannot_be_is_refused():
    images = list(digits()[0][:50])
    config = config_of(
        "gaussian", **{**GREY, "data_loader": {**GREY["data_loader"], "image_size": SIDE}},
        sample={"gaussian_above": 1.0},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"sample\.gaussian_above: images of shape.*combined"):
        preconditioning.precompute(images, config)
    low = config.model_copy(update={"sample": Sample(gaussian_above=0.01)})
    with pytest.raises(ConfigError, match=r"gaussian_above: 0\.01 is not above the noise at misc"):
        preconditioning.precompute(images, low)
    known, _ = preconditioning.precompute(images, config.model_copy(update={"sample": Sample()}))
    finished = TrainedModel(method_of(config), None, KnownDensity({}, known, []))
    with pytest.raises(ConfigError, match=r"sample\.gaussian_above: images of shape.*combined"):
        finished.sample(images[0][None])
    values = {"name": "x", "data_loader": {"dataset": "cifar"}, "sample": {"gaussian_above": -1}}
    with pytest.raises(ConfigError, match="gaussian_above"):
        loading.validate(values, "test")
