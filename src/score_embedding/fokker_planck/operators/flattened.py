"""The linear system of one step of the `published` scheme.

On D pixels flattened row by row, with coefficients alpha (D,) and beta >= 0, and an offset h,

    (A v)_k = (1 + 4 beta) v_k + sum over j = k+1, k+h of (alpha_j + beta) v_j
                               + sum over j = k-1, k-h of (alpha_j - beta) v_j.

Divided by 1 + 4 beta, the sums are a matrix whose eigenvalues lie about the imaginary axis: if
alpha is constant, in the ellipse with semi-axes 4 |alpha| (real) and 4 beta (imaginary), divided by
1 + 4 beta. The second-order Richardson iteration with the optimal weight for this ellipse
(Manteuffel 1982) solves the system to round-off in tens of products with A. It is used where it is
predicted to converge fast; there 4 |alpha| < 1 + 4 beta, and A is strictly diagonally dominant by
columns. Sparse LU solves the other systems, and those that take too many steps.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

Field = NDArray[np.float64]  # (D,)
ROUNDOFF = 1e-14  # the residual at which the iteration stops, relative to the largest entry of b
MOST_STEPS = 150  # takes about as long as a sparse LU at 32 x 32 pixels, and less at larger sizes


def solve(alpha: Field, beta: float, h: int, b: Field, start: Field) -> Field:
    """A^-1 b (D,) to round-off. `start` is the initial guess of the iteration.

    Raises
    ------
    RuntimeError : A is exactly singular.
    """
    v = iterated(alpha, beta, h, b, start)
    return factorised(alpha, beta, h, b) if v is None else v


def factorised(alpha: Field, beta: float, h: int, b: Field) -> Field:
    """A^-1 b (D,) by sparse LU. RuntimeError: A is exactly singular."""
    size = len(alpha)
    ahead, behind = alpha + beta, alpha - beta
    # Column k of A has alpha_k, and dia_matrix stores diagonals column by column.
    along_row = sparse.dia_matrix(([ahead, behind], [1, -1]), shape=(size, size))
    across_rows = sparse.dia_matrix(([ahead, behind], [h, -h]), shape=(size, size))
    A = (sparse.identity(size) * (1 + 4 * beta) + along_row + across_rows).tocsc()
    # COLAMD, the default ordering, fills in about twice as much on a five-point stencil.
    v: Field = splu(A, permc_spec="MMD_AT_PLUS_A").solve(b)
    return v


@np.errstate(over="ignore", invalid="ignore")  # then it ends with None
def iterated(alpha: Field, beta: float, h: int, b: Field, start: Field) -> Field | None:
    """A^-1 b (D,) by the second-order Richardson iteration from `start`; None if MOST_STEPS steps
    are not enough, or b is not finite."""
    diagonal = 1 + 4 * beta
    rate, weight = convergence(4 * float(np.abs(alpha).max()) / diagonal, 4 * beta / diagonal)
    if not (rate**MOST_STEPS < ROUNDOFF and np.isfinite(b).all()):
        return None
    ahead, behind, b = (alpha + beta) / diagonal, (alpha - beta) / diagonal, b / diagonal
    enough = ROUNDOFF * np.abs(b).max()
    v, step = start.copy(), np.zeros_like(b)
    for _ in range(MOST_STEPS):
        residual = b - v
        subtract_neighbours(residual, ahead * v, behind * v, h)
        if np.abs(residual).max() <= enough:
            return v
        step = weight * (residual + step) - step
        v += step
    return None


def subtract_neighbours(residual: Field, ahead: Field, behind: Field, h: int) -> None:
    """residual_k -= ahead_(k+1) + ahead_(k+h) + behind_(k-1) + behind_(k-h), where these exist."""
    for offset in (1, h):
        residual[:-offset] -= ahead[offset:]
        residual[offset:] -= behind[:-offset]


def convergence(real: float, imaginary: float) -> tuple[float, float]:
    """For eigenvalues in the ellipse about 0 with these semi-axes: the factor by which a step of
    the iteration reduces the error, infinite where none is predicted, and the weight of a step."""
    if not real < 1:
        return math.inf, math.nan
    root = 1 + math.sqrt(1 - real**2 + imaginary**2)
    return (real + imaginary) / root, 2 / root
