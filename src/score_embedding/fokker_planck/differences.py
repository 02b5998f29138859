"""Gradient and score of a log-density on the pixel grid, by central differences (second order)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from score_embedding.arrays import ArrayLike, to_tensor

Boundary = Literal["reflect", "zero"]


def gradient(
    log_density: ArrayLike, dh: float = 1.0, boundary: Boundary = "reflect"
) -> tuple[Tensor, Tensor]:
    """Central differences of m along rows (h) and columns (w).

    Parameters
    ----------
    log_density : (..., h, w), typically (n, N, c, h, w).
    dh : grid spacing.
    boundary : the value beyond the edge. "reflect" repeats the edge's own value, as the walls of
        the solver do; "zero" takes 0, the paper's zero padding.

    Returns
    -------
    (m[i+1, j] - m[i-1, j]) / (2 dh) and (m[i, j+1] - m[i, j-1]) / (2 dh), each of the shape, dtype
    and device of the input.

    Raises
    ------
    ValueError : fewer than two dimensions, a value not finite, or an unknown boundary.
    """
    m = to_tensor(log_density, name="log_density")
    if m.ndim < 2:
        raise ValueError(f"log_density must end in (h, w), got shape {tuple(m.shape)}")
    if boundary not in get_args(Boundary):
        raise ValueError(f'boundary must be "reflect" or "zero", got {boundary!r}')
    fields = m.reshape(-1, 1, *m.shape[-2:])
    if boundary == "reflect":
        padded = F.pad(fields, (1, 1, 1, 1), mode="replicate")
    else:
        padded = F.pad(fields, (1, 1, 1, 1))
    along_h = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / (2 * dh)
    along_w = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / (2 * dh)
    return along_h.reshape(m.shape), along_w.reshape(m.shape)


def score(log_density: ArrayLike, dh: float = 1.0, boundary: Boundary = "reflect") -> Tensor:
    """The paper's scalar score per pixel and channel: the sum of the two central differences,

        (m[i+1, j] - m[i-1, j] + m[i, j+1] - m[i, j-1]) / (2 dh).

    Arguments, result shape and errors as for `gradient`.
    """
    along_h, along_w = gradient(log_density, dh, boundary)
    return torch.add(along_h, along_w)
