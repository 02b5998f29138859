"""The linear system of a step of the published scheme, by iteration and by sparse LU, against dense
algebra."""

import numpy as np
import pytest

from score_embedding.fokker_planck.operators import flattened

GRIDS = [(1, 1), (1, 6), (6, 1), (2, 1), (1, 2), (2, 2), (5, 3), (3, 5), (8, 7)]  # h, w


def dense(alpha, beta, h):
    D = len(alpha)
    A = (1 + 4 * beta) * np.eye(D)
    for k in range(D):
        for j in (k + 1, k + h):
            if j < D:
                A[k, j] += alpha[j] + beta
        for j in (k - 1, k - h):
            if j >= 0:
                A[k, j] += alpha[j] - beta
    return A


def system(h, w, beta, largest, seed=0):
    """alpha of both signs up to `largest`, beta, h, and a right side and an initial guess."""
    random = np.random.default_rng(seed)
    alpha = largest * random.uniform(-1, 1, h * w)
    return alpha, beta, h, *random.standard_normal((2, h * w))


def error(v, alpha, beta, h, b):
    expected = np.linalg.solve(dense(alpha, beta, h), b)
    return np.abs(v - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("beta", "largest"), [(0.03, 0.1), (0.6, 0.3), (0.6, 0.65), (50.0, 20.0)])
def test_the_iteration_and_the_factorisation_solve_the_system(grid, beta, largest):
    for seed in range(3):
        alpha, beta, h, b, start = system(*grid, beta, largest, seed)
        for v in (
            flattened.iterated(alpha, beta, h, b, start),
            flattened.factorised(alpha, beta, h, b),
            flattened.solve(alpha, beta, h, b, start),
        ):
            assert v is not None
            assert error(v, alpha, beta, h, b) < 1e-12


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("largest", [1.0, 3.0, 1e3])
def test_a_system_that_is_not_dominated_by_its_diagonal_is_factorised(grid, largest):
    alpha, beta, h, b, start = system(*grid, 0.2, largest)
    alpha[0] = largest  # 4 |alpha| >= 1 + 4 beta
    assert flattened.iterated(alpha, beta, h, b, start) is None
    v = flattened.solve(alpha, beta, h, b, start)
    assert error(v, alpha, beta, h, b) < 1e-9


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4])  # real semi-axis, as a fraction of the other
@pytest.mark.parametrize("beta", [0.01, 0.6, 100.0])
def test_with_a_constant_alpha_the_error_falls_at_the_predicted_rate(
    beta, fraction, sign, monkeypatch
):
    alpha, beta, h, b, _ = system(16, 16, beta, 0.0)
    alpha += sign * fraction * beta
    imaginary = 4 * beta / (1 + 4 * beta)
    rate, _ = flattened.convergence(fraction * imaginary, imaginary)
    products = []
    subtract = flattened.subtract_neighbours
    monkeypatch.setattr(
        flattened, "subtract_neighbours", lambda *args: products.append(subtract(*args))
    )
    v = flattened.iterated(alpha, beta, h, b, 0 * b)
    assert v is not None
    assert error(v, alpha, beta, h, b) < 1e-12
    # The error after k steps is at most (k + 1) rate^k in the ellipse's eigenvectors.
    predicted = np.log(flattened.ROUNDOFF) / np.log(rate)
    assert 0.7 * predicted < len(products) < 1.2 * predicted + 3


def test_the_rate_is_that_of_closed_forms():
    assert flattened.convergence(0.0, 0.0) == (0, 1)
    # Real eigenvalues in [-r, r]: (1 - sqrt(1 - r^2)) / r. A circle: its radius, as for Jacobi's.
    for r in (0.1, 0.5, 0.99):
        classical = (1 - np.sqrt(1 - r**2)) / r
        assert flattened.convergence(r, 0.0)[0] == pytest.approx(classical, rel=1e-12)
        assert flattened.convergence(r, r)[0] == pytest.approx(r, rel=1e-12)
    for real, imaginary in ((1.0, 0.5), (3.0, 1.0), (np.inf, 1.0), (np.nan, 1.0)):
        assert flattened.convergence(real, imaginary)[0] == np.inf


def test_a_right_side_of_zero_has_the_solution_zero():
    alpha, beta, h, b, start = system(4, 5, 0.3, 0.2)
    for guess in (0 * b, start):
        assert not flattened.solve(alpha, beta, h, 0 * b, guess).any()


def test_the_initial_guess_and_the_right_side_are_unchanged():
    arguments = system(4, 5, 0.3, 0.2)
    before = [np.copy(value) for value in arguments]
    flattened.solve(*arguments)
    assert all(map(np.array_equal, arguments, before))


@pytest.mark.parametrize(("right", "guess"), [(np.nan, 0.0), (np.inf, 0.0), (1.7e308, -1.7e308)])
def test_a_right_side_that_is_not_finite_or_overflows_is_not_iterated(right, guess):
    alpha, beta, h, b, start = system(4, 5, 0.3, 0.2)
    b[7], start[7] = right, guess
    assert flattened.iterated(alpha, beta, h, b, start) is None


def test_an_exactly_singular_system_raises():
    alpha, b = np.array([2.25, 1.75]), np.ones(2)
    assert np.linalg.det(dense(alpha, 0.25, 2)) == 0
    with pytest.raises(RuntimeError, match="singular"):
        flattened.solve(alpha, 0.25, 2, b, b)
