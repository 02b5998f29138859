import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import expm_multiply

from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.problem import Options, Problem
from score_embedding.fokker_planck.schemes import spectral
from score_embedding.fokker_planck.solve import AffineDrift, solve
from score_embedding.sde import VarianceExploding, VariancePreserving

BOUNDARIES = ["reflect", "zero"]
GRIDS = [(9,), (5, 4), (3, 4, 2)]
TIMES = torch.tensor([0.001, 0.2, 0.5, 1.0], dtype=torch.float64)
BROWNIAN = VarianceExploding(1.0)  # diffusion time is time
PULL = AffineDrift(VariancePreserving(0.5, 4.0).rate)


def random_field(shape, generator, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(shape, generator=generator, dtype=dtype)


def heat_equation(grid, dh, boundary):
    """The Laplacian by loops over pixels and neighbours, acting on (p, 1): the last entry is the
    world beyond the edge, where p stays 1; between reflecting walls it has no neighbour."""
    pixels = {pixel: k for k, pixel in enumerate(np.ndindex(*grid))}
    laplacian = sparse.lil_array((len(pixels) + 1, len(pixels) + 1))
    for pixel, k in pixels.items():
        for axis, step in itertools.product(range(len(grid)), (-1, 1)):
            neighbour = (*pixel[:axis], pixel[axis] + step, *pixel[axis + 1 :])
            if neighbour in pixels or boundary == "zero":
                laplacian[k, pixels.get(neighbour, len(pixels))] += 1 / dh**2
                laplacian[k, k] -= 1 / dh**2
    return laplacian.tocsc()


def heat_flow(m0, tau, dh, boundary):
    """Log-density after the diffusion time tau from m0 (n, c, *grid)."""
    laplacian = heat_equation(m0.shape[2:], dh, boundary)
    p0 = m0.exp().flatten(2).flatten(0, 1).T.numpy()
    p = expm_multiply(tau / 2 * laplacian, np.vstack([p0, np.ones(p0.shape[1])]))[:-1]
    return torch.from_numpy(p.T.copy()).log().reshape(m0.shape)


def axes(grid_size, dims, length):
    """Pixel centres around the middle of a cube, dims tensors (*grid), and the spacing."""
    dh = length / grid_size
    x = (torch.arange(grid_size, dtype=torch.float64) - (grid_size - 1) / 2) * dh
    return torch.meshgrid(*[x] * dims, indexing="ij"), dh


def log_gaussian(axes, means, variance):
    """Log-density (1, 1, *grid) of a normal distribution with one mean for each axis."""
    square = sum((x - mean) ** 2 for x, mean in zip(axes, means, strict=True))
    normalisation = len(axes) / 2 * math.log(2 * math.pi * variance)
    return (-square / (2 * variance) - normalisation)[None, None]


def near_the_middle(axes, radius):
    return torch.stack(axes).abs().amax(dim=0) < radius


def observed_order(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def spectral_solution(m0, sde, times, *, dh=1.0, boundary="reflect", drift=None, **sizes):
    """`solve` with sizes of the scheme that are otherwise constants."""
    problem = Problem(m0, sde, times, dh, boundary, drift)
    return spectral.evolve(problem, Options(), **sizes).log_density


# --- the discrete equation ---------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dh", [1.0, 0.6])
@pytest.mark.parametrize("grid", [(1,), (11,), (1, 6), (7, 5), (2, 1, 3), (4, 3, 5)])
def test_spectral_in_any_dimension_is_the_matrix_exponential(boundary, dh, grid, generator):
    m0 = random_field((2, 2, *grid), generator, scale=2.0)
    sde = VarianceExploding(3.0)
    m = solve(m0, sde, TIMES, dh=dh, boundary=boundary).log_density
    assert m.shape == (2, 4, 2, *grid)
    for n in (1, 3):
        tau = float(3.0 ** (2 * TIMES[n]) - 3.0 ** (2 * TIMES[0])) / (2 * math.log(3.0))
        torch.testing.assert_close(m[:, n], heat_flow(m0, tau, dh, boundary), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_an_affine_drift_of_rate_zero_is_no_drift(grid, generator):
    m0, sde = random_field((2, 2, *grid), generator), VarianceExploding(3.0)
    without = solve(m0, sde, TIMES, dh=0.7).log_density
    with_drift = solve(m0, sde, TIMES, dh=0.7, drift=AffineDrift(0.0)).log_density
    torch.testing.assert_close(with_drift, without, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("depth", "error"), [(5.0, 1e-12), (15.0, 1e-9), (25.0, 1e-13)])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_far_below_a_peak_the_log_density_is_right(depth, error, tau):
    m0 = torch.full((1, 1, 64), -depth, dtype=torch.float64)
    m0[0, 0, 30] = 0
    m = solve(m0, BROWNIAN, TIMES.new_tensor([0, tau])).log_density[0, -1, 0]
    kernel = scipy.special.ive(np.abs(np.arange(64) - 30), tau)  # of the unbounded grid
    expected = np.log(kernel + math.exp(-depth) * (1 - kernel))
    assert np.abs(m.numpy() - expected).max() < error  # from a depth of 15 on by better kernels


@pytest.mark.parametrize("depth", [60.0, 300.0])
@pytest.mark.parametrize("tau", [0.1, 2.0])
def test_deep_below_the_surroundings_the_inflow_is_right(depth, tau):
    m0 = torch.full((1, 1, 61), -depth, dtype=torch.float64)
    m = solve(m0, BROWNIAN, TIMES.new_tensor([0, tau]), boundary="zero").log_density[0, -1, 0]
    # By the reflection principle the share of a random walk's paths that reach distance d is
    # P(X >= d) + P(X > d); far from the other edge the two edges' shares add up.
    distance = np.stack([np.arange(1, 62), np.arange(61, 0, -1)])[..., None] + np.arange(120)
    walk = scipy.special.ive
    beyond = (walk(distance, tau) + walk(distance + 1, tau)).sum(axis=(0, 2))
    expected = np.logaddexp(-depth + np.log1p(-beyond), np.log(beyond))
    np.testing.assert_allclose(m.numpy()[:25], expected[:25], rtol=1e-10)


# --- the continuum -----------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
def test_a_spreading_gaussian_is_met_at_second_order(dims):
    sizes, means, variance, tau, errors = [32, 64, 128], [0.3, -0.2][:dims], 1.0, 0.8, []
    for n in sizes:
        x, dh = axes(n, dims, length=16.0)  # the walls are 5.7 standard deviations away
        m0 = log_gaussian(x, means, variance)
        m = solve(m0, BROWNIAN, TIMES.new_tensor([0, tau]), dh=dh).log_density[:, -1]
        error = (m - log_gaussian(x, means, variance + tau)).abs()[0, 0]
        errors.append(float(error[near_the_middle(x, 2.0)].max()))
    assert errors[-1] < 0.002 * dims
    assert observed_order(sizes, errors) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("dims", "sizes"), [(1, [8, 16, 32, 64]), (2, [8, 16, 32]), (3, [10, 20])])
def test_the_slowest_mode_between_walls_decays_at_second_order(boundary, dims, sizes):
    tau, amplitude, spacings, errors = 0.1, 0.8, [], []
    for n in sizes:
        i = torch.arange(n, dtype=torch.float64)
        if boundary == "reflect":  # walls half a pixel beyond the outermost centres
            dh = 1 / n
            mode = torch.cos(math.pi * (i + 0.5) * dh)
        else:  # zero nodes a whole pixel beyond them
            dh = 1 / (n + 1)
            mode = torch.sin(math.pi * (i + 1) * dh)
        product = math.prod(torch.meshgrid(*[mode] * dims, indexing="ij"))
        m0 = (1 + amplitude * product).log()[None, None]
        m = solve(m0, BROWNIAN, TIMES.new_tensor([0, tau]), dh=dh, boundary=boundary).log_density
        decay = math.exp(-tau / 2 * dims * math.pi**2)
        expected = (1 + amplitude * decay * product).log()
        spacings.append(dh)
        errors.append(float((m[0, -1, 0] - expected).abs().max()))
    assert np.polyfit(np.log(spacings), np.log(errors), 1)[0] == pytest.approx(2, abs=0.1)


# --- affine drift ------------------------------------------------------------------------------


def variance_preserving(t):
    """exp(-A) and the variance that noise has added, of VariancePreserving(0.5, 4)."""
    A = (0.5 * t + 3.5 * t**2 / 2) / 2
    return math.exp(-A), 1 - math.exp(-2 * A)


def ornstein_uhlenbeck(t):
    """The same for a constant rate 0.8 and g = 1."""
    return math.exp(-0.8 * t), (1 - math.exp(-1.6 * t)) / 1.6


def exploding_with_pull(t):
    """The same for a constant rate 0.8 and g = 3^t."""
    k = 2 * math.log(3) + 1.6
    return math.exp(-0.8 * t), math.exp(-1.6 * t) * math.expm1(k * t) / k


AFFINE = [
    (VariancePreserving(0.5, 4.0), PULL, variance_preserving),
    (VarianceExploding(1.0), AffineDrift(0.8), ornstein_uhlenbeck),
    (VarianceExploding(3.0), AffineDrift(0.8), exploding_with_pull),
]


@pytest.mark.parametrize(("sde", "drift", "exact"), AFFINE, ids=["VP", "OU", "VE"])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_pulled_gaussian_is_met_at_second_order(sde, drift, exact, dims):
    sizes, means, variance, errors = [32, 64, 128], [0.8, -0.5][:dims], 0.8, []
    times = TIMES.new_tensor([0, 0.6])
    kept, added = exact(0.6)
    for n in sizes:
        x, dh = axes(n, dims, length=14.0)
        m0 = log_gaussian(x, means, variance)
        # So few substeps that only the error in space is left.
        m = spectral_solution(m0, sde, times, dh=dh, drift=drift, substeps=32)
        later = log_gaussian(x, [kept * mean for mean in means], variance * kept**2 + added)
        error = (m[:, -1] - later).abs()[0, 0]
        errors.append(float(error[near_the_middle(x, 2.0)].max()))
    assert errors[-1] < 0.003 * dims
    assert observed_order(sizes, errors) == pytest.approx(2, abs=0.1)


def affine_solution(sde, drift, times, grid=(13, 10), **sizes):
    random = torch.Generator().manual_seed(5)
    m0 = random_field((1, 2, *grid), random)
    return spectral_solution(m0, sde, times, dh=0.4, drift=drift, **sizes)[:, -1]


@pytest.mark.parametrize(("sde", "drift"), [case[:2] for case in AFFINE[:2]], ids=["VP", "OU"])
def test_a_rate_in_proportion_to_the_diffusion_is_exact_in_time(sde, drift):
    fine = affine_solution(sde, drift, torch.linspace(0, 1, 11, dtype=torch.float64))
    coarse = affine_solution(sde, drift, TIMES.new_tensor([0, 1]))
    torch.testing.assert_close(coarse, fine, rtol=0, atol=1e-12)
    in_one = affine_solution(sde, drift, TIMES.new_tensor([0, 1]), substeps=1)
    torch.testing.assert_close(in_one, fine, rtol=0, atol=1e-12)


def test_any_other_rate_is_second_order_in_the_substep():
    sde, drift, _ = AFFINE[2]

    def with_substeps(count):
        return affine_solution(sde, drift, TIMES.new_tensor([0, 0.3]), substeps=count)

    expected, counts = with_substeps(512), [2, 4, 8]
    errors = [float((with_substeps(count) - expected).abs().max()) for count in counts]
    assert observed_order(counts, errors) == pytest.approx(2, abs=0.05)
    assert errors[-1] < 0.002


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_stationary_density_of_an_affine_drift_stays(dims):
    x, dh = axes(9, dims, length=7.0)
    for sde, drift, variance in ((*AFFINE[0][:2], 1.0), (*AFFINE[1][:2], 1 / 1.6)):
        m0 = log_gaussian(x, [0.0] * dims, variance)
        m = solve(m0, sde, TIMES, dh=dh, drift=drift).log_density
        torch.testing.assert_close(m, m0[:, None].expand_as(m), rtol=0, atol=1e-11)


@pytest.mark.parametrize("grid", [(1,), *GRIDS])
@pytest.mark.parametrize(
    ("sde", "drift"),
    [*[case[:2] for case in AFFINE], (BROWNIAN, AffineDrift(-2.0)), (BROWNIAN, AffineDrift(40.0))],
    ids=["VP", "OU", "VE", "away", "strong"],
)
def test_an_affine_drift_keeps_mass_and_positivity(grid, sde, drift, generator):
    m0 = random_field((2, 1, *grid), generator, scale=3.0)
    m = solve(m0, sde, TIMES, dh=0.8, drift=drift).log_density
    assert torch.isfinite(m).all()
    mass = m.exp().flatten(3).sum(dim=3)
    torch.testing.assert_close(mass, mass[:, :1].expand_as(mass), rtol=1e-12, atol=0)


# --- the fast transform ------------------------------------------------------------------------


def by_transform(m0, sde, **arguments):
    assert spectral.uses_transform(Problem(m0, sde, TIMES, **arguments), fft_from=1)
    return spectral_solution(m0, sde, TIMES, fft_from=1, **arguments)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dh", [1.0, 0.5])
def test_the_fast_transform_is_the_matrix_products(dims, dh, photographs):
    m0 = log_density(photographs(32, 24, n=2))
    m0 = {1: m0[:, :, 7], 2: m0, 3: m0[:, :2].reshape(2, 2, 8, 4, 24)}[dims]
    sde = VarianceExploding(5.0)
    expected = solve(m0, sde, TIMES, dh=dh).log_density
    m = by_transform(m0, sde, dh=dh)
    torch.testing.assert_close(m, expected, rtol=0, atol=1e-11)
    assert torch.equal(m[:, 0], m0)


def test_the_fast_transform_computes_float32_in_float64(photographs):
    m0, sde = log_density(photographs(32, 24, n=1)).to(torch.float32), VarianceExploding(5.0)
    m = by_transform(m0, sde)
    assert m.dtype == torch.float32
    assert torch.equal(m[:, 0], m0)
    assert torch.equal(m, by_transform(m0.double(), sde).float())


def test_the_fast_transform_is_right_up_to_its_range(generator):
    m0 = random_field((1, 2, 20, 30), generator)
    m0[0, 0] *= spectral.RANGE / (m0[0, 0].max() - m0[0, 0].min()) * (1 - 1e-15)
    m = by_transform(m0, BROWNIAN)
    torch.testing.assert_close(m[:, -1], heat_flow(m0, 0.999, 1.0, "reflect"), rtol=0, atol=1e-9)


def test_the_fast_transform_obeys_the_maximum_principle_to_the_last_digits():
    m0 = torch.full((1, 1, 40, 30), -15.0, dtype=torch.float64)
    m0[0, 0, 20, 15] = 0
    m = by_transform(m0, BROWNIAN)
    assert (m >= -15 - 1e-14).all()
    assert (m <= 0).all()


@pytest.mark.parametrize(
    ("m0", "arguments", "taken"),
    [
        (torch.zeros(1, 1, 8), {}, True),
        (torch.zeros(1, 1, 5, 8), {}, True),
        (torch.zeros(1, 1, 8, 2, 2), {}, True),
        (torch.zeros(1, 1, 7, 7), {}, False),
        (torch.linspace(0, 15, 16).reshape(1, 2, 8), {}, True),
        (torch.tensor([0.0] * 15 + [15.1]).reshape(1, 2, 8), {}, False),
        (torch.zeros(1, 1, 5, 8, requires_grad=True), {}, False),
        (torch.zeros(1, 1, 5, 8), {"boundary": "zero"}, False),
        (torch.zeros(1, 1, 5, 8), {"drift": AffineDrift(1.0)}, False),
    ],
)
def test_the_fast_transform_is_taken_where_it_pays_and_is_accurate(m0, arguments, taken):
    assert spectral.uses_transform(Problem(m0, BROWNIAN, TIMES, **arguments), fft_from=8) == taken
    m = spectral_solution(m0, BROWNIAN, TIMES, fft_from=8, **arguments)
    assert torch.isfinite(m).all()


def test_a_large_photograph_is_transformed_as_the_matrices_do(photographs):
    m0, sde = log_density(photographs(256, 200, n=1)), VarianceExploding(5.0)
    assert spectral.uses_transform(Problem(m0, sde, TIMES))
    by_default = solve(m0, sde, TIMES).log_density
    by_products = spectral_solution(m0, sde, TIMES, fft_from=257)
    torch.testing.assert_close(by_default, by_products, rtol=0, atol=1e-11)


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 2, 5), (2, 1, 3, 2), (1, 1, 2, 3, 2)])
@pytest.mark.parametrize(
    "arguments", [{}, {"boundary": "zero"}, {"drift": PULL}], ids=["reflect", "zero", "drift"]
)
def test_spectral_is_differentiable_in_m0(shape, arguments, generator):
    m0 = random_field(shape, generator).requires_grad_()
    before = m0.detach().clone()
    sde = VarianceExploding(2.0)
    assert torch.autograd.gradcheck(
        # One substep: the kernel is built anew for every difference.
        lambda m: spectral_solution(m, sde, TIMES, substeps=1, **arguments),
        m0,
    )
    assert torch.equal(m0, before)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_gradient_over_several_chunks_is_that_of_single_images(boundary, grid, generator):
    m0, sde = random_field((5, 2, *grid), generator).requires_grad_(), VarianceExploding(2.0)
    image_bytes = len(TIMES) * m0[0].nbytes
    m = spectral_solution(m0, sde, TIMES, boundary=boundary, chunk_bytes=2 * image_bytes)
    (together,) = torch.autograd.grad(m.square().sum(), m0)
    for i in range(5):
        alone = m0[i : i + 1].detach().requires_grad_()
        loss = solve(alone, sde, TIMES, boundary=boundary).log_density.square().sum()
        (expected,) = torch.autograd.grad(loss, alone)
        torch.testing.assert_close(together[i : i + 1], expected, rtol=1e-12, atol=1e-12)


# --- symmetries, chunks, precision -------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"boundary": "zero"}, {"drift": PULL}])
@pytest.mark.parametrize("grid", GRIDS)
def test_flipping_or_swapping_axes_of_m0_does_the_same_to_the_solution(grid, arguments, generator):
    m0, sde = random_field((2, 3, *grid), generator), VarianceExploding(2.0)
    m = solve(m0, sde, TIMES, **arguments).log_density
    for axis in range(-len(grid), 0):
        flipped = solve(m0.flip(axis), sde, TIMES, **arguments).log_density
        torch.testing.assert_close(flipped, m.flip(axis), rtol=0, atol=1e-12)
        swapped = solve(m0.transpose(axis, -1), sde, TIMES, **arguments).log_density
        torch.testing.assert_close(swapped, m.transpose(axis, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("arguments", [{}, {"boundary": "zero"}, {"drift": PULL}])
@pytest.mark.parametrize("grid", GRIDS)
def test_images_and_channels_in_another_order_are_solved_equally(grid, arguments, generator):
    m0, sde = random_field((4, 3, *grid), generator), VarianceExploding(2.0)
    m = solve(m0, sde, TIMES, **arguments).log_density
    images, channels = [2, 0, 3, 1], [1, 2, 0]
    permuted = solve(m0[images][:, channels], sde, TIMES, **arguments).log_density
    torch.testing.assert_close(permuted, m[images][:, :, channels], rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("images_at_once", [0, 1, 2, 3])
def test_chunks_of_images_are_the_whole(boundary, grid, images_at_once, generator):
    m0, sde = random_field((5, 2, *grid), generator), VarianceExploding(2.0)
    whole = solve(m0, sde, TIMES, boundary=boundary).log_density
    size = images_at_once * whole[0].nbytes
    chunks = spectral_solution(m0, sde, TIMES, boundary=boundary, chunk_bytes=size)
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("arguments", [{}, {"boundary": "zero"}, {"drift": PULL}])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_float32_is_right_to_its_own_precision(dims, arguments, photographs):
    m0 = log_density(photographs(32, n=2))
    m0 = {1: m0[:, :, 7], 2: m0, 3: m0.reshape(2, 3, 8, 4, 32)}[dims]
    sde = VarianceExploding(5.0)
    single = solve(m0.float(), sde, TIMES, **arguments).log_density
    assert single.dtype == torch.float32
    double = solve(m0, sde, TIMES, **arguments).log_density
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scheme", ["spectral", "implicit"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    "arguments", [{}, {"boundary": "zero"}, {"drift": PULL}], ids=["reflect", "zero", "drift"]
)
def test_the_solution_stays_on_the_device_of_m0(scheme, grid, arguments, generator):
    m0, sde = random_field((2, 2, *grid), generator), VarianceExploding(1.5)
    times = torch.linspace(0.001, 1, 11, dtype=torch.float64)
    arguments = {**arguments, "scheme": scheme, "tolerance": 1e-12}
    on_device = solve(m0.cuda(), sde, times, **arguments)
    assert on_device.log_density.device.type == on_device.times.device.type == "cuda"
    on_cpu = solve(m0, sde, times, **arguments).log_density
    torch.testing.assert_close(on_device.log_density.cpu(), on_cpu, rtol=0, atol=1e-9)


# --- any input ---------------------------------------------------------------------------------


def bounds(m0, boundary):
    """What the maximum principle allows, each (n, 1, c, 1): 0 is the value beyond a "zero" edge."""
    values = m0.flatten(2)
    if boundary == "zero":
        values = torch.cat([values, torch.zeros_like(values[..., :1])], dim=2)
    lowest, highest = values.aminmax(dim=2, keepdim=True)
    return lowest[:, None], highest[:, None]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("value", [-1e4, -800.0, -100.0, -3.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_of_any_size_obeys_the_maximum_principle(boundary, value, dtype):
    m0 = torch.full((1, 1, 40, 30), value, dtype=dtype)  # the middle is far from any edge
    m = solve(m0, VarianceExploding(2.0), TIMES, boundary=boundary).log_density
    assert torch.isfinite(m).all()
    lowest, highest = bounds(m0, boundary)
    tolerance = torch.finfo(dtype).eps * (4 * abs(value) + 128)
    assert (m.flatten(3) >= lowest - tolerance).all()
    assert (m.flatten(3) <= highest + tolerance).all()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    grid=st.one_of(
        st.tuples(st.integers(1, 12)),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    ),
    boundary=st.sampled_from(BOUNDARIES),
    sigma=st.one_of(st.floats(0.2, 25), st.sampled_from([0.2, 1 - 1e-9, 1.0, 1 + 1e-9, 25.0])),
    dh=st.floats(0.3, 4),
    low=st.one_of(st.floats(-20, 20), st.sampled_from([-1e4, -800.0, -100.0, 100.0, 9e3])),
    spread=st.one_of(st.floats(0, 20), st.sampled_from([0.0, 100.0, 1e3])),
    times=st.sampled_from([[0.2], [0.0, 1.0], [0.001, 0.3, 0.30001, 1.0]]),
    seed=st.integers(0, 1000),
)
def test_any_density_stays_finite_within_its_bounds_and_of_its_mass(
    grid, boundary, sigma, dh, low, spread, times, seed
):
    random = torch.Generator().manual_seed(seed)
    m0 = low + spread * torch.rand(1, 2, *grid, generator=random, dtype=torch.float64)
    times = torch.tensor(times, dtype=torch.float64)
    m = solve(m0, VarianceExploding(sigma), times, dh=dh, boundary=boundary).log_density
    assert torch.equal(m[:, 0], m0)
    assert torch.isfinite(m).all()
    lowest, highest = bounds(m0, boundary)
    tolerance = 1e-13 * max(1, abs(low) + spread)
    assert (m.flatten(3) >= lowest - tolerance).all()
    assert (m.flatten(3) <= highest + tolerance).all()
    if boundary == "reflect":
        mass = m.flatten(3).logsumexp(dim=3)
        torch.testing.assert_close(mass, mass[:, :1].expand_as(mass), rtol=0, atol=tolerance)


def test_kernels_kept_from_one_solve_serve_only_the_same_setting(generator):
    m0 = torch.randn(1, 1, 6, 9, generator=generator, dtype=torch.float64)
    settings = [
        {"dh": dh, "boundary": boundary, "sde": VarianceExploding(sigma), "times": times}
        for dh in (1.0, 0.5)
        for boundary in BOUNDARIES
        for sigma in (1.0, 2.0)
        for times in (TIMES, TIMES[:2])
    ]
    first = [solve(m0, **setting).log_density for setting in settings]
    again = [solve(m0, **setting).log_density for setting in settings]
    spectral._heat_kernels.cache_clear()
    for kept, setting, before in zip(again, settings, first, strict=True):
        spectral._heat_kernels.cache_clear()
        assert torch.equal(solve(m0, **setting).log_density, before)
        assert torch.equal(kept, before)
    assert len({tuple(m[0, -1].flatten().tolist()) for m in first}) == len(settings)


@pytest.mark.parametrize("drift", [None, AffineDrift(0.3)])
def test_what_is_kept_from_inference_mode_serves_gradients(drift, generator):
    m0 = torch.randn(1, 1, 5, 7, generator=generator, dtype=torch.float64)
    times = TIMES.new_tensor([0.0, 0.123, 0.456])  # of no other test
    with torch.inference_mode():
        inferred = solve(m0, VarianceExploding(3.0), times, drift=drift).log_density
    m0.requires_grad_()
    m = solve(m0, VarianceExploding(3.0), times, drift=drift).log_density
    assert torch.equal(m.detach(), inferred)
    m[:, -1].sum().backward()
    assert float(m0.grad.abs().min()) > 0
