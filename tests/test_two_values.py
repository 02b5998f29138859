"""The noise of pictures of two values, from what varies around these."""

import numpy as np
import pytest
import torch
from skimage import data

from score_embedding.restoration import two_values
from score_embedding.restoration.noise import Noise


def page(channels: int, low: float = 0.2, high: float = 0.8) -> torch.Tensor:
    """Of single pixels of two values at random: nowhere flat."""
    chosen = torch.rand(1, 90, 80, generator=torch.Generator().manual_seed(0)) < 0.3
    return torch.where(chosen, low, high).expand(channels, -1, -1)


def noisy(x: torch.Tensor, s: float) -> torch.Tensor:
    return x + s * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("s", [0.01, 0.05, 0.1])
def test_the_noise_of_two_values_is_at_most_what_varies_around_them(channels, s):
    x = noisy(page(channels), s)
    assert two_values.at_most(Noise.white(0.3, channels), x).level == pytest.approx(s, rel=0.05)
    assert two_values.at_most(Noise.white(s / 2, channels), x).level == pytest.approx(s / 2)


def test_a_curve_keeps_its_form():
    x = noisy(page(1), 0.05)
    curve = Noise.poisson(0.5, 0.01, 1)
    found = two_values.at_most(curve, x)
    ratios = found.deviations / curve.deviations
    assert np.ptp(ratios) < 1e-9
    assert ratios.max() < 0.2
    at_values = found.at(np.array([[0.2, 0.8]]))[0] ** 2
    assert np.average(at_values, weights=[0.3, 0.7]) == pytest.approx(0.05**2, rel=0.05)


@pytest.mark.parametrize("s", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("name", ["astronaut", "camera", "coffee", "chelsea", "gravel"])
def test_the_noise_of_photographs_is_less_than_around_two_values(name, s):
    pixels = torch.from_numpy(np.atleast_3d(getattr(data, name)())).permute(2, 0, 1) / 255
    given = Noise.white(s, len(pixels))
    assert two_values.at_most(given, noisy(pixels, s)) is given


@pytest.mark.parametrize("x", [torch.zeros(1, 20, 20), torch.full((3, 8, 9), 0.5)])
def test_an_image_of_one_value(x):
    given = Noise.white(0.1, len(x))
    assert two_values.at_most(given, x) is given


def test_two_values_without_noise():
    assert two_values.at_most(Noise.white(0.1, 1), page(1)).level == pytest.approx(0, abs=1e-6)
