"""The linear systems of the implicit step against loops and dense algebra."""

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from score_embedding.fokker_planck.operators.linear import (
    DEFAULT_LIMITS,
    HeatStep,
    Limits,
    System,
    conjugate_residuals,
    direct,
    iterative,
    norm,
    sparse_operators,
)

BOUNDARIES = ["reflect", "zero"]
GRIDS = [(1,), (7,), (1, 2), (5, 1), (4, 6), (2, 3, 4), (1, 3, 1)]
CPU = torch.device("cpu")


def random(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def operators_by_loops(grid, dh, boundary):
    """Dense Laplacian, and central difference along each axis."""
    size = int(np.prod(grid))
    number = np.arange(size).reshape(grid)
    laplacian = np.zeros((size, size))
    gradient = [np.zeros((size, size)) for _ in grid]
    for pixel in np.ndindex(*grid):
        row = number[pixel]
        for axis in range(len(grid)):
            laplacian[row, row] -= 2 / dh**2
            for step in (-1, 1):
                beside = list(pixel)
                beside[axis] += step
                inside = 0 <= beside[axis] < grid[axis]
                if not inside and boundary == "zero":
                    continue
                column = number[tuple(beside)] if inside else row
                laplacian[row, column] += 1 / dh**2
                gradient[axis][row, column] += step / (2 * dh)
    return laplacian, gradient


def dense(system):
    """A of each channel, (B, D, D), from loops."""
    heat = system.heat
    laplacian, gradient = operators_by_loops(heat.grid, heat.dh, heat.boundary)
    A = []
    for u in system.u.flatten(2).unbind(dim=1):
        matrix = np.eye(len(laplacian)) - heat.d / 2 * laplacian
        for derivative, along in zip(gradient, u.numpy(), strict=True):
            matrix = matrix + along[:, None] * derivative
        A.append(matrix)
    return torch.from_numpy(np.stack(A))


def advected(generator, grid, channels, strength, d=0.8, dh=1.0, boundary="reflect"):
    u = strength * random(generator, len(grid), channels, *grid)
    return System(HeatStep(grid, d, dh, boundary, CPU), u)


def residual(system, b, v):
    return norm(b - torch.einsum("bij,bj->bi", dense(system), v.flatten(1)).reshape(b.shape))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dh", [1.0, 0.3])
@pytest.mark.parametrize("grid", GRIDS)
def test_sparse_operators_are_those_of_the_loops(grid, dh, boundary):
    laplacian, gradient = sparse_operators(grid, dh, boundary)
    expected, along = operators_by_loops(grid, dh, boundary)
    np.testing.assert_allclose(laplacian.toarray(), expected, rtol=1e-14, atol=0)
    assert len(gradient) == len(grid)
    for found, derivative in zip(gradient, along, strict=True):
        np.testing.assert_allclose(found.toarray(), derivative, rtol=1e-14, atol=0)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("d", [1e-6, 0.7, 300.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_inverse_of_a_heat_step_is_the_inverse_of_its_matrix(grid, d, boundary):
    dh = 0.6
    heat, size = HeatStep(grid, d, dh, boundary, CPU), int(np.prod(grid))
    M = sparse.identity(size) - d / 2 * sparse_operators(grid, dh, boundary)[0]
    columns = torch.eye(size, dtype=torch.float64).reshape(size, *grid)
    inverse = heat.inverse(columns).flatten(1).numpy()  # symmetric: rows are columns
    np.testing.assert_allclose(M @ inverse, np.eye(size), rtol=0, atol=1e-15 * size * (1 + 8 * d))
    np.testing.assert_allclose(inverse, inverse.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_system_is_applied_as_the_matrix_of_loops(grid, boundary, generator):
    system = advected(generator, grid, 3, 2.0, dh=0.7, boundary=boundary)
    v = random(generator, 3, *grid)
    expected = torch.einsum("bij,bj->bi", dense(system), v.flatten(1)).reshape(v.shape)
    torch.testing.assert_close(system.apply(v), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("grid", GRIDS)
def test_direct_is_the_solution_of_the_dense_system(grid, boundary, generator):
    system, b = advected(generator, grid, 3, 1.0, boundary=boundary), random(generator, 3, *grid)
    expected = np.linalg.solve(dense(system).numpy(), b.flatten(1).numpy()[..., None])
    found = direct(system, b)[0].flatten(1).numpy()[..., None]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("reduction", [1e-2, 1e-10])
@pytest.mark.parametrize("strength", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("grid", [(2,), (9,), (5, 5), (3, 2, 4)])
def test_conjugate_residuals_reduce_the_residual_as_asked(
    grid, strength, reduction, boundary, generator
):
    system = advected(generator, grid, 4, strength, boundary=boundary)
    b, start = random(generator, 4, *grid), random(generator, 4, *grid)
    v, solved, directions = conjugate_residuals(system, b, start, reduction)
    assert solved.all()
    before, after = residual(system, b, start), residual(system, b, v)
    assert (after <= 1.001 * reduction * before + 1e-13 * norm(b)).all()
    assert len(directions) <= DEFAULT_LIMITS.directions
    if reduction < 1e-9:
        expected = torch.linalg.solve(dense(system), b.flatten(1)).reshape(b.shape)
        condition = torch.linalg.cond(dense(system)).max()
        error = norm(v - expected) / norm(expected)
        assert (error <= 10 * reduction * condition * (before / norm(b)).clamp_min(1)).all()


@pytest.mark.parametrize("along", [5.0, -40.0])
def test_a_constant_wind_far_stronger_than_diffusion_is_solved(along, generator):
    """The advection is the larger part by far, and A is far from normal."""
    grid = (25,)
    heat = HeatStep(grid, 0.1, 1.0, "zero", CPU)
    system = System(heat, torch.full((1, 2, *grid), along, dtype=torch.float64))
    A = dense(system)
    assert torch.linalg.matrix_norm(A @ A.mT - A.mT @ A).max() >= 0.1 * abs(along)
    b = random(generator, 2, *grid)
    expected = torch.linalg.solve(A, b.flatten(1)).reshape(b.shape)
    v, _, _ = conjugate_residuals(system, b, torch.zeros_like(b), reduction=1e-10)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_restarts_continue_from_the_residual(boundary, generator):
    system = advected(generator, (6, 6), 2, 0.7, boundary=boundary)
    b = random(generator, 2, 6, 6)
    v, solved, directions = conjugate_residuals(system, b, torch.zeros_like(b), 1e-6, Limits(3))
    assert solved.all()
    assert (residual(system, b, v) <= 1.001e-6 * norm(b)).all()
    assert len(directions) <= 3


def test_a_channel_without_a_solution_is_named_and_comes_with_the_last_directions(generator):
    system, b = advected(generator, (8, 8), 2, 5.0), random(generator, 2, 8, 8)
    b[1] = 0
    assert iterative(system, b, torch.zeros_like(b), Limits(3, 2))[1].tolist() == [False, True]
    v, solved, directions = conjugate_residuals(system, b, torch.zeros_like(b), 1e-2, Limits(3, 2))
    assert solved.tolist() == [False, True]
    assert torch.equal(v[1], b[1])
    assert len(directions) == 3
    assert all(z.shape == b.shape for z in directions)


def test_a_solution_found_with_the_last_direction_still_comes_with_its_directions(generator):
    system = advected(generator, (DEFAULT_LIMITS.directions,), 1, 3.0)
    b = random(generator, 1, DEFAULT_LIMITS.directions)
    _, solved, directions = conjugate_residuals(system, b, torch.zeros_like(b), reduction=1e-10)
    assert solved.all()
    assert len(directions) > 0


def test_the_images_of_the_directions_are_orthonormal(generator):
    system, b = advected(generator, (6, 7), 2, 1.5), random(generator, 2, 6, 7)
    _, _, directions = conjugate_residuals(system, b, torch.zeros_like(b), reduction=1e-8)
    assert len(directions) > 5
    W = torch.stack([system.apply(z) for z in directions], dim=1).flatten(2)
    unit = torch.eye(len(directions), dtype=torch.float64).expand(2, -1, -1)
    done = W.norm(dim=2) == 0  # a channel that finished first
    gram = W @ W.mT
    expected = torch.where(done[:, None] | done[:, :, None], 0.0, unit)
    torch.testing.assert_close(gram, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_batch_is_its_channels_alone_however_long_its_neighbours_take(boundary, generator):
    strengths = torch.tensor([0.0, 0.01, 0.5, 4.0, 20.0], dtype=torch.float64)
    u = random(generator, 2, 5, 6, 5) * strengths[:, None, None]
    heat = HeatStep((6, 5), 0.8, 1.0, boundary, CPU)
    b, start = random(generator, 5, 6, 5), random(generator, 5, 6, 5)
    together, _, _ = conjugate_residuals(System(heat, u), b, start, reduction=1e-3)
    lengths = []
    for k in range(5):
        one = slice(k, k + 1)
        alone, _, directions = conjugate_residuals(
            System(heat, u[:, one]), b[one], start[one], reduction=1e-3
        )
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-12)
        lengths.append(len(directions))
    assert lengths[0] == 1 < lengths[1] < lengths[2] < lengths[3]


def test_a_solved_start_is_returned_bit_for_bit_beside_unsolved_neighbours(generator):
    system, v = advected(generator, (5, 5), 2, 1.0), random(generator, 2, 5, 5)
    b = system.apply(v)
    start = v.clone()
    start[1] = 0
    found, _, _ = conjugate_residuals(system, b, start, reduction=1e-8)
    assert torch.equal(found[0], v[0])
    torch.testing.assert_close(found[1], v[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", [(6,), (4, 5)])
def test_a_right_side_of_zero_gives_zero(grid, generator):
    system = advected(generator, grid, 2, 1.0)
    zero = torch.zeros(2, *grid, dtype=torch.float64)
    v, solved, directions = conjugate_residuals(system, zero, zero, reduction=1e-2)
    assert solved.all()
    assert torch.equal(v, zero)
    assert directions == []
    assert torch.equal(direct(system, zero)[0], zero)
    start = random(generator, 2, *grid)
    v, _, _ = conjugate_residuals(system, zero, start, reduction=1e-10)
    assert (residual(system, zero, v) <= 1.001e-10 * residual(system, zero, start)).all()


@pytest.mark.parametrize("grid", [(1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize(("boundary", "factor"), [("reflect", 0.0), ("zero", 2.0)])
def test_a_single_pixel_is_one_division(grid, boundary, factor, generator):
    """Both ghosts are equal: no gradient, whatever the velocity."""
    d = 0.9
    system = advected(generator, grid, 3, 5.0, d=d, boundary=boundary)
    b = random(generator, 3, *grid)
    expected = b / (1 + d / 2 * factor * len(grid))
    torch.testing.assert_close(direct(system, b)[0], expected, rtol=1e-14, atol=0)
    v, _, _ = conjugate_residuals(system, b, torch.zeros_like(b), reduction=1e-12)
    torch.testing.assert_close(v, expected, rtol=1e-11, atol=0)


def test_a_first_direction_that_does_not_help_is_no_breakdown():
    """Here A M^-1 r is orthogonal to the first residual r: the minimum over one direction is the
    start itself, and over two the solution."""
    system = System(
        HeatStep((1, 2), 1.0, 1.0, "reflect", CPU),
        torch.tensor([0.0, -4.0], dtype=torch.float64)[:, None, None, None].expand(2, 1, 1, 2),
    )
    b = torch.tensor([[[0.0, 2.0]]], dtype=torch.float64)
    expected = torch.tensor([[[2.5, 3.5]]], dtype=torch.float64)
    torch.testing.assert_close(direct(system, b)[0], expected)
    v, solved, _ = conjugate_residuals(system, b, torch.zeros_like(b), reduction=1e-8)
    assert solved.all()
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    grid=st.one_of(
        st.tuples(st.integers(1, 8)),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2)),
    ),
    boundary=st.sampled_from(BOUNDARIES),
    strength=st.floats(0, 10),
    d=st.floats(1e-6, 20),
    dh=st.floats(0.3, 3),
    seed=st.integers(0, 1000),
)
def test_what_is_returned_has_the_residual_that_was_asked_for(
    grid, boundary, strength, d, dh, seed
):
    generator = torch.Generator().manual_seed(seed)
    system = advected(generator, grid, 2, strength, d, dh, boundary)
    b, start = random(generator, 2, *grid), random(generator, 2, *grid)
    v, solved, _ = conjugate_residuals(system, b, start, reduction=1e-2)
    assert solved.all()
    assert (residual(system, b, v) <= 1.001e-2 * residual(system, b, start)).all()
