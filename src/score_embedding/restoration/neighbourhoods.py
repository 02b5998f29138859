"""Non-local Bayes: a Gaussian for each group of similar windows of a first estimate of an image.

Near each window of an image lie similar ones: the same edge further along, the same texture. The
NEAREST of them in a first estimate of the image have a mean and a covariance, and under that
Gaussian all of them have a posterior mean given the noisy image (the second step of Lebrun, Buades
and Morel 2013). A density fitted once for all images does not know that an image repeats itself.
Every pixel is the average over the windows that cover it.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops

SIDE = 5  # pixels along a window
NEAREST = 32  # windows in the group of a reference window, itself included
STRIDE = 4  # pixels between reference windows
_TILE, _REACH = 16, 6  # pixels: groups are searched in tiles and this far beyond their edges
BLOCK = 8  # tiles along a side of a block, which is computed at once
_FLOAT64_BELOW = 0.02  # noise level whose square float32 may lose beside the covariances
_MIN_SIGMA = 1e-5  # noise level below which it is lost in float64, too


def refined(y: Tensor, first: Tensor, s: float, stride: int = STRIDE, block: int = BLOCK) -> Tensor:
    """The posterior mean of an image y (c, H, W) at noise level s > 0, under the Gaussians of the
    neighbourhoods of its first estimate (c, H, W). Shape, dtype and device of y.

    There is a Gaussian for every `stride`-th window in each direction; fewer are faster.

    A pixel is the average over the windows that cover it, in all groups; the few pixels that are in
    no group keep their first estimate. Blocks of `block` x `block` tiles are computed one after
    another, so that beside a few images memory does not grow with the image. An image smaller than
    a window is continued by its mirror image.
    """
    s = max(s, _MIN_SIGMA)
    _, H, W = y.shape
    y, first = (crops.continued(image, max(H, SIDE), max(W, SIDE)) for image in (y, first))
    total, count = torch.zeros_like(y), torch.zeros_like(y[:1])
    blocks = list(
        product(*(_blocks(size - SIDE + 1, stride, block, y.device) for size in y.shape[1:]))
    )
    with progress.stage("neighbourhoods", total=len(blocks), least=9) as stage:
        for (rows, rows_around), (columns, columns_around) in blocks:
            top, left = rows_around[0, 0], columns_around[0, 0]
            bottom, right = rows_around[-1, -1] + SIDE, columns_around[-1, -1] + SIDE
            area = (slice(None), slice(top, bottom), slice(left, right))
            width = int(right - left) - SIDE + 1
            reference = _places(rows - top, columns - left, width)
            candidates = _places(rows_around - top, columns_around - left, width)
            noisy, clean = _windows(y[area]), _windows(first[area])
            near = _nearest(clean, reference, candidates)
            means = _posterior_means(noisy[near], clean[near], s)
            found, uses = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
            found.index_add_(0, near.flatten(), means.flatten(0, 1))
            uses.index_add_(0, near.flatten(), uses.new_ones(near.numel(), 1))
            total[area] += _image(found, y[area])
            count[area] += _image(uses.expand(-1, SIDE**2), count[area])
            stage.update()
    return torch.where(count > 0, total / count, first)[:, :H, :W]


def _blocks(
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


def _nearest(windows: Tensor, reference: Tensor, candidates: Tensor) -> Tensor:
    """Of the windows (L, d) numbered `candidates` (T, b) the numbers of those nearest to each of
    `reference` (T, a): (T a, NEAREST)."""
    there = windows[candidates]
    centre = there.mean(dim=1, keepdim=True)  # the squares then lose few digits
    there -= centre
    own = windows[reference] - centre
    distance = there.square().sum(dim=2)[:, None] - 2 * own @ there.mT  # without own.square()
    count = min(NEAREST, candidates.shape[1])
    near = distance.topk(count, largest=False, sorted=False).indices
    return candidates[:, None].expand(-1, reference.shape[1], -1).gather(2, near).flatten(0, 1)


def _posterior_means(noisy: Tensor, clean: Tensor, s: float) -> Tensor:
    """Of groups of noisy windows (T, K, d), each under the Gaussian of its group of clean ones."""
    mean = clean.mean(dim=1, keepdim=True)
    spread, offset = clean - mean, noisy - mean
    if s < _FLOAT64_BELOW:
        spread, offset = spread.double(), offset.double()
    K = clean.shape[1]
    # C (C + s^2 I)^-1 with C = spread^T spread / K, by a system of K equations instead of d
    gram = spread @ spread.mT + K * s**2 * torch.eye(K, dtype=spread.dtype, device=spread.device)
    share = torch.cholesky_solve(spread @ offset.mT, torch.linalg.cholesky(gram))
    return mean + (share.mT @ spread).to(mean)


def _windows(image: Tensor) -> Tensor:
    """All windows of an image (c, h, w) as rows, (L, c SIDE^2)."""
    return F.unfold(image[None], SIDE)[0].T.contiguous()


def _image(windows: Tensor, reference: Tensor) -> Tensor:
    """The sum of overlapping windows (L, c SIDE^2) as an image in the shape of `reference`."""
    return F.fold(windows.T[None], (reference.shape[1], reference.shape[2]), SIDE)[0]
