"""The paper's semi-implicit scheme with a consistent stencil.

Order: first in time, second in space.

A step of diffusion time d = integral of g^2 solves, with ghost cells for the reflecting walls,

    m_new - (d/2) (lap m_new + grad m_old . grad m_new) = m_previous_time

where one factor of |grad m|^2 is taken from the previous iterate m_old: a linear five-point system,
solved by sparse LU and repeated until the relative change of m falls to the tolerance
(Na, Gao, Wan 2024, Algorithm 1).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import splu
from torch import Tensor

from score_embedding import progress
from score_embedding.errors import ConvergenceError

MAX_ITERATIONS = 500

Vector = NDArray[np.float64]


def evolve(
    m0: Tensor, diffusion_time: Tensor, dh: float, tolerance: float
) -> tuple[Tensor, list[list[float]]]:
    """Log-density (n, N, c, h, w), and for each of the N - 1 steps the residuals of its slowest
    channel. Channels are solved one by one on the CPU in float64.

    Raises
    ------
    ConvergenceError : a step did not reach `tolerance` in MAX_ITERATIONS iterations.
    """
    n, c, h, w = m0.shape
    steps = np.diff(diffusion_time.detach().cpu().to(torch.float64).numpy())
    operators = _operators(h, w, dh)
    channels = m0.detach().cpu().to(torch.float64).reshape(n * c, h * w).numpy()
    log_density = np.empty((n * c, len(steps) + 1, h * w))
    residuals: list[list[float]] = [[] for _ in steps]
    with progress.stage("implicit solve", total=n * c) as stage:
        for channel, m_initial in enumerate(channels):
            log_density[channel, 0] = m = m_initial
            for i, step in enumerate(steps):
                where = f"image {channel // c}, channel {channel % c}, step {i + 1}"
                m, history = _step(m, step, operators, tolerance, where)
                log_density[channel, i + 1] = m
                residuals[i] = max(residuals[i], history, key=len)
            stage.update()
    field = torch.from_numpy(log_density).reshape(n, c, len(steps) + 1, h, w).transpose(1, 2)
    return field.to(dtype=m0.dtype, device=m0.device).contiguous(), residuals


def _operators(h: int, w: int, dh: float) -> tuple[sparse.csr_matrix, ...]:
    """Laplacian and the two central differences on the flattened grid, walls reflecting."""
    I_h, I_w = sparse.identity(h), sparse.identity(w)
    laplacian = sparse.kron(_second(h, dh), I_w) + sparse.kron(I_h, _second(w, dh))
    along_h = sparse.kron(_central(h, dh), I_w)
    along_w = sparse.kron(I_h, _central(w, dh))
    return laplacian.tocsr(), along_h.tocsr(), along_w.tocsr()


def _second(size: int, dh: float) -> sparse.spmatrix:
    diagonal = np.full(size, -2.0)
    diagonal[0] += 1  # the ghost cell equals its neighbour
    diagonal[-1] += 1
    return _tridiagonal(np.ones(size - 1), diagonal, np.ones(size - 1)) / dh**2


def _central(size: int, dh: float) -> sparse.spmatrix:
    diagonal = np.zeros(size)
    diagonal[0] -= 1
    diagonal[-1] += 1
    return _tridiagonal(-np.ones(size - 1), diagonal, np.ones(size - 1)) / (2 * dh)


def _tridiagonal(below: Vector, diagonal: Vector, above: Vector) -> sparse.spmatrix:
    return sparse.diags([below, diagonal, above], offsets=[-1, 0, 1])


def _step(
    m_start: Vector,
    step: float,
    operators: tuple[sparse.csr_matrix, ...],
    tolerance: float,
    where: str,
) -> tuple[Vector, list[float]]:
    laplacian, along_h, along_w = operators
    heat = sparse.identity(len(m_start), format="csr") - step / 2 * laplacian
    residuals: list[float] = []
    m = m_start
    while len(residuals) < MAX_ITERATIONS:
        advection = along_h.multiply((along_h @ m)[:, None])
        advection += along_w.multiply((along_w @ m)[:, None])
        # COLAMD, the default ordering, fills in about twice as much on a five-point stencil.
        system = splu((heat - step / 2 * advection).tocsc(), permc_spec="MMD_AT_PLUS_A")
        m_new: Vector = system.solve(m_start)
        scale = float(np.linalg.norm(m)) or 1.0
        residuals.append(float(np.linalg.norm(m_new - m)) / scale)
        m = m_new
        if not np.isfinite(residuals[-1]):
            break
        if residuals[-1] <= tolerance:
            return m, residuals
    raise ConvergenceError(
        f"implicit solve, {where}: relative change {residuals[-1]:.2e} after {len(residuals)} "
        f"iterations, tolerance {tolerance:g}; take more time steps (num_timesteps), a larger "
        f"tolerance, or the spectral scheme, which needs no iteration",
        residuals,
    )
