"""The discretisation of the official code, for reproduction studies only.

Order: none. It is not consistent with the Fokker-Planck equation; docs/theory.md derives the
equation that it does solve. With D pixels flattened row by row, dt = 1/N, g_i = g(times[i]), a
guess s of the score at each time (1 everywhere at first), alpha_k = -(g_i^2 / 2) s_k dt / (2 dh)
and beta = (g_i^2 / 2) dt / dh^2, a sweep solves A m_i = m_(i-1) for i = 1 .. N - 1 with

    A[k, k] = 1 + 4 beta,   A[k, k+1] = alpha_(k+1) + beta,   A[k, k-1] = alpha_(k-1) - beta,
                            A[k, k+h] = alpha_(k+h) + beta,   A[k, k-h] = alpha_(k-h) - beta

where rows of the image run into each other, and then takes s_k = (m_(k+1) - m_(k-1)) / (2 dh) with
0 beyond the two ends. Sweeps are repeated until the relative change of all m falls to the
tolerance (Na, Gao, Wan 2024, official code).
"""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray

from score_embedding import progress
from score_embedding.fokker_planck.operators import flattened
from score_embedding.fokker_planck.problem import Evolution, Options, Problem
from score_embedding.fokker_planck.schemes.implicit import not_converged
from score_embedding.fokker_planck.solution import Histories, slowest

log = logging.getLogger(__name__)
Field = NDArray[np.float64]  # (N, D)


def check(problem: Problem) -> None:
    """Raise ValueError for a grid that is not 2-D, a drift, another boundary than the default, or a
    gradient that is wanted."""
    reflecting = problem.boundary == "reflect"
    if problem.drift is not None or not reflecting or len(problem.grid) != 2:
        raise ValueError(
            "the published scheme knows only (n, c, h, w), no drift and no choice of boundary; "
            "use implicit"
        )
    problem.refuse_gradients("published")


def evolve(problem: Problem, options: Options) -> Evolution:
    """Log-density and score, each (n, N, c, h, w), the slowest channel's relative change sweep by
    sweep, and warnings where a system left the region in which it is known to be stable. Channels
    are solved one by one on the CPU in float64.

    Raises
    ------
    ConvergenceError : options.max_iterations sweeps did not reach the tolerance.
    """
    m0, times, dh = problem.m0, problem.times, problem.dh
    n, c, h, w = m0.shape
    half_g2 = problem.sde.g(times).square().cpu().numpy() / 2
    channels = m0.detach().cpu().to(torch.float64).reshape(n * c, h * w).numpy()
    fields = np.empty((2, n * c, len(times), h * w))  # log-density, score
    histories = []
    warnings = []
    with progress.stage("published solve", total=n * c) as stage:
        for k, m_initial in enumerate(channels):
            where = f"image {k // c}, channel {k % c}"
            m, s, history = _channel(m_initial, half_g2, h, dh, options, where)
            fields[:, k] = m, s
            histories.append(history)
            warnings += _instability(s, half_g2, dh, where)
            stage.update()
    for warning in warnings:
        log.warning("published solve, %s", warning)
    m, s = torch.from_numpy(fields).reshape(2, n, c, len(times), h, w).transpose(2, 3).to(m0)
    found = slowest(histories)
    return Evolution(
        m.contiguous(),
        found.residuals,
        iteration="sweep",
        warnings=warnings,
        score=s.contiguous(),
        boundary="wrapping",
        clock=found.clock,
        dt=1 / len(times),  # the official code's, though its times are 1/(N - 1) apart
    )


def _channel(
    m_initial: NDArray[np.float64],
    half_g2: NDArray[np.float64],
    h: int,
    dh: float,
    options: Options,
    where: str,
) -> tuple[Field, Field, Histories]:
    """Log-density, score, and the history of the sweeps."""
    N, dt = len(half_g2), 1 / len(half_g2)
    m = np.ones((N, len(m_initial)))
    s = np.ones_like(m)
    residuals: list[float] = []
    clock: list[float] = []
    while len(residuals) < options.max_iterations:
        m_new = np.empty_like(m)
        m_new[0] = m_initial
        for i in range(1, N):
            alpha = -half_g2[i] * s[i] * dt / (2 * dh)
            beta = float(half_g2[i] * dt / dh**2)
            start = m[i] if residuals else m_new[i - 1]  # m is 1 before the first sweep
            try:
                m_new[i] = flattened.solve(alpha, beta, h, m_new[i - 1], start)
            except RuntimeError:  # exactly singular
                m_new[i:] = np.nan
                break
        s = _flat_score(m_new, dh)
        with np.errstate(over="ignore", invalid="ignore"):
            scale = np.linalg.norm(m) or 1.0  # a constant channel's log-density is 0
            residuals.append(float(np.linalg.norm(m_new - m) / scale))
        clock.append(time.perf_counter())
        m = m_new
        if not np.isfinite(residuals[-1]):
            break
        if residuals[-1] <= options.tolerance:
            return m, s, Histories([residuals], [clock])
    raise not_converged(
        "published", f"{where}, sweep {len(residuals)}", residuals, options.tolerance
    )


def _flat_score(m: Field, dh: float) -> Field:
    padded = np.pad(m, ((0, 0), (1, 1)))
    return (padded[:, 2:] - padded[:, :-2]) / (2 * dh)


def _instability(s: Field, half_g2: NDArray[np.float64], dh: float, where: str) -> list[str]:
    """A is strictly diagonally dominant by columns, and so surely regular, while
    |s| < 2/dh + dh / (g_i^2 dt); it cannot amplify m while |s| <= 2/dh."""
    if len(s) == 1:
        return []
    bound = 2 / dh + dh * len(s) / (2 * half_g2[1:])
    excess = np.abs(s[1:]).max(axis=1) / bound
    i = int(excess.argmax())
    if excess[i] < 1:
        return []
    return [
        f"{where}: the score at step {i + 1} is {excess[i]:.3g} times the bound "
        f"2/dh + dh/(g^2 dt) = {bound[i]:.3g} of the region in which the scheme is known to be "
        f"stable; take more time steps, or another scheme"
    ]
