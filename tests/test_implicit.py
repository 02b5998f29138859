"""The implicit scheme against exact and manufactured solutions, and against loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from score_embedding.errors import ConvergenceError
from score_embedding.fokker_planck.operators.linear import Limits
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.problem import Options, Problem
from score_embedding.fokker_planck.schemes import implicit, krylov
from score_embedding.fokker_planck.solve import AffineDrift, solve
from score_embedding.sde import VarianceExploding, VariancePreserving

BROWNIAN = VarianceExploding(1.0)  # diffusion time is time
DOUBLING = VarianceExploding(2.0)
BOUNDARIES = ["reflect", "zero"]
T = 0.2  # where the manufactured solutions end


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def largest(error):
    return float(error.abs().max())


def linspace(start, end, steps):
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def centres(grid, dh):
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * dh for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def random(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Manufactured solutions. A density p and a flux J with p_t = -div J fix the drift that has p for
# its solution, f = (J + g^2/2 grad p) / p. No flux crosses the walls, yet f does not vanish there.


def decaying(t):
    return 0.6 * math.exp(-t)


def line_density(x, t):
    return 1 + decaying(t) * torch.sin(2 * x)  # of mean 1 between walls at -1/2 and 1/2


def line_flux(x, t):
    return -decaying(t) * (torch.cos(2 * x) - math.cos(1)) / 2


def line_drift(x, t):
    """The same along every axis: the density is a product."""
    half = float(DOUBLING.g(t)) ** 2 / 2
    by_axis = [
        (line_flux(c, t) + half * decaying(t) * 2 * torch.cos(2 * c)) / line_density(c, t)
        for c in x
    ]
    return torch.stack(by_axis)


def product_log_density(x, t):
    return sum(line_density(c, t).log() for c in x)


def turning_parts(x, t):
    """A density in the plane that is no product, its gradient, and a flux with a swirl."""
    u, v = x
    a, b = decaying(t), 0.2 * math.cos(t)
    along, across = torch.sin(2 * u), torch.cos(math.pi * (v + 0.3))
    p = 1 + a * along * across + b * torch.sin(1.5 * v)
    p_u = 2 * a * torch.cos(2 * u) * across
    p_v = -math.pi * a * along * torch.sin(math.pi * (v + 0.3)) + 1.5 * b * torch.cos(1.5 * v)
    cos_u, cos_v = torch.cos(math.pi * u), torch.cos(math.pi * v)
    J_u = line_flux(u, t) * across - 0.3 * cos_u * torch.sin(math.pi * v)
    J_v = -0.2 * math.sin(t) * (torch.cos(1.5 * v) - math.cos(0.75)) / 1.5
    J_v = J_v + 0.3 * torch.sin(math.pi * u) * cos_v
    return p, p_u, p_v, J_u, J_v


def turning_log_density(x, t):
    return turning_parts(x, t)[0].log()


def turning_drift(x, t):
    p, p_u, p_v, J_u, J_v = turning_parts(x, t)
    half = float(DOUBLING.g(t)) ** 2 / 2
    return torch.stack([(J_u + half * p_u) / p, (J_v + half * p_v) / p])


def surrounded_density(x, t):
    return 1 + decaying(t) * torch.cos(math.pi * x)  # 1 at both ends


def surrounded_drift(x, t):
    half = float(DOUBLING.g(t)) ** 2 / 2
    flux = decaying(t) * torch.sin(math.pi * x) / math.pi + 0.4  # any constant may pass through
    p_x = -decaying(t) * math.pi * torch.sin(math.pi * x)
    return (flux + half * p_x) / surrounded_density(x, t)


def surrounded_log_density(x, t):
    return surrounded_density(x[0], t).log()


MANUFACTURED = {
    "line": ((1,), line_drift, product_log_density, "reflect"),
    "turning": ((1, 1), turning_drift, turning_log_density, "reflect"),
    "product in space": ((1, 1, 1), line_drift, product_log_density, "reflect"),
    "surrounded": ((1,), surrounded_drift, surrounded_log_density, "zero"),
}


def manufactured_error(name, n, steps):
    """On n pixels between -1/2 and 1/2; the zero of "zero" lies one pixel beyond the last."""
    axes, drift, exact, boundary = MANUFACTURED[name]
    dh = 1 / n if boundary == "reflect" else 1 / (n + 1)
    x = centres((n,) * len(axes), dh)
    m0, times = exact(x, 0.0)[None, None], linspace(0, T, steps)
    m = solve(
        m0,
        DOUBLING,
        times,
        scheme="implicit",
        dh=dh,
        tolerance=1e-9,
        boundary=boundary,
        drift=drift,
    ).log_density
    return m[0, -1, 0] - exact(x, T)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("line", [12, 20, 36]),
        ("turning", [8, 16, 24]),
        ("product in space", [10, 13, 16]),
        ("surrounded", [11, 19, 35]),
    ],
)
def test_a_manufactured_solution_is_approached_at_second_order_with_steps_as_dh_squared(
    name, sizes
):
    zero = MANUFACTURED[name][3] == "zero"
    cells = [n + zero for n in sizes]
    errors = [
        largest(manufactured_error(name, n, max(1, k * k // 16)))
        for n, k in zip(sizes, cells, strict=True)
    ]
    assert slope(cells, errors) == pytest.approx(-2, abs=0.15)
    assert errors[-1] < 0.03


@pytest.mark.parametrize(
    ("name", "sizes"),
    [pytest.param("turning", [8, 14], marks=pytest.mark.slow), ("surrounded", [9, 17])],
)
def test_what_time_steps_leave_of_a_manufactured_error_is_second_order_in_space(name, sizes):
    zero = MANUFACTURED[name][3] == "zero"
    left = []
    for n in sizes:
        coarse, fine = (manufactured_error(name, n, steps) for steps in (24, 48))
        left.append(largest(2 * fine - coarse))
    assert slope([n + zero for n in sizes], left) == pytest.approx(-2, abs=0.15)


@pytest.mark.parametrize(("name", "n"), [("line", 20), ("turning", 8), ("surrounded", 19)])
def test_with_a_drift_the_error_on_a_fixed_grid_is_first_order_in_time(name, n):
    steps = [8, 16, 32]
    errors = [manufactured_error(name, n, count) for count in steps]
    apart = [largest(coarse - fine) for coarse, fine in pairwise(errors)]
    assert slope(steps[:-1], apart) == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_sine_above_a_surrounding_one_is_approached_at_second_order(dims):
    """p = 1 + a exp(-lambda tau / 2) sin(...), whose logarithm is 0 one dh beyond the edge."""
    sizes, errors = [7, 15, 23], []
    decay = math.exp(-dims * math.pi**2 * float(DOUBLING.integral_g2(0.0, T)) / 2)
    for n in sizes:
        x = centres((n,) * dims, 1 / (n + 1))
        wave = torch.cos(math.pi * x).prod(dim=0)
        m0, expected = (1 + 0.8 * wave).log(), (1 + 0.8 * decay * wave).log()
        times = linspace(0, T, (n + 1) ** 2 // 16)
        m = solve(
            m0[None, None],
            DOUBLING,
            times,
            scheme="implicit",
            dh=1 / (n + 1),
            tolerance=1e-11,
            boundary="zero",
        ).log_density
        errors.append(largest(m[0, -1, 0] - expected))
    assert slope([n + 1 for n in sizes], errors) == pytest.approx(-2, abs=0.15)
    assert errors[-1] < 0.01


def test_a_surrounded_sine_is_first_order_in_time():
    x = centres((15,), 1 / 16)
    m0 = (1 + 0.8 * torch.cos(math.pi * x[0])).log()[None, None]
    steps, ends = [8, 16, 32], []
    for count in steps:
        ends.append(
            solve(
                m0,
                DOUBLING,
                linspace(0, T, count),
                scheme="implicit",
                dh=1 / 16,
                tolerance=1e-11,
                boundary="zero",
            ).log_density[0, -1, 0]
        )
    apart = [largest(a - b) for a, b in pairwise(ends)]
    assert slope(steps[:-1], apart) == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize(
    ("dims", "boundary", "drift", "sizes"),
    [
        (1, "reflect", None, [8, 16, 24]),
        (2, "reflect", None, [8, 12, 20]),
        pytest.param(3, "reflect", None, [12, 16, 20], marks=pytest.mark.slow),
        (1, "zero", None, [7, 15, 23]),
        (2, "zero", None, [7, 11, 15]),
        (3, "zero", None, [7, 11, 15]),
        pytest.param(1, "reflect", AffineDrift(-1.5), [12, 20, 28], marks=pytest.mark.slow),
        (2, "reflect", AffineDrift(lambda t: 1 + t), [12, 16, 24]),
    ],
)
def test_implicit_and_spectral_approach_each_other_at_second_order(dims, boundary, drift, sizes):
    apart, cells = [], [n + (boundary == "zero") for n in sizes]
    for n, k in zip(sizes, cells, strict=True):
        x = centres((n,) * dims, 1 / k)
        wave = torch.cos(math.pi * x) if boundary == "zero" else torch.sin(math.pi * x)
        m0 = (1 + 0.5 * wave.prod(dim=0)).log()[None, None]
        by_spectral, by_implicit = (
            solve(
                m0,
                DOUBLING,
                linspace(0, 0.1, k * k // 16 if scheme == "implicit" else 1),
                scheme=scheme,
                dh=1 / k,
                tolerance=1e-8,
                boundary=boundary,
                drift=drift,
            ).log_density[0, -1, 0]
            for scheme in ("spectral", "implicit")
        )
        apart.append(largest(by_implicit - by_spectral))
    assert slope(cells, apart) == pytest.approx(-2, abs=0.15)
    assert apart[-1] < 0.02


# Exact solutions.


def gaussian(x, mean, variance):
    quadratic = (x - mean).square().sum(dim=0) / (2 * variance)
    return -quadratic - len(x) / 2 * math.log(2 * math.pi * variance)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_spreading_gaussian_is_exact_but_for_its_time_steps(dims):
    """A quadratic has no spatial error; what the walls change flows outwards."""
    x = centres((33,) * dims, 0.25)
    middle = (slice(12, 21),) * dims
    steps, errors = [6, 12, 24], []
    for count in steps:
        m = solve(
            gaussian(x, 0.0, 0.5)[None, None],
            BROWNIAN,
            linspace(0, 0.3, count),
            scheme="implicit",
            dh=0.25,
            tolerance=1e-9,
        ).log_density[0, -1, 0]
        errors.append((m - gaussian(x, 0.0, 0.8))[middle])
    assert slope(steps, [largest(e) for e in errors]) == pytest.approx(-1, abs=0.15)
    assert largest(2 * errors[-1] - errors[-2]) < 0.05 * largest(errors[-1])


@pytest.mark.parametrize(
    ("sde", "rate"),
    [
        pytest.param(VariancePreserving(2.0, 2.0), 1.0, marks=pytest.mark.slow),
        (VariancePreserving(0.5, 4.0), None),
    ],
    ids=["Ornstein-Uhlenbeck", "variance preserving"],
)
def test_a_gaussian_under_an_affine_drift_is_the_exact_gaussian(sde, rate):
    """Mean and variance from their own equations: mean' = -r mean, v' = -2 r v + g^2."""
    T, variance, mean = 0.3, 0.4, 0.25
    pull = (lambda _: rate) if rate else lambda t: float(sde.rate(t))
    fine = np.linspace(0, T, 4001)
    h = fine[1]
    after, centre = variance, mean
    for t in fine[:-1]:  # midpoint rule
        r, g2 = pull(t + h / 2), float(sde.g(t + h / 2)) ** 2
        after += h * (g2 - 2 * r * (after + h / 2 * (g2 - 2 * r * after)))
        centre -= h * r * centre * (1 - h / 2 * r)
    x = centres((41,), 0.2)
    middle = slice(14, 27)
    steps, errors = [6, 12, 24], []
    for count in steps:
        m = solve(
            gaussian(x, mean, variance)[None, None],
            sde,
            linspace(0, T, count),
            scheme="implicit",
            dh=0.2,
            tolerance=1e-9,
            drift=AffineDrift(pull),
        ).log_density[0, -1, 0]
        errors.append((m - gaussian(x, centre, after))[middle])
    assert slope(steps, [largest(e) for e in errors]) == pytest.approx(-1, abs=0.15)
    assert largest(2 * errors[-1] - errors[-2]) < 0.1 * largest(errors[-1])


@pytest.mark.parametrize("grid", [(5,), (4, 7), (3, 2, 4), (1,)])
def test_the_stationary_density_of_a_pull_stays_between_close_walls(grid):
    theta, dh = 3.0, 0.3
    sde = VariancePreserving(2 * theta, 2 * theta)
    x = centres(grid, dh)
    stationary = -x.square().sum(dim=0) / 2
    assert grid == (1,) or x.abs().max() > 0.1
    m = solve(
        stationary[None, None],
        sde,
        linspace(0, 1, 3),
        scheme="implicit",
        dh=dh,
        drift=AffineDrift(sde.rate),
    ).log_density
    torch.testing.assert_close(m[0, -1, 0], stationary, rtol=0, atol=1e-12)


def test_another_start_approaches_the_stationary_density_at_the_rate_of_the_slowest_mode():
    n, dh, theta, dt = 12, 0.25, 1.5, 0.1
    sde, x = VariancePreserving(2 * theta, 2 * theta), centres((n,), dh)
    generator = np.zeros((n, n))  # of small departures v: theta v_xx - theta x v_x
    for i in range(n):
        for step in (-1, 1):
            j = min(max(i + step, 0), n - 1)
            generator[i, j] += theta / dh**2 - step * theta * float(x[0, i]) / (2 * dh)
            generator[i, i] -= theta / dh**2
    rate = np.sort(-np.linalg.eigvals(generator).real)[1]
    m0 = (1 + 0.5 * torch.sin(2 * x[0]) + 0.2 * torch.cos(x[0])).log()[None, None]
    times = linspace(0, 40 * dt, 40)
    m = solve(
        m0, sde, times, scheme="implicit", dh=dh, tolerance=1e-14, drift=AffineDrift(theta)
    ).log_density[0, :, 0]
    departure = m + x.square().sum(dim=0) / 2
    distance = departure.amax(dim=-1) - departure.amin(dim=-1)
    assert (distance.diff() < 0).all()
    assert distance[-1] < 1e-3 * distance[0]
    late = distance[21:31] / distance[20:30]
    expected = torch.full_like(late, 1 / (1 + rate * dt))
    torch.testing.assert_close(late, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dims", [1, 2])
def test_mass_under_a_drift_between_walls_is_conserved_up_to_the_order(dims):
    def drift(x, t):
        return torch.stack([torch.cos(c + 2 * i + t) + c for i, c in enumerate(x)]) + x.flip(0)

    sizes, errors = [8, 12, 20], []
    for n in sizes:
        x = centres((n,) * dims, 1 / n)
        m0 = (1 + 0.5 * torch.sin(math.pi * x).prod(dim=0)).log()[None, None]
        m = solve(
            m0, DOUBLING, linspace(0, T, n * n // 16), scheme="implicit", dh=1 / n, drift=drift
        ).log_density[0, :, 0]
        mass = m.exp().flatten(1).sum(dim=1)
        errors.append(float(mass[-1] / mass[0] - 1))
    assert slope(sizes, np.abs(errors)) < -1
    assert abs(errors[-1]) < 0.02


# The discrete equation, by loops.


def faces_of_array(f):
    """Of each axis, between neighbours their mean, on the walls the line through the last two."""
    faces = []
    for axis in range(len(f)):
        component = np.moveaxis(f[axis], axis, 0)
        size = len(component)
        on_faces = np.zeros((size + 1, *component.shape[1:]))
        for i in range(1, size):
            on_faces[i] = (component[i - 1] + component[i]) / 2
        second, before_last = (1, size - 2) if size > 1 else (0, 0)
        on_faces[0] = 1.5 * component[0] - 0.5 * component[second]
        on_faces[size] = 1.5 * component[-1] - 0.5 * component[before_last]
        faces.append(np.moveaxis(on_faces, 0, axis))
    return faces


def defect_by_loops(before, after, d, dt, dh, boundary, f, faces):
    """m_new - m_before + dt (div f + f . D m_new) - d/2 (L m_new + |D m_new|^2) at each pixel."""
    defect = np.zeros(before.shape)
    for pixel in np.ndindex(before.shape):
        total = after[pixel] - before[pixel]
        for axis, size in enumerate(before.shape):
            around, on_faces = [], []
            for step in (-1, 1):
                face = list(pixel)
                face[axis] += step > 0
                on_faces.append(faces[axis][tuple(face)])
                beside = list(pixel)
                beside[axis] += step
                if 0 <= beside[axis] < size:
                    around.append(after[tuple(beside)])
                elif boundary == "zero":
                    around.append(0.0)
                else:
                    around.append(after[pixel] + step * dh * 2 * on_faces[-1] * dt / d)
            D = (around[1] - around[0]) / (2 * dh)
            L = (around[1] - 2 * after[pixel] + around[0]) / dh**2
            divergence = (on_faces[1] - on_faces[0]) / dh
            total += dt * (divergence + f[axis][pixel] * D) - d / 2 * (L + D * D)
        defect[pixel] = total
    return defect


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("linear_method", ["iterative", "direct"])
@pytest.mark.parametrize(
    ("grid", "dh"), [((9,), 0.7), ((5, 6), 1.3), ((1, 7), 1.0), ((3, 2, 4), 1.0)]
)
def test_a_step_under_a_rough_array_of_drift_solves_the_discrete_equation(
    boundary, linear_method, grid, dh, generator
):
    m0, drift = random(generator, 1, 2, *grid), random(generator, len(grid), *grid)
    times = torch.tensor([0.1, 0.25, 0.4], dtype=torch.float64)
    m = solve(
        m0,
        DOUBLING,
        times,
        scheme="implicit",
        dh=dh,
        tolerance=1e-13,
        boundary=boundary,
        drift=drift,
        linear=linear_method,
    ).log_density.numpy()
    f = drift.numpy()
    for n, (start, end) in enumerate(pairwise(times.tolist())):
        d = (4**end - 4**start) / (2 * math.log(2))
        for before, after in zip(m[0, n], m[0, n + 1], strict=True):
            rest = defect_by_loops(
                before, after, d, end - start, dh, boundary, f, faces_of_array(f)
            )
            assert np.abs(rest).max() < 1e-9
            assert np.abs(after - before).max() > 0.01


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_callable_drift_is_taken_at_the_end_of_the_step_on_centres_and_faces(boundary, generator):
    h, w, dh = 4, 5, 0.8

    def drift(x, t):
        return torch.stack([torch.sin(3 * x[0] + x[1] + 9 * t), torch.cos(2 * x[0] * x[1] - t)])

    def at(u, v, t):
        return math.sin(3 * u + v + 9 * t), math.cos(2 * u * v - t)

    m0, start, end = random(generator, 1, 1, h, w), 0.1, 0.3
    m = solve(
        m0,
        DOUBLING,
        torch.tensor([start, end], dtype=torch.float64),
        scheme="implicit",
        dh=dh,
        tolerance=1e-13,
        boundary=boundary,
        drift=drift,
    ).log_density.numpy()
    f, faces = np.zeros((2, h, w)), [np.zeros((h + 1, w)), np.zeros((h, w + 1))]
    for i in range(h + 1):
        for j in range(w + 1):
            u, v = (i - (h - 1) / 2) * dh, (j - (w - 1) / 2) * dh
            if i < h and j < w:
                f[:, i, j] = at(u, v, end)
            if j < w:
                faces[0][i, j] = at(u - dh / 2, v, end)[0]
            if i < h:
                faces[1][i, j] = at(u, v - dh / 2, end)[1]
    d = (4**end - 4**start) / (2 * math.log(2))
    rest = defect_by_loops(m[0, 0, 0], m[0, 1, 0], d, end - start, dh, boundary, f, faces)
    assert np.abs(rest).max() < 1e-9


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    grid=st.one_of(
        st.tuples(st.integers(1, 7)),
        st.tuples(st.just(1), st.integers(1, 6)),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 3), st.just(1), st.integers(1, 3)),
    ),
    sigma=st.one_of(st.sampled_from([1.0, 1 + 1e-15, 1 - 1e-12, 1 + 1e-8]), st.floats(0.5, 3)),
    boundary=st.sampled_from(BOUNDARIES),
    scheme=st.sampled_from(["implicit", "krylov"]),
    count=st.integers(1, 3),
    spread=st.sampled_from([0.0, 0.5, 2.0]),
    pushed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_small_solve_satisfies_its_equation_or_raises(
    grid, sigma, boundary, scheme, count, spread, pushed, seed
):
    generator = torch.Generator().manual_seed(seed)
    m0 = spread * random(generator, 3, 1, *grid) + random(generator, 1)
    drift = random(generator, len(grid), *grid) if pushed else None
    sde, times = VarianceExploding(sigma), linspace(0.1, 0.2, 3)[:count]
    try:
        m = solve(m0, sde, times, scheme=scheme, boundary=boundary, drift=drift).log_density
    except ConvergenceError:
        m = None
    if m is None:
        assert spread == 2.0  # what is smooth and short enough always converges
        return
    assert m.shape == (3, count, 1, *grid)
    assert torch.equal(m[:, 0], m0)
    f = np.zeros((len(grid), *grid)) if drift is None else drift.numpy()
    for n, (start, end) in enumerate(pairwise(times.tolist())):
        k = 2 * math.log(sigma)
        span = end - start
        d = sigma ** (2 * start) * (span if abs(k) < 1e-7 else math.expm1(k * span) / k)
        for image in m[:, :, 0].numpy():
            rest = defect_by_loops(
                image[n], image[n + 1], d, end - start, 1.0, boundary, f, faces_of_array(f)
            )
            assert np.abs(rest).max() < 1e-6


# Linear methods against each other.


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_direct_and_iterative_agree_with_the_same_iterations_on_photographs(boundary, photographs):
    m0 = log_density(photographs(10, n=2))
    times = linspace(0.001, 1, 5)
    one, other = (
        solve(
            m0, VarianceExploding(3.0), times, scheme="implicit", boundary=boundary, linear=method
        )
        for method in ("iterative", "direct")
    )
    assert one.diagnostics.iterations == other.diagnostics.iterations
    # Both stop at a relative change of 2e-8 of fields of norm about 100, ten times.
    torch.testing.assert_close(one.log_density, other.log_density, rtol=0, atol=1e-6)
    for a, b in zip(one.diagnostics.residuals, other.diagnostics.residuals, strict=True):
        np.testing.assert_allclose(a[:-1], b[:-1], rtol=0.1)


def test_direct_and_iterative_agree_under_a_rough_drift(generator):
    m0, drift = random(generator, 2, 2, 6, 5), 2 * random(generator, 2, 6, 5)
    one, other = (
        solve(
            m0,
            DOUBLING,
            linspace(0, 0.4, 4),
            scheme="implicit",
            tolerance=1e-12,
            drift=drift,
            linear=way,
        ).log_density
        for way in ("iterative", "direct")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# Symmetry and precision.


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_transposing_or_flipping_m0_and_drift_does_the_same_to_the_solution(boundary, generator):
    m0, f = random(generator, 1, 2, 5, 6), random(generator, 2, 5, 6)

    def solved(start, drift):
        return solve(
            start,
            DOUBLING,
            linspace(0, 0.3, 2),
            scheme="implicit",
            tolerance=1e-13,
            boundary=boundary,
            drift=drift,
        ).log_density

    m = solved(m0, f)
    along_h, along_w = f
    for changed, expected in (
        (solved(m0.mT, torch.stack([along_w.T, along_h.T])), m.mT),
        (solved(m0.flip(-1), torch.stack([along_h.flip(-1), -along_w.flip(-1)])), m.flip(-1)),
        (solved(m0.flip(-2), torch.stack([-along_h.flip(-2), along_w.flip(-2)])), m.flip(-2)),
    ):
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-10)
    assert largest(solved(m0, -f) - m) > 0.01  # the drift matters


@pytest.mark.parametrize("scheme", ["implicit", "krylov"])
def test_permuting_images_and_channels_permutes_the_solution(scheme, generator):
    m0, drift = random(generator, 4, 3, 4, 5), random(generator, 2, 4, 5)
    images, channels = [2, 0, 3, 1], [1, 2, 0]
    m, permuted = (
        solve(
            start, DOUBLING, linspace(0, 0.3, 3), scheme=scheme, tolerance=1e-12, drift=drift
        ).log_density
        for start in (m0, m0[images][:, channels])
    )
    torch.testing.assert_close(permuted, m[images][:, :, channels], rtol=0, atol=1e-10)


@pytest.mark.parametrize("scheme", ["implicit", "krylov"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_float32_is_computed_in_float64_and_returned_in_float32(scheme, boundary, generator):
    m0, drift = random(generator, 3, 2, 4, 5).float(), random(generator, 2, 4, 5)
    m, double = (
        solve(
            start, DOUBLING, linspace(0, 0.3, 3), scheme=scheme, boundary=boundary, drift=drift
        ).log_density
        for start in (m0, m0.double())
    )
    assert m.dtype == torch.float32
    assert torch.equal(m[:, 0], m0)
    assert torch.equal(m, double.float())


# What does not converge.


def mild_but_for_one(generator, scale=1000.0):
    m0 = 0.1 * random(generator, 4, 2, 5, 5)
    m0[2, 1] *= 10 * scale
    return m0


@pytest.mark.parametrize("linear_method", ["iterative", "direct"])
@pytest.mark.parametrize(
    ("times", "step"), [([0.0, 0.1, 0.2], 1), ([0.0, 1e-9, 0.1], 2)], ids=["first", "second"]
)
def test_the_one_channel_that_does_not_converge_is_named_with_its_step_and_residuals(
    linear_method, times, step, generator
):
    times = torch.tensor(times, dtype=torch.float64)
    options = {"scheme": "implicit", "linear": linear_method}
    with pytest.raises(ConvergenceError, match=rf"image 2, channel 1, step {step}\b") as raised:
        solve(mild_but_for_one(generator), DOUBLING, times, max_iterations=15, **options)
    assert len(raised.value.residuals) == 15
    assert min(raised.value.residuals) > 2e-8


@pytest.mark.parametrize("scheme", [implicit, krylov])
def test_the_channel_whose_linear_system_is_not_solved_is_the_one_named(scheme, generator):
    m0 = torch.ones(4, 2, 5, 5, dtype=torch.float64)
    m0[2, 1] = 10 * random(generator, 5, 5)
    with pytest.raises(ConvergenceError, match=r"image 2, channel 1, step 1\b.*linear system"):
        scheme.evolve(Problem(m0, DOUBLING, linspace(0, 0.1, 1)), Options(), limits=Limits(1, 1))


@pytest.mark.parametrize("linear_method", ["iterative", "direct"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("scale", [1e80, 1e160, 1e308])
def test_extreme_densities_raise_instead_of_being_returned_unsolved(
    scale, boundary, linear_method, generator
):
    m0 = scale * (2 * torch.rand(2, 2, 4, 5, generator=generator, dtype=torch.float64) - 1)
    with pytest.raises(ConvergenceError):
        solve(
            m0,
            DOUBLING,
            linspace(0, 0.2, 2),
            scheme="implicit",
            boundary=boundary,
            linear=linear_method,
            max_iterations=15,
        )


@pytest.mark.parametrize("linear_method", ["iterative", "direct"])
def test_one_extreme_channel_among_mild_ones_is_the_one_named(linear_method, generator):
    m0 = mild_but_for_one(generator, scale=1e160)
    options = {"scheme": "implicit", "linear": linear_method}
    with pytest.raises(ConvergenceError, match=r"image 2, channel 1, step 1"):
        solve(m0, DOUBLING, linspace(0, 0.2, 2), max_iterations=15, **options)
