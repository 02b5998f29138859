"""The log-density Fokker-Planck equation on the pixel grid, behind one function.

For m = log p(x, t) and the SDE dx = f dt + g dW,

    m_t = -div f + (g^2/2) (lap m + |grad m|^2) - f . grad m        (Na, Gao, Wan 2024, eq. 9)

on a 1-D, 2-D or 3-D grid with spacing dh. `solve` returns m at all times; `score` its derivative.
One file per scheme.
"""

from __future__ import annotations

import time
from typing import Literal, get_args

import torch
from torch import Tensor

from score_embedding.arrays import ArrayLike, to_tensor
from score_embedding.fokker_planck.operators.differences import (
    Boundary,
    check_boundary,
    gradient,
    score,
)
from score_embedding.fokker_planck.operators.drift import AffineDrift, Drift
from score_embedding.fokker_planck.problem import Problem
from score_embedding.fokker_planck.schemes import implicit, krylov, published, spectral
from score_embedding.fokker_planck.schemes.implicit import LinearMethod
from score_embedding.fokker_planck.solution import Diagnostics, Solution
from score_embedding.sde import SDE

Scheme = Literal["spectral", "implicit", "krylov", "published"]

__all__ = [
    "AffineDrift",
    "Boundary",
    "Diagnostics",
    "Drift",
    "LinearMethod",
    "Scheme",
    "Solution",
    "gradient",
    "score",
    "solve",
]


def solve(
    m0: ArrayLike,
    sde: SDE,
    times: ArrayLike,
    scheme: Scheme = "spectral",
    dh: float = 1.0,
    tolerance: float = 2e-8,
    boundary: Boundary = "reflect",
    drift: Drift | None = None,
    linear: LinearMethod = "iterative",
) -> Solution:
    """Evolve a log-density under the Fokker-Planck equation of `sde`.

    Parameters
    ----------
    m0 : (n, c, *grid) with one to three grid axes, the log-density at times[0]; each image and
        channel is a density of its own. float32 stays float32, everything else is float64.
    sde : the forward SDE; its diffusion g acts on the grid.
    times : (N,), ascending. The solution's first entry is m0 itself.
    scheme :
        "spectral" is exact in time, second order in space: no tolerance, no iteration;
            differentiable in m0;
        "implicit" is the paper's semi-implicit scheme on a consistent stencil, first order in time,
            second in space, iterated to `tolerance` at each step;
        "krylov" is "implicit" for many images, with what the first two taught about the systems;
        "published" is the official code's discretisation, which is not consistent with the
            equation: for reproduction only, 2-D only. The result's `score` is its own.
    dh : grid spacing.
    tolerance : relative change at which a fixed-point iteration stops.
    boundary : "reflect": no probability leaves the grid; "zero": m is 0 beyond the edge, the
        paper's zero padding.
    drift : f on the grid, none by default. A callable f(x, t) from positions (dims, *grid),
        measured from the grid's middle, and a time to (dims, *grid); or an array (dims, *grid).
        "implicit" and "krylov" take any, "spectral" an AffineDrift between reflecting walls.
    linear : how "implicit" solves its systems: "iterative", preconditioned by the spectral basis,
        all channels at once; or "direct", sparse LU, one by one.

    Returns
    -------
    Solution : log_density (n, N, c, *grid) on the device of m0, times (N,), diagnostics.

    Raises
    ------
    ValueError : a shape, time, spacing, tolerance, scheme, boundary or drift that cannot be used.
    ConvergenceError : the iteration did not reach the tolerance; carries the residual history.
    """
    m0, times = _checked(m0, times, scheme, dh, tolerance, boundary, linear)
    problem = Problem(m0, sde, times.to(torch.float64), dh, boundary, drift)
    _check_supported(problem, scheme)
    started = time.perf_counter()
    own_score: Tensor | None = None
    residuals: list[list[float]] = []
    warnings: list[str] = []
    if scheme == "spectral":
        log_density = spectral.evolve(problem)
    elif scheme == "implicit":
        log_density, residuals = implicit.evolve(problem, tolerance, linear)
    elif scheme == "krylov":
        log_density, residuals = krylov.evolve(problem, tolerance)
    else:
        log_density, own_score, sweeps, warnings = published.evolve(problem, tolerance)
        residuals = [sweeps]
    diagnostics = Diagnostics(
        scheme=scheme,
        dh=dh,
        boundary="wrapping" if scheme == "published" else boundary,
        drift="none" if drift is None else str(drift) if callable(drift) else "array",
        tolerance=None if scheme == "spectral" else tolerance,
        iterations=[len(step) for step in residuals],
        residuals=residuals,
        warnings=warnings,
        seconds=time.perf_counter() - started,
    )
    return Solution(log_density, times, diagnostics, own_score)


def _checked(
    m0: ArrayLike,
    times: ArrayLike,
    scheme: str,
    dh: float,
    tolerance: float,
    boundary: str,
    linear: str,
) -> tuple[Tensor, Tensor]:
    m0 = to_tensor(m0, name="m0")
    times = to_tensor(times, ndim=1, name="times").to(device=m0.device)
    if m0.ndim not in (3, 4, 5) or m0.numel() == 0:
        raise ValueError(
            f"m0 must be (n, c, *grid) with one to three grid axes and not empty, got shape "
            f"{tuple(m0.shape)}"
        )
    for name, value, allowed in (("scheme", scheme, Scheme), ("linear", linear, LinearMethod)):
        if value not in get_args(allowed):
            raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
    check_boundary(boundary)
    if len(times) == 0 or bool((times.diff() <= 0).any()):
        raise ValueError(f"times must be ascending and at least one, got {times.tolist()}")
    for name, number in (("dh", dh), ("tolerance", tolerance)):
        if not number > 0:
            raise ValueError(f"{name} must be positive, got {number!r}")
    return m0, times


def _check_supported(problem: Problem, scheme: str) -> None:
    drift, reflecting = problem.drift, problem.boundary == "reflect"
    plain = drift is None and reflecting and len(problem.grid) == 2
    if scheme == "published" and not plain:
        raise ValueError(
            "the published scheme knows only (n, c, h, w), no drift and no choice of boundary; "
            "use implicit"
        )
    affine = isinstance(drift, AffineDrift) and reflecting
    if scheme == "spectral" and drift is not None and not affine:
        raise ValueError(
            "the spectral scheme knows no drift but an AffineDrift between reflecting walls; "
            "use implicit"
        )
