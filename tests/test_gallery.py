"""Denoising of pictures of every kind: the result is never worse than the noisy picture.

With the level of the noise given, all pictures of the gallery; with the level estimated, those
whose noise can be told from their texture.
"""

import functools

import numpy as np
import pytest
import torch

import gallery
from score_embedding.restoration import clipping
from score_embedding.restoration.denoising import denoise

LOSS = 0.1  # dB
# Of a mean over a region, in standard deviations of the noise, which is cut off or not.
SHIFTS = {True: 0.25, False: 0.1}
# The fast model loses more on these, which no window near it resembles.
LOSS_OF_FAST = {
    "halftone": 1.0,
    "dithered": 0.5,
    "dithered_gradient": 0.35,
    "noise_alone": 0.8,
    "uniform_noise": 1.4,
    "checkerboard_2": 0.15,
    "hubble_corner": 0.25,  # it has noise of its own, which is found, too
}
GREY_LEVEL = 1 / 255
# Texture or pattern that is as noise in every tile, in pictures of 96 pixels: the level is
# estimated too high.
TEXTURES = [
    "grass", "face_25", "dithered", "checkerboard_2", "checkerboard_5", "noise_alone",
    "uniform_noise",
]  # fmt: skip
SHAPES = [name for name in gallery.MAKERS if name not in TEXTURES]
WITHOUT_GRAIN = [
    "rocket", "camera_corner", "soft_text", "coloured_lines", "plot",
    "phantom", "horse", "blobs", "line_art", "screenshot", "colorwheel",
    "dithered", "dithered_gradient", "halftone", "halftone_gradient", "checkerboard_1",
    "checkerboard_2", "checkerboard_5", "checkerboard_16", "stripes_2.5", "stripes_4",
    "stripes_20", "sharp_stripes_1", "sharp_stripes_3", "gradient", "grey_gradient",
    "faint_gradient", "flat_grey", "flat_colour", "black", "white", "night_sky",
    "night_sky_colour", "bright_dots",
]  # fmt: skip


def error(picture, truth):
    return float(np.mean((picture - truth) ** 2))


def decibels(of, than):
    """How much larger one mean square error is than another."""
    return 10 * np.log10(of / max(than, 1e-12)) if of else -np.inf


def denoised(noisy, **options):
    options = {"model": "fast", "channel_axis": None if noisy.ndim == 2 else 2} | options
    return denoise(noisy, **options).astype(float)


@functools.cache
def with_noise(name, level, stored=True):
    truth = gallery.picture(name)
    noisy = gallery.white(truth, level, one_for_all_channels=name.endswith("as_rgb"))
    return gallery.stored(noisy) if stored else noisy


def check_no_worse(name, noisy, most=LOSS, **options):
    truth = gallery.picture(name)
    loss = decibels(error(denoised(noisy, **options), truth), error(noisy, truth))
    assert loss <= most, f"{name}: {loss:.2f} dB worse"


def means(picture, side=64):
    """Of each channel over regions, half a region apart."""
    h, w = picture.shape[:2]
    corners = ((i, j) for i in range(0, h - side + 1, 32) for j in range(0, w - side + 1, 32))
    return np.array([picture[i : i + side, j : j + side].mean(axis=(0, 1)) for i, j in corners])


@pytest.mark.parametrize("name", gallery.MAKERS)
def test_noise_of_a_given_level(name):
    check_no_worse(name, with_noise(name, 25), LOSS_OF_FAST.get(name, LOSS), sigma=25 / 255)


@pytest.mark.slow
@pytest.mark.parametrize(("level", "stored"), [(5, True), (50, True), (15, False)])
@pytest.mark.parametrize("name", gallery.MAKERS)
def test_noise_of_a_given_level_thoroughly(name, level, stored):
    most = LOSS_OF_FAST.get(name, LOSS)
    check_no_worse(name, with_noise(name, level, stored), most, sigma=level / 255)


@pytest.mark.slow
@pytest.mark.parametrize("level", [5, 25])
@pytest.mark.parametrize(
    "name", ["halftone", "dithered", "noise_alone", "line_art", "night_sky", "tiny_8", "colorwheel"]
)
def test_the_adapted_mixture_is_no_worse_either(name, level):
    check_no_worse(name, with_noise(name, level), sigma=level / 255, model="fit")


@pytest.mark.parametrize(
    "name",
    ["coffee", "camera", "phantom", "page", "stripes_4", "tiny_24_grey", "line_art", "halftone"],
)
def test_noise_that_is_estimated(name):
    check_no_worse(name, with_noise(name, 25), LOSS_OF_FAST.get(name, LOSS))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_little_noise_that_is_estimated(name):
    check_no_worse(name, with_noise(name, 5), LOSS_OF_FAST.get(name, LOSS))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_correlated_noise_that_is_estimated(name):
    noisy = gallery.stored(gallery.correlated(gallery.picture(name), 25))
    check_no_worse(name, noisy, LOSS_OF_FAST.get(name, LOSS))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_counts(name):
    noisy = gallery.counts(gallery.picture(name), 100)
    check_no_worse(name, noisy, LOSS_OF_FAST.get(name, LOSS), noise="poisson")


@pytest.mark.parametrize("name", WITHOUT_GRAIN)
def test_a_clean_picture_stays(name):
    picture = gallery.picture(name)
    np.testing.assert_allclose(denoised(picture), picture, rtol=0, atol=GREY_LEVEL)


@pytest.mark.parametrize(
    "name", ["coffee", "logo", "colorwheel", "gradient", "flat_colour", "black", "white", "retina"]
)
def test_brightness_and_colour_stay(name):
    """Also where noise is cut off at black and white, which changes the mean of what is stored."""
    sigma, truth = 50 / 255, gallery.picture(name)
    for stored, most in SHIFTS.items():
        found = denoised(with_noise(name, 50, stored), sigma=sigma)
        assert np.abs(means(found) - means(truth)).max() < most * sigma


def test_noise_that_is_cut_off():
    s = torch.full((300_000,), 0.2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for x in (0.0, 0.1, 0.5, 0.95):
        cut = (x + s * torch.randn(s.shape, generator=generator, dtype=s.dtype)).clamp(0, 1)
        mean, deviation = clipping.stored(torch.full_like(s[:1], x), s[:1])
        assert cut.mean().item() == pytest.approx(mean.item(), abs=1e-3)
        assert cut.std().item() == pytest.approx(deviation.item(), abs=1e-3)
        assert clipping.restored(mean, s[:1]).item() == pytest.approx(x, abs=1e-4)


def test_what_is_cut_off_is_undone():
    """Without that the stored picture is 3 dB worse."""
    truth = gallery.picture("coffee")
    stored, unstored = (
        error(denoised(with_noise("coffee", 50, kind), sigma=50 / 255), truth)
        for kind in (True, False)
    )
    assert decibels(stored, unstored) < 1
