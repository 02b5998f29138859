"""The Krylov projection against the implicit scheme, whose equations it solves."""

import re

import numpy as np
import pytest
import torch

from score_embedding.errors import ConvergenceError
from score_embedding.fokker_planck.operators.linear import HeatStep, System, norm
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.problem import Options, Problem
from score_embedding.fokker_planck.schemes import krylov
from score_embedding.fokker_planck.schemes.krylov import projected
from score_embedding.fokker_planck.solve import solve
from score_embedding.sde import VarianceExploding

BOUNDARIES = ["reflect", "zero"]
SDE = VarianceExploding(2.0)
TIMES = torch.linspace(0, 0.4, 4, dtype=torch.float64)
CPU = torch.device("cpu")


def random(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def both(m0, times=TIMES, sde=SDE, **settings):
    return [solve(m0, sde, times, scheme=scheme, **settings) for scheme in ("krylov", "implicit")]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("n", [2, 4])
def test_photographs_are_solved_as_by_implicit(n, boundary, photographs):
    m0 = log_density(photographs(12, n=n))
    times = torch.linspace(0.001, 1, 6, dtype=torch.float64)
    one, other = both(m0, times, VarianceExploding(3.0), boundary=boundary)
    # Five steps to a relative change of 2e-8 of fields of norm about 50.
    torch.testing.assert_close(one.log_density, other.log_density, rtol=0, atol=1e-6)
    assert torch.equal(one.log_density[:, 0], m0)
    assert one.log_density.shape == (n, 6, 3, 12, 12)
    for mine, theirs in zip(one.diagnostics.iterations, other.diagnostics.iterations, strict=True):
        assert abs(mine - theirs) <= 1


@pytest.mark.parametrize(
    ("boundary", "drifting"), [("reflect", False), ("reflect", True), ("zero", True)]
)
@pytest.mark.parametrize("shape", [(1, 3, 5, 6), (2, 2, 9), (5, 2, 4, 6), (4, 1, 3, 2, 4)])
def test_rough_fields_are_solved_as_by_implicit(shape, drifting, boundary, generator):
    m0, grid = random(generator, *shape), shape[2:]
    drift = random(generator, len(grid), *grid) if drifting else None
    one, other = both(m0, tolerance=1e-11, boundary=boundary, drift=drift)
    torch.testing.assert_close(one.log_density, other.log_density, rtol=0, atol=1e-8)
    assert (one.log_density[:, 1:] - m0[:, None]).abs().amax() > 0.01


def test_images_and_channels_keep_their_places(generator):
    m0 = random(generator, 4, 2, 4, 4)
    m = solve(m0, SDE, TIMES, scheme="krylov", tolerance=1e-12).log_density
    for image in range(4):
        for channel in range(2):
            alone = solve(
                m0[image, channel][None, None], SDE, TIMES, scheme="implicit", tolerance=1e-12
            ).log_density[0, :, 0]
            torch.testing.assert_close(m[image, :, channel], alone, rtol=0, atol=1e-9)


def by_krylov(m0, **sizes):
    return krylov.evolve(Problem(m0, SDE, TIMES), Options(tolerance=1e-12), **sizes)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_number_of_seeds_does_not_change_the_solution(seeds, generator):
    m0 = random(generator, 4, 2, 5, 4)
    expected = solve(m0, SDE, TIMES, scheme="implicit", tolerance=1e-12).log_density
    m = by_krylov(m0, seeds=seeds).log_density
    torch.testing.assert_close(m, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("values", [2, 40])
def test_later_images_in_several_chunks_are_the_same(values, generator):
    m0 = random(generator, 5, 2, 4, 5)
    expected, m = by_krylov(m0), by_krylov(m0, values_at_once=values)
    torch.testing.assert_close(m.log_density, expected.log_density, rtol=0, atol=1e-12)
    assert [len(step) for step in m.residuals] == [len(step) for step in expected.residuals]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_seeds_that_are_constant_have_no_directions_and_do_no_harm(value, boundary, generator):
    m0 = random(generator, 5, 2, 5, 4)
    m0[:2] = value
    one, other = both(m0, tolerance=1e-12, boundary=boundary)
    torch.testing.assert_close(one.log_density, other.log_density, rtol=0, atol=1e-9)
    if value == 0 or boundary == "reflect":
        assert torch.equal(one.log_density[:2], m0[:2, None].expand_as(one.log_density[:2]))


def test_seeds_that_are_all_the_same_image_give_a_degenerate_basis_and_do_no_harm(generator):
    m0 = random(generator, 5, 2, 5, 4)
    m0[:2] = m0[0, 0]
    one, other = both(m0, tolerance=1e-12)
    torch.testing.assert_close(one.log_density, other.log_density, rtol=0, atol=1e-9)


def test_later_images_unlike_the_seeds_are_solved_as_well(generator):
    rows = torch.linspace(-1, 1, 8, dtype=torch.float64)
    smooth = (1 + 0.01 * rows).log().expand(2, 2, 8, 8)
    checkers = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).to(torch.float64)
    later = torch.stack([4 * checkers, 2 * random(generator, 8, 8)]).expand(3, 2, 8, 8)
    one, other = both(torch.cat([smooth, later]), tolerance=1e-11)
    torch.testing.assert_close(one.log_density, other.log_density, rtol=0, atol=1e-8)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("grid", [(1,), (1, 2), (1, 1, 3)])
def test_grids_smaller_than_the_basis_are_solved(grid, boundary, generator):
    assert int(np.prod(grid)) < krylov.RANK
    m0, drift = random(generator, 6, 3, *grid), random(generator, len(grid), *grid)
    one, other = both(m0, tolerance=1e-12, boundary=boundary, drift=drift)
    torch.testing.assert_close(one.log_density, other.log_density, rtol=0, atol=1e-9)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("grid", [(1, 2), (7,), (5, 6), (2, 3, 4)])
@pytest.mark.parametrize("strength", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("rank", [0, 1, 8])
def test_projected_never_increases_the_residual(rank, strength, grid, boundary, generator):
    system = System(
        HeatStep(grid, 0.7, 1.0, boundary, CPU), strength * random(generator, len(grid), 3, *grid)
    )
    b, start = random(generator, 3, *grid), random(generator, 3, *grid)
    V = random(generator, rank, *grid)
    if rank:
        V = V / norm(V).reshape(-1, *[1] * len(grid))
    before = norm(b - system.apply(start))
    v = projected(system, b, start, V)
    assert (norm(b - system.apply(v)) <= before * (1 + 1e-12)).all()
    if rank == 0:
        assert torch.equal(v, start)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_projected_minimises_the_residual_over_the_basis(boundary, generator):
    grid = (5, 6)
    system = System(HeatStep(grid, 0.7, 1.0, boundary, CPU), random(generator, 2, 3, *grid))
    b, start = random(generator, 3, *grid), random(generator, 3, *grid)
    V = torch.linalg.qr(random(generator, 30, 6))[0].T.reshape(6, *grid)
    v = projected(system, b, start, V)
    r = (b - system.apply(start)).flatten(1)
    for k in range(3):
        alone = System(system.heat, system.u[:, k : k + 1].expand(-1, 6, -1, -1))
        W = alone.apply(V).flatten(1).T
        y = np.linalg.lstsq(W.numpy(), r[k].numpy(), rcond=None)[0]
        expected = start[k].flatten() + V.flatten(1).T @ torch.from_numpy(y)
        torch.testing.assert_close(v[k].flatten(), expected, rtol=0, atol=1e-7)


def test_projected_finds_a_solution_that_the_basis_spans(generator):
    grid = (4, 5)
    system = System(HeatStep(grid, 0.7, 1.0, "reflect", CPU), random(generator, 2, 2, *grid))
    V, start = random(generator, 3, *grid), random(generator, 2, *grid)
    V = V / norm(V)[:, None, None]
    solution = start + torch.einsum("bk,khw->bhw", random(generator, 2, 3), V)
    v = projected(system, system.apply(solution), start, V)
    torch.testing.assert_close(v, solution, rtol=0, atol=1e-7)


def test_a_basis_that_repeats_itself_is_no_obstacle(generator):
    grid = (4, 5)
    system = System(HeatStep(grid, 0.7, 1.0, "reflect", CPU), random(generator, 2, 2, *grid))
    b, start, V = (random(generator, k, *grid) for k in (2, 2, 3))
    V = V / norm(V)[:, None, None]
    twice, once = (projected(system, b, start, basis) for basis in (torch.cat([V, V]), V))
    rest, expected = (norm(b - system.apply(v)) for v in (twice, once))
    torch.testing.assert_close(rest, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_each_time_step_has_an_orthonormal_basis_within_its_rank(rank, generator):
    bases = []

    def watched(system, b, start, V):
        bases.append(V)
        return projected(system, b, start, V)

    by_krylov(random(generator, 3, 2, 6, 6), rank=rank, project=watched)
    assert len(bases) == len(TIMES) - 1
    assert not torch.equal(bases[0], bases[1])
    for V in bases:
        assert V.shape == (rank, 6, 6)
        rows = V.flatten(1)
        torch.testing.assert_close(
            rows @ rows.T, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-12
        )


def test_images_like_the_seeds_start_nearer_to_their_solution(generator):
    """What the projection is for: the seeds' own systems, met again, start almost solved."""
    gains = []

    def watched(system, b, start, V):
        v = projected(system, b, start, V)
        gains.append(norm(b - system.apply(v)) / norm(b - system.apply(start)))
        return v

    m0 = 0.3 * random(generator, 2, 1, 6, 6)
    by_krylov(torch.cat([m0, m0]), project=watched)
    assert len(gains) == len(TIMES) - 1
    assert torch.stack(gains).max() < 0.05


def test_diagnostics_are_of_the_slowest_channel_of_all_images(generator):
    m0 = 0.1 * random(generator, 4, 2, 5, 5)
    m0[3, 1] *= 20  # not a seed
    solution = solve(m0, SDE, TIMES, scheme="krylov", tolerance=1e-7)
    diagnostics = solution.diagnostics
    assert (diagnostics.scheme, diagnostics.tolerance) == ("krylov", 1e-7)
    assert diagnostics.iterations == [len(step) for step in diagnostics.residuals]
    assert len(diagnostics.iterations) == 3
    assert all(step[-1] <= 1e-7 < min(step[:-1]) for step in diagnostics.residuals)
    without = solve(m0[:3], SDE, TIMES, scheme="krylov", tolerance=1e-7).diagnostics
    assert diagnostics.iterations[0] > without.iterations[0]
    assert f"{sum(diagnostics.iterations)} iterations over 3 time steps" in diagnostics.summary()


def test_one_time_only_is_m0_alone(generator):
    m0 = random(generator, 3, 2, 4, 4)
    solution = solve(m0, SDE, TIMES[:1], scheme="krylov")
    assert torch.equal(solution.log_density, m0[:, None])
    assert solution.diagnostics.iterations == []


@pytest.mark.parametrize("image", [1, 3])
@pytest.mark.parametrize(
    ("times", "step"), [([0.0, 0.1], 1), ([0.0, 1e-9, 0.1], 2)], ids=["first", "second"]
)
def test_the_one_channel_that_does_not_converge_is_named_before_and_beyond_the_seeds(
    image, times, step, generator
):
    m0 = 0.1 * random(generator, 4, 2, 5, 5)
    m0[image, 1] *= 10_000
    where = re.escape(f"image {image}, channel 1, step {step}")
    with pytest.raises(ConvergenceError, match=where) as raised:
        solve(m0, SDE, torch.tensor(times, dtype=torch.float64), scheme="krylov", max_iterations=15)
    assert len(raised.value.residuals) == 15
    assert min(raised.value.residuals) > 2e-8


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("first", [0, 2], ids=["in the seeds", "beyond the seeds"])
@pytest.mark.parametrize("scale", [1e80, 1e160, 1e308])
def test_extreme_densities_raise_instead_of_being_returned_unsolved(
    scale, first, boundary, generator
):
    m0 = 2 * torch.rand(4, 1, 4, 5, generator=generator, dtype=torch.float64) - 1
    m0[first:] *= scale
    with pytest.raises(ConvergenceError, match=f"image {first}, channel 0"):
        solve(m0, SDE, TIMES, scheme="krylov", boundary=boundary, max_iterations=15)
