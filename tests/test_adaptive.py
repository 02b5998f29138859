"""Image-adaptive denoising, step by step."""

import functools
import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from sklearn.datasets import load_sample_images

from score_embedding import denoise
from score_embedding.densities import windows
from score_embedding.evaluation import held_out, metrics
from score_embedding.restoration import adaptive, models, neighbourhoods
from score_embedding.restoration.noise import Stationary


@functools.cache
def photograph():
    """The middle of flower at half its size, to which nothing was fitted."""
    pixels = torch.from_numpy(load_sample_images().images[1] / np.float32(255)).permute(2, 0, 1)
    return torch.nn.functional.avg_pool2d(pixels[:, 80:336, 200:456], 2)


@functools.cache
def psnr(s, adapt, halve, refine):
    y, noise = held_out.with_noise(photograph(), s, 0), Stationary.white(s, 3)
    known = adaptive.denoiser(models.bundled(3), y, noise, adapt, halve, refine)
    return metrics.clipped(known(y, noise), photograph())[0]


@pytest.mark.parametrize(
    ("s", "gain"), [(0.1, 0.0), pytest.param(0.5, 0.1, marks=pytest.mark.slow)]
)
def test_adapting_helps_where_there_is_much_noise(s, gain):
    assert psnr(s, True, True, True) > psnr(s, False, True, True) + gain


def test_smaller_sizes_help_where_there_is_much_noise():
    assert psnr(0.5, True, True, True) > psnr(0.5, True, False, True) + 0.05


@pytest.mark.parametrize(
    "s", [0.1, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.05, 0.25))]
)
def test_the_neighbourhoods_help(s):
    assert psnr(s, True, True, True) > psnr(s, True, True, False) + 0.2


@pytest.mark.parametrize("size", [(64, 48), (33, 47)])
def test_halving_averages_two_by_two_and_doubling_keeps_what_is_smooth(size):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, *size, generator=generator)
    small = adaptive.halved(noise)
    h, w = size[0] // 2, size[1] // 2
    for i, j in ((0, 0), (h - 1, w - 1)):
        own = noise[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2))
        torch.testing.assert_close(small[:, i, j], own)
    assert float(small.std()) == pytest.approx(0.5, rel=0.05)
    flat = (small / small.std()).numpy()
    assert abs(np.mean(flat[:, 1:] * flat[:, :-1])) < 0.1  # neighbours stay independent
    down, right = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    smooth = (0.01 * down + 0.02 * right)[None]
    back = adaptive.doubled(adaptive.halved(smooth), smooth)
    assert back.shape == smooth.shape
    inside = (slice(None), slice(8, 2 * h - 8), slice(8, 2 * w - 8))
    torch.testing.assert_close(back[inside], smooth[inside], rtol=0, atol=1e-4)


def test_without_its_steps_it_is_the_mixture():
    y, mixture = held_out.with_noise(photograph(), 0.2, 0), models.bundled(3)
    noise = Stationary.white(0.2, 3)
    known = adaptive.denoiser(mixture, y, noise, adapt=False, halve=False, refine=False)
    few = mixture.model.truncated(adaptive.passes(3, Stationary.white(0.2, 3)).axes)
    expected = windows.average(
        y[None], (8, 8), adaptive.STRIDE, lambda rows: few.denoise(rows, 0.2, 0.1)
    )
    assert torch.equal(known(y, noise), expected[0])
    whole = mixture.denoise(y[None], 0.2)[0]
    of_all = adaptive.of_mixture(mixture)(y, noise)
    assert torch.equal(of_all, whole)
    errors = [float((image - photograph()).square().mean()) for image in (expected[0], whole)]
    assert errors[0] < 1.1 * errors[1]


@pytest.mark.parametrize(
    ("size", "c"),
    [
        *((size, 1) for size in ((1, 1), (2, 40), (127, 30), (128, 128), (129, 131))),
        *((size, 3) for size in ((1, 1), (2, 40), (127, 30))),
        *(pytest.param(size, 3, marks=pytest.mark.slow) for size in ((128, 128), (129, 131))),
    ],
)
def test_small_and_odd_sizes(size, c):
    y = 0.5 + 0.1 * torch.randn(c, *size, generator=torch.Generator().manual_seed(0))
    noise = Stationary.white(0.1, c)
    answer = adaptive.denoiser(models.bundled(c), y, noise)(y, noise)
    assert answer.shape == y.shape
    assert torch.isfinite(answer).all()
    assert float((answer - 0.5).square().mean()) <= float((y - 0.5).square().mean())


@pytest.mark.parametrize(
    ("white", "channels", "s"),
    [
        *((9.0, 1, s) for s in (1e-6, 1e-3, 0.004, 0.03)),
        (1.0, 3, 1e-3),
        *(pytest.param(1.0, 3, s, marks=pytest.mark.slow) for s in (1e-6, 0.004, 0.03)),
    ],
)
def test_a_page_of_black_and_white_with_next_to_no_noise(s, channels, white):
    """float32 loses such noise beside the covariances of its edges."""
    rng = np.random.default_rng(0)
    page = zoom(rng.random((6, 8)) > 0.5, 8, order=0).astype(np.float32)
    noisy = white * np.stack([page] * channels, axis=-1)
    noisy = noisy + (s * rng.normal(size=noisy.shape)).astype(np.float32)
    assert np.abs(denoise(noisy, sigma=s) - white * page[..., None]).max() < 5 * s + 1e-5


def test_the_neighbourhoods_are_those_of_all_sizes(monkeypatch):
    refined = recorded(monkeypatch)
    y = torch.rand(1, 140, 130)
    noise = Stationary.white(0.2, 1)
    adaptive.denoiser(models.bundled(1), y, noise)(y, noise)
    averaged = sum(map(len, adaptive.passes(1, Stationary.white(0.2, 1)).full))
    assert averaged == 3
    assert refined == [((35, 32), 0.05), ((70, 65), 0.1), *averaged * [((140, 130), 0.2)]]


def test_answers_of_two_window_sizes_are_averaged(monkeypatch):
    monkeypatch.setattr(neighbourhoods, "refined", lambda _y, first, _noise, add: first + add)
    steps = adaptive.Passes(9.0, 1, ((1.0, 4.0), (10.0,)), 100.0)
    monkeypatch.setattr(adaptive, "passes", lambda *_: steps)
    y, noise = torch.zeros(1, 60, 60), Stationary.white(0.2, 1)
    found = adaptive.refined(lambda x, *_: x)(y, noise)
    assert torch.equal(found, torch.full_like(y, 12.5))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fast", [False, True])
def test_there_are_steps_for_every_noise_level(channels, fast):
    for level in (1e-5, 20 / 255, 0.1, 1.0, 50.0):
        steps = adaptive.passes(channels, Stationary.white(level, channels), fast)
        assert steps.full
        assert all(steps.full)
        assert level <= steps.level


@pytest.mark.parametrize(
    ("size", "halves"),
    [
        ((63, 90), []),
        ((64, 90), [(32, 45)]),
        ((130, 141), [(32, 35), (65, 70)]),
        ((520, 600), [(65, 75), (130, 150), (260, 300)]),
    ],
)
def test_any_denoiser_is_evaluated_at_halved_sizes_down_to_the_smallest(size, halves, monkeypatch):
    refined, evaluated = recorded(monkeypatch), []

    def estimate(x, noise):
        evaluated.append((x.shape[1:], noise.level))
        return x

    y = torch.rand(1, *size)
    answer = adaptive.refined(estimate)(y, Stationary.white(0.4, 1))
    levels = [0.4 / 2**k for k in range(len(halves), 0, -1)]
    assert refined == [*zip(halves, levels, strict=True), *3 * [(size, 0.4)]]
    assert evaluated == [(size, 0.4), *zip(halves[::-1], levels[::-1], strict=True)]
    torch.testing.assert_close(answer, y)  # no step has changed anything


def test_smaller_sizes_help_any_denoiser_where_there_is_much_noise():
    y, noise = held_out.with_noise(photograph(), 0.5, 0), Stationary.white(0.5, 3)
    bundled = adaptive.of_mixture(models.bundled(3))
    found = [
        metrics.clipped(adaptive.refined(bundled, halvings)(y, noise), photograph())[0]
        for halvings in (0, 1, 2)
    ]
    assert found[0] + 0.3 < found[1] < found[2]


def recorded(monkeypatch):
    """The sizes and noise levels at which neighbourhoods are refined; nothing is computed."""
    seen = []

    def refined(y, first, noise, groups):
        steps = adaptive.passes(len(y), noise)
        assert groups in (*itertools.chain(*steps.full), steps.halved)
        seen.append((y.shape[1:], noise.level))
        return first

    monkeypatch.setattr(neighbourhoods, "refined", refined)
    return seen
