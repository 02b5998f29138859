"""Arrays that fill a small part of black to white, and arrays that leave it."""

import numpy as np
import pytest
import skimage.data

import score_embedding as se

RNG = np.random.default_rng
CLEAN = skimage.data.camera()[100:228, 100:228] / 255
NOISY = CLEAN + 0.05 * RNG(0).normal(size=CLEAN.shape)


def psnr(found):
    return float(-10 * np.log10(np.mean((found - CLEAN) ** 2)))


@pytest.fixture(scope="module")
def expected():
    return psnr(se.denoise(NOISY, model="fast"))


def test_12_bits_in_16(expected):
    image = (4095 * NOISY.clip(0, 1)).round().astype(np.uint16)
    for options, white in (({}, 4095 / 65535), ({"data_range": (0, 4095)}, 4095)):
        found = se.denoise(image, model="fast", **options)
        assert psnr(found / white) > expected - 0.2
    assert se.estimate_noise(image).level == pytest.approx(0.05 * 4095 / 65535, rel=0.06)


@pytest.mark.parametrize("low", [0.0, 0.9])
@pytest.mark.parametrize("factor", [0.05, 0.005])
def test_floats_in_a_small_part_of_the_range(factor, low, expected):
    image = low + factor * NOISY
    noise = se.estimate_noise(image)
    assert noise.level == pytest.approx(0.05 * factor, rel=0.06)
    for options in ({}, {"noise": noise}, {"sigma": 0.05 * factor}):
        found = se.denoise(image, model="fast", **options).astype(float)
        assert psnr((found - low) / factor) > expected - 0.3


def test_little_contrast_in_8_bits_is_left_alone():
    """There the steps of the grey levels would be taken for noise."""
    image = (100 + 20 * CLEAN).round().astype(np.uint8)
    for same in (image, image / 255, 257 * image.astype(np.uint16)):
        np.testing.assert_allclose(255 * se.denoise(same, model="fast"), image, atol=1)


def test_counts_of_little_brightness():
    counts = RNG(1).poisson(20 * CLEAN) / 20
    for noise in ("poisson", se.Noise.poisson(0.05 * 0.05, 0, 1)):
        found = se.denoise(0.05 * counts, noise=noise, model="fast")
        assert psnr(found / 0.05) > psnr(counts) + 8
        assert found.mean() / 0.05 == pytest.approx(CLEAN.mean(), rel=0.02)


def test_a_level_far_above_the_contrast():
    found = se.denoise(0.001 * CLEAN, sigma=0.5, model="fast")
    assert 0 <= found.min() < found.max() < 0.02


@pytest.mark.parametrize("options", [{"sigma": 0.1}, {}])
def test_floats_above_1_are_not_cut(options):
    image = 2 * NOISY
    found = se.denoise(image, model="fast", **options)
    assert found.max() > 1.8
    assert psnr(found / 2) > psnr(NOISY) + 5


def test_noise_beyond_white_is_cut():
    found = se.denoise(NOISY + 0.3, sigma=0.05, model="fast")
    assert 1 < found.max() < 1.4  # a fifth of the picture is above white
    within = se.denoise(NOISY * 0.95, sigma=0.0475, model="fast")
    assert (within.min(), within.max()) >= (0, 0)
    assert within.max() <= 1
