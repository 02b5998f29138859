"""Arrays that denoising and inpainting take: layouts, types, ranges, masks, and what is refused."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from score_embedding import densities
from score_embedding.restoration import pixels
from score_embedding.restoration.denoising import denoise
from score_embedding.restoration.inpainting import inpaint

RNG = np.random.default_rng(3)
GREY, COLOUR = 0.5 + 0.1 * RNG.normal(size=(12, 15)), 0.5 + 0.1 * RNG.normal(size=(12, 15, 3))
STACK = 0.5 + 0.1 * RNG.normal(size=(3, 12, 15))
MASK = np.zeros((12, 15), bool)
MASK[4:6, 5:8] = True
WHITE = {
    c: densities.fit(
        "white", [torch.rand(c, 9, 9, generator=torch.Generator().manual_seed(1))], arrays=100
    )
    for c in (1, 3)
}


def by_white(image, channels=1, **options):
    return denoise(image, **{"sigma": 0.1, "model": WHITE[channels], **options})


def filled(image, mask=None, channels=1, **options):
    return inpaint(image, mask, **{"model": WHITE[channels], **options})


# --- layouts ------------------------------------------------------------------------------------


def test_each_image_of_a_stack_is_restored_alone():
    for function in (by_white, lambda x, **given: filled(x, MASK, **given)):
        found = function(STACK, channel_axis=None)
        expected = np.stack([function(image) for image in STACK])
        np.testing.assert_array_equal(found, expected)
    colour = np.stack([COLOUR, COLOUR[::-1]])
    expected = np.stack([by_white(image, 3) for image in colour])
    np.testing.assert_array_equal(by_white(colour, 3), expected)
    estimated = denoise(STACK, model=WHITE[1], channel_axis=None)
    np.testing.assert_array_equal(estimated[1], denoise(STACK[1], model=WHITE[1]))


def test_a_stack_has_one_mask_or_one_for_each_image():
    masks = np.stack([MASK, np.roll(MASK, 3, axis=0), np.zeros_like(MASK)])
    found = filled(STACK, masks, channel_axis=None)
    expected = np.stack([filled(x, mask) for x, mask in zip(STACK, masks, strict=True)])
    np.testing.assert_array_equal(found, expected)
    same = filled(STACK, masks[..., None], channel_axis=None)
    np.testing.assert_array_equal(same, expected)
    with pytest.raises(ValueError, match=r"the mask is 2x12x15 .*, the image 3x12x15"):
        filled(STACK, masks[:2], channel_axis=None)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_channels_may_be_any_axis(axis):
    moved = np.moveaxis(COLOUR, 2, axis)
    for function in (by_white, lambda x, c, **given: filled(x, MASK, c, **given)):
        found = function(moved, 3, channel_axis=axis)
        np.testing.assert_array_equal(found, np.moveaxis(function(COLOUR, 3), 2, axis))
    stack = np.stack([COLOUR] * 2)
    found = by_white(np.moveaxis(stack, 3, 1), 3, channel_axis=1)
    np.testing.assert_array_equal(found, np.moveaxis(by_white(stack, 3), 3, 1))


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_other_numbers_of_channels_are_as_many_grey_images(count):
    image = 0.5 + 0.1 * RNG.normal(size=(12, 15, count))
    for function in (by_white, lambda x: filled(x, MASK)):
        expected = np.stack([function(plane) for plane in np.moveaxis(image, 2, 0)], axis=2)
        np.testing.assert_array_equal(function(image), expected)


def test_alpha_stays_and_is_opaque_where_pixels_are_filled_in():
    image = np.dstack([COLOUR, RNG.random((12, 15))]).astype(np.float32)
    found = by_white(image, 3)
    np.testing.assert_array_equal(found[..., :3], by_white(image[..., :3], 3))
    np.testing.assert_array_equal(found[..., 3], image[..., 3])
    answer = filled(image, MASK, 3)
    np.testing.assert_array_equal(answer[..., :3], filled(image[..., :3], MASK, 3))
    np.testing.assert_array_equal(answer[..., 3], np.where(MASK, 1, image[..., 3]))
    bytes_ = (255 * image).astype(np.uint8)
    assert (filled(bytes_, MASK, 3, data_range=(0, 255))[MASK][:, 3] == 255).all()
    bright = image * [5, 5, 5, 1]  # filled in on its own range
    answer = filled(bright, MASK, 3)
    np.testing.assert_allclose(answer[..., 3], np.where(MASK, 1, bright[..., 3]), rtol=1e-6)
    np.testing.assert_array_equal(answer[..., :3], filled(bright[..., :3], MASK, 3))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((12, 15, 9), {}, "last axis is too long for channels.*channel_axis=None is a stack"),
        ((2, 12, 15, 9), {}, "too long for channels"),
        ((8,), {}, r"shape \(8,\)"),
        ((), {}, r"shape \(\)"),
        ((2, 2, 2, 8, 3), {}, "needed, got shape"),
        ((2, 2, 8, 8), {"channel_axis": None}, "with no channel axis"),
        ((8, 8), {"channel_axis": 1}, "with channel axis 1"),
        ((8, 8), {"channel_axis": 2}, "channel_axis: .*got 2"),
        ((8, 8), {"channel_axis": "last"}, "channel_axis: .*got 'last'"),
        ((0, 8), {}, "empty, shape"),
        ((8, 0, 3), {}, "empty, shape"),
    ],
)
def test_layouts_that_cannot_be(shape, options, message):
    for call in (by_white, lambda x, **given: filled(x, np.eye(8), **given)):
        with pytest.raises(ValueError, match=message):
            call(np.zeros(shape), **options)


# --- types and ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u2", "f4", "f8"])
def test_either_byte_order(dtype):
    image = (COLOUR * 65535).astype("u2") if dtype == "u2" else COLOUR.astype(dtype)
    other = image.astype(image.dtype.newbyteorder())
    assert other.dtype != image.dtype
    for function in (by_white, lambda x, c: filled(x, MASK, c)):
        found, expected = function(other, 3), function(image, 3)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_everything_that_numpy_converts_is_accepted():
    values = RNG.integers(0, 256, (9, 9)).astype(np.uint8)
    picture, mask = Image.fromarray(values), np.eye(9).tolist()
    np.testing.assert_array_equal(by_white(picture), by_white(values))
    np.testing.assert_array_equal(filled(picture, mask), filled(values, np.eye(9)))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("i2", -1024, 3071), ("u2", 0, 4095), ("u1", 16, 235), ("f4", 0, 255), ("f8", -50, 1e6)],
)
def test_a_range_is_that_of_the_result_and_of_sigma(dtype, low, high):
    image = (low + (high - low) * GREY.clip(0, 1)).astype(dtype)
    unit, span = (image.astype(float) - low) / (high - low), high - low
    found = by_white(image, sigma=0.1 * span, data_range=(low, high))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, low + span * by_white(unit), rtol=0, atol=1e-6 * span)
    answer = filled(image, MASK, data_range=(low, high))
    assert answer.dtype == (np.float64 if dtype == "f8" else np.float32)
    np.testing.assert_array_equal(answer[~MASK], image[~MASK])
    np.testing.assert_allclose(
        answer[MASK], low + span * filled(unit, MASK)[MASK], rtol=0, atol=1e-6 * span
    )


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u4", "u8"])
def test_integers_of_unknown_range_are_refused_with_the_remedy(dtype):
    image = RNG.integers(4, 99, (8, 9)).astype(dtype)
    image[0, 1], image[1, 2] = 3, 99
    message = rf"black and white of {image.dtype} are not known; give data_range.*\(3, 99\)"
    for call in (by_white, lambda x: filled(x, np.eye(8, 9))):
        with pytest.raises(ValueError, match=message):
            call(image)


@pytest.mark.parametrize("given", [1, (0,), (1, 0), (2, 2), (0, np.nan), (0, 1, 2), "ab"])
def test_ranges_that_cannot_be(given):
    with pytest.raises(ValueError, match="data_range: two numbers are needed"):
        by_white(GREY, data_range=given)


def test_highlights_above_white_are_not_clipped():
    """Noise explains values a little beyond black and white, and nothing else does."""
    image = GREY.copy()
    image[3, 4], image[5, 6] = 4, -2
    assert by_white(GREY).max() <= 1
    density = densities.fit("white", [10 * torch.rand(1, 9, 9)])  # keeps what it is given
    found = denoise(image, sigma=0.05, model=density)
    assert found[3, 4] > 3.5
    assert found[5, 6] < -1.5
    noisy = np.clip(GREY, 0, 1) + 0.3 * RNG.normal(size=GREY.shape)
    assert noisy.max() > 1.2
    answer = denoise(noisy, sigma=0.3, model=density)
    assert 0 <= answer.min() < answer.max() <= 1


def test_floats_of_any_range_are_filled_in_on_their_own_scale():
    for scale, shift in ((5, 0), (1e4, -300)):
        image = GREY.clip(0, 1) * scale + shift
        answer = inpaint(image, MASK, model="bundled")
        known = image[~MASK]
        np.testing.assert_array_equal(answer[~MASK], known)
        unit = (image - known.min()) / (known.max() - known.min())
        expected = known.min() + np.ptp(known) * inpaint(unit, MASK, model="bundled")
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-4 * np.ptp(known))


def test_values_that_cannot_be():
    for value in (np.nan, np.inf):
        for call in (by_white, lambda x: filled(x, [[1, 0]])):
            with pytest.raises(ValueError, match="NaN or infinite"):
                call(np.array([[0.5, value]]))
    message = r"from -50 to 0\.9; white must be at 1, or give data_range=\(black, white\)"
    with pytest.raises(ValueError, match=message):
        by_white(np.array([[-50, 0.9]]))
    with pytest.raises(ValueError, match=r"too far beyond data_range=\(0, 1\)"):
        by_white(np.array([[-50, 0.9]]), data_range=(0, 1))


@pytest.mark.parametrize("image", [None, "x", [[1, [2]]], GREY.astype(complex)])
def test_what_is_no_array_of_numbers_is_refused(image):
    with pytest.raises(ValueError, match=r"^image must (be an array|hold real numbers)"):
        by_white(image)
    message = "^mask: needed" if image is None else "^mask must (be an array|hold real numbers)"
    with pytest.raises(ValueError, match=message):
        inpaint(GREY, image)


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [GREY, GREY[..., None], COLOUR], ids=["hw", "hw1", "hw3"])
def test_masks_with_a_channel_axis_and_any_value_under_them(image):
    channels = image.shape[2] if image.ndim == 3 else 1
    expected = filled(image, MASK, channels)
    np.testing.assert_array_equal(filled(image, MASK[..., None], channels), expected)
    for value in (np.nan, np.inf, -1e9):
        unknown = image.copy()
        unknown[MASK] = value
        np.testing.assert_array_equal(filled(unknown, MASK, channels), expected)
    with pytest.raises(ValueError, match="the mask is 15x12"):
        filled(image, MASK.T, channels)


def test_the_mask_of_a_masked_array_is_filled_in():
    unknown = GREY.copy()
    unknown[MASK] = np.nan
    expected = filled(GREY, MASK)
    found = filled(np.ma.masked_array(unknown, MASK))
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, expected)
    half = MASK & (np.arange(15) < 6)
    np.testing.assert_array_equal(filled(np.ma.masked_array(unknown, half), MASK), expected)
    whole = np.ma.masked_array(GREY, np.zeros_like(MASK))
    np.testing.assert_array_equal(filled(whole), GREY)
    with pytest.raises(ValueError, match=r"mask has masked values.*mask\.filled"):
        filled(GREY, np.ma.masked_array(MASK, MASK))


def test_a_channel_that_is_not_masked_stays():
    mask = np.zeros(COLOUR.shape, bool)
    mask[4, 5, 0] = True
    found = filled(np.ma.masked_array(COLOUR, mask), None, 3)
    np.testing.assert_array_equal(found[~mask], COLOUR[~mask])
    assert found[4, 5, 0] != COLOUR[4, 5, 0]


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_masked_pixels_stay_masked_and_are_not_read_by_denoising(image):
    channels = 3 if image.ndim == 3 else 1
    mask = np.broadcast_to(MASK[..., None] if channels == 3 else MASK, image.shape)
    expected = None
    for value in (0.5, np.nan, 1e9):
        values = image.copy()
        values[MASK] = value
        found = denoise(np.ma.masked_array(values, mask), sigma=0.1, model="bundled")
        np.testing.assert_array_equal(np.ma.getmaskarray(found), mask)
        expected = found if expected is None else expected
        np.testing.assert_array_equal(found.data, expected.data)
    whole = np.ma.masked_array(image, np.zeros_like(mask))
    np.testing.assert_array_equal(by_white(whole, channels), by_white(image, channels))
    with pytest.raises(ValueError, match="covers the whole image"):
        by_white(np.ma.masked_array(image, True), channels)


def test_a_result_does_not_share_memory_with_the_image():
    image = GREY.astype(np.float32)
    for answer in (denoise(image, sigma=0), filled(image, np.zeros_like(MASK))):
        np.testing.assert_array_equal(answer, image)
        assert not np.shares_memory(answer, image)


def test_the_shape_of_an_image_is_named_as_it_was_given():
    with pytest.raises(ValueError, match=re.escape("(12, 15, 20)")):
        pixels.read(np.zeros((12, 15, 20)))
