"""Non-local Bayes: a Gaussian for each group of similar windows of a first estimate of an image.

Near each window of an image lie similar ones: the same edge further along, the same texture. The
nearest of them in a first estimate of the image have a mean and a covariance C, and under that
Gaussian all of them have a posterior mean given the noisy image (the second step of Lebrun, Buades
and Morel 2013). A density fitted once for all images does not know that an image repeats itself.

The noise may be correlated between neighbours and channels. In whitened windows it is independent,
with standard deviation s in all directions, and the posterior mean is

    D(y) = m + C (C + s^2 I)^-1 (y - m)    in whitened coordinates.

A pixel is the average over the windows that cover it, weighted by the inverse of the share of the
noise's variance that each group has left (Herbreteau and Kervrann 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops
from score_embedding.restoration import workers
from score_embedding.restoration.noise import Stationary

_TILE, _REACH = 16, 6  # pixels: groups are searched in tiles and this far beyond their edges
BLOCK = 4  # tiles along a side of a block, which is computed at once
_FLOAT64_BELOW = 0.02  # noise level whose square float32 may lose beside the covariances
_LEAST_LEVEL = 1e-5  # noise level below which it is lost in float64, too
_LEAST_LEFT = 1e-3  # share of the noise's variance below which no window weighs more


@dataclass(frozen=True)
class Groups:
    """How the neighbourhoods are formed and used.

    Attributes
    ----------
    side : pixels along a window.
    nearest : windows in a group, its reference included.
    stride : pixels between reference windows; fewer are slower.
    gain : factor of the noise's standard deviation.
    missing : standard deviation that the first estimate has lost of what varies within a group, in
        units of the noise's; its square is added to the diagonal of the covariance.
    """

    side: int
    nearest: int
    stride: int = 4
    gain: float = 1.0
    missing: float = 0.0


def refined(
    y: Tensor, first: Tensor, noise: Stationary, groups: Groups, block: int = BLOCK
) -> Tensor:
    """The posterior mean of an image y (c, H, W), under the Gaussians of the neighbourhoods of its
    first estimate (c, H, W). Shape, dtype and device of y. Of the noise's scale, the mean over a
    reference window holds for its group.

    The few pixels that are in no group keep their first estimate. Blocks are computed one after
    another, `block` tiles along a side, in as many threads as torch has, so that beside a few
    images memory does not grow with the image. An image smaller than a window is continued by its
    mirror image.
    """
    _, H, W = y.shape
    side = groups.side
    y, first = (crops.continued(image, max(H, side), max(W, side)) for image in (y, first))
    total, weight = torch.zeros_like(y), torch.zeros_like(y[:1])
    noise = replace(noise, level=max(noise.level, _LEAST_LEVEL))
    matrices = noise.whitening(side, y)
    blocks = list(_blocks(y, groups, block))
    s = torch.full_like(y[:1], noise.level)
    if noise.scale is not None:
        s *= crops.continued(noise.scale[None].to(y), *y.shape[1:])

    def posterior(own: _Block) -> tuple[Tensor, Tensor]:
        own_s = F.avg_pool2d(s[own.area], side, stride=1).flatten()
        return _of_block(y[own.area], first[own.area], own_s, own, matrices, groups)

    with progress.stage("neighbourhoods", total=len(blocks), least=9) as stage:
        for own, (means, weights) in zip(blocks, workers.in_order(posterior, blocks), strict=True):
            total[own.area] += means
            weight[own.area] += weights
            stage.update()
    return torch.where(weight > 0, total / weight, first)[:, :H, :W]


@dataclass(frozen=True)
class _Block:
    """A part of an image: where it is, and in it the numbers of the reference windows and of the
    candidates of each tile, (tiles, ...)."""

    area: tuple[slice, slice, slice]
    reference: Tensor
    candidates: Tensor


def _blocks(y: Tensor, groups: Groups, block: int) -> Iterator[_Block]:
    side = groups.side
    axes = (_tiles(size - side + 1, groups.stride, block, y.device) for size in y.shape[1:])
    for (rows, rows_around), (columns, columns_around) in product(*axes):
        top, left = rows_around[0, 0], columns_around[0, 0]
        bottom, right = rows_around[-1, -1] + side, columns_around[-1, -1] + side
        width = int(right - left) - side + 1
        yield _Block(
            (slice(None), slice(int(top), int(bottom)), slice(int(left), int(right))),
            _places(rows - top, columns - left, width),
            _places(rows_around - top, columns_around - left, width),
        )


def _tiles(
    length: int, stride: int, block: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Along one axis with `length` windows, block by block: for each tile its reference windows and
    the candidates for their groups, both (tiles, ...)."""
    steps = torch.arange(0, _TILE, stride, device=device)
    last = max(length - 1 - int(steps[-1]), 0)  # of the tile that ends with the last window
    tiles = torch.arange(0, last + _TILE, _TILE, device=device).clamp(max=last)
    own = tiles[:, None] + steps
    size = min(length, _TILE + 2 * _REACH)
    first = (tiles - _REACH).clamp(0, length - size)
    around = first[:, None] + torch.arange(size, device=device)
    parts = (torch.split(part, block) for part in (own.clamp(max=length - 1), around))
    return list(zip(*parts, strict=True))


def _places(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """The numbers of the windows at rows (R, a) and columns (T, b) of tiles, for `width` windows in
    a row of the block: (R T, a b)."""
    return (rows[:, None, :, None] * width + columns[:, None]).flatten(2).flatten(0, 1)


def _of_block(
    y: Tensor,
    first: Tensor,
    s: Tensor,
    block: _Block,
    matrices: tuple[Tensor, Tensor] | None,
    groups: Groups,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of the posterior means of the windows of a block, and of the weights; s (L,)
    is the noise level of each of its windows."""
    noisy, clean = (_windows(image, groups.side) for image in (y, first))
    if matrices is not None:
        noisy, clean = noisy @ matrices[0], clean @ matrices[0]
    near = _nearest(clean, block, groups.nearest)
    level = s[block.reference.flatten()]
    means, left = _posterior_means(noisy[near], clean[near], level, groups)
    weights = (1 / (left.clamp_min(_LEAST_LEFT) * level**2))[:, None].expand(near.shape)
    found, uses = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
    found.index_add_(0, near.flatten(), means.mul_(weights[..., None]).flatten(0, 1))
    uses.index_add_(0, near.flatten(), weights.reshape(-1, 1))
    counts = uses.expand(-1, groups.side**2)
    if matrices is not None:
        found = found @ matrices[1]
    return _image(found, y, groups.side), _image(counts, y[:1], groups.side)


def _nearest(windows: Tensor, block: _Block, nearest: int) -> Tensor:
    """The numbers of the windows (L, d) of each group: the `nearest` candidates of its tile."""
    candidates, reference = block.candidates, block.reference
    there = windows[candidates]
    centre = there.mean(dim=1, keepdim=True)  # the squares then lose few digits
    there -= centre
    own = windows[reference] - centre
    squares = there.square().sum(dim=2)[:, None]
    distance = torch.baddbmm(squares, own, there.mT, alpha=-2)  # without own.square()
    count = min(nearest, candidates.shape[1])
    near = distance.topk(count, largest=False, sorted=False).indices
    return candidates[:, None].expand(-1, reference.shape[1], -1).gather(2, near).flatten(0, 1)


def _posterior_means(
    noisy: Tensor, clean: Tensor, s: Tensor, groups: Groups
) -> tuple[Tensor, Tensor]:
    """Of groups of whitened noisy windows (T, K, d) with noise of level s (T,), each under the
    Gaussian of its group of clean ones; and the share of the noise's variance that they keep."""
    _, K, d = clean.shape
    mean = clean.mean(dim=1, keepdim=True)
    spread, offset = clean - mean, noisy - mean
    if float(s.min()) < _FLOAT64_BELOW:
        spread, offset, s = spread.double(), offset.double(), s.double()
    # C (C + total I)^-1 with C = spread^T spread / K, by a system of K equations instead of d
    parts = groups.gain**2, groups.missing**2
    total = (K * sum(parts) * s**2)[:, None]
    gram = spread @ spread.mT
    gram.diagonal(dim1=1, dim2=2).add_(total)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    gain = parts[0] / sum(parts)
    share = (offset @ spread.mT) @ inverse
    means = torch.baddbmm(offset.mul_(1 - gain), share, spread, alpha=gain).add_(mean)
    kept = inverse.mul_(-total[:, :, None])  # the filter of the K windows, I - total (gram)^-1
    kept.diagonal(dim1=1, dim2=2).add_(1)
    return means.to(mean), kept.square().sum(dim=(1, 2)).to(mean) / d + 1 / K


def _windows(image: Tensor, side: int) -> Tensor:
    """All windows of an image (c, h, w) as rows, (L, c side^2)."""
    return F.unfold(image[None], side)[0].T.contiguous()


def _image(windows: Tensor, reference: Tensor, side: int) -> Tensor:
    """The sum of overlapping windows (L, c side^2) as an image in the shape of `reference`."""
    return F.fold(windows.T[None], (reference.shape[1], reference.shape[2]), side)[0]
