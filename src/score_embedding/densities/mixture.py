"""A mixture of K Gaussians of arrays of one shape: posterior mean and log-density under noise.

    p(x) = sum over k of weight_k N(x; mean_k, C_k),
    C_k = U_k diag(variance_k) U_k^T + rest_k (I - U_k U_k^T).

The variance-exploding SDE adds noise of standard deviation s = std(t) to x, and its Fokker-Planck
equation is solved by the same mixture with C_k + s^2 I. The posterior mean of x given the noisy y:

    D(y, s) = sum over k of r_k(y) (mean_k + C_k (C_k + s^2 I)^-1 (y - mean_k)),

r_k the probability of component k given y (Zoran and Weiss 2011; Tweedie's formula). One component
is the Gaussian, full or of low rank, or isotropic where no axis is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from score_embedding.densities.mixture_levels import Levels
from score_embedding.densities.model import ArrayModel

# Axes of variance below this share of s^2 are merged into the rest at noise level s.
NEGLIGIBLE = 0.03
MIN_PROBABILITY = 1e-6  # share of the largest; a component of less adds nothing in float32
BATCH_ROWS = 8192  # arrays at a time


@dataclass(frozen=True)
class GaussianMixture(ArrayModel):
    """weights (K,), means (K, d), the leading axes (K, d, r) of the covariances as orthonormal
    columns, their variances (K, r) from the largest down, and the variance of all other directions
    (K,). `shape` is that of an array, (c, h, w) with d = c h w."""

    NOT_NEGATIVE: ClassVar = ("weights", "variances", "rest")

    weights: Tensor
    means: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor

    @property
    def d(self) -> int:
        """Numbers in an array."""
        return self.means.shape[1]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        d, (K, r) = math.prod(self.shape), self.variances.shape
        axes = {"axes": (K, d, r), "variances": (K, r)}
        return {"weights": (K,), "means": (K, d), **axes, "rest": (K,)}

    def denoise(
        self,
        y: Tensor,
        s: float,
        min_probability: float = MIN_PROBABILITY,
        batch_rows: int = BATCH_ROWS,
    ) -> Tensor:
        """As `ArrayModel.denoise`, from the components that have at least the share
        `min_probability` of the probability of the most likely one."""
        visible = self._visible(s).to(y)
        return torch.cat(
            [
                visible._posterior_mean(rows, s, min_probability)
                for rows in torch.split(y, batch_rows)
            ]
        )

    def denoise_levels(self, y: Tensor, levels: list[float]) -> Tensor:
        """As `ArrayModel.denoise_levels`, in one evaluation."""
        own = Levels(**self.to(y).tensors(), negligible=NEGLIGIBLE, min_probability=MIN_PROBABILITY)
        return own.posterior_mean(y, torch.tensor(levels, dtype=y.dtype, device=y.device))

    def log_density(self, y: Tensor, s: float, batch_rows: int = BATCH_ROWS) -> Tensor:
        """As `ArrayModel.log_density`; s may be 0."""
        own = self.to(y)
        return torch.cat(
            [own._log_joint(rows, s).logsumexp(dim=1) for rows in torch.split(y, batch_rows)]
        )

    def responsibilities(self, y: Tensor, s: float) -> Tensor:
        """The probability of each component given y (L, d) at noise level s, (L, K)."""
        visible = self._visible(s).to(y)
        return torch.cat(
            [visible._log_joint(rows, s).softmax(dim=1) for rows in torch.split(y, BATCH_ROWS)]
        )

    def covariances(self) -> Tensor:
        """C_k, (K, d, d)."""
        identity = torch.eye(self.d, dtype=self.means.dtype, device=self.means.device)
        excess = self.variances - self.rest[:, None]
        return (self.axes * excess[:, None]) @ self.axes.mT + self.rest[:, None, None] * identity

    def gains(self, s: float) -> Tensor:
        """C_k (C_k + s^2 I)^-1, (K, d, d); s^2 times it is the covariance of x given y."""
        variances, rest = (values / (values + s**2) for values in (self.variances, self.rest))
        return replace(self, variances=variances, rest=rest).covariances()

    def gaussian(self) -> GaussianMixture:
        """One Gaussian of the same mean and covariance."""
        if len(self.weights) == 1:
            return self
        mean = self.weights @ self.means
        centred = self.means - mean
        between = centred.mT @ (self.weights[:, None] * centred)
        within = (self.weights[:, None, None] * self.covariances()).sum(dim=0)
        variances, axes = torch.linalg.eigh((within + between).double())
        variances, axes = variances.flip(0).clamp_min(0).to(mean), axes.flip(1).to(mean)
        one, rest = variances.new_ones(1), variances.new_zeros(1)
        return GaussianMixture(
            self.shape, one, mean[None], axes[None].contiguous(), variances[None], rest
        )

    def flow(self, y: Tensor, s_from: float, s_to: float) -> Tensor:
        """As `ArrayModel.flow`: each principal axis of variance v is scaled by the root of
        (v + s_to^2) / (v + s_from^2)."""
        own = self.gaussian().to(y)
        scale, others = (
            ((v + s_to**2) / (v + s_from**2)).sqrt() for v in (own.variances[0], own.rest)
        )
        centred = y - own.means
        along = centred @ own.axes[0]
        return own.means + others * centred + ((scale - others) * along) @ own.axes[0].T

    def truncated(self, rank: int) -> GaussianMixture:
        """Only the `rank` leading axes kept; the trace of every covariance stays."""
        kept, dropped = self.variances[:, :rank], self.variances[:, rank:]
        others = self.d - kept.shape[1]
        trace = dropped.sum(dim=1) + self.rest * (self.d - self.variances.shape[1])
        rest = trace / others if others else self.rest
        return replace(self, axes=self.axes[..., :rank], variances=kept, rest=rest)

    def _visible(self, s: float) -> GaussianMixture:
        """Without the axes that are negligible beside noise of level s in every component."""
        return self.truncated(int((self.variances > NEGLIGIBLE * s**2).sum(dim=1).max()))

    def _log_joint(self, y: Tensor, s: float) -> Tensor:
        """log of weight_k N(y; mean_k, C_k + s^2 I), (L, K)."""
        K, d, r = self.axes.shape
        centre = self.weights @ self.means  # few digits are then lost in the squares
        y, means = y - centre, self.means - centre
        noisy, rest = self.variances + s**2, self.rest + s**2
        # The distance as if all directions had the variance `rest`, less the excess of the axes.
        excess = (1 / rest[:, None] - 1 / noisy).clamp_min(0).sqrt()
        scaled = self.axes * excess[:, None]
        z = y @ scaled.permute(1, 0, 2).reshape(d, K * r)
        z -= torch.einsum("kd,kdr->kr", means, scaled).reshape(-1)
        square = y.square().sum(dim=1, keepdim=True) - 2 * y @ means.T + means.square().sum(dim=1)
        distance = square / rest - z.square_().reshape(len(y), K, r).sum(dim=2)
        log_det = noisy.log().sum(dim=1) + (d - r) * rest.log()
        return self.weights.log() - (distance + log_det + d * math.log(2 * math.pi)) / 2

    def _posterior_mean(self, y: Tensor, s: float, min_probability: float) -> Tensor:
        probability = self._log_joint(y, s).softmax(dim=1)
        least = min_probability * probability.amax(dim=1, keepdim=True)
        probability = probability.masked_fill(probability < least, 0)
        probability = probability / probability.sum(dim=1, keepdim=True)
        mean = torch.zeros_like(y)
        for k in (probability > 0).any(dim=0).nonzero()[:, 0].tolist():
            own, axes = self.means[k], self.axes[k]
            likely = probability[:, k].nonzero()[:, 0]
            centred = y[likely] - own
            gain = self.variances[k] / (self.variances[k] + s**2)
            rest = self.rest[k] / (self.rest[k] + s**2)
            found = own + rest * centred + (centred @ axes * (gain - rest)) @ axes.T
            mean.index_add_(0, likely, probability[likely, k, None] * found)
        return mean
