import math

import numpy as np
import pytest
import torch

from score_embedding.fokker_planck.operators.drift import field_at, positions
from score_embedding.fokker_planck.solve import AffineDrift, solve
from score_embedding.sde import VarianceExploding, VariancePreserving

CPU = torch.device("cpu")
GRIDS = [(5,), (4, 3), (3, 2, 4), (1, 6), (1,)]
TIMES = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)


def positions_by_loops(grid, dh):
    x = np.zeros((len(grid), *grid))
    for pixel in np.ndindex(*grid):
        for axis, i in enumerate(pixel):
            x[(axis, *pixel)] = (i - (grid[axis] - 1) / 2) * dh
    return torch.from_numpy(x)


def affine(dims, generator):
    """A matrix, and the field x -> matrix x + offset."""
    matrix, offset = torch.randn(2, dims, dims, generator=generator, dtype=torch.float64)

    def field(x, _=None):
        shift = offset[0].reshape(-1, *[1] * (x.ndim - 1))
        return torch.tensordot(matrix, x, dims=1) + shift

    return matrix, field


def waves(x, t=0.0):
    """A smooth field on two axes; its divergence is `waves_divergence`."""
    return torch.stack([torch.sin(2 * x[0] + x[1] + t), torch.cos(x[0] - 3 * x[1])])


def waves_divergence(x, t=0.0):
    return 2 * torch.cos(2 * x[0] + x[1] + t) + 3 * torch.sin(x[0] - 3 * x[1])


# --- positions and fields ----------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dh", [1.0, 0.3])
def test_positions_are_measured_from_the_middle_of_the_grid(grid, dh):
    x = positions(grid, dh, CPU)
    assert x.dtype == torch.float64
    torch.testing.assert_close(x, positions_by_loops(grid, dh), rtol=0, atol=1e-15)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_callable_is_evaluated_at_centres_and_faces(grid, generator):
    _, linear = affine(len(grid), generator)
    seen = set()

    def drift(x, t):
        seen.add(t)
        return linear(x).sin() * (1 + t)

    field = field_at(drift, 0.25, grid, 0.5, CPU)
    assert seen == {0.25}
    assert torch.equal(field.centres, drift(positions_by_loops(grid, 0.5), 0.25))
    for axis, face in enumerate(field.faces):
        longer = (*grid[:axis], grid[axis] + 1, *grid[axis + 1 :])
        assert torch.equal(face, drift(positions_by_loops(longer, 0.5), 0.25)[axis])


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("grid", [(5,), (4, 3), (3, 2, 4)])
@pytest.mark.parametrize("dh", [1.0, 0.3])
def test_an_affine_field_has_exact_faces_and_divergence(as_array, grid, dh, generator):
    matrix, drift = affine(len(grid), generator)
    given = drift(positions_by_loops(grid, dh)) if as_array else drift
    field = field_at(given, 0.0, grid, dh, CPU)
    for axis, face in enumerate(field.faces):
        longer = (*grid[:axis], grid[axis] + 1, *grid[axis + 1 :])
        expected = drift(positions_by_loops(longer, dh))[axis]
        torch.testing.assert_close(face, expected, rtol=0, atol=1e-14)
    divergence = matrix.trace().expand(grid)
    torch.testing.assert_close(field.divergence(dh), divergence, rtol=0, atol=1e-13)


@pytest.mark.parametrize("grid", [(1,), (1, 4), (3, 1, 1)])
def test_an_array_does_not_vary_along_an_axis_of_one_pixel(grid, generator):
    drift = torch.randn(len(grid), *grid, generator=generator, dtype=torch.float64)
    field = field_at(drift, 0.0, grid, 1.0, CPU)
    for axis, face in enumerate(field.faces):
        if grid[axis] == 1:
            assert torch.equal(face, drift[axis].repeat_interleave(2, dim=axis))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_and_float32_fields_become_float64(dtype, generator):
    drift = torch.randn(2, 4, 3, generator=generator, dtype=dtype)
    expected = field_at(drift.double(), 0.0, (4, 3), 1.0, CPU)
    for given in (drift, drift.numpy()):
        field = field_at(given, 0.0, (4, 3), 1.0, CPU)
        for part, part_expected in zip(field.faces, expected.faces, strict=True):
            assert torch.equal(part, part_expected)
    in_float32 = field_at(lambda x, _: waves(x).float(), 0.0, (4, 3), 1.0, CPU)
    assert in_float32.centres.dtype == in_float32.faces[1].dtype == torch.float64


@pytest.mark.parametrize(
    ("as_array", "where"), [(False, slice(None)), (True, slice(1, -1))], ids=["callable", "array"]
)
def test_the_divergence_is_second_order(as_array, where):
    """That of an array away from the walls: there it has one neighbour only."""
    sizes, errors = [16, 32, 64, 128], []
    for n in sizes:
        grid, dh = (n, n), 2 / n
        x = positions_by_loops(grid, dh)
        field = field_at(waves(x, 0.4) if as_array else waves, 0.4, grid, dh, CPU)
        error = (field.divergence(dh) - waves_divergence(x, 0.4)).abs()
        errors.append(float(error[where, where].max()))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        (torch.zeros(2, 4, 4), r"drift must be \(dims, \*grid\) = \(2, 4, 3\), got \(2, 4, 4\)"),
        (torch.zeros(4, 3), r"drift must be \(dims, \*grid\) = \(2, 4, 3\), got \(4, 3\)"),
        (np.full((2, 4, 3), np.nan), "drift holds values that are NaN or infinite"),
        (lambda x, _: x[0], r"drift\(x, t\) must be \(dims, \*grid\) = \(2, 4, 3\), got \(4, 3\)"),
        (lambda x, _: x.sum(), r"drift\(x, t\) must be \(dims, \*grid\) = .*, got \(\)"),
        (lambda x, _: x / 0, r"drift\(x, t\) holds values that are NaN or infinite"),
        # Finite at the pixel centres, infinite on the walls.
        (lambda x, _: 1 / (2 - x.abs()), r"drift\(x, t\) holds values that are NaN or infinite"),
    ],
)
def test_a_field_of_another_shape_or_not_finite_is_refused(drift, message):
    with pytest.raises(ValueError, match=message):
        field_at(drift, 0.0, (4, 3), 1.0, CPU)
    with pytest.raises(ValueError, match=message):
        solve(
            torch.zeros(1, 1, 4, 3), VarianceExploding(2.0), TIMES, scheme="implicit", drift=drift
        )


# --- affine drift ------------------------------------------------------------------------------


def test_an_affine_drift_pulls_to_the_middle_at_its_rate(generator):
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    assert torch.equal(AffineDrift(1.5)(x, 0.7), -1.5 * x)
    assert torch.equal(AffineDrift(lambda t: 1 + t**2)(x, 2.0), -5 * x)
    sde = VariancePreserving(0.5, 4.0)
    drift = AffineDrift(sde.rate)
    assert drift.rate_at(0.6) == pytest.approx((0.5 + 3.5 * 0.6) / 2, rel=1e-15)
    torch.testing.assert_close(drift(x, 0.6), sde.f(x, 0.6), rtol=1e-15, atol=0)


def test_affine_drifts_of_one_rate_are_equal():
    assert AffineDrift(1.5) == AffineDrift(1.5)
    assert AffineDrift(1.5) != AffineDrift(2.5)


@pytest.mark.parametrize("rate", [math.nan, math.inf, lambda _: math.nan])
@pytest.mark.parametrize("scheme", ["spectral", "implicit"])
def test_a_rate_that_is_not_finite_is_refused(rate, scheme):
    with pytest.raises(ValueError, match=r"NaN|finite"):
        solve(
            torch.zeros(1, 1, 5),
            VarianceExploding(2.0),
            TIMES,
            scheme=scheme,
            drift=AffineDrift(rate),
        )


# --- what a scheme does not know ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("drift", "boundary"),
    [
        (lambda x, _: -x, "reflect"),
        (torch.zeros(2, 4, 4), "reflect"),
        (np.zeros((2, 4, 4)), "zero"),
        (AffineDrift(1.0), "zero"),
    ],
)
def test_spectral_refuses_a_drift_that_it_does_not_know(drift, boundary):
    message = "knows no drift but an AffineDrift between reflecting walls; use implicit"
    m0, sde = torch.zeros(1, 1, 4, 4), VarianceExploding(2.0)
    with pytest.raises(ValueError, match=message):
        solve(m0, sde, TIMES, scheme="spectral", boundary=boundary, drift=drift)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((1, 1, 4, 4), {"drift": AffineDrift(1.0)}),
        ((1, 1, 4, 4), {"drift": torch.zeros(2, 4, 4)}),
        ((1, 1, 4, 4), {"boundary": "zero"}),
        ((1, 1, 4), {}),
        ((1, 1, 4, 4, 4), {}),
    ],
)
def test_published_refuses_a_drift_a_boundary_and_other_grids(shape, arguments):
    message = r"knows only \(n, c, h, w\), no drift and no choice of boundary; use implicit"
    with pytest.raises(ValueError, match=message):
        solve(torch.zeros(shape), VarianceExploding(2.0), TIMES, scheme="published", **arguments)
