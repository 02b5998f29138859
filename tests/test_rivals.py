"""Untrained denoisers of other authors, against loops over pixels and images in float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from score_embedding import densities
from score_embedding.evaluation import denoiser_error
from score_embedding.evaluation.rivals import calibration, local_score, locality, pixelwise


def crops_of(photographs, n, side, channels=3):
    """n crops of real photographs (n, channels, side, side) in float64."""
    pictures = photographs(32)[:, :channels]
    rng = np.random.default_rng(n)
    return torch.stack(
        [
            pictures[k % len(pictures), :, i : i + side, j : j + side]
            for k, (i, j) in enumerate(rng.integers(0, 32 - side, (n, 2)))
        ]
    )


def noisy(images, s):
    generator = torch.Generator().manual_seed(0)
    return images + s * torch.randn(images.shape, generator=generator, dtype=torch.float64)


def weighted(values, squares, s):
    """The mean of values with weights exp(-squares / (2 s^2))."""
    weights = [math.exp(-square / (2 * s**2)) for square in squares]
    return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)


def local_by_loop(x, images, s, side):
    """Each pixel, from the windows of all images at its place, cut at the border."""
    answer, reach = np.empty_like(x), side // 2
    b, _, h, w = x.shape
    for k, i, j in itertools.product(range(b), range(h), range(w)):
        window = (
            slice(None),
            slice(max(0, i - reach), i + reach + 1),
            slice(max(0, j - reach), j + reach + 1),
        )
        squares = [np.square(x[k][window] - image[window]).sum() for image in images]
        answer[k, :, i, j] = weighted([image[:, i, j] for image in images], squares, s)
    return answer


def equivariant_by_loop(x, images, s, side):
    """Each pixel, from the windows of all images at all places, with zeros beyond the border."""
    answer, reach = np.empty_like(x), side // 2
    b, _, h, w = x.shape
    around = [(0, 0), (0, 0), (reach, reach), (reach, reach)]
    x, padded = np.pad(x, around), np.pad(images, around)
    places = list(itertools.product(range(h), range(w)))
    windows = [p[:, i : i + side, j : j + side] for p in padded for i, j in places]
    values = [image[:, i, j] for image in images for i, j in places]
    for k, (i, j) in itertools.product(range(b), places):
        own = x[k, :, i : i + side, j : j + side]
        squares = [np.square(own - window).sum() for window in windows]
        answer[k, :, i, j] = weighted(values, squares, s)
    return answer


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_local_machine_is_that_of_a_loop(photographs, channels, side):
    images, truth = crops_of(photographs, 9, 6, channels), crops_of(photographs, 2, 6, channels)
    x = noisy(truth[:, :, :5], 0.2)  # other than square
    images = images[:, :, :5]
    expected = local_by_loop(x.numpy(), images.numpy(), 0.2, side)
    found = local_score.local(x, images, 0.2, side)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 3])
def test_the_equivariant_machine_is_that_of_a_loop(photographs, channels, side):
    images, truth = crops_of(photographs, 4, 5, channels), crops_of(photographs, 2, 5, channels)
    x = noisy(truth[:, :, :4], 0.2)
    images = images[:, :, :4]
    expected = equivariant_by_loop(x.numpy(), images.numpy(), 0.2, side)
    found = local_score.equivariant(x, images, 0.2, side)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def mask_by_loop(images, s, threshold):
    """Which pixels the Wiener filter of each pixel gives a weight, from the inverse matrix."""
    n, c, h, w = images.shape
    rows = images.reshape(n, -1)
    C = np.cov(rows, rowvar=False, bias=True)
    wiener = np.abs(C @ np.linalg.inv(C + s**2 * np.eye(len(C)))).reshape(c, h * w, c, h * w)
    mask = np.zeros((h * w, h * w), bool)
    for q in range(h * w):
        row = [wiener[:, q, :, p].sum() for p in range(h * w)]
        mask[q] = [p == q or size >= threshold * max(row) for p, size in enumerate(row)]
    return mask


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("s", [0.1, 1.0])
def test_locality_from_statistics_is_that_of_a_loop(photographs, channels, s):
    images, truth = crops_of(photographs, 20, 4, channels), crops_of(photographs, 2, 4, channels)
    x = noisy(truth, s)
    mask = mask_by_loop(images.numpy(), s, 0.3)
    assert 16 < mask.sum() < mask.size  # some pixels beside each one itself, and not all
    fitted = locality.fit(images)
    np.testing.assert_array_equal(fitted.mask(s, 0.3).numpy(), mask)
    expected = np.empty(x.shape)
    for k, q in itertools.product(range(len(x)), range(16)):
        i, j = divmod(q, 4)
        gaps = np.square(x[k].numpy() - images.numpy()).reshape(20, channels, 16)[:, :, mask[q]]
        squares = gaps.sum(axis=(1, 2))
        expected[k, :, i, j] = weighted([image[:, i, j].numpy() for image in images], squares, s)
    np.testing.assert_allclose(fitted.denoise(x, s, 0.3), expected, rtol=1e-9)


def test_pixels_that_never_vary_have_themselves_as_neighbours():
    images = torch.zeros(5, 1, 3, 3, dtype=torch.float64)
    images[:, 0, 1, 1] = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = locality.fit(images).denoise(torch.ones(1, 1, 3, 3, dtype=torch.float64), 0.1, 0.5)
    assert float(found[0, 0, 0, 0]) == 0
    assert 0.9 < float(found[0, 0, 1, 1]) <= 1


def test_windows_of_the_whole_image_give_the_empirical_density(photographs):
    images, truth = crops_of(photographs, 12, 6), crops_of(photographs, 3, 6)
    x = noisy(truth, 0.3)
    expected = densities.fit("empirical", images, side=6).denoise(x, 0.3)
    torch.testing.assert_close(local_score.local(x, images, 0.3, 11), expected)
    torch.testing.assert_close(locality.fit(images).denoise(x, 0.3, 0.0), expected)


@pytest.mark.parametrize("block", [1, 40, 500])
def test_blocks_of_any_size_give_the_same(photographs, block):
    images, truth = crops_of(photographs, 7, 4, 1), crops_of(photographs, 3, 4, 1)
    x = noisy(truth, 0.1)
    local = pixelwise.posterior_mean(x, images, 0.1, lambda squares: squares.flatten(0, 1))
    blocks = pixelwise.posterior_mean(x, images, 0.1, lambda squares: squares.flatten(0, 1), block)
    torch.testing.assert_close(local, blocks)
    whole = local_score.equivariant(x, images, 0.1, 3)
    torch.testing.assert_close(whole, local_score.equivariant(x, images, 0.1, 3, block))


def test_little_noise_does_not_underflow(photographs):
    """Weights of exp(-10^7) and less, in float32."""
    images = crops_of(photographs, 7, 4, 1).float()
    for machine in (local_score.local, local_score.equivariant):
        torch.testing.assert_close(machine(images[:2] + 1e-5, images, 1e-4, 3), images[:2])


def test_the_parameter_is_the_best_of_the_candidates_at_each_level(photographs):
    images = crops_of(photographs, 40, 8, 1).float()

    def machine(x, s, side):
        return local_score.local(x, images[8:], s, int(side))

    tried, levels, sides = images[:8], (0.1, 1.0), (1, 3, 15)
    found = calibration.calibrated(machine, tried, levels, sides)
    for level in levels:
        errors = {}
        for side in sides:
            x = denoiser_error.noisy(tried, level)
            errors[side] = float((machine(x, level, side) - tried).square().mean())
        assert found.chosen[level] == min(errors, key=errors.get)
    x = denoiser_error.noisy(tried, 0.12)
    answer = found.denoise(x, x.new_full((8,), 0.12))
    torch.testing.assert_close(answer, machine(x, 0.12, found.chosen[0.1]))


def test_no_training_images_are_refused():
    with pytest.raises(ValueError, match="no training images"):
        pixelwise.streamed_mean([])
