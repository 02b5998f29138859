"""A Gaussian for every neighbourhood of an image, learnt from a first estimate of the image.

Near each window of an image lie others like it: the same edge further along, the same texture. The
NEAREST of them in a first estimate of the image have a mean and a covariance, and under that
Gaussian all of them have a posterior mean given the noisy image (the second step of Lebrun, Buades
and Morel 2013). That an image repeats itself is what no density fitted once for all images knows.
Every pixel is the average of what the windows that cover it say.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops

SIDE = 5  # of a window
NEAREST = 32  # windows of a Gaussian
STRIDE = 4  # of the windows whose like are sought
_TILE, _REACH = 16, 6  # they are sought in tiles, and so many pixels beyond
_TILES = 8  # by so many at a time
_FLOAT64_BELOW = 0.02  # noise whose square float32 may lose beside the covariances
_LEAST = 1e-5  # noise below which it is lost in float64, too


def refined(y: Tensor, first: Tensor, s: float, stride: int = STRIDE) -> Tensor:
    """The posterior mean of an image y (c, H, W) at noise level s > 0, under the Gaussians of the
    neighbourhoods of its first estimate (c, H, W). Shape, dtype and device of y.

    There is a Gaussian for every `stride`-th window in each direction; fewer are faster.

    A pixel is the average over all groups that a window over it is in; the few pixels that are in
    none keep their first estimate. A block of tiles at a time: beside a few images, memory does not
    grow with the image. One that is smaller than a window is continued by its mirror image.
    """
    s = max(s, _LEAST)
    _, H, W = y.shape
    y, first = (crops.continued(image, max(H, SIDE), max(W, SIDE)) for image in (y, first))
    total, count = torch.zeros_like(y), torch.zeros_like(y[:1])
    blocks = list(product(*(_blocks(size - SIDE + 1, stride, y.device) for size in y.shape[1:])))
    with progress.stage("neighbourhoods", total=len(blocks), least=9) as stage:
        for (rows, rows_around), (columns, columns_around) in blocks:
            top, left = rows_around[0, 0], columns_around[0, 0]
            bottom, right = rows_around[-1, -1] + SIDE, columns_around[-1, -1] + SIDE
            block = (slice(None), slice(top, bottom), slice(left, right))
            width = int(right - left) - SIDE + 1
            seeking = _places(rows - top, columns - left, width)
            candidates = _places(rows_around - top, columns_around - left, width)
            noisy, clean = _windows(y[block]), _windows(first[block])
            near = _nearest(clean, seeking, candidates)
            means = _posterior_means(noisy[near], clean[near], s)
            found, times = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
            found.index_add_(0, near.flatten(), means.flatten(0, 1))
            times.index_add_(0, near.flatten(), times.new_ones(near.numel(), 1))
            total[block] += _image(found, y[block])
            count[block] += _image(times.expand(-1, SIDE**2), count[block])
            stage.update()
    return torch.where(count > 0, total / count, first)[:, :H, :W]


def _blocks(length: int, stride: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Along one axis with so many windows, block by block: per tile the windows whose like are
    sought, and those among which they are, both (tiles, ...)."""
    steps = torch.arange(0, _TILE, stride, device=device)
    last = max(length - 1 - int(steps[-1]), 0)  # of the tile that ends with the last window
    tiles = torch.arange(0, last + _TILE, _TILE, device=device).clamp(max=last)
    own = tiles[:, None] + steps
    size = min(length, _TILE + 2 * _REACH)
    first = (tiles - _REACH).clamp(0, length - size)
    around = first[:, None] + torch.arange(size, device=device)
    parts = (torch.split(part, _TILES) for part in (own.clamp(max=length - 1), around))
    return list(zip(*parts, strict=True))


def _places(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """The numbers of the windows at rows (R, a) and columns (T, b) of tiles, `width` of them in a
    row of the block: (R T, a b)."""
    return (rows[:, None, :, None] * width + columns[:, None]).flatten(2).flatten(0, 1)


def _nearest(windows: Tensor, seeking: Tensor, candidates: Tensor) -> Tensor:
    """Of the windows (L, d) numbered `candidates` (T, b) those nearest to each of `seeking` (T, a),
    by number: (T a, NEAREST)."""
    there = windows[candidates]
    centre = there.mean(dim=1, keepdim=True)  # few digits are then lost in the squares
    there -= centre
    sought = windows[seeking] - centre
    distance = there.square().sum(dim=2)[:, None] - 2 * sought @ there.mT  # less that of `sought`
    count = min(NEAREST, candidates.shape[1])
    near = distance.topk(count, largest=False, sorted=False).indices
    return candidates[:, None].expand(-1, seeking.shape[1], -1).gather(2, near).flatten(0, 1)


def _posterior_means(noisy: Tensor, clean: Tensor, s: float) -> Tensor:
    """Of groups of noisy windows (T, K, d), each under the Gaussian of its group of clean ones."""
    mean = clean.mean(dim=1, keepdim=True)
    spread, offset = clean - mean, noisy - mean
    if s < _FLOAT64_BELOW:
        spread, offset = spread.double(), offset.double()
    K = clean.shape[1]
    # C (C + s^2 I)^-1 with C = spread^T spread / K, by a system of K equations instead of d
    gram = spread @ spread.mT + K * s**2 * torch.eye(K).to(spread)
    share = torch.cholesky_solve(spread @ offset.mT, torch.linalg.cholesky(gram))
    return mean + (share.mT @ spread).to(mean)


def _windows(image: Tensor) -> Tensor:
    """All windows of an image (c, h, w) as rows, (L, c SIDE^2)."""
    return F.unfold(image[None], SIDE)[0].T.contiguous()


def _image(windows: Tensor, like: Tensor) -> Tensor:
    """The sum of overlapping windows (L, c SIDE^2) as an image in the shape of `like`."""
    return F.fold(windows.T[None], (like.shape[1], like.shape[2]), SIDE)[0]
