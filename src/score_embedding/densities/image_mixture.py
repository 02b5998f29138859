"""A mixture of Gaussians of whole images, in their leading principal axes.

With the mean and the leading principal axes U (d, q) of the images, the coordinates U^T (x - mean)
are a mixture of K Gaussians, and all other directions have one variance, `rest`, independent of it:

    D(y, s) = mean + U D_mixture(U^T (y - mean), s) + rest / (rest + s^2) (I - U U^T) (y - mean).

The K clusters are those of k-means, which finds as good ones as expectation-maximisation here, in a
tenth of the time. One Gaussian describes the images of a data set as one cloud. A mixture has the
kinds of things in it (trousers, bags), and is better as soon as the noise is not so strong that
they cannot be distinguished.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from score_embedding.densities.fitting import FLOOR, KEPT, from_moments
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import ArrayModel, FitOptions, shape_of

AXES = 256  # q, at most
MOST_NUMBERS = 2**25  # in all images that it is fitted to together: 32,768 of 32 x 32 in grey
FOR_A_COMPONENT = 50  # images, on average at least; fewer components of fewer images
_CLUSTERED = 50  # leading coordinates that k-means compares
_PRIOR = 20  # images as which the common covariance counts beside those of a cluster


@dataclass(frozen=True)
class ImageMixture(ArrayModel):
    """mean (d,), orthonormal axes (d, q), the mixture of the q coordinates, and the variance of all
    other directions, (1,)."""

    NOT_NEGATIVE: ClassVar = ("rest",)

    mean: Tensor
    axes: Tensor
    coordinates: GaussianMixture
    rest: Tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        d, q = math.prod(self.shape), self.coordinates.d
        return {"mean": (d,), "axes": (d, q), "rest": (1,)}

    def denoise(self, y: Tensor, s: float) -> Tensor:
        """As `ArrayModel.denoise`."""
        mean, axes = self.mean.to(y), self.axes.to(y)
        centred = y - mean
        along, share = centred @ axes, self.rest.to(y) / (self.rest.to(y) + s**2)
        found = self.coordinates.denoise(along, s)
        return mean + share * centred + (found - share * along) @ axes.T

    def denoise_levels(self, y: Tensor, levels: list[float]) -> Tensor:
        """As `ArrayModel.denoise_levels`, in one evaluation."""
        mean, axes, rest = self.mean.to(y), self.axes.to(y), self.rest.to(y)
        centred = y - mean
        along, variance = centred @ axes, y.new_tensor(levels)[:, None, None].square()
        share = rest / (rest + variance)
        found = self.coordinates.denoise_levels(along, levels)
        return mean + share * centred + (found - share * along) @ axes.T

    def log_density(self, y: Tensor, s: float) -> Tensor:
        """As `ArrayModel.log_density`; s may be 0."""
        centred = y - self.mean.to(y)
        along, variance = centred @ self.axes.to(y), self.rest.to(y) + s**2
        others = (centred - along @ self.axes.to(y).T).square().sum(dim=1)
        count = centred.shape[1] - along.shape[1]
        log_p = -(others / variance + count * (2 * math.pi * variance).log()) / 2
        return log_p + self.coordinates.log_density(along, s)

    def flow(self, y: Tensor, s_from: float, s_to: float) -> Tensor:
        """As `ArrayModel.flow`."""
        inner = self.coordinates.gaussian()
        mean, axes = self.mean + self.axes @ inner.means[0], self.axes @ inner.axes[0]
        whole = replace(inner, means=mean[None], axes=axes[None], rest=self.rest)
        return whole.flow(y, s_from, s_to)


Model = ImageMixture


def fit(arrays: Tensor, options: FitOptions) -> ImageMixture:
    """To arrays (L, c, h, w), at most as many as hold MOST_NUMBERS, drawn by `options.seed`: more
    add little. At most `options.components` components, fewer of less than FOR_A_COMPONENT images
    each."""
    arrays = _drawn(arrays, options.seed)
    rows = arrays.flatten(1)
    L, d = rows.shape
    mean = rows.mean(dim=0)
    centred = rows - mean
    axes, rest = _principal_axes(centred.T @ centred / L, min(AXES, L, d))
    along = centred @ axes
    K = max(1, min(options.components, L // FOR_A_COMPONENT))
    cluster = _clusters(along, K, options.seed)
    coordinates = _of_clusters(along, cluster, K)
    return ImageMixture(shape_of(arrays), mean, axes, coordinates, rest)


def _drawn(arrays: Tensor, seed: int) -> Tensor:
    """All arrays, or as many as are enough."""
    enough = max(1, MOST_NUMBERS // arrays[0].numel())
    if len(arrays) <= enough:
        return arrays
    generator = torch.Generator(device="cpu").manual_seed(seed)
    chosen = torch.randperm(len(arrays), generator=generator, device="cpu")[:enough]
    return arrays[chosen.to(arrays.device)]


def _principal_axes(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading axes (d, q), `count` of them or fewer of a variance that counts, and the mean
    variance of the other directions, (1,)."""
    from scipy.linalg import eigh  # the leading ones alone, which torch does not have

    d = len(covariance)
    with threadpool_limits(torch.get_num_threads()):
        variances, axes = eigh(covariance.cpu().numpy(), subset_by_index=(d - count, d - 1))
    count = max(1, int((variances > KEPT).sum()))
    rest = (covariance.trace() - float(variances[-count:].sum())) / max(d - count, 1)
    leading = torch.from_numpy(axes[:, : -count - 1 : -1].copy()).to(covariance)
    return leading, rest.clamp_min(FLOOR)[None]


def _clusters(along: Tensor, K: int, seed: int) -> Tensor:
    """The cluster of each row, (L,), by k-means."""
    from sklearn.cluster import KMeans  # imported here: loading a fitted one does not need it

    if K == 1:
        return torch.zeros(len(along), dtype=torch.long, device=along.device)
    means = KMeans(K, n_init=1, max_iter=20, random_state=seed)
    with threadpool_limits(torch.get_num_threads()):
        found = means.fit_predict(along[:, :_CLUSTERED].cpu().numpy())
    return torch.from_numpy(found).long().to(along.device)


def _of_clusters(along: Tensor, cluster: Tensor, K: int) -> GaussianMixture:
    """A Gaussian for each cluster of rows (L, q). Small clusters have much of the covariance that
    all have in common."""
    members = [along[cluster == k] for k in range(K)]
    members = [rows for rows in members if len(rows)]
    means = [rows.mean(dim=0) for rows in members]
    scatters = [(rows - m).T @ (rows - m) for rows, m in zip(members, means, strict=True)]
    common = torch.stack(scatters).sum(dim=0) / len(along)
    covariances = [
        (scatter + _PRIOR * common) / (len(rows) + _PRIOR)
        for scatter, rows in zip(scatters, members, strict=True)
    ]
    counts = torch.tensor([len(rows) for rows in members], device=along.device).double()
    # In float64: the eigenvectors of nearly singular ones are not found in float32.
    moments = (counts / len(along), torch.stack(means), torch.stack(covariances).double())
    return from_moments((along.shape[1], 1, 1), *moments).to(along)
