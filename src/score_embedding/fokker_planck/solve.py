"""The log-density Fokker-Planck equation on the pixel grid, behind one function.

For m = log p(x, t) and the SDE dx = f dt + g dW,

    m_t = -div f + (g^2/2) (lap m + |grad m|^2) - f . grad m        (Na, Gao, Wan 2024, eq. 9)

on a 1-D, 2-D or 3-D grid with spacing dh. `solve` returns m at all times, and its score. Each
scheme is a module of schemes/, which kinds.SCHEMES names.
"""

from __future__ import annotations

import time
from typing import get_args

import torch
from torch import Tensor

from score_embedding import kinds
from score_embedding._deprecated import positional_options
from score_embedding.arrays import (
    ArrayLike,
    ascending,
    finite,
    number,
    refuse_gradient,
    result_dtype,
    to_tensor,
    whole,
)
from score_embedding.fokker_planck.operators.differences import Boundary, check_boundary
from score_embedding.fokker_planck.operators.drift import AffineDrift, Drift
from score_embedding.fokker_planck.problem import Evolution, LinearMethod, Options, Problem
from score_embedding.fokker_planck.solution import Diagnostics, Solution
from score_embedding.sde import LARGEST, SDE, require

__all__ = ["AffineDrift", "Boundary", "Diagnostics", "Drift", "LinearMethod", "Solution", "solve"]

_REMEDY = "m0, g^2 of the sde or the drift is too large, or dh too small"


@positional_options
def solve(
    m0: ArrayLike,
    sde: SDE,
    times: ArrayLike,
    *,
    scheme: str = "spectral",
    dh: float = 1.0,
    tolerance: float = 2e-8,
    boundary: Boundary = "reflect",
    drift: Drift | None = None,
    linear: LinearMethod = "iterative",
    max_iterations: int = 500,
) -> Solution:
    """Evolve a log-density under the Fokker-Planck equation of `sde`.

    Parameters
    ----------
    m0 : (n, c, *grid) with one to three grid axes, the log-density at times[0]; each image and
        channel is a density of its own. The result has its dtype if that is float16, bfloat16 or
        float32 (computed in float32 at least), float64 otherwise.
    sde : the forward SDE; its diffusion g acts on the grid.
    times : (N,), ascending. The solution's first entry is m0 itself.
    scheme :
        "spectral" is exact in time, second order in space: no tolerance, no iteration;
            differentiable in m0, which no other scheme is;
        "implicit" is the paper's semi-implicit scheme on a consistent stencil, first order in time,
            second in space, iterated to `tolerance` at each step;
        "krylov" is "implicit" for many images, whose first systems start from a projection onto
            search directions of the first two images;
        "published" is the official code's discretisation, which is not consistent with the
            equation: for reproduction only, 2-D only. It has a score of its own.
    dh : grid spacing, between 1e-150 and 1e150.
    tolerance : relative change at which a fixed-point iteration stops.
    boundary : "reflect": no probability leaves the grid; "zero": m is 0 beyond the edge, the
        paper's zero padding.
    drift : f on the grid, none by default. A callable f(x, t) from positions (dims, *grid),
        measured from the grid's middle, and a time to (dims, *grid); or an array (dims, *grid).
        "implicit" and "krylov" take any, "spectral" an AffineDrift between reflecting walls.
    linear : how "implicit" solves its systems: "iterative", preconditioned by the spectral basis,
        all channels at once; or "direct", sparse LU, one by one.
    max_iterations : of one time step, or sweeps of "published"; then ConvergenceError is raised.

    Returns
    -------
    Solution : log_density (n, N, c, *grid) on the device of m0, times (N,), diagnostics, and the
        method score(), (n, N, c, *grid).

    Raises
    ------
    ValueError : a shape, SDE, time, spacing, tolerance, scheme, boundary or drift that cannot be
        used; a gradient wanted of a scheme or an argument that has none.
    ConvergenceError : the iteration did not reach the tolerance; carries the residual history.
    DivergenceError : the result is not finite.
    """
    dtype, dh = result_dtype(m0), number(dh, "dh", above=1 / LARGEST, below=LARGEST)
    tolerance = number(tolerance, "tolerance", above=0)
    options = Options(tolerance, whole(max_iterations, "max_iterations", 1), linear)
    require(sde, "g", "integral_g2")
    m0, times = _checked(m0, times, boundary, linear)
    module = kinds.named(kinds.SCHEMES, scheme, "scheme").load()
    problem = Problem(m0, sde, times.to(torch.float64), dh, boundary, drift)
    module.check(problem)
    started = time.perf_counter()
    evolution: Evolution = module.evolve(problem, options)
    diagnostics = Diagnostics(
        scheme=scheme,
        dh=dh,
        boundary=evolution.boundary or boundary,
        drift="none" if drift is None else str(drift) if callable(drift) else "array",
        tolerance=tolerance if evolution.iteration else None,
        iterations=[len(step) for step in evolution.residuals],
        residuals=evolution.residuals,
        residual_seconds=[[known - started for known in step] for step in evolution.clock],
        warnings=evolution.warnings,
        iteration=evolution.iteration,
        accuracy=evolution.accuracy,
        seconds=time.perf_counter() - started,
    )
    own_score = None if evolution.score is None else evolution.score.to(dtype)
    log_density = finite(evolution.log_density.to(dtype), "the log-density", _REMEDY)
    return Solution(log_density, times, diagnostics, own_score, evolution.dt)


def _checked(m0: ArrayLike, times: ArrayLike, boundary: str, linear: str) -> tuple[Tensor, Tensor]:
    m0 = to_tensor(m0, name="m0")
    if m0.ndim not in (3, 4, 5) or m0.numel() == 0:
        raise ValueError(
            f"m0 must be (n, c, *grid) with one to three grid axes and not empty, got shape "
            f"{tuple(m0.shape)}"
        )
    if linear not in get_args(LinearMethod):
        allowed = ", ".join(get_args(LinearMethod))
        raise ValueError(f"linear must be one of {allowed}, got {linear!r}")
    check_boundary(boundary)
    refuse_gradient(times, "times", "which no scheme has")
    return m0, ascending(times).to(m0.device)
