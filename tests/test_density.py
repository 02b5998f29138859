import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

from score_embedding.fokker_planck.pixel_density import log_density

METHODS = ["exact", "binned"]


def scipy_log_density(channel):
    """scipy's estimate of one (h, w) channel, pairs (column-major, row-major)."""
    pixels = np.asarray(channel)
    pairs = np.stack([pixels.flatten(order="F"), pixels.flatten(order="C")])
    return torch.from_numpy(gaussian_kde(pairs).logpdf(pairs).reshape(pixels.shape))


def density_along_the_line(channel, partner):
    """Sum of 1-D kernels by loops over the distances of the pairs on their line."""
    points = [*zip(partner.flatten().tolist(), channel.flatten().tolist(), strict=True)]
    D = len(points)
    centre = [sum(p[axis] for p in points) / D for axis in (0, 1)]
    variance = sum((u - centre[0]) ** 2 + (v - centre[1]) ** 2 for u, v in points) / (D - 1)
    width = math.sqrt(variance) * D ** (-1 / 6)
    logs = []
    for u, v in points:
        kernels = (math.exp(-0.5 * (math.dist((u, v), p) / width) ** 2) for p in points)
        logs.append(math.log(sum(kernels) / (D * width * math.sqrt(2 * math.pi))))
    return torch.tensor(logs, dtype=torch.float64).reshape(channel.shape)


@pytest.mark.parametrize("shape", [(1, 1, 9, 9), (2, 3, 8, 13), (1, 3, 13, 8), (1, 1, 2, 40)])
def test_exact_is_scipys_estimate_of_random_images(shape, generator):
    images = torch.rand(shape, generator=generator, dtype=torch.float64)
    m0 = log_density(images, method="exact")
    expected = torch.stack([scipy_log_density(channel) for channel in images.flatten(0, 1)])
    torch.testing.assert_close(m0, expected.reshape(shape), rtol=0, atol=1e-9)


def test_exact_is_scipys_estimate_of_photographs_in_more_than_one_block(photographs):
    images = photographs(24, 32, n=2)
    m0 = log_density(images, method="exact")
    for image, m in zip(images.flatten(0, 1), m0.flatten(0, 1), strict=True):
        torch.testing.assert_close(m, scipy_log_density(image), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [32, 64])
def test_binned_is_within_its_stated_error_on_photographs(size, photographs):
    images = photographs(size, n=4 if size == 32 else 1)
    difference = log_density(images, method="binned") - log_density(images, method="exact")
    assert 0 < float(difference.abs().max()) < 0.02
    assert float(difference.mean(dim=(2, 3)).abs().max()) < 0.001


def test_binned_serves_more_channels_than_one_chunk(photographs):
    images = photographs(16, 24)
    m0 = log_density(images, method="binned")
    for image, m in zip(images, m0, strict=True):
        torch.testing.assert_close(
            log_density(image[None], method="binned")[0], m, rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6, -1e-200])
def test_a_constant_channel_has_log_density_zero(method, value):
    m0 = log_density(torch.full((1, 2, 7, 5), value, dtype=torch.float64), method=method)
    assert torch.equal(m0, torch.zeros(1, 2, 7, 5, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_channel_leaves_its_neighbours_alone(method, photographs):
    image = photographs(16, n=1).clone()
    alone = log_density(image, method=method)
    image[0, 1] = 0.1
    m0 = log_density(image, method=method)
    assert not m0[0, 1].any()
    torch.testing.assert_close(m0[0, [0, 2]], alone[0, [0, 2]], rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_pixel_has_log_density_zero(method):
    assert float(log_density(torch.tensor([[[[0.3]]]]), method=method)) == 0


@pytest.mark.parametrize(("method", "atol"), [("exact", 1e-9), ("binned", 0.02)])
@pytest.mark.parametrize("shape", [(1, 40), (40, 1)])
def test_a_line_of_pixels_gets_the_density_along_the_diagonal(method, atol, shape, generator):
    line = torch.rand(shape, generator=generator, dtype=torch.float64)
    m0 = log_density(line[None, None], method=method)[0, 0]
    torch.testing.assert_close(m0, density_along_the_line(line, line), rtol=0, atol=atol)
    along = math.sqrt(2) * line.flatten().numpy()
    expected = gaussian_kde(along, bw_method=40 ** (-1 / 6)).logpdf(along).reshape(shape)
    torch.testing.assert_close(m0, torch.from_numpy(expected), rtol=0, atol=atol)


@pytest.mark.parametrize(("method", "atol"), [("exact", 1e-9), ("binned", 0.02)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_channel_that_is_plus_or_minus_its_transpose_has_its_pairs_on_a_line(
    method, atol, sign, generator
):
    channel = torch.rand(7, 7, generator=generator, dtype=torch.float64)
    channel = channel + sign * channel.T
    m0 = log_density(channel[None, None], method=method)[0, 0]
    expected = density_along_the_line(channel, channel.T)
    torch.testing.assert_close(m0, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("scale", "shift"), [(255.0, 0.0), (-2.0, 1.0), (1e-4, 0.0), (1.0, 40.0)])
def test_an_affine_change_of_scale_only_adds_a_constant(method, scale, shift, photographs):
    image = photographs(16, 12, n=1)
    change = log_density(scale * image + shift, method=method) - log_density(image, method=method)
    expected = torch.full_like(change, -2 * math.log(abs(scale)))
    # The signs of the principal axes are arbitrary; they mirror the bins of the binned estimate.
    atol = 0.02 if method == "binned" else 1e-6
    torch.testing.assert_close(change, expected, rtol=0, atol=atol)


def test_a_batch_is_its_single_images(photographs):
    images = photographs(16, 20, n=3)
    together = log_density(images)
    for image, m in zip(images, together, strict=True):
        torch.testing.assert_close(log_density(image[None])[0], m, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_numpy_images_give_the_tensor_of_their_values(dtype, photographs):
    array = (255 * photographs(8, n=1).numpy()).astype(dtype)
    m0 = log_density(array)
    assert m0.dtype == torch.float64
    assert torch.equal(m0, log_density(torch.from_numpy(array.astype(np.float64))))


def test_a_numpy_array_that_may_not_be_written_is_read(photographs):
    array = photographs(8, n=1).numpy().copy()
    array.flags.writeable = False
    assert torch.equal(log_density(array), log_density(torch.from_numpy(array.copy())))


def test_the_images_are_left_unchanged(photographs):
    images = photographs(8, n=1)
    before = images.clone()
    for method in METHODS:
        log_density(images, method=method)
    assert torch.equal(images, before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value):
    images = torch.rand(1, 1, 4, 4)
    images[0, 0, 2, 1] = value
    with pytest.raises(ValueError, match="images holds values that are NaN or infinite"):
        log_density(images)


def test_another_number_of_dimensions_is_refused():
    with pytest.raises(ValueError, match="images must have 4 dimensions"):
        log_density(torch.rand(3, 4, 4))


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be"):
        log_density(torch.rand(1, 1, 4, 4), method="fast")


def test_binned_copes_with_one_bright_pixel_on_a_dark_large_image(generator):
    image = 1e-3 * torch.rand(1, 1, 96, 96, dtype=torch.float64, generator=generator)
    image[0, 0, 40, 30] = 1.0
    difference = log_density(image, method="binned") - log_density(image, method="exact")
    assert difference.abs().max() < 0.02
