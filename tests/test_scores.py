"""The densities in closed form against SciPy, quadrature, Monte Carlo and the Fokker-Planck
equation."""

import itertools
import math

import numpy as np
import pytest
import scipy.fft
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.stats import multivariate_normal, norm

from score_embedding.densities import (
    gaussian,
    low_rank,
    mixture,
    mixture_levels,
    stationary,
    windows,
)
from score_embedding.densities.density import Density
from score_embedding.densities.empirical import Empirical
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import FitOptions
from score_embedding.densities.stationary import Stationary
from score_embedding.fokker_planck.solve import solve
from score_embedding.sde import VarianceExploding

LEVELS = [0.05, 0.3, 2.0]
SIZES = [(4, 4), (4, 7), (9, 3), (1, 6), (5, 1), (1, 1)]  # of images; the first is the grid's


def random_mixture(generator, shape=(3, 2, 2), K=3, rank=None, least=0.2, spread=0.5):
    """Variances from 1.5 down to `least`, and of the rest three quarters of that."""
    d = math.prod(shape)
    axes = torch.linalg.qr(torch.randn(K, d, d, generator=generator, dtype=torch.float64))[0]
    variances = torch.logspace(math.log10(1.5), math.log10(least), rank or d, dtype=torch.float64)
    variances = variances * torch.tensor([1.0, 1.3, 1.1, 1.2], dtype=torch.float64)[:K, None]
    weights = torch.tensor([0.5, 0.2, 0.3, 0.4], dtype=torch.float64)[:K]
    means = 0.3 + spread * torch.randn(K, d, generator=generator, dtype=torch.float64)
    rest = torch.full((K,), 0.75 * least, dtype=torch.float64)
    return GaussianMixture(shape, weights / weights.sum(), means, axes[..., :rank], variances, rest)


def dense(mix):
    """Covariances written out, (K, d, d) in numpy."""
    found = []
    for U, v, rest in zip(mix.axes.numpy(), mix.variances.numpy(), mix.rest.numpy(), strict=True):
        outer = [a * np.outer(u, u) for a, u in zip(v, U.T, strict=True)]
        found.append(sum(outer, rest * (np.eye(len(U)) - U @ U.T)))
    return np.stack(found)


def wiener(y, mean, C, s):
    return mean + C @ np.linalg.solve(C + s**2 * np.eye(len(C)), y - mean)


def by_brute_force(mix, y, s):
    """Posterior mean (L, d) and log-density (L,) with full covariance matrices."""
    means, logs = [], []
    for row in y.numpy():
        terms, log_joint = [], []
        for weight, m, C in zip(mix.weights.numpy(), mix.means.numpy(), dense(mix), strict=True):
            noisy = multivariate_normal(m, C + s**2 * np.eye(len(m)))
            log_joint.append(math.log(weight) + noisy.logpdf(row))
            terms.append(wiener(row, m, C, s))
        logs.append(np.logaddexp.reduce(log_joint))
        means.append(np.exp(np.array(log_joint) - logs[-1]) @ np.stack(terms))
    return torch.from_numpy(np.stack(means)), torch.tensor(logs, dtype=torch.float64)


def normal(shape, generator, scale=1.0):
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_near(found, expected, atol, rtol=0.0):
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=rtol, atol=atol)


# --- mixtures of Gaussians ---------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 5, 1])
@pytest.mark.parametrize("s", LEVELS)
def test_a_mixture_is_the_one_by_brute_force(s, rank, generator):
    mix = random_mixture(generator, rank=rank)
    assert float(mix.variances.min()) > mixture.NEGLIGIBLE * s**2  # no axis is left out
    y = 0.3 + normal((23, 12), generator, 1 + s)
    mean, log_density = by_brute_force(mix, y, s)
    assert_near(mix.log_density(y, s), log_density, 1e-10)
    assert_near(mix.denoise(y, s), mean, 3e-6)  # components of less than 1e-6 are left out
    for rows in (5, 100):
        assert_near(mix.denoise(y, s, min_probability=0.0, batch_rows=rows), mean, 1e-10)
        assert_near(mix.log_density(y, s, batch_rows=rows), log_density, 1e-10)
    assert_near(mix.responsibilities(y, s).sum(dim=1), torch.ones(23).double(), 1e-12)


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 6, 6)])
@pytest.mark.parametrize("numbers", [1, 700, 2**21])
def test_many_noise_levels_at_once_are_one_after_the_other(shape, numbers, generator, monkeypatch):
    monkeypatch.setitem(mixture_levels.NUMBERS, "cpu", numbers)
    mix = random_mixture(generator, shape=shape, least=2e-6)
    levels = [2.0, 1e-3, 0.3, 0.05, 0.3, 6.0]
    assert len({mix._visible(s).axes.shape for s in levels}) > 3  # axes are merged
    x = 0.3 + normal((6, shape[0], 7, 9), generator)
    one_by_one = [mix.denoise_images(x[i : i + 1], s, 2) for i, s in enumerate(levels)]
    assert_near(mix.denoise_each(x, levels, 2), torch.cat(one_by_one), 1e-10)


@pytest.mark.parametrize("s", LEVELS)
def test_axes_below_the_noise_cost_less_than_a_hundredth_of_it(s, generator):
    mix = random_mixture(generator, shape=(1, 6, 6), least=2e-6)
    assert int((mix.variances < mixture.NEGLIGIBLE * s**2).sum(dim=1).min()) > 5
    x = torch.from_numpy(
        np.random.default_rng(3).multivariate_normal(mix.means[1].numpy(), dense(mix)[1], 40)
    )
    y = x + normal(x.shape, generator, s)
    error = mix.denoise(y, s) - by_brute_force(mix, y, s)[0]
    assert 1e-6 * s < float(error.square().mean().sqrt()) < 0.01 * s


@pytest.mark.parametrize("s", LEVELS)
def test_in_one_dimension_a_mixture_is_its_integral(s, generator):
    mix = random_mixture(generator, shape=(1, 1, 1), spread=2.0)
    x = np.linspace(-15, 15, 20_001)
    parts = zip(mix.weights.numpy(), mix.means.numpy(), mix.variances.numpy(), strict=True)
    prior = sum(w * norm.pdf(x, m[0], math.sqrt(v[0])) for w, m, v in parts)
    y = torch.linspace(-6, 6, 13, dtype=torch.float64)[:, None]
    joint = prior * norm.pdf(y.numpy(), x, s)  # (13, 20001)
    assert_near(mix.denoise(y, s)[:, 0], joint @ x / joint.sum(axis=1), 3e-5)
    assert_near(mix.log_density(y, s), np.log(joint.sum(axis=1) * (x[1] - x[0])), 1e-9)


@pytest.mark.parametrize("s", [0.2, 1.0])
def test_in_two_dimensions_a_mixture_is_its_integral(s, generator):
    mix = random_mixture(generator, shape=(1, 1, 2), K=2, spread=1.5)
    axis = np.linspace(-9, 9, 601)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    parts = zip(mix.weights.numpy(), mix.means.numpy(), dense(mix), strict=True)
    prior = sum(w * multivariate_normal(m, C).pdf(x) for w, m, C in parts)
    y = normal((6, 2), generator, 1.5)
    joint = np.stack([prior * multivariate_normal(row, s**2).pdf(x) for row in y.numpy()])
    assert_near(mix.denoise(y, s), joint @ x / joint.sum(axis=1)[:, None], 3e-5)
    expected = np.log(joint.sum(axis=1) * (axis[1] - axis[0]) ** 2)
    assert_near(mix.log_density(y, s), expected, 1e-9)


@pytest.mark.parametrize("rank", [None, 1])
def test_the_mean_of_weighted_samples_is_the_posterior_mean(rank, generator):
    mix, s, n = random_mixture(generator, shape=(1, 2, 2), rank=rank), 0.5, 200_000
    random = np.random.default_rng(7)
    counts = random.multinomial(n, mix.weights.numpy())
    parts = zip(mix.means.numpy(), dense(mix), counts, strict=True)
    x = np.concatenate([random.multivariate_normal(m, C, count) for m, C, count in parts])
    for y in normal((4, 4), generator):
        likelihood = np.exp(-np.square(x - y.numpy()).sum(axis=1) / (2 * s**2))
        mean = likelihood @ x / likelihood.sum()
        error = np.sqrt((likelihood**2) @ (x - mean) ** 2) / likelihood.sum()
        difference = mix.denoise(y[None], s)[0].numpy() - mean
        assert (np.abs(difference) < 4 * error).all()
        assert np.abs(y.numpy() - mean).max() > 10 * error.max()  # y itself is no answer
    assert error.max() < 0.02


def test_a_gaussian_is_its_wiener_filter(generator):
    raw = normal((400, 12), generator) @ normal((12, 12), generator, 0.3)
    arrays = raw.reshape(400, 3, 2, 2)
    mean, C = raw.numpy().mean(axis=0), np.cov(raw.numpy().T, ddof=0)
    values, vectors = np.linalg.eigh(C)
    leading, others = vectors[:, -4:], values[:-4].mean()
    few_axes = others * (np.eye(12) - leading @ leading.T) + (leading * values[-4:]) @ leading.T
    y = normal((9, 12), generator)
    s = 0.5 * math.sqrt(values[0] / mixture.NEGLIGIBLE)  # hides no axis
    for rank, covariance in ((None, C), (4, few_axes)):
        kind = gaussian if rank is None else low_rank
        fitted = kind.fit(arrays, FitOptions(rank=rank or 0))
        assert fitted.variances.shape == (1, rank or 12)
        assert_near(fitted.covariances()[0], covariance, 1e-12)
        expected = np.stack([wiener(row, mean, covariance, s) for row in y.numpy()])
        assert_near(fitted.denoise(y, s), expected, 1e-10)
        expected = multivariate_normal(mean, covariance + s**2 * np.eye(12)).logpdf(y.numpy())
        assert_near(fitted.log_density(y, s), expected, 1e-10)


@pytest.mark.parametrize("rank", [0, 1, 7, 12, 40])
def test_fewer_axes_keep_the_trace_and_the_leading_directions(rank, generator):
    mix = random_mixture(generator, rank=9)
    cut = mix.truncated(rank)
    kept = min(rank, 9)
    assert cut.axes.shape == (3, 12, kept)
    traces = np.trace(dense(cut), axis1=1, axis2=2)
    np.testing.assert_allclose(traces, np.trace(dense(mix), axis1=1, axis2=2), rtol=1e-13)
    along = np.einsum("kir,kij,kjr->kr", cut.axes, dense(cut), cut.axes)
    np.testing.assert_allclose(along, mix.variances[:, :kept], rtol=1e-12)


# --- the data themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("s", LEVELS)
def test_an_empirical_density_is_the_one_by_loops(s, generator):
    points, y = normal((17, 6), generator), normal((11, 6), generator, 1 + s)
    model = Empirical((1, 2, 3), points)
    logs = np.array([[-(math.dist(a, b) ** 2) / (2 * s**2) for b in points] for a in y])
    total = np.logaddexp.reduce(logs, axis=1)
    weights = np.exp(logs - total[:, None])
    assert_near(model.denoise(y, s), weights @ points.numpy(), 1e-12)
    each = [[multivariate_normal(b, s**2).logpdf(a) for b in points.numpy()] for a in y.numpy()]
    expected = np.logaddexp.reduce(each, axis=1) - math.log(17)
    assert_near(model.log_density(y, s), expected, 1e-10, rtol=1e-13)
    assert_near(model.denoise(y, s, batch_rows=4), weights @ points.numpy(), 1e-12)
    assert_near(model.log_density(y, s, batch_rows=4), expected, 1e-10, rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_little_noise_leaves_the_nearest_array_and_much_noise_their_mean(dtype, generator):
    points, y = normal((40, 5), generator), normal((9, 5), generator)
    model = Empirical((1, 1, 5), points)
    nearest = [min(points.tolist(), key=lambda p, row=row: math.dist(p, row)) for row in y.tolist()]
    for s in (1e-12, 1e-6, 1e-3):
        assert_near(model.denoise(y.to(dtype), s), torch.tensor(nearest, dtype=dtype), 0)
    mean = points.to(dtype).mean(dim=0).expand(9, 5)
    assert_near(model.denoise(y.to(dtype), 1e6), mean, 1e-6 if dtype == torch.float32 else 1e-10)
    between = (points[:1] + points[1:2]).to(dtype) / 2 + 100 * (points[:1] - points[1:2]).to(dtype)
    for s in (1e-12, 1e-9, 1e-3, 1.0, 1e6):
        assert torch.isfinite(model.denoise(between, s)).all()
        assert torch.isfinite(model.log_density(between, s)).all()


# --- stationary --------------------------------------------------------------------------------


def random_stationary(generator, c=3, grid=4):
    rotation = torch.linalg.qr(normal((c, c), generator))[0]
    return Stationary(normal((c,), generator), rotation, normal((c, grid, grid), generator).exp())


def written_out(model, h, w):
    """Mean (c h w,) and covariance of its images of any size, by SciPy's DCT and interpolation."""
    G = model.variances.shape[-1]
    units = np.eye(h * w).reshape(-1, h, w)
    T = np.stack([scipy.fft.dctn(unit, norm="ortho").reshape(-1) for unit in units], axis=1)
    axes = [np.minimum(np.arange(size) / size * G, G - 1) for size in (h, w)]
    at = np.array(list(itertools.product(*axes)))
    grid = (np.arange(G), np.arange(G))
    V = [np.exp(RegularGridInterpolator(grid, np.log(v))(at)) for v in model.variances.numpy()]
    W = np.kron(model.colours.numpy(), T)
    return np.repeat(model.mean.numpy(), h * w), (W.T * np.concatenate(V)) @ W


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("s", LEVELS)
def test_a_stationary_density_is_its_covariance_matrix(s, size, c, generator):
    model = random_stationary(generator, c)
    mean, C = written_out(model, *size)
    y = normal((c, *size), generator, 2.0)
    flat = y.flatten().numpy()
    exact = size in ((4, 4), (1, 1))  # between frequencies of the grid it is known to float32
    assert_near(model.denoise(y, s).flatten(), wiener(flat, mean, C, s), 1e-11 if exact else 1e-6)
    expected = multivariate_normal(mean, C + s**2 * np.eye(len(mean))).logpdf(flat)
    accuracy = 1e-10 if exact else 1e-6
    assert float(model.log_density(y, s)) == pytest.approx(expected, rel=accuracy)


def test_a_stationary_density_of_another_size_is_exact_in_float64(generator):
    model, y = random_stationary(generator), normal((3, 4, 7), generator, 2.0)
    mean, C = written_out(model, 4, 7)
    assert_near(model.denoise(y, 0.3).flatten(), wiener(y.flatten().numpy(), mean, C, 0.3), 1e-11)


def test_a_stationary_density_knows_no_left_and_right(generator):
    model, y = random_stationary(generator), normal((3, 7, 10), generator)
    for axis in (1, 2):
        assert_near(model.denoise(y.flip(axis), 0.4).flip(axis), model.denoise(y, 0.4), 1e-12)
    arrays = normal((30, 2, 5, 5), generator) @ normal((5, 5), generator)
    across, down = (stationary.fit(a, FitOptions()) for a in (arrays, arrays.mT.contiguous()))
    assert_near(down.variances, across.variances.mT, 0, rtol=1e-10)
    assert float((across.variances / across.variances.mT).max()) > 2


def test_the_spectrum_of_stationary_data_is_recovered(generator):
    model, L = random_stationary(generator), 20_000
    scales = torch.tensor([1.0, 8.0, 64.0], dtype=torch.float64)  # distinct colours
    model = Stationary(model.mean, model.colours, model.variances * scales[:, None, None])
    mean, C = written_out(model, 4, 4)
    drawn = np.random.default_rng(5).multivariate_normal(mean, C, L).reshape(L, 3, 4, 4)
    fitted = stationary.fit(torch.from_numpy(drawn), FitOptions())
    share = model.variances.flatten(1).sum(1)
    order = share.argsort()
    assert_near(fitted.mean, model.mean, 5 * math.sqrt(float(share.max()) / (16 * L)))
    alignment = (fitted.colours @ model.colours[order].T).diagonal().abs()
    assert_near(alignment, torch.ones(3).double(), 1e-3)
    # Five standard errors of a variance, and what a slightly wrong rotation mixes in.
    assert_near(fitted.variances, model.variances[order], 0.02, rtol=5 * math.sqrt(2 / L))


# --- the Fokker-Planck equation ----------------------------------------------------------------


def two_pixels(name):
    if name == "empirical":
        points = [[-0.6, 0.2], [0.5, 0.5], [0.1, -0.7], [0.6, 0.4]]
        return Empirical((1, 1, 2), torch.tensor(points, dtype=torch.float64))
    generator = torch.Generator().manual_seed(11)
    mix = random_mixture(generator, shape=(1, 1, 2), K=2, least=0.6)
    means = torch.tensor([[-0.6, 0.3], [0.5, -0.2]], dtype=torch.float64)
    axes, variances = mix.axes, mix.variances / 20
    return GaussianMixture((1, 1, 2), mix.weights, means, axes, variances, mix.rest / 20)


@pytest.mark.parametrize("name", ["empirical", "mixture"])
def test_noise_in_closed_form_solves_the_fokker_planck_equation(name):
    model, sde, s0 = two_pixels(name), VarianceExploding(1.5), 0.3
    times = torch.tensor([0.0, 0.05, 0.2], dtype=torch.float64)
    levels = [math.hypot(s0, float(sde.std(t))) for t in times]
    errors, slopes = [], []
    for size in (80, 160):
        dh = 8 / size
        axis = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * dh
        x = torch.cartesian_prod(axis, axis)
        exact = torch.stack([model.log_density(x, s) for s in levels]).reshape(3, size, size)
        solved = solve(exact[None, :1], sde, times, dh=dh).log_density[0, :, 0]
        there = exact > exact.amax(dim=(1, 2), keepdim=True) - 6
        errors.append((solved - exact)[there].abs().max())
        exactly = {} if name == "empirical" else {"min_probability": 0.0}
        scores = [
            (model.denoise(x, s, **exactly) - x).reshape(size, size, 2) / s**2 for s in levels
        ]
        slope = torch.stack(torch.gradient(solved, spacing=dh, dim=(1, 2)), dim=-1)
        slopes.append((slope - torch.stack(scores))[1:][there[1:]].abs().max())
    assert float((exact[2] - exact[0])[there[0]].abs().max()) > 0.5  # much happens meanwhile
    assert errors[1] < 0.02
    assert slopes[1] < 0.1
    for coarse, fine in (errors, slopes):
        assert 1.8 < math.log2(coarse / fine) < 2.2


@pytest.mark.parametrize("name", ["empirical", "mixture", "stationary", "low rank"])
@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.5])
def test_the_score_is_the_gradient_of_the_log_density(name, sigma, generator):
    model = {
        "empirical": Empirical((3, 2, 2), normal((20, 12), generator)),
        "mixture": random_mixture(generator),
        "low rank": random_mixture(generator, K=1, rank=3),
        "stationary": random_stationary(generator),
    }[name]
    density = Density(name, model)
    x = normal((7, 3, 2, 2), generator).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_density(x, sigma).sum(), x)
    if name == "mixture":  # a density leaves out components of little probability
        y = x.detach().flatten(1)
        score = (model.denoise(y, sigma, min_probability=0.0) - y) / sigma**2
        assert_near(score.reshape(x.shape), gradient, 1e-10)
        assert_near(density.score(x.detach(), sigma), gradient, 5e-6 / sigma**2)
    else:
        assert_near(density.score(x.detach(), sigma), gradient, 1e-10)
    assert float(gradient.abs().mean()) > 0.05


# --- windows -----------------------------------------------------------------------------------


def curved(found):
    """An estimate that depends on the whole window and on the place in it."""
    ramp = torch.linspace(0, 1, found.shape[1]).to(found)
    return found.sin() + ramp * found.mean(dim=1, keepdim=True)


def average_by_loops(image, size, stride, estimate):
    (c, H, W), (h, w) = image.shape, size
    down, right = (
        window + math.ceil(max(length - window, 0) / stride) * stride
        for length, window in ((H, h), (W, w))
    )
    padded = np.pad(image.numpy(), ((0, 0), (0, down - H), (0, right - W)), mode="symmetric")
    total, count = np.zeros_like(padded), np.zeros((down, right))
    for top, left in itertools.product(
        range(0, down - h + 1, stride), range(0, right - w + 1, stride)
    ):
        there = np.s_[top : top + h, left : left + w]
        window = torch.from_numpy(padded[:, there[0], there[1]].reshape(1, -1))
        total[:, there[0], there[1]] += estimate(window).numpy().reshape(c, h, w)
        count[there] += 1
    return (total / count)[:, :H, :W]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@pytest.mark.parametrize("shape", [(3, 11, 14), (1, 4, 5), (2, 9, 3), (1, 1, 13), (3, 1, 1)])
def test_the_average_of_windows_is_the_one_by_loops(shape, size, stride, generator):
    image = normal(shape, generator)
    expected = average_by_loops(image, size, stride, curved)
    for pixels in (windows.BATCH_PIXELS, 1, 35):  # one strip, strips of one row, of a few
        found = windows.average(image[None], size, stride, curved, batch_pixels=pixels)[0]
        assert found.shape == image.shape
        assert_near(found, expected, 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 11, 14), (1, 2, 5), (1, 1, 1)])
def test_windows_that_are_left_alone_are_the_image(shape, dtype, generator):
    image = normal(shape, generator).to(dtype)
    for size, stride in (((4, 4), 4), ((4, 8), 4), ((1, 1), 1)):  # by powers of two: bit for bit
        assert torch.equal(windows.average(image[None], size, stride, torch.clone)[0], image)
    eps = torch.finfo(dtype).eps  # sums of up to 25 equal numbers
    found = windows.average(image[None], (5, 5), 1, torch.clone)[0]
    torch.testing.assert_close(found, image, rtol=13 * eps, atol=0)
