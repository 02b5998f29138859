import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

from score_embedding import kinds
from score_embedding.fokker_planck import gauss_transform
from score_embedding.fokker_planck.pixel_density import log_density

METHODS = list(kinds.PIXEL_DENSITIES)


def scipy_log_density(channel, at=slice(None)):
    """scipy's estimate of one (h, w) channel, pairs (column-major, row-major), at the pixels `at`
    of the flattened channel."""
    pixels = np.asarray(channel)
    pairs = np.stack([pixels.flatten(order="F"), pixels.flatten(order="C")])
    return torch.from_numpy(gaussian_kde(pairs).logpdf(pairs[:, at]))


def sum_of_all_kernels(channel, at):
    """The estimate at the pixels `at`, in extended precision where there is one: scipy's loses
    as many digits as the covariance's condition number has."""
    u, v = (channel.flatten(order=order).astype(np.longdouble) for order in "FC")
    D = len(u)
    a, b = (u - u.mean() + v - v.mean()) / 2, (u - u.mean() - v + v.mean()) / 2
    aa, ab, bb = (2 * (p * q).sum() / (D - 1) for p, q in ((a, a), (a, b), (b, b)))
    scott = np.longdouble(D) ** (np.longdouble(-1) / 6)
    a, b = a / np.sqrt(aa), (b - ab / aa * a) / np.sqrt(bb - ab**2 / aa)
    log_norm = np.log(2 * np.pi * D * scott**2) + np.log(aa * (bb - ab**2 / aa)) / 2
    squares = 2 * ((a - a[at, None]) ** 2 + (b - b[at, None]) ** 2) / scott**2
    return torch.from_numpy((np.log(np.exp(-squares / 2).sum(axis=1)) - log_norm).astype(float))


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


CHANNELS = {
    "noise": lambda shape, rng: rng.random(shape),
    "two values": lambda shape, rng: (rng.random(shape) > 0.9).astype(float),
    "8 bit": lambda shape, rng: np.round(255 * rng.beta(0.3, 2, shape)) / 255,
    "two outliers": lambda shape, rng: with_pixels(1e-3 * rng.random(shape), 1.0, 0.4),
    "two outliers on black": lambda shape, _: with_pixels(np.zeros(shape), 1.0, 0.4),
    "heavy tails": lambda shape, rng: rng.standard_t(2, shape),
    "nearly a line": lambda shape, rng: nearly_symmetric(shape, rng, 1e-5),
    "a large offset": lambda shape, rng: 1e4 + rng.random(shape),
}


def with_pixels(channel, *values):
    channel.flat[[7, channel.size // 2 + 3]] = values
    return channel


def nearly_symmetric(shape, rng, difference):
    """The pairs are on the line u = v but for the difference, or half of it if not square."""
    smooth = np.linspace(0, 1, shape[0])[:, None] * np.linspace(0, 1, shape[1])
    return (smooth if shape[0] == shape[1] else 1.0) + difference * rng.random(shape)


# Below and above the number of pairs from which finufft computes the sums; squares have symmetry.
SHAPES = [(20, 20), (60, 60), (20, 30), (40, 50), (2, 1000)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CHANNELS)
def test_exact_is_scipys_estimate_of_every_kind_of_image(name, shape):
    channel = CHANNELS[name](shape, np.random.default_rng(1))
    m0 = log_density(channel[None, None])[0, 0]
    order = channel.flatten().argsort()
    # The darkest and the brightest pixels are the hardest; seven divides no side.
    at = np.unique(np.concatenate([order[:3], order[-3:], np.arange(0, channel.size, 7)]))
    expected = sum_of_all_kernels if name == "nearly a line" else scipy_log_density
    torch.testing.assert_close(m0.flatten()[at], expected(channel, at), rtol=0, atol=1e-8)
    assert m0.std() > 1e-3


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (48, 48)], ids=str)
def test_exact_is_scipys_estimate_of_photographs(size, photographs):
    images = photographs(*size, n=4)
    images[2:] = (255 * images[2:]).round() / 255
    m0 = log_density(images)
    for image, m in zip(images[:, 1], m0[:, 1], strict=True):
        torch.testing.assert_close(m.flatten(), scipy_log_density(image), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    [
        *("photograph", "two outliers on black", "nearly a line", "a large offset"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("noise", "two values", "8 bit", "two outliers", "heavy tails")
        ),
    ],
)
def test_exact_is_scipys_estimate_at_the_extreme_pixels_of_a_large_image(name, photographs):
    """At the brightest, the darkest and some other pixels."""
    size = (512, 512)
    if name == "photograph":
        channel = photographs(*size, n=1)[0, 0].numpy()
    else:
        channel = CHANNELS[name](size, np.random.default_rng(2))
    order = channel.flatten().argsort()
    at = np.concatenate([order[:1], order[-3:], [0, 77_777]])
    m0 = log_density(channel[None, None]).flatten()
    torch.testing.assert_close(m0[at], sum_of_all_kernels(channel, at), rtol=0, atol=1e-8)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("few", "extent"),
    [
        *((few, extent) for few in (0, 10**9) for extent in (0.0, 2.0, 40.0)),
        pytest.param(0, 3000.0, marks=pytest.mark.slow),
        (10**9, 3000.0),
    ],
)
def test_kernel_sums_are_the_sums_of_all_kernels(few, mirrored, extent, generator, monkeypatch):
    monkeypatch.setattr(gauss_transform, "FEW", few)
    x, y = extent * torch.rand(2, 3, 300, generator=generator, dtype=torch.float64) ** 3
    weight = torch.rand(300, generator=generator, dtype=torch.float64) + 0.5
    y = y - extent / 2

    def kernels(sign):
        return torch.exp(-((x[:, :, None] - x[:, None]) ** 2) / 2) * torch.exp(
            -((y[:, :, None] - sign * y[:, None]) ** 2) / 2
        )

    expected = ((kernels(1) + kernels(-1)) / 2 if mirrored else kernels(1)) @ weight
    found = gauss_transform.kernel_sums(x, y, weight, mirrored)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (2, 1, 3, 5), (1, 1, 1, 6)], ids=str)
def test_the_gradient_of_exact_is_that_of_its_values(shape, generator):
    images = torch.rand(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_density, images, atol=1e-6, rtol=1e-4)


def test_the_gradient_of_exact_exists_where_both_variances_are_equal():
    channel = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0.0]], dtype=torch.float64)[None, None]
    assert torch.autograd.gradcheck(log_density, channel.requires_grad_(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("size", [(45, 45), (40, 50)], ids=str)
def test_the_gradient_of_many_pixels_is_that_of_the_sum_of_all_kernels(size, photographs):
    channel = photographs(*size, n=1)[:, :1].clone().requires_grad_()
    pairs = torch.stack([channel.mT.reshape(-1), channel.reshape(-1)], dim=1)
    factor = torch.linalg.cholesky(torch.cov(pairs.T)) * len(pairs) ** (-1 / 6)
    z = torch.linalg.solve_triangular(factor, pairs.T, upper=False).T
    kernels = torch.exp(-((z[:, None] - z) ** 2).sum(dim=-1) / 2)
    log_norm = factor.diagonal().log().sum() + math.log(2 * math.pi * len(pairs))
    expected = kernels.sum(dim=1).log() - log_norm
    direction = torch.linspace(-1, 1, len(pairs), dtype=torch.float64)
    (by_all,) = torch.autograd.grad(expected @ direction, channel)
    m0 = log_density(channel)
    torch.testing.assert_close(m0.flatten(), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(m0.detach(), log_density(channel.detach()), rtol=0, atol=1e-8)
    (found,) = torch.autograd.grad(m0.flatten() @ direction, channel)
    torch.testing.assert_close(found, by_all, rtol=1e-7, atol=1e-7 * float(by_all.abs().max()))


def test_exact_is_the_same_every_time_bit_for_bit(photographs):
    images = photographs(64, n=2)
    assert torch.equal(log_density(images), log_density(images.clone()))


def test_binned_is_another_name_of_exact(photographs):
    images = photographs(24, 20, n=1).requires_grad_()
    m0 = log_density(images, method="binned")
    assert torch.equal(m0, log_density(images, method="exact"))
    assert m0.requires_grad


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


@pytest.mark.parametrize("shape", [(1, 40), (40, 1)])
def test_a_line_of_pixels_gets_the_density_along_the_diagonal(shape, generator):
    line = torch.rand(shape, generator=generator, dtype=torch.float64)
    m0 = log_density(line[None, None])[0, 0]
    torch.testing.assert_close(m0, density_along_the_line(line, line), rtol=0, atol=1e-9)
    along = math.sqrt(2) * line.flatten().numpy()
    expected = gaussian_kde(along, bw_method=40 ** (-1 / 6)).logpdf(along).reshape(shape)
    torch.testing.assert_close(m0, torch.from_numpy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_channel_that_is_plus_or_minus_its_transpose_has_its_pairs_on_a_line(sign, generator):
    channel = torch.rand(7, 7, generator=generator, dtype=torch.float64)
    channel = channel + sign * channel.T
    m0 = log_density(channel[None, None])[0, 0]
    expected = density_along_the_line(channel, channel.T)
    torch.testing.assert_close(m0, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("scale", "shift"), [(255.0, 0.0), (-2.0, 1.0), (1e-4, 0.0), (1.0, 40.0)])
def test_an_affine_change_of_scale_only_adds_a_constant(scale, shift, photographs):
    image = photographs(16, 12, n=1)
    change = log_density(scale * image + shift) - log_density(image)
    expected = torch.full_like(change, -2 * math.log(abs(scale)))
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-9)


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


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 1, 6, 9)])
@pytest.mark.parametrize("scale", [1e-170, 1e-30, 1e100, 1e160, 1e300])
def test_no_scale_changes_more_than_a_constant(scale, shape, generator):
    images = torch.rand(shape, generator=generator, dtype=torch.float64)
    found = log_density(images * scale) + 2 * math.log(scale)
    torch.testing.assert_close(found, log_density(images), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_contrast_of_one_on_an_offset_of_1e8_is_no_constant_channel(shape):
    channel = 1e8 + np.random.default_rng(0).random(shape)
    expected = sum_of_all_kernels(channel, np.arange(channel.size)).reshape(shape)
    found = log_density(torch.from_numpy(channel)[None, None])[0, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 / 3, 1e-200, 1e250])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_channel_of_any_value_has_a_log_density_of_zero(value, dtype):
    value = value if dtype == torch.float64 else min(value, 1e30)
    constant = torch.full((1, 1, 7, 5), value, dtype=dtype)
    assert not log_density(constant).any()


@pytest.mark.parametrize("shape", [(1, 3, 0, 8), (0, 3, 8, 0)])
def test_images_without_pixels_are_refused(shape):
    with pytest.raises(ValueError, match="images must have pixels"):
        log_density(torch.zeros(shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_pixel_a_level_of_16_bit_below_white_is_no_constant_channel(dtype):
    pixels = np.full((64, 64), 65535, np.uint16)
    pixels[3, 5] = 65534
    channel = (pixels / 65535).astype(dtype)
    at = np.array([0, 3 * 64 + 5, 5 * 64 + 3, 4095])
    expected = sum_of_all_kernels(channel.astype(float), at)
    found = log_density(channel[None, None]).flatten()[at]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("noise", [5e-5, 1e-5, 3e-6])
@pytest.mark.parametrize("outer", [np.add.outer, np.subtract.outer])
def test_pairs_that_are_nearly_on_a_line_have_a_density_in_the_plane(noise, outer):
    rng = np.random.default_rng(0)
    channel = outer(np.arange(32.0), np.arange(32.0)) + noise * rng.random((32, 32))
    at = np.arange(0, 1024, 37)
    expected = sum_of_all_kernels(channel, at)
    found = log_density(channel[None, None]).flatten()[at]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_gradient_of_a_constant_channel_is_zero():
    x = torch.full((1, 2, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
    log_density(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
