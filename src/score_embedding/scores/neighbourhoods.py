"""A Gaussian for every neighbourhood of an image, learnt from a first estimate of the image.

Near each window of an image lie others like it: the same edge further along, the same texture. The
NEAREST of them in a first estimate of the image have a mean and a covariance, and under that
Gaussian all of them have a posterior mean given the noisy image (the second step of Lebrun, Buades
and Morel 2013). That an image repeats itself is what no density fitted once for all images knows.
Every pixel is the average of what the windows that cover it say.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import crops, progress

SIDE = 5  # of a window
NEAREST = 32  # windows of a Gaussian
_STRIDE = 4  # of the windows whose like are sought
_TILE, _REACH = 16, 6  # they are sought in tiles, and so many pixels beyond
_TILES = 64  # at a time
_COARSE = 0.02  # noise so low that its square may be lost beside the covariances in float32


def refined(y: Tensor, first: Tensor, s: float) -> Tensor:
    """The posterior mean of an image y (c, H, W) at noise level s > 0, under the Gaussians of the
    neighbourhoods of its first estimate (c, H, W). Shape, dtype and device of y.

    Some rows of tiles at a time, so that memory does not grow with the image; images smaller than a
    window are continued by their mirror image.
    """
    _, H, W = y.shape
    y, first = (crops.continued(image, max(H, SIDE), max(W, SIDE)) for image in (y, first))
    height, width = y.shape[1] - SIDE + 1, y.shape[2] - SIDE + 1
    total, count = torch.zeros_like(y), torch.zeros_like(y[:1])
    tile_rows, columns = _tiles(height, y.device), _tiles(width, y.device)
    at_a_time = max(1, _TILES // len(columns[0]))
    strips = list(zip(*(torch.split(part, at_a_time) for part in tile_rows), strict=True))
    shown = progress.stage("neighbourhoods", total=len(strips)) if len(strips) > 32 else None
    with shown or nullcontext() as stage:
        for rows, rows_around in strips:
            strip = slice(int(rows_around[0, 0]), int(rows_around[-1, -1]) + SIDE)
            noisy, clean = _windows(y[:, strip]), _windows(first[:, strip])
            found, times = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
            for own, around in zip(*(torch.split(part, _TILES) for part in columns), strict=True):
                seeking = _places(rows - strip.start, own, width)
                near = _nearest(clean, seeking, _places(rows_around - strip.start, around, width))
                means = _posterior_means(noisy[near], clean[near], s)
                found.index_add_(0, near.flatten(), means.flatten(0, 1))
                times.index_add_(0, near.flatten(), times.new_ones(near.numel(), 1))
            total[:, strip] += _image(found, y[:, strip])
            count[:, strip] += _image(times.expand(-1, SIDE**2), y[:1, strip])
            if stage:
                stage.update()
    return torch.where(count > 0, total / count, first)[:, :H, :W]


def _tiles(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one axis with so many windows: per tile the windows whose like are sought, and those
    among which they are, both (tiles, ...)."""
    first = torch.arange(0, length, _TILE, device=device)
    own = first[:, None] + torch.arange(0, _TILE, _STRIDE, device=device)
    size = min(length, _TILE + 2 * _REACH)
    around = (first - _REACH).clamp(0, length - size)[:, None]
    return own.clamp(max=length - 1), around + torch.arange(size, device=device)


def _places(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """The numbers of the windows at rows (R, a) and columns (T, b) of tiles, `width` of them in a
    row of the image: (R T, a b)."""
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
    if s < _COARSE:
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
