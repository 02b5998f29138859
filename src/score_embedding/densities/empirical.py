"""The empirical density: n arrays, each equally likely.

Under the variance-exploding SDE it becomes the mean of the Gaussians N(x_i, s^2 I), s = std(t). The
posterior mean of x given the noisy y is

    D(y, s) = sum over i of w_i(y, s) x_i,    w_i proportional to exp(-|y - x_i|^2 / (2 s^2))

(Karras et al. 2022, appendix B.3): what a network of unlimited capacity learns from these data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.densities import gaussian
from score_embedding.densities.model import ArrayModel, FitOptions, shape_of

BATCH_ROWS = 2048  # arrays at a time


@dataclass(frozen=True)
class Empirical(ArrayModel):
    """points (n, d); `shape` is that of an array, (c, h, w) with d = c h w."""

    points: Tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"points": (len(self.points), math.prod(self.shape))}

    def denoise(self, y: Tensor, s: float, batch_rows: int = BATCH_ROWS) -> Tensor:
        """As `ArrayModel.denoise`."""
        points, std = self.points.to(y), y.new_full((1,), max(s, _smallest_level(y)))
        return torch.cat([posterior_mean(rows, points, std) for rows in torch.split(y, batch_rows)])

    def log_density(self, y: Tensor, s: float, batch_rows: int = BATCH_ROWS) -> Tensor:
        """As `ArrayModel.log_density`."""
        n, d = self.points.shape
        constant = math.log(n) + d * math.log(s * math.sqrt(2 * math.pi))
        log_p = [
            torch.logsumexp(-((_distances(rows, self.points.to(y)) / s) ** 2) / 2, dim=1)
            for rows in torch.split(y, batch_rows)
        ]
        return torch.cat(log_p) - constant

    def flow(self, y: Tensor, s_from: float, s_to: float) -> Tensor:
        """As `ArrayModel.flow`."""
        arrays = self.points.to(y).view(-1, *self.shape)
        return gaussian.fit(arrays, FitOptions()).flow(y, s_from, s_to)


Model = Empirical


def fit(arrays: Tensor, options: FitOptions) -> Empirical:  # noqa: ARG001 - it has none
    """Of arrays (L, c, h, w), all of them."""
    return Empirical(shape_of(arrays), arrays.flatten(1))


def posterior_mean(y: Tensor, points: Tensor, std: Tensor) -> Tensor:
    """D at arrays y (b, d) and noise levels std (b,), or (1,) for all of them, for points (n, d),
    or (b, n, d) where each array has its own. Shape, dtype and device of y."""
    own = points.ndim == 3
    distance = _distances(y[:, None] if own else y, points).reshape(len(y), -1)  # (b, n)
    weights = torch.softmax(-((distance / std[:, None]) ** 2) / 2, dim=1)
    return (weights[:, None] @ points)[:, 0] if own else weights @ points


def _distances(y: Tensor, points: Tensor) -> Tensor:
    # Differences first: a matrix product would lose the digits that the weights need.
    return torch.cdist(y, points, compute_mode="donot_use_mm_for_euclid_dist")


def _smallest_level(y: Tensor) -> float:
    """The smallest s whose square, squared, is a normal number of the dtype of y."""
    return math.sqrt(math.sqrt(torch.finfo(y.dtype).tiny))
