"""Improved precision and recall of samples (Kynkäänniemi et al. 2019).

The region of a set of features is the union of balls around each of them, as large as the distance
to its k-th nearest neighbour within the set. Precision is the share of samples in the region of the
real images: are they realistic? Recall is the share of real images in the region of the samples:
is everything covered? Both sets must have the same number of images, because regions grow denser
with it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEIGHBOURS = 3  # k, the authors' choice
_BLOCK = 2**24  # distances at a time


def precision_recall(
    real: NDArray[np.float64], generated: NDArray[np.float64], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Precision and recall of generated features (n, d) against real ones (n, d).

    Memory does not grow with n^2: distances are computed in blocks.

    Raises
    ------
    ValueError : sets of different sizes, or of no more than `neighbours` images.
    """
    if len(real) != len(generated):
        raise ValueError(f"{len(real)} real, {len(generated)} generated images: not as many")
    if len(real) <= neighbours:
        raise ValueError(f"{len(real)} images: more than neighbours, {neighbours}, are needed")
    one, other = torch.from_numpy(real), torch.from_numpy(generated)
    return _covered(other, one, neighbours), _covered(one, other, neighbours)


def _covered(points: Tensor, others: Tensor, neighbours: int) -> float:
    """The share of points (n, d) in the region of others (m, d)."""
    radii = _radii(others, neighbours)
    inside = [
        (_distances(block, others) <= radii).any(dim=1)
        for block in torch.split(points, max(1, _BLOCK // len(others)))
    ]
    return float(torch.cat(inside).double().mean())


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """The distance (n,) from each point (n, d) to its k-th nearest other one."""
    found = [
        _distances(block, points).kthvalue(neighbours + 1, dim=1).values  # the first is itself
        for block in torch.split(points, max(1, _BLOCK // len(points)))
    ]
    return torch.cat(found)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    # Without a matrix product: the distance to itself is then exactly 0.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
