"""The log-density Fokker-Planck equation on the pixel grid, behind one function.

For m = log p(x, t) and the SDE dx = f dt + g dW,

    m_t = -div f + (g^2/2) (lap m + |grad m|^2) - f . grad m        (Na, Gao, Wan 2024, eq. 9)

on an h x w grid with spacing dh and reflecting walls. `solve` returns m at all times; `score` its
derivative. One file per scheme.
"""

from __future__ import annotations

import time
from typing import Literal, get_args

from torch import Tensor

from score_embedding.arrays import ArrayLike, to_tensor
from score_embedding.fokker_planck import implicit, spectral
from score_embedding.fokker_planck.differences import Boundary, gradient, score
from score_embedding.fokker_planck.solution import Diagnostics, Solution
from score_embedding.sde import VarianceExploding

Scheme = Literal["spectral", "implicit"]

__all__ = ["Boundary", "Diagnostics", "Scheme", "Solution", "gradient", "score", "solve"]


def solve(
    m0: ArrayLike,
    sde: VarianceExploding,
    times: ArrayLike,
    scheme: Scheme = "spectral",
    dh: float = 1.0,
    tolerance: float = 2e-8,
) -> Solution:
    """Evolve a log-density under the Fokker-Planck equation of `sde`.

    Parameters
    ----------
    m0 : (n, c, h, w), the log-density at times[0]; each image and channel is a density of its own.
        float32 stays float32, everything else is solved in float64.
    sde : the forward SDE.
    times : (N,), ascending. The solution's first entry is m0 itself.
    scheme : "spectral" is exact in time (no tolerance, no iteration); "implicit" is the paper's
        semi-implicit scheme, first order in time, iterated to `tolerance` at each step.
    dh : grid spacing.
    tolerance : relative change at which a fixed-point iteration stops.

    Returns
    -------
    Solution : log_density (n, N, c, h, w) on the device of m0, times (N,), diagnostics.

    Raises
    ------
    ValueError : a shape, time, spacing, tolerance or scheme that cannot be used.
    ConvergenceError : `implicit` did not reach the tolerance; carries the residual history.
    """
    m0 = to_tensor(m0, ndim=4, name="m0")
    times = to_tensor(times, ndim=1, name="times").to(device=m0.device)
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme must be one of {', '.join(get_args(Scheme))}, got {scheme!r}")
    if len(times) == 0 or bool((times.diff() <= 0).any()):
        raise ValueError(f"times must be ascending and at least one, got {times.tolist()}")
    if not dh > 0:
        raise ValueError(f"dh must be positive, got {dh!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance!r}")

    started = time.perf_counter()
    diffusion_time = sde.integral_g2(times[0], times)  # (N,), 0 at times[0]
    log_density: Tensor
    residuals: list[list[float]] = []
    if scheme == "spectral":
        log_density = spectral.evolve(m0, diffusion_time, dh)
    else:
        log_density, residuals = implicit.evolve(m0, diffusion_time, dh, tolerance)
    diagnostics = Diagnostics(
        scheme=scheme,
        dh=dh,
        tolerance=None if scheme == "spectral" else tolerance,
        iterations=[len(step) for step in residuals],
        residuals=residuals,
        seconds=time.perf_counter() - started,
    )
    return Solution(log_density=log_density, times=times, diagnostics=diagnostics)
