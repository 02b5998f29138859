"""Missing pixels given the known ones, under a Gaussian mixture of overlapping windows.

Let x_w be the pixels of an image in window w, and let noise of level s be added to the mixture, as
everywhere in this package. With r_k(w) the probability of component k given x_w, missing pixels are
the minimum, all others fixed, of

    E(x) = sum over w, k of r_k(w) (x_w - mean_k)^T (C_k + s^2 I)^-1 (x_w - mean_k):

one step of expectation-maximisation (EM) under the product of the windows' densities, as in Zoran
and Weiss (2011). If the image is one window and the mixture one Gaussian, the minimum is the mean
of the missing pixels given the known ones, C_mk (C_kk + s^2 I)^-1 (x_k - mean_k) from the mean. E
is quadratic and couples only pixels of windows that contain missing ones: conjugate gradients
minimise it at a cost that grows with their number, not with the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops
from score_embedding.densities import fitting
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.restoration.adaptive import EM_STEPS, PRIOR, WINDOWS

LEVELS = (0.02, 0.005)  # noise levels, one EM step each: a coarse choice of components comes first
STRIDE = 2  # pixels between windows
MIN_PROBABILITY = 0.05  # of a component in a window; others are left out
STEPS = 40  # of conjugate gradients, at most
TOLERANCE = 1e-4  # of the residual's norm, relative to that of the start
BATCH_ROWS = 8192  # windows at a time, so that memory does not grow with the image
ADAPTED_SIGMA = 0.02  # noise level that stands for what windows of other images differ by
ENOUGH_WINDOWS = 200  # from which the mixture is adapted
FLOAT32_VALUES = 2.0  # pixels up to which float32 holds the smallest variances beside their squares
MAX_FILLED = 0.5  # share of filled-in pixels in the windows that the mixture is adapted to
ROUNDS = 2  # of adaptation to the image as filled in so far


def filled(
    x: Tensor,
    missing: Tensor,
    start: Tensor,
    mixture: GaussianMixture,
    levels: Sequence[float] = LEVELS,
) -> Tensor:
    """An image x (c, H, W) whose `missing` (H, W) pixels, those of `start` (c, H, W) at first, are
    estimated from the others, in one step of EM at each noise level. Dtype and device of x."""
    _, H, W = x.shape
    size = max(H, mixture.shape[1]), max(W, mixture.shape[2])
    image = crops.continued(torch.where(missing, start, x), *size).contiguous()
    area = _Area.around(crops.continued(missing, *size), mixture)
    pixels = image.flatten(1)[:, area.pixels]
    mixture = mixture.to(x)
    with progress.stage("filling in", total=len(levels), least=2) as stage:
        for s in levels:
            pixels = pixels + _Energy.of(area, mixture, pixels, s).step(pixels)
            stage.update()
    image.flatten(1)[:, area.pixels] = pixels
    return torch.where(missing, image[:, :H, :W], x)


def adaptively_filled(
    x: Tensor, missing: Tensor, start: Tensor, mixture: GaussianMixture
) -> Tensor:
    """As `filled`, with the mixture adapted to the image: first to its windows without missing
    pixels, if there are enough, then ROUNDS times to the image as filled in so far."""
    mixture = adapted(mixture, x, missing, 0)
    answer = filled(x, missing, start, mixture)
    for _ in range(ROUNDS):
        mixture = adapted(mixture, answer, missing, MAX_FILLED)
        answer = filled(x, missing, answer, mixture, LEVELS[-1:])
    return answer


def adapted(mixture: GaussianMixture, x: Tensor, missing: Tensor, share: float) -> GaussianMixture:
    """The mixture after expectation-maximisation on windows of an image x (c, H, W) of which at
    most this share of the pixels is missing (H, W); unchanged where there are few of those."""
    _, h, w = mixture.shape
    if x.shape[1] < h or x.shape[2] < w:
        return mixture
    usable = (_missing_share(missing, (h, w)) <= share).nonzero()
    if len(usable) < ENOUGH_WINDOWS:
        return mixture
    generator = torch.Generator("cpu").manual_seed(0)
    order = torch.randperm(len(usable), generator=generator, device="cpu")[:WINDOWS]
    drawn = [x[:, i : i + h, j : j + w] for i, j in usable[order.to(usable.device)].tolist()]
    arrays = torch.stack(drawn).flatten(1)
    if float(arrays.abs().max()) > FLOAT32_VALUES:
        arrays = arrays.double()
    found = fitting.adapted(mixture.to(arrays), arrays, ADAPTED_SIGMA, EM_STEPS, PRIOR)
    return found.truncated(mixture.axes.shape[2]).to(x)


@dataclass(frozen=True)
class _Area:
    """The windows that contain missing pixels, and the pixels of these windows.

    first : (L,), the first pixel of each window in the flat image.
    within : (h w,), the steps from there to all pixels of the window.
    pixels : (N,), all pixels of windows, in the flat image.
    number : (H W,), the place of each of them in `pixels`.
    missing : (N,).
    """

    first: Tensor
    within: Tensor
    pixels: Tensor
    number: Tensor
    missing: Tensor

    @classmethod
    def around(cls, missing: Tensor, mixture: GaussianMixture) -> _Area:
        _, h, w = mixture.shape
        H, W = missing.shape
        on_grid = [torch.arange(n, device=missing.device) for n in (H - h + 1, W - w + 1)]
        stride = min(STRIDE, h, w)
        rows, columns = ((i % stride == 0) | (i == i[-1]) for i in on_grid)
        i, j = (
            ((_missing_share(missing, (h, w)) > 0) & rows[:, None] & columns)
            .nonzero()
            .unbind(dim=1)
        )
        first = i * W + j
        steps = [torch.arange(n, device=missing.device) for n in (h, w)]
        within = (steps[0][:, None] * W + steps[1]).flatten()
        used = torch.zeros(H * W, dtype=torch.bool, device=missing.device)
        for some in torch.split(first, BATCH_ROWS):
            used[(some[:, None] + within).flatten()] = True
        pixels = used.nonzero()[:, 0]
        number = used.cumsum(dim=0) - 1
        return cls(first, within, pixels, number, missing.flatten()[pixels])

    def places(self, rows: Tensor) -> Tensor:
        """Of some windows, the places of their pixels in `pixels`, (L, h w)."""
        return self.number[self.first[rows, None] + self.within]


def _windows(pixels: Tensor, places: Tensor) -> Tensor:
    """Windows (L, c h w) of pixels (c, N)."""
    return pixels[:, places].transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class _Energy:
    """E for given probabilities of the components.

    parts : for each component that is likely in some windows: its number, these windows, and
        its probability in each of them (L, 1).
    precisions : (K, d, d), (C_k + s^2 I)^-1.
    """

    area: _Area
    mixture: GaussianMixture
    precisions: Tensor
    parts: list[tuple[int, Tensor, Tensor]]

    @classmethod
    def of(cls, area: _Area, mixture: GaussianMixture, pixels: Tensor, s: float) -> _Energy:
        """With the probabilities given the pixels (c, N) at noise level s."""
        numbers = torch.arange(len(area.first), device=pixels.device)
        probability = torch.cat(
            [
                mixture.responsibilities(_windows(pixels, area.places(rows)), s)
                for rows in torch.split(numbers, BATCH_ROWS)
            ]
        )
        probability[probability < MIN_PROBABILITY] = 0
        probability /= probability.sum(dim=1, keepdim=True)
        parts = []
        for k, likely in enumerate(probability.unbind(dim=1)):
            for rows in torch.split(likely.nonzero()[:, 0], BATCH_ROWS):
                if len(rows):
                    parts.append((k, rows, likely[rows, None]))
        identity = torch.eye(mixture.d, dtype=torch.float64, device=pixels.device)
        noisy = mixture.covariances().double() + s**2 * identity
        return cls(area, mixture, torch.linalg.inv(noisy).to(pixels), parts)

    def step(self, pixels: Tensor) -> Tensor:
        """What to add to pixels (c, N) to come to the minimum, 0 where they are known."""
        blocks = self._diagonal_blocks()
        change, residual = torch.zeros_like(pixels), -self._gradient(pixels, centred=True)
        preconditioned = torch.einsum("nij,jn->in", blocks, residual)
        direction, square = preconditioned, (residual * preconditioned).sum()
        enough = TOLERANCE**2 * square
        for _ in range(STEPS):
            if square <= enough:
                break
            curved = self._gradient(direction, centred=False)
            length = square / (direction * curved).sum()
            change, residual = change + length * direction, residual - length * curved
            preconditioned = torch.einsum("nij,jn->in", blocks, residual)
            before, square = square, (residual * preconditioned).sum()
            direction = preconditioned + square / before * direction
        return change

    def _gradient(self, pixels: Tensor, centred: bool) -> Tensor:
        """Half the gradient of E at pixels (c, N), or with means of 0; 0 where they are known."""
        total = torch.zeros_like(pixels)
        for k, places, share in self._batches():
            rows = _windows(pixels, places)
            rows = rows - self.mixture.means[k] if centred else rows
            own = (share * (rows @ self.precisions[k])).view(len(rows), len(pixels), -1)
            total.index_add_(1, places.flatten(), own.transpose(0, 1).flatten(1))
        return total * self.area.missing

    def _diagonal_blocks(self) -> Tensor:
        """The inverse of E's second derivatives by the channels of one pixel, (N, c, c): the
        preconditioner."""
        c, h, w = self.mixture.shape
        N = len(self.area.pixels)
        total = self.precisions.new_zeros(c, c, N)
        for k, places, share in self._batches():
            own = self.precisions[k].view(c, h * w, c, h * w).diagonal(dim1=1, dim2=3)
            shares = (share[:, :, None, None] * own.permute(2, 0, 1)).flatten(0, 1)
            total.index_add_(2, places.flatten(), shares.permute(1, 2, 0))
        identity = torch.eye(c, dtype=total.dtype, device=total.device)[..., None]
        blocks = torch.where(self.area.missing, total, identity).permute(2, 0, 1)
        inverse: Tensor = torch.linalg.inv(blocks)
        return inverse

    def _batches(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        for k, rows, share in self.parts:
            yield k, self.area.places(rows), share


def _missing_share(missing: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of missing pixels in each window of an image, missing (H, W)."""
    return F.avg_pool2d(missing[None, None].to(torch.float32), size, stride=1)[0, 0]
