"""Impulse noise: found in each channel and of any values, and nowhere else."""

import numpy as np
import pytest
import skimage.data

import gallery
import score_embedding as se

RNG = np.random.default_rng
ASTRONAUT = skimage.data.astronaut()[:128, 140:268] / 255
NO_SPECKS = [
    "astronaut", "coffee", "camera", "coins", "grass", "gravel", "brick", "line_art", "page",
    "screenshot", "dithered", "halftone_gradient", "checkerboard_1", "checkerboard_2",
    "sharp_stripes_1", "night_sky", "night_sky_colour", "bright_dots", "hubble", "white", "black",
]  # fmt: skip


def specks(image, share, single_channels, random_values, seed=0):
    generator = RNG(seed)
    shape = image.shape if single_channels else (*image.shape[:2], 1)
    values = generator.random(shape)
    hit = generator.random(shape) < share
    return np.where(hit, values if random_values else values.round(), image)


@pytest.mark.parametrize("level", [0, 10])
@pytest.mark.parametrize("random_values", [False, True])
@pytest.mark.parametrize("single_channels", [False, True])
def test_specks_are_found(single_channels, random_values, level):
    noisy = gallery.stored(gallery.white(ASTRONAUT, level))
    found = se.estimate_noise(specks(noisy, 0.05, single_channels, random_values))
    hit = 1 - 0.95**3 if single_channels else 0.05
    assert hit / 4 < found.impulses < 1.1 * hit
    assert f"{100 * found.impulses:.1f} % isolated specks, which are kept" in found.described()


@pytest.mark.parametrize("level", [0, 5, 25])
@pytest.mark.parametrize("name", NO_SPECKS)
def test_none_are_found_where_there_are_none(name, level):
    noisy = gallery.stored(gallery.white(gallery.picture(name), level))
    assert se.estimate_noise(noisy, channel_axis=None if noisy.ndim == 2 else 2).impulses == 0


@pytest.mark.parametrize("side", [96, 256])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [5, 12.75, 25.5])
@pytest.mark.parametrize(
    ("left", "right"), [(0.5, 1.0), (0.95, 0.5), (0.0, 0.5), (0.97, 0.97), (0.0, 1.0)]
)
def test_noise_that_is_cut_off_is_neither_specks_nor_too_little(left, right, level, channels, side):
    image = np.full((side, side, channels), right)
    image[:, : side // 2] = left
    found = se.estimate_noise(gallery.stored(gallery.white(image, level)), channel_axis=2)
    assert found.impulses == 0
    assert 255 * found.level == pytest.approx(level, rel=0.12, abs=0.8)


def test_black_and_white_without_flat_places():
    """The level is that of what is left of the noise: all of it, or half where it is cut off."""
    noisy = gallery.white(gallery.picture("halftone"), 25)
    assert 255 * se.estimate_noise(noisy).level == pytest.approx(25, rel=0.1)
    left = 25 * np.sqrt(0.5 - 1 / (2 * np.pi))
    assert 255 * se.estimate_noise(gallery.stored(noisy)).level == pytest.approx(left, rel=0.1)


def test_a_photograph_that_is_half_white():
    image = ASTRONAUT.copy()
    image[:, :64] = 1
    noisy = gallery.stored(gallery.white(image, 12.75))
    found = se.estimate_noise(noisy)
    assert 255 * found.level == pytest.approx(12.75, rel=0.12)
