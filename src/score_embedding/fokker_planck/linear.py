"""The linear systems of one implicit step, for many channels at once.

Each is A v = v - (d/2) lap v + u . grad v with a velocity field u of its own: the heat step
M = I - (d/2) lap, which all channels share, and an advection. `direct` factorises every A;
`iterative` uses that M is inverted exactly by the cosine (or sine) basis of the spectral scheme.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.sparse.linalg import splu
from torch import Tensor

from score_embedding.fokker_planck.differences import Boundary, first_difference, second_difference
from score_embedding.fokker_planck.kernels import basis

DIRECTIONS = 30  # kept before the iteration starts again from its residual
RESTARTS = 20


class HeatStep:
    """M = I - (d/2) lap on one grid, and its exact inverse."""

    def __init__(
        self, grid: tuple[int, ...], d: float, dh: float, boundary: Boundary, device: torch.device
    ):
        self.grid, self.d, self.dh, self.boundary = grid, d, dh, boundary
        self._bases = []
        self._symbol = torch.ones((), dtype=torch.float64, device=device)  # becomes (*grid)
        for size in grid:
            C, Lambda = basis(size, boundary, dh, device)
            self._bases.append(C)
            self._symbol = self._symbol[..., None] + d / 2 * Lambda

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


def direct(system: System, b: Tensor) -> Tensor:
    """A^-1 b for b (B, *grid) by sparse LU, one channel after another on the CPU."""
    heat = system.heat
    laplacian, gradient = sparse_operators(heat.grid, heat.dh, heat.boundary)
    M = sparse.identity(b[0].numel(), format="csr") - heat.d / 2 * laplacian
    velocities = system.u.flatten(2).cpu().numpy()  # (dims, B, D)
    solutions = np.empty(b.flatten(1).shape)
    for channel, right_side in enumerate(b.flatten(1).cpu().numpy()):
        A = M
        for derivative, u in zip(gradient, velocities[:, channel], strict=True):
            A = A + derivative.multiply(u[:, None])
        # COLAMD, the default ordering, fills in about twice as much on a five-point stencil.
        solutions[channel] = splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A").solve(right_side)
    return torch.from_numpy(solutions).reshape(b.shape).to(b.device)


def iterative(system: System, b: Tensor, start: Tensor) -> Tensor | None:
    """A^-1 b by `conjugate_residuals`, to a hundredth of the residual at `start`: the fixed-point
    iteration around it asks for no more. None where it is not reached."""
    return conjugate_residuals(system, b, start, reduction=1e-2)[0]


def conjugate_residuals(
    system: System, b: Tensor, start: Tensor, reduction: float
) -> tuple[Tensor | None, list[Tensor]]:
    """A^-1 b by generalised conjugate residuals preconditioned by M, from `start` until the
    residual of each channel is `reduction` times what it was; None where RESTARTS times DIRECTIONS
    steps do not reach that. Also the last directions searched, each (B, *grid).

    Minimises the residual over the same spaces as GMRES, all channels at once; a channel that is
    done stays as it is, so that it does not depend on its neighbours in the batch.
    """
    v, r = start, b - system.apply(start)
    enough = torch.maximum(reduction * norm(r), 1e-15 * norm(b))
    directions: list[Tensor] = []  # Z, and W = A Z with orthonormal columns
    for _ in range(RESTARTS):
        directions = []
        images: list[Tensor] = []
        while len(directions) < DIRECTIONS:
            done = norm(r) <= enough
            if bool(done.all()):
                return v, directions
            z = system.heat.inverse(r)
            w = r + system.advection(z)  # A M^-1 r
            for _ in range(2 if images else 0):  # twice: once leaves round-off of near-parallels
                for z_k, w_k in zip(directions, images, strict=True):
                    along = dot(w_k, w)
                    z, w = z - scaled(z_k, along), w - scaled(w_k, along)
            unit = torch.where(done, 0.0, 1 / norm(w))
            z, w = scaled(z, unit), scaled(w, unit)
            step = dot(w, r)
            v, r = v + scaled(z, step), r - scaled(w, step)
            directions.append(z)
            images.append(w)
    return None, directions


def dot(v: Tensor, w: Tensor) -> Tensor:
    """Inner products (B,) of v and w (B, *grid)."""
    return (v * w).flatten(1).sum(dim=1)


def norm(v: Tensor) -> Tensor:
    """Euclidean norms (B,) of v (B, *grid)."""
    norms: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return norms


def scaled(v: Tensor, factors: Tensor) -> Tensor:
    """v (B, *grid) times a factor for each channel."""
    return v * factors.reshape(-1, *[1] * (v.ndim - 1))


def sparse_operators(
    grid: tuple[int, ...], dh: float, boundary: Boundary
) -> tuple[sparse.csr_matrix, list[sparse.csr_matrix]]:
    """Laplacian, and central difference along each axis, of the flattened grid."""
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
