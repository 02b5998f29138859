"""The data themselves: n arrays, each equally likely, and what noise makes of them.

With noise of standard deviation s = std(t) the density is the mean of the Gaussians N(x_i, s^2 I):
the Fokker-Planck equation of the variance-exploding SDE, solved. The posterior mean of x given the
noisy y is

    D(y, s) = sum over i of w_i(y, s) x_i,    w_i proportional to exp(-|y - x_i|^2 / (2 s^2))

(Karras et al. 2022, appendix B.3): what a network of unlimited capacity learns from these data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_ROWS = 2048  # arrays at a time


@dataclass(frozen=True)
class Empirical:
    """points (n, d); `shape` is that of an array, (c, h, w) with d = c h w."""

    shape: tuple[int, int, int]
    points: Tensor

    @property
    def channels(self) -> int:
        return self.shape[0]

    def denoise(self, y: Tensor, s: float) -> Tensor:
        """The posterior mean of arrays y (L, d) at noise level s >= 0, shape and dtype of y."""
        points, std = self.points.to(y), y.new_full((1,), max(s, _tiny(y)))
        return torch.cat([posterior_mean(rows, points, std) for rows in torch.split(y, _ROWS)])

    def to(self, like: Tensor) -> Empirical:
        """On the device and in the dtype of `like`."""
        return replace(self, points=self.points.to(like))

    def log_density(self, y: Tensor, s: float) -> Tensor:
        """log p of arrays y (L, d) with noise of level s > 0, (L,)."""
        n, d = self.points.shape
        constant = math.log(n) + d * math.log(s * math.sqrt(2 * math.pi))
        log_p = [
            torch.logsumexp(-((_distances(rows, self.points.to(y)) / s) ** 2) / 2, dim=1)
            for rows in torch.split(y, _ROWS)
        ]
        return torch.cat(log_p) - constant


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


def _tiny(y: Tensor) -> float:
    return math.sqrt(math.sqrt(torch.finfo(y.dtype).tiny))
