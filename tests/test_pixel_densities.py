"""The pixel densities for reproduction, and the keys of a config that choose one."""

import math

import numpy as np
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter

from score_embedding import kinds
from score_embedding.config import loading
from score_embedding.errors import ConfigError
from score_embedding.fokker_planck.pixel_densities import histogram
from score_embedding.fokker_planck.pixel_density import log_density

OFFICIAL = {"scipy": "exact", "histogram": "histogram", "sklearn": "sklearn"}


def pairs_of(channel):
    h, w = channel.shape
    by_columns = [float(channel[i, j]) for j in range(w) for i in range(h)]
    by_rows = [float(channel[i, j]) for i in range(h) for j in range(w)]
    return list(zip(by_columns, by_rows, strict=True))


def reflecting_filter(bandwidth, bins):
    """The matrix of a Gaussian filter with reflection (d c b a | a b c d | d c b a), which ends at
    4 bandwidths."""
    reach = int(4 * bandwidth + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-((offsets / bandwidth) ** 2) / 2)
    weights /= weights.sum()
    matrix = np.zeros((bins, bins))
    for k in range(bins):
        places = (k + offsets) % (2 * bins)
        np.add.at(matrix[k], np.minimum(places, 2 * bins - 1 - places), weights)
    return matrix


def smoothed_histogram(channel, bins=256):
    pairs = pairs_of(channel)
    low, high = float(channel.min()), float(channel.max())
    step, D = (high - low) / bins, len(pairs)
    counts = np.zeros((bins, bins))
    for u, v in pairs:
        counts[tuple(min(int((x - low) / step), bins - 1) for x in (u, v))] += 1 / (D * step**2)
    matrix = reflecting_filter(D ** (-1 / 6) / step, bins)
    smooth, m0 = matrix @ counts @ matrix.T, []
    for u, v in pairs:
        places = [min(max((x - low) / step - 0.5, 0), bins - 1 - 1e-12) for x in (u, v)]
        (i, s), (j, t) = ((int(place), place % 1) for place in places)
        value = (1 - s) * ((1 - t) * smooth[i, j] + t * smooth[i, j + 1])
        value += s * ((1 - t) * smooth[i + 1, j] + t * smooth[i + 1, j + 1])
        m0.append(math.log(value))
    return torch.tensor(m0, dtype=torch.float64).reshape(channel.shape)


def linear_kernels(channel):
    pairs = pairs_of(channel)
    D = len(pairs)
    bandwidth = D ** (-1 / 6)
    m0 = []
    for p in pairs:
        total = sum(max(0.0, 1 - math.dist(p, q) / bandwidth) for q in pairs)
        m0.append(math.log(3 * total / (math.pi * bandwidth**2 * D)))  # a cone of volume 1
    return torch.tensor(m0, dtype=torch.float64).reshape(channel.shape)


@pytest.mark.parametrize("size", [(12, 12), (10, 15)], ids=str)
@pytest.mark.parametrize(
    ("method", "expected", "atol"),
    [("histogram", smoothed_histogram, 1e-8), ("sklearn", linear_kernels, 1e-9)],
)
def test_a_density_for_reproduction_is_that_of_loops(method, expected, atol, size, photographs):
    image = photographs(*size, n=1)
    image[0, 1] *= 0.3  # the bandwidth is in units of the values
    m0 = log_density(image, method=method)
    for channel in range(3):
        torch.testing.assert_close(m0[0, channel], expected(image[0, channel]), rtol=0, atol=atol)
    assert m0[0, [0, 2]].std(dim=(1, 2)).min() > 1e-2


@pytest.mark.parametrize("method", ["histogram", "sklearn"])
def test_a_density_for_reproduction_is_finite_at_an_outlier(method):
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[0, 0, 4, 5] = 100.0
    m0 = log_density(image, method=method)
    assert m0.isfinite().all()
    assert m0[0, 0, 4, 5] < m0[0, 0, 0, 0] - 1


@pytest.mark.parametrize("method", ["histogram", "sklearn"])
def test_a_density_for_reproduction_refuses_a_gradient(method):
    images = torch.rand(1, 1, 4, 4, requires_grad=True)
    with pytest.raises(ValueError, match=f'images requires a gradient.*"{method}" does not have'):
        log_density(images, method=method)


def diffusion(**values):
    text = yaml.safe_dump({"name": "x", "data_loader": {"dataset": "cifar"}, "diffusion": values})
    return loading.validate(loading.mapping(text, "file.yml"), "file.yml")


@pytest.mark.parametrize(("kde_method", "density"), OFFICIAL.items())
def test_kde_method_of_an_official_file_is_a_density(kde_method, density):
    config = diffusion(kde_method=kde_method)
    assert config.diffusion.density == density
    assert config == diffusion(density=density) == diffusion(density=density, kde_method=kde_method)
    assert "kde_method" not in loading.dump(config)
    assert {kind.kde_method for kind in kinds.PIXEL_DENSITIES.values()} - {None} == {*OFFICIAL}


def test_binned_agrees_with_the_kde_method_of_exact():
    assert diffusion(density="binned", kde_method="scipy").diffusion.density == "binned"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"density": "exact", "kde_method": "histogram"},
            r"diffusion: density: exact contradicts kde_method: histogram, .*remove one",
        ),
        ({"kde_method": "histograms"}, r"diffusion.kde_method: 'histograms' .*mean 'histogram'\?"),
        ({"kde_method": None}, r"diffusion.kde_method: None is not allowed"),
        ({"kde_method": ["scipy"]}, r"diffusion.kde_method: \['scipy'\] is not allowed"),
        ({"density": "exactly"}, r"diffusion.density: 'exactly' .*did you mean 'exact'\?"),
        ({"density": ["exact"], "kde_method": "scipy"}, r"diffusion.density: \['exact'\] is not"),
    ],
)
def test_a_density_that_cannot_be_is_refused_with_what_can(values, message):
    with pytest.raises(ConfigError, match=message):
        diffusion(**values)


@pytest.mark.parametrize(
    "bandwidth", [0.5, 3.0, 80.0, 700.0, pytest.param(2500.0, marks=pytest.mark.slow)]
)
def test_smoothing_is_scipys_filter(bandwidth):
    counts = np.random.default_rng(0).random((histogram.BINS, histogram.BINS))
    matrix = histogram.smoothing(bandwidth)
    expected = gaussian_filter(counts, bandwidth)
    np.testing.assert_allclose(matrix @ counts @ matrix, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("span", [1e-3, 1e-9, 1e-13])
def test_a_histogram_of_a_narrow_range_is_as_fast_and_nearly_constant(span, generator):
    """The bandwidth is in pixel values: here it is thousands of bins, or 1e13 of them."""
    x = 0.5 + span * torch.rand(1, 1, 16, 16, generator=generator, dtype=torch.float64)
    m0 = log_density(x, method="histogram")
    assert torch.isfinite(m0).all()
    assert float(m0.max() - m0.min()) < 1e-5
    values = x.flatten()
    area = float(values.max() - values.min()) ** 2
    assert float(m0.mean()) == pytest.approx(-np.log(area), rel=1e-3)  # uniform on the square
