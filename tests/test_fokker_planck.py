import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.sparse.linalg import expm_multiply

from score_embedding.errors import ConvergenceError
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solution import Diagnostics, merged
from score_embedding.fokker_planck.solve import solve
from score_embedding.sde import VarianceExploding

SCHEMES = ["spectral", "implicit"]
TIMES = torch.tensor([0.001, 0.2, 0.5, 1.0], dtype=torch.float64)
BROWNIAN = VarianceExploding(1.0)  # diffusion time is time


def neighbours(i, j, h, w):
    inside = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
    return [(a, b) for a, b in inside if 0 <= a < h and 0 <= b < w]


def reflecting_laplacian(h, w, dh):
    """Five-point Laplacian by loops: no flux leaves the grid."""
    laplacian = sparse.lil_array((h * w, h * w))
    for i in range(h):
        for j in range(w):
            for a, b in neighbours(i, j, h, w):
                laplacian[i * w + j, a * w + b] += 1 / dh**2
                laplacian[i * w + j, i * w + j] -= 1 / dh**2
    return laplacian.tocsc()


def right_side_by_loops(m, dh):
    """lap m + |grad m|^2 of one (h, w) array, the edge's own value beyond the edge."""
    h, w = m.shape
    result = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            result[i, j] = sum(m[a, b] - m[i, j] for a, b in neighbours(i, j, h, w)) / dh**2
            along_h = m[min(i + 1, h - 1), j] - m[max(i - 1, 0), j]
            along_w = m[i, min(j + 1, w - 1)] - m[i, max(j - 1, 0)]
            result[i, j] += (along_h**2 + along_w**2) / (2 * dh) ** 2
    return result


def diffusion_times(sigma, times):
    return [quad(lambda t: sigma ** (2 * t), float(times[0]), float(t))[0] for t in times]


def cosine_density(h, w, k, amplitude, dh=1.0, tau=0.0):
    """1 + a cos(pi k (i + 1/2) / h) after tau under the five-point Laplacian, constant along w."""
    decay = math.exp(-tau / 2 * (2 - 2 * math.cos(math.pi * k / h)) / dh**2)
    i = torch.arange(h, dtype=torch.float64)
    column = 1 + amplitude * decay * torch.cos(math.pi * k * (i + 0.5) / h)
    return column[:, None].expand(h, w)


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


@pytest.fixture
def m0(generator):
    return torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [1.0, 5.0])
@pytest.mark.parametrize("dh", [1.0, 0.6, 4.0])
@pytest.mark.parametrize("shape", [(1, 1, 6, 9), (2, 3, 7, 4), (1, 1, 1, 11)])
def test_spectral_is_the_matrix_exponential_of_the_laplacian(sigma, dh, shape, generator):
    m0 = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    m = solve(m0, VarianceExploding(sigma), TIMES, dh=dh).log_density
    laplacian = reflecting_laplacian(*shape[2:], dh)
    p0 = m0.exp().flatten(0, 1).flatten(1).T.numpy()
    for n, tau in enumerate(diffusion_times(sigma, TIMES)):
        p = torch.from_numpy(expm_multiply(tau / 2 * laplacian, p0).T.copy())
        torch.testing.assert_close(m[:, n], p.log().reshape(shape), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dh", [1.0, 0.5])
@pytest.mark.parametrize("k", [1, 2, 9])
@pytest.mark.parametrize("amplitude", [0.01, 0.9])
def test_spectral_damps_a_cosine_as_its_closed_form_does(dh, k, amplitude):
    m0 = cosine_density(10, 4, k, amplitude).log()
    m = solve(torch.stack([m0, m0])[:, None], VarianceExploding(3.0), TIMES, dh=dh).log_density
    for n, tau in enumerate(diffusion_times(3.0, TIMES)):
        expected = cosine_density(10, 4, k, amplitude, dh, tau).log()
        for image in m[:, n, 0]:
            torch.testing.assert_close(image, expected, rtol=0, atol=1e-13)


def test_spectral_keeps_mass_and_the_bounds_of_a_photograph(photographs):
    m0 = log_density(photographs(32, 24, n=2))
    m = solve(m0, VarianceExploding(5.0), torch.linspace(1e-3, 1, 10)).log_density
    mass = m.exp().sum(dim=(-2, -1))
    torch.testing.assert_close(mass, mass[:, :1].expand_as(mass), rtol=1e-12, atol=0)
    highest, lowest = m.amax(dim=(-2, -1)), m.amin(dim=(-2, -1))
    assert (highest.diff(dim=1) < 0).all()
    assert (lowest.diff(dim=1) > 0).all()


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    sigma=st.floats(0.2, 10),
    dh=st.floats(0.3, 4),
    spread=st.floats(0, 5),
    seed=st.integers(0, 1000),
)
def test_spectral_on_any_grid_is_the_exponential_with_mass_and_bounds(
    h, w, sigma, dh, spread, seed
):
    random = torch.Generator().manual_seed(seed)
    m0 = spread * torch.randn(1, 2, h, w, generator=random, dtype=torch.float64)
    m = solve(m0, VarianceExploding(sigma), TIMES, dh=dh).log_density
    assert torch.equal(m[:, 0], m0)
    tau = diffusion_times(sigma, TIMES)[-1]
    kernel = torch.from_numpy(scipy.linalg.expm(tau / 2 * reflecting_laplacian(h, w, dh).toarray()))
    p = m0.exp().reshape(2, h * w) @ kernel.T
    torch.testing.assert_close(m[0, -1].exp().reshape(2, -1), p, rtol=1e-6, atol=1e-10)
    mass = m.exp().sum(dim=(-2, -1))
    torch.testing.assert_close(mass, mass[:, :1].expand_as(mass), rtol=1e-11, atol=0)
    assert (m <= m0.amax(dim=(-2, -1), keepdim=True)[:, None] + 1e-11).all()
    assert (m >= m0.amin(dim=(-2, -1), keepdim=True)[:, None] - 1e-11).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [2.0, 25.0])
def test_spectral_stays_finite_and_bounded_on_extreme_densities(dtype, sigma, generator):
    m0 = 4000 * torch.rand(1, 3, 12, 15, generator=generator, dtype=dtype) - 2000
    m0[0, 2] = -2000
    m0[0, 2, 4, 4] = 2000
    m = solve(m0, VarianceExploding(sigma), TIMES).log_density
    assert torch.isfinite(m).all()
    assert m.dtype == dtype
    assert (m <= m0.amax(dim=(-2, -1), keepdim=True)[:, None] + 0.01).all()
    assert (m >= m0.amin(dim=(-2, -1), keepdim=True)[:, None] - 0.01).all()


def test_spectral_in_float32_is_close_to_float64(photographs):
    m0 = log_density(photographs(32, n=2))
    sde = VarianceExploding(5.0)
    single = solve(m0.to(torch.float32), sde, TIMES).log_density
    assert single.dtype == torch.float32
    double = solve(m0, sde, TIMES).log_density
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_spectral_of_many_images_is_the_same_in_every_chunk(generator):
    m0 = torch.randn(60, 1, 32, 32, generator=generator, dtype=torch.float64)
    times, sde = torch.linspace(0.001, 1, 20, dtype=torch.float64), VarianceExploding(5.0)
    together = solve(m0, sde, times).log_density
    for i in (0, 25, 26, 59):
        alone = solve(m0[i : i + 1], sde, times).log_density[0]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_first_entry_is_m0_bit_for_bit(scheme, m0):
    for start in (m0, m0.to(torch.float32)):
        solution = solve(start, VarianceExploding(2.0), TIMES, scheme=scheme, tolerance=1e-6)
        assert torch.equal(solution.log_density[:, 0], start)
        assert solution.log_density.dtype == start.dtype
        assert solution.log_density.shape == (2, 4, 3, 5, 8)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_time_only_is_m0_alone(scheme, m0):
    solution = solve(m0, VarianceExploding(2.0), TIMES[1:2], scheme=scheme)
    assert torch.equal(solution.log_density, m0[:, None])
    assert solution.diagnostics.iterations == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [0.0, -7.3, 1234.5])
def test_a_constant_stays_itself(scheme, value):
    m0 = torch.full((1, 2, 4, 6), value, dtype=torch.float64)
    m = solve(m0, VarianceExploding(5.0), TIMES, scheme=scheme).log_density
    torch.testing.assert_close(m, m0[:, None].expand_as(m), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_adding_a_constant_to_m0_adds_it_to_the_solution(scheme, m0):
    sde = VarianceExploding(2.0)
    m = solve(m0, sde, TIMES, scheme=scheme, tolerance=1e-12).log_density
    shifted = solve(m0 + 3, sde, TIMES, scheme=scheme, tolerance=1e-12).log_density
    torch.testing.assert_close(shifted, m + 3, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_batch_is_its_single_channels(scheme, m0):
    sde = VarianceExploding(2.0)
    together = solve(m0, sde, TIMES, scheme=scheme).log_density
    for i in range(2):
        for channel in range(3):
            alone = solve(m0[i, channel][None, None], sde, TIMES, scheme=scheme).log_density[
                0, :, 0
            ]
            torch.testing.assert_close(together[i, :, channel], alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "change", [lambda m: m.mT, lambda m: m.flip(-1), lambda m: m.flip(-2)], ids=["T", "W", "H"]
)
def test_transposing_or_flipping_m0_does_the_same_to_the_solution(scheme, change, m0):
    sde = VarianceExploding(2.0)
    m = solve(m0, sde, TIMES, scheme=scheme, tolerance=1e-12).log_density
    changed = solve(change(m0), sde, TIMES, scheme=scheme, tolerance=1e-12).log_density
    torch.testing.assert_close(changed, change(m), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_the_smallest_grids_are_solved(scheme, shape, generator):
    m0 = torch.randn(1, 1, *shape, generator=generator, dtype=torch.float64)
    m = solve(m0, VarianceExploding(1.5), TIMES, scheme=scheme).log_density
    assert torch.isfinite(m).all()
    if shape == (1, 1):
        torch.testing.assert_close(m, m0[:, None].expand_as(m), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numpy_and_tensors_agree_and_m0_is_left_unchanged(scheme, m0):
    before, sde = m0.clone(), VarianceExploding(2.0)
    from_numpy = solve(m0.numpy(), sde, TIMES.numpy(), scheme=scheme)
    assert torch.equal(from_numpy.log_density, solve(m0, sde, TIMES, scheme=scheme).log_density)
    assert torch.equal(from_numpy.times, TIMES)
    assert torch.equal(m0, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_half_precision_is_solved_in_float32_and_returned(scheme, dtype, m0):
    half, sde = m0.to(dtype), VarianceExploding(2.0)
    m = solve(half, sde, TIMES, scheme=scheme).log_density
    assert m.dtype == dtype
    assert torch.equal(m[:, 0], half)
    expected = solve(half.double(), sde, TIMES, scheme=scheme).log_density
    rounding = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(m.double(), expected, rtol=1.01 * rounding, atol=1e-5)


@pytest.mark.parametrize("dh", [1.0, 0.7])
def test_an_implicit_step_solves_the_discrete_equation(dh, generator):
    m0 = torch.randn(1, 2, 6, 9, generator=generator, dtype=torch.float64)
    times = torch.tensor([0.1, 0.25, 0.5], dtype=torch.float64)
    m = solve(
        m0, VarianceExploding(2.0), times, scheme="implicit", dh=dh, tolerance=1e-13
    ).log_density
    for n, step in enumerate(np.diff(diffusion_times(2.0, times))):
        for before, after in zip(m[0, n].numpy(), m[0, n + 1].numpy(), strict=True):
            residual = after - before - step / 2 * right_side_by_loops(after, dh)
            assert np.abs(residual).max() < 1e-10
            assert np.abs(after - before).max() > 0.01


def test_implicit_is_first_order_in_time():
    h, w = 8, 7
    m0 = (cosine_density(h, w, 1, 0.6) + cosine_density(w, h, 2, 0.3).T).log()
    flow = solve_ivp(
        lambda _, m: right_side_by_loops(m.reshape(h, w), 1.0).ravel() / 2,
        (0, 1),
        m0.numpy().ravel(),
        method="DOP853",
        rtol=1e-9,
        atol=1e-10,
    )
    expected = torch.from_numpy(flow.y[:, -1].reshape(h, w))
    errors, steps = [], [4, 8, 16, 32, 64]
    for count in steps:
        times = torch.linspace(0, 1, count + 1, dtype=torch.float64)
        m = solve(m0[None, None], BROWNIAN, times, scheme="implicit", tolerance=1e-12).log_density
        errors.append(float((m[0, -1, 0] - expected).abs().max()))
    assert slope(steps, errors) == pytest.approx(-1, abs=0.1)


def test_both_schemes_converge_to_the_heat_equation_at_second_order_in_space():
    sizes, amplitude, tau = [6, 12, 24], 0.7, 0.1
    errors = {"spectral": [], "implicit": [], "apart": []}
    for n in sizes:
        times = torch.linspace(0, tau, n**2 // 9 + 1, dtype=torch.float64)
        m0 = cosine_density(n, 3, 1, amplitude).log()[None, None]
        x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        p = 1 + amplitude * math.exp(-tau / 2 * math.pi**2) * torch.cos(math.pi * x)
        by_spectral, by_implicit = (
            solve(m0, BROWNIAN, times, scheme=scheme, dh=1 / n, tolerance=1e-11).log_density[
                0, -1, 0
            ]
            for scheme in SCHEMES
        )
        expected = p.log()[:, None].expand(n, 3)
        errors["spectral"].append(float((by_spectral - expected).abs().max()))
        errors["implicit"].append(float((by_implicit - expected).abs().max()))
        errors["apart"].append(float((by_implicit - by_spectral).abs().max()))
    for name, values in errors.items():
        assert slope(sizes, values) == pytest.approx(-2, abs=0.25), name


def test_diagnostics_of_implicit_hold_the_iterations_of_the_slowest_channel(m0):
    sde, tolerance = VarianceExploding(2.0), 1e-7
    diagnostics = solve(m0, sde, TIMES, scheme="implicit", dh=2.0, tolerance=tolerance).diagnostics
    assert (diagnostics.scheme, diagnostics.dh, diagnostics.tolerance) == ("implicit", 2.0, 1e-7)
    assert diagnostics.iterations == [len(step) for step in diagnostics.residuals]
    assert len(diagnostics.iterations) == 3
    assert all(step[-1] <= tolerance < min(step[:-1]) for step in diagnostics.residuals)
    alone = [
        solve(channel[None, None], sde, TIMES, scheme="implicit", dh=2.0, tolerance=tolerance)
        for channel in m0.flatten(0, 1)
    ]
    slowest = np.max([solution.diagnostics.iterations for solution in alone], axis=0)
    assert diagnostics.iterations == slowest.tolist()
    assert diagnostics.seconds > 0
    assert f"{sum(slowest)} iterations over 3 time steps" in diagnostics.summary()


@pytest.mark.parametrize("scheme", ["implicit", "krylov", "published"])
def test_the_times_of_residuals_go_on_through_the_solve(m0, scheme):
    diagnostics = solve(m0[:, :1], VarianceExploding(2.0), TIMES, scheme=scheme).diagnostics
    times = diagnostics.residual_seconds
    assert [len(step) for step in times] == [len(step) for step in diagnostics.residuals]
    flat = np.concatenate(times)
    assert len(flat) > len(times)
    assert (np.diff(flat) > 0).all()
    assert 0 < flat[0] < flat[-1] < diagnostics.seconds


def test_the_times_of_a_solve_in_parts_go_on_from_part_to_part():
    fast = Diagnostics("implicit", 1.0, 1e-7, 0.5, residuals=[[1.0], [1.0, 0.1]])
    fast = replace(fast, residual_seconds=[[0.1], [0.2, 0.4]])
    slow = replace(fast, residuals=[[2.0, 0.2], [2.0]], residual_seconds=[[0.1, 0.2], [0.3]])
    both = merged([fast, slow])
    assert both.residuals == [[2.0, 0.2], [1.0, 0.1]]
    assert both.residual_seconds == [[pytest.approx(0.6), pytest.approx(0.7)], [0.2, 0.4]]
    assert (both.seconds, both.iterations) == (1.0, [2, 2])


def test_diagnostics_of_spectral_hold_no_iteration(m0):
    diagnostics = solve(m0, VarianceExploding(2.0), TIMES).diagnostics
    assert (diagnostics.scheme, diagnostics.tolerance) == ("spectral", None)
    assert diagnostics.iterations == diagnostics.residuals == []
    assert "exact in time" in diagnostics.summary()


@pytest.mark.slow
def test_an_implicit_step_too_long_for_its_density_raises_with_its_residuals(m0):
    with pytest.raises(
        ConvergenceError, match=r"channel \d, step 1.*take more time steps"
    ) as raised:
        solve(10 * m0, VarianceExploding(5.0), TIMES[[0, -1]], scheme="implicit")
    residuals = raised.value.residuals
    assert len(residuals) == 500
    assert min(residuals) > 2e-8


def test_an_implicit_step_out_of_iterations_raises_with_its_residuals(m0):
    with pytest.raises(ConvergenceError, match=r"channel 0, step 1.*after 2 iterations") as raised:
        solve(
            m0,
            VarianceExploding(5.0),
            TIMES,
            scheme="implicit",
            tolerance=1e-12,
            max_iterations=2,
        )
    residuals = raised.value.residuals
    assert len(residuals) == 2
    assert min(residuals) > 1e-12


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"m0": torch.zeros(4, 4)}, r"m0 must be \(n, c, \*grid\) with one to three grid axes"),
        ({"m0": torch.zeros(1, 1, 0, 4)}, "m0 must be .* not empty"),
        ({"m0": torch.full((1, 1, 2, 2), math.nan)}, "m0 holds values that are NaN"),
        ({"times": torch.zeros(0)}, "times must be ascending and at least one"),
        ({"times": torch.tensor([0.1, 0.5, 0.5])}, "times must be ascending"),
        ({"times": torch.tensor([0.5, 0.1])}, "times must be ascending"),
        ({"times": torch.zeros(1, 2)}, "times must have 1 dimension"),
        ({"scheme": "explicit"}, "scheme must be one of spectral, implicit, krylov"),
        ({"linear": "lu"}, "linear must be one of iterative, direct, got 'lu'"),
        ({"boundary": "periodic"}, 'boundary must be "reflect" or "zero"'),
        ({"dh": 0.0}, "dh must be a finite number above 1e-150 and"),
        ({"dh": math.nan}, "dh must be a finite number above 1e-150 and"),
        ({"tolerance": 0.0}, "tolerance must be a positive finite number"),
        ({"max_iterations": 0}, "max_iterations must be a whole number from 1"),
    ],
)
def test_what_cannot_be_solved_is_refused(changed, message):
    arguments = {"m0": torch.zeros(1, 1, 4, 4), "sde": VarianceExploding(2.0), "times": TIMES}
    with pytest.raises(ValueError, match=message):
        solve(**(arguments | changed))
