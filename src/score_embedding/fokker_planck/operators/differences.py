"""Finite differences of fields on the pixel grid, second order, and the score made of them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from score_embedding._deprecated import positional_options
from score_embedding.arrays import ArrayLike, finite, number, result_dtype, to_tensor, whole

Boundary = Literal["reflect", "zero"]

_REMEDY = "use a larger dh, or smaller differences of the log-density"


def check_boundary(boundary: str) -> None:
    """Raise ValueError unless it is one of `Boundary`."""
    if boundary not in get_args(Boundary):
        raise ValueError(f'boundary must be "reflect" or "zero", got {boundary!r}')


# Beyond either edge of an axis lies a ghost cell: "reflect" repeats the edge's own value (a wall
# half a pixel away), "zero" is 0.


def first_difference(m: Tensor, axis: int, dh: float, boundary: str) -> Tensor:
    """(after - before) / (2 dh) along `axis`, shape of m."""
    size = m.shape[axis]
    first, last = m.narrow(axis, 0, 1), m.narrow(axis, size - 1, 1)
    if size == 1:
        return torch.zeros_like(m)
    second, next_to_last = m.narrow(axis, 1, 1), m.narrow(axis, size - 2, 1)
    inner = m.narrow(axis, 2, size - 2) - m.narrow(axis, 0, size - 2)
    if boundary == "reflect":
        second, next_to_last = second - first, next_to_last - last
    return torch.cat([second, inner, -next_to_last], dim=axis) / (2 * dh)


def second_difference(m: Tensor, axis: int, dh: float, boundary: str) -> Tensor:
    """(after - 2 m + before) / dh^2 along `axis`, shape of m."""
    first, last = m.narrow(axis, 0, 1), m.narrow(axis, m.shape[axis] - 1, 1)
    if boundary == "reflect":
        first, last = torch.zeros_like(first), torch.zeros_like(last)
    slopes = torch.cat([first, m.diff(dim=axis), -last], dim=axis)
    return slopes.diff(dim=axis) / dh**2


@positional_options
def gradient(
    log_density: ArrayLike, *, dh: float = 1.0, boundary: Boundary = "reflect", dims: int = 2
) -> tuple[Tensor, ...]:
    """Central differences of m along each axis of the grid.

    Parameters
    ----------
    log_density : (..., *grid), typically (n, N, c, h, w).
    dh : grid spacing.
    boundary : the value beyond the edge. "reflect" repeats the edge's own value, as the walls of
        the solver do; "zero" takes 0, the paper's zero padding.
    dims : number of grid axes, 1 to 3, the last ones of log_density.

    Returns
    -------
    (m[i+1, j] - m[i-1, j]) / (2 dh), (m[i, j+1] - m[i, j-1]) / (2 dh), and so on: `dims` tensors,
    each of the shape and device of the input, and of its dtype if that is float16, bfloat16 or
    float32 (computed in float32 at least), float64 otherwise.

    Raises
    ------
    ValueError : fewer than `dims` dimensions or no grid points, a dh or dims out of range,
        an unknown boundary, or a value that is not finite.
    DivergenceError : the result is not finite.
    """
    dtype = result_dtype(log_density)
    parts = (each.to(dtype) for each in _gradient(log_density, dh, boundary, dims))
    return tuple(finite(part, "the gradient", _REMEDY) for part in parts)


def _gradient(log_density: ArrayLike, dh: float, boundary: str, dims: int) -> tuple[Tensor, ...]:
    """`gradient` in the dtype that it is computed in."""
    m = to_tensor(log_density, name="log_density")
    dh, dims = number(dh, "dh", above=0), whole(dims, "dims", 1, 3)
    if m.ndim < dims or m.numel() == 0:
        axes, shape = ", ".join("dhw"[-dims:]), tuple(m.shape)
        raise ValueError(f"log_density must end in ({axes}), none empty, got shape {shape}")
    check_boundary(boundary)
    return tuple(first_difference(m, axis, dh, boundary) for axis in range(-dims, 0))


def score(
    log_density: ArrayLike, dh: float = 1.0, boundary: str = "reflect", dims: int = 2
) -> Tensor:
    """The paper's scalar score per pixel and channel: the sum of the central differences,

        (m[i+1, j] - m[i-1, j] + m[i, j+1] - m[i, j-1]) / (2 dh).

    Arguments, result shape and errors as for `gradient`.
    """
    first, *others = _gradient(log_density, dh, boundary, dims)
    total = sum(others, start=first).to(result_dtype(log_density))
    return finite(total, "the score", _REMEDY)
