"""Finite differences of fields on the pixel grid, second order, and the score made of them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from score_embedding.arrays import ArrayLike, to_tensor

Boundary = Literal["reflect", "zero"]


def check_boundary(boundary: str) -> None:
    """Raise ValueError unless it is one of `Boundary`."""
    if boundary not in get_args(Boundary):
        raise ValueError(f'boundary must be "reflect" or "zero", got {boundary!r}')


def neighbours(m: Tensor, axis: int, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """The values before and after each along `axis`, with a ghost cell beyond either edge:
    "reflect" repeats the edge's own value (a wall half a pixel away), "zero" is 0."""
    size = m.shape[axis]
    first, last = m.narrow(axis, 0, 1), m.narrow(axis, size - 1, 1)
    if boundary == "zero":
        first, last = torch.zeros_like(first), torch.zeros_like(last)
    before = torch.cat([first, m.narrow(axis, 0, size - 1)], dim=axis)
    after = torch.cat([m.narrow(axis, 1, size - 1), last], dim=axis)
    return before, after


def first_and_second(m: Tensor, axis: int, dh: float, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """First and second central difference along `axis`."""
    before, after = neighbours(m, axis, boundary)
    return (after - before) / (2 * dh), (after - 2 * m + before) / dh**2


def gradient(
    log_density: ArrayLike, dh: float = 1.0, boundary: Boundary = "reflect", dims: int = 2
) -> tuple[Tensor, ...]:
    """Central differences of m along each axis of the grid.

    Parameters
    ----------
    log_density : (..., *grid), typically (n, N, c, h, w).
    dh : grid spacing.
    boundary : the value beyond the edge. "reflect" repeats the edge's own value, as the walls of
        the solver do; "zero" takes 0, the paper's zero padding.
    dims : number of grid axes, the last ones of log_density.

    Returns
    -------
    (m[i+1, j] - m[i-1, j]) / (2 dh), (m[i, j+1] - m[i, j-1]) / (2 dh), and so on: `dims` tensors,
    each of the shape, dtype and device of the input.

    Raises
    ------
    ValueError : fewer than `dims` dimensions, a value not finite, or an unknown boundary.
    """
    m = to_tensor(log_density, name="log_density")
    if m.ndim < dims:
        axes = ", ".join("dhw"[-dims:])
        raise ValueError(f"log_density must end in ({axes}), got shape {tuple(m.shape)}")
    check_boundary(boundary)
    around = (neighbours(m, axis, boundary) for axis in range(-dims, 0))
    return tuple((after - before) / (2 * dh) for before, after in around)


def score(
    log_density: ArrayLike, dh: float = 1.0, boundary: Boundary = "reflect", dims: int = 2
) -> Tensor:
    """The paper's scalar score per pixel and channel: the sum of the central differences,

        (m[i+1, j] - m[i-1, j] + m[i, j+1] - m[i, j-1]) / (2 dh).

    Arguments, result shape and errors as for `gradient`.
    """
    first, *others = gradient(log_density, dh, boundary, dims)
    return sum(others, start=first)
