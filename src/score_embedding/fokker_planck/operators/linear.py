"""The linear systems of one implicit step, for many channels at once.

Each is A v = v - (d/2) lap v + u . grad v with a velocity field u of its own: the heat step
M = I - (d/2) lap, which all channels share, and an advection. `direct` factorises every A;
`iterative` uses that M is inverted exactly by the cosine (or sine) basis of the spectral scheme.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.sparse.linalg import splu
from torch import Tensor

from score_embedding.dct import basis
from score_embedding.fokker_planck.operators.differences import (
    Boundary,
    first_difference,
    second_difference,
)


@dataclass(frozen=True)
class Limits:
    """Of an iterative solve: directions kept before it restarts from its residual, and restarts."""

    directions: int = 30
    restarts: int = 20


DEFAULT_LIMITS = Limits()


class HeatStep:
    """M = I - (d/2) lap on one grid, and its exact inverse."""

    def __init__(
        self, grid: tuple[int, ...], d: float, dh: float, boundary: Boundary, device: torch.device
    ):
        self.grid, self.d, self.dh, self.boundary = grid, d, dh, boundary
        self._bases = []
        self._symbol = torch.ones((), dtype=torch.float64, device=device)  # becomes (*grid)
        for size in grid:
            C, Lambda = basis(size, boundary, device)
            self._bases.append(C)
            self._symbol = self._symbol[..., None] + d / (2 * dh**2) * Lambda

    def inverse(self, r: Tensor) -> Tensor:
        """M^-1 r for r (B, *grid)."""
        for C in self._bases:  # each product turns the axes by one: in order again after the last
            r = r.movedim(1, -1) @ C.T
        r = r / self._symbol
        for C in self._bases:
            r = r.movedim(1, -1) @ C
        return r


@dataclass(frozen=True)
class System:
    """A for B channels: the heat step and the velocities u (dims, B, *grid)."""

    heat: HeatStep
    u: Tensor

    def advection(self, v: Tensor) -> Tensor:
        """u . grad v for v (B, *grid)."""
        result = torch.zeros_like(v)
        for axis, u in enumerate(self.u, start=1):
            result += u * first_difference(v, axis, self.heat.dh, self.heat.boundary)
        return result

    def apply(self, v: Tensor) -> Tensor:
        """A v for v (B, *grid)."""
        result = v + self.advection(v)
        for axis in range(1, v.ndim):
            second = second_difference(v, axis, self.heat.dh, self.heat.boundary)
            result -= self.heat.d / 2 * second
        return result


def direct(system: System, b: Tensor) -> tuple[Tensor, Tensor]:
    """A^-1 b for b (B, *grid) by sparse LU, one channel after another on the CPU, and which of the
    channels (B,) were solved: a singular A is not."""
    heat = system.heat
    laplacian, gradient = sparse_operators(heat.grid, heat.dh, heat.boundary)
    M = sparse.identity(b[0].numel(), format="csr") - heat.d / 2 * laplacian
    velocities = system.u.flatten(2).cpu().numpy()  # (dims, B, D)
    solutions = np.full(b.flatten(1).shape, np.nan)
    for channel, right_side in enumerate(b.flatten(1).cpu().numpy()):
        A = M
        with np.errstate(all="ignore"):  # what is not finite is found out below
            for derivative, u in zip(gradient, velocities[:, channel], strict=True):
                A = A + derivative.multiply(u[:, None])
        with suppress(RuntimeError):  # exactly singular
            # COLAMD, the default ordering, fills in about twice as much on a five-point stencil.
            solutions[channel] = splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(right_side)
    v = torch.from_numpy(solutions).reshape(b.shape).to(b.device)
    return v, torch.isfinite(v).flatten(1).all(dim=1)


def iterative(
    system: System,
    b: Tensor,
    start: Tensor,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Tensor, Tensor]:
    """A^-1 b by `conjugate_residuals`, to a hundredth of the residual at `start`: the fixed-point
    iteration around it needs no more. Also which of the channels (B,) were solved."""
    v, solved, _ = conjugate_residuals(system, b, start, 1e-2, limits)
    return v, solved


def conjugate_residuals(
    system: System,
    b: Tensor,
    start: Tensor,
    reduction: float,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A^-1 b by generalised conjugate residuals preconditioned by M, from `start` until the
    residual of each channel is `reduction` times what it was; which channels (B,) got there within
    limits.restarts times limits.directions steps; and the last directions searched, each
    (B, *grid).

    Minimises the residual over the same spaces as GMRES, all channels at once; a channel that is
    done is not changed any more, so that it does not depend on its neighbours in the batch.
    """
    v = start
    r = seed = b - system.apply(v)
    enough = torch.maximum(reduction * norm(r), 1e-15 * norm(b))
    directions: list[Tensor] = []  # Z, and W = A Z with orthonormal columns
    images: list[Tensor] = []
    for _ in range(limits.restarts * limits.directions):
        left = norm(r)
        solved = (left <= enough) & torch.isfinite(left)
        if bool((solved | ~torch.isfinite(left)).all()):
            break
        if len(directions) == limits.directions:
            directions, images = [], []
            r = seed = b - system.apply(v)
        z = system.heat.inverse(seed)
        w = seed + system.advection(z)  # A M^-1 seed
        whole = norm(w)
        for _ in range(2 if images else 0):  # twice: once leaves round-off of near-parallels
            for z_k, w_k in zip(directions, images, strict=True):
                along = dot(w_k, w)
                z, w = z - scaled(z_k, along), w - scaled(w_k, along)
        length = norm(w)
        # Nothing but round-off left: the space is exhausted, and this is no direction.
        unit = torch.where(solved | (length <= 1e-13 * whole), 0.0, 1 / length)
        z, w = scaled(z, unit), scaled(w, unit)
        step = dot(w, r)
        v, r = v + scaled(z, step), r - scaled(w, step)
        directions.append(z)
        images.append(w)
        # A step that left the residual as it was would be made again; its image leads on.
        seed = torch.where(_like(step.abs() > 1e-6 * left, w), r, w)
    return v, norm(r) <= enough, directions


def dot(v: Tensor, w: Tensor) -> Tensor:
    """Inner products (B,) of v and w (B, *grid)."""
    return (v * w).flatten(1).sum(dim=1)


def norm(v: Tensor) -> Tensor:
    """Euclidean norms (B,) of v (B, *grid)."""
    norms: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return norms


def scaled(v: Tensor, factors: Tensor) -> Tensor:
    """v (B, *grid) times a factor for each channel (B,)."""
    return v * _like(factors, v)


def _like(of_channels: Tensor, v: Tensor) -> Tensor:
    return of_channels.reshape(-1, *[1] * (v.ndim - 1))


@lru_cache(maxsize=4)
def sparse_operators(
    grid: tuple[int, ...], dh: float, boundary: Boundary
) -> tuple[sparse.csr_matrix, list[sparse.csr_matrix]]:
    """Laplacian, and central difference along each axis, of the flattened grid. Kept from one
    linear system to the next: not to be written to."""
    size = int(np.prod(grid))
    laplacian, gradient = sparse.csr_matrix((size, size)), []
    for axis, length in enumerate(grid):
        before, after = int(np.prod(grid[:axis])), int(np.prod(grid[axis + 1 :]))
        # The ghost cell beyond an edge equals the edge's value, or 0.
        edge = 1.0 if boundary == "reflect" else 0.0
        first = _tridiagonal(length, -1.0, 0.0, 1.0, edge) / (2 * dh)
        second = _tridiagonal(length, 1.0, -2.0, 1.0, edge) / dh**2
        gradient.append(_along_axis(first, before, after))
        laplacian = laplacian + _along_axis(second, before, after)
    return laplacian.tocsr(), gradient


def _tridiagonal(
    size: int, below: float, diagonal: float, above: float, edge: float
) -> sparse.csr_matrix:
    matrix = sparse.diags([below, diagonal, above], [-1, 0, 1], shape=(size, size)).tolil()
    matrix[0, 0] += edge * below
    matrix[-1, -1] += edge * above
    return matrix.tocsr()


def _along_axis(matrix: sparse.csr_matrix, before: int, after: int) -> sparse.csr_matrix:
    return sparse.kron(sparse.kron(sparse.identity(before), matrix), sparse.identity(after)).tocsr()
