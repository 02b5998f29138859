"""Non-local Bayes: a Gaussian for each group of similar windows of a first estimate of an image.

Near each window of an image lie similar ones: the same edge further along, the same texture. The
nearest of them in a first estimate of the image have a mean and a covariance C, and under that
Gaussian all of them have a posterior mean given the noisy image (the second step of Lebrun, Buades
and Morel 2013). A density fitted once for all images does not know that an image repeats itself.

The noise may be correlated between neighbours and channels. In whitened windows it is independent,
with standard deviation s in all directions, and the posterior mean is

    D(y) = m + C (C + s^2 I)^-1 (y - m)    in whitened coordinates.

Most directions of a window hardly vary in an image: the principal axes of all its windows whose
variance is negligible beside the noise are left as the first estimate has them. All else is
computed in the coordinates of the other axes, and the nearest windows are found by the first few.

A pixel is the average over the windows that cover it, weighted by the inverse of the share of the
noise's variance that each group has left (Herbreteau and Kervrann 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops
from score_embedding.restoration import workers
from score_embedding.restoration.noise import Stationary

# Pixels along a tile at most, and how far beyond its edges the windows of a group are searched.
_TILE, _REACH = 18, 6
BLOCK = 8  # tiles along a side of a block, which is computed at once
_ROUNDOFF = 0.01  # of covariances, as a share of the noise's: more is computed in float64
_LEAST_LEVEL = 1e-5  # noise level below which it is lost in float64, too
_NEGLIGIBLE = 0.002  # variance along an axis, in units of the noise's, below which it is left out
_COMPARED = 10  # axes along which windows are compared; the others are mostly noise
_SAMPLED = 5_000  # windows that the axes are found from
_AT_ONCE = 256  # groups, whose windows fit into a processor's cache
_LEAST_LEFT = 1e-3  # share of the noise's variance below which no window weighs more


@dataclass(frozen=True)
class Groups:
    """How the neighbourhoods are formed and used.

    Attributes
    ----------
    side : pixels along a window.
    nearest : windows in a group, its reference included.
    stride : pixels between reference windows, at most 18; fewer are slower.
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

    Axes that are negligible beside the least noise keep their first estimate, as do the few pixels
    that are in no group. Blocks are computed one after another, `block` tiles along a side,
    in as many threads as torch has, so that beside a few images memory does not grow with the
    image. An image smaller than a window is continued by its mirror image.
    """
    _, H, W = y.shape
    side = groups.side
    y, first = (crops.continued(image, max(H, side), max(W, side)) for image in (y, first))
    total, weight = torch.zeros_like(y), torch.zeros_like(y[:1])
    blocks = list(_blocks(y, groups, block))
    s = torch.full_like(y[:1], noise.level)
    if noise.scale is not None:
        s *= crops.continued(noise.scale[None].to(y), *y.shape[1:])
    s = s.clamp_min(_LEAST_LEVEL)  # a map may have places without noise
    with workers.one_thread_each():  # so that their number does not change a digit
        axes = _axes(first, noise, float(s.min()), side)

    def posterior(own: _Block) -> tuple[Tensor, Tensor]:
        own_s = F.avg_pool2d(s[own.area], side, stride=1).flatten()
        return _of_block(y[own.area], first[own.area], own_s, own, axes, groups)

    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, progress.stage("neighbourhoods", total=len(blocks), least=9) as stage:
        for own, (means, weights) in zip(blocks, workers.in_order(posterior, blocks), strict=True):
            total[own.area] += means
            weight[own.area] += weights
            stage.update()
    return (first + torch.where(weight > 0, total / weight, 0))[:, :H, :W]


@dataclass(frozen=True)
class _Axes:
    """The principal axes of whitened windows, from the most variance down: windows (L, d) times
    `coordinates` (d, r) are their coordinates, and these times `windows` (r, d) windows again."""

    coordinates: Tensor
    windows: Tensor


def _axes(first: Tensor, noise: Stationary, s: float, side: int) -> _Axes:
    """Those of an image (c, h, w) that are not negligible beside noise of level s; at least one."""
    # A random sample: a grid may coincide with the stride of the mixture's windows.
    windows = first.unfold(1, side, 1).unfold(2, side, 1)  # (c, rows, columns, side, side)
    rows, columns = windows.shape[1:3]
    places = torch.arange(rows * columns, device=first.device)
    if len(places) > _SAMPLED:
        generator = torch.Generator("cpu").manual_seed(0)
        places = torch.randint(len(places), (_SAMPLED,), generator=generator).to(first.device)
    sample = windows[:, places // columns, places % columns].transpose(0, 1).flatten(1).double()
    matrices = noise.whitening(side, sample)
    if matrices is not None:
        sample = sample @ matrices[0]
    sample = sample - sample.mean(dim=0)
    variances, axes = torch.linalg.eigh(sample.T @ sample / len(sample))
    count = max(1, int((variances > _NEGLIGIBLE * s**2).sum()))
    kept = axes.flip(1)[:, :count]
    if matrices is None:
        return _Axes(kept.to(first), kept.T.to(first))
    return _Axes((matrices[0] @ kept).to(first), (kept.T @ matrices[1]).to(first))


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
    tile = _TILE // stride * stride  # the reference windows are then evenly spaced
    steps = torch.arange(0, tile, stride, device=device)
    last = max(length - 1 - int(steps[-1]), 0)  # of the tile that ends with the last window
    tiles = torch.arange(0, last + tile, tile, device=device).clamp(max=last)
    own = tiles[:, None] + steps
    size = min(length, tile + 2 * _REACH)
    first = (tiles - _REACH).clamp(0, length - size)
    around = first[:, None] + torch.arange(size, device=device)
    parts = (torch.split(part, block) for part in (own.clamp(max=length - 1), around))
    return list(zip(*parts, strict=True))


def _places(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """The numbers of the windows at rows (R, a) and columns (T, b) of tiles, for `width` windows in
    a row of the block: (R T, a b)."""
    return (rows[:, None, :, None] * width + columns[:, None]).flatten(2).flatten(0, 1)


def _of_block(
    y: Tensor, first: Tensor, s: Tensor, block: _Block, axes: _Axes, groups: Groups
) -> tuple[Tensor, Tensor]:
    """The weighted sum of what the posterior means of the windows of a block add to the first
    estimate, and of the weights; s (L,) is the noise level of each of its windows."""
    noisy, clean = _coordinates(torch.stack((y, first)), axes, groups.side)
    near = _nearest(clean[:, :_COMPARED].contiguous(), block, groups.nearest)
    level = s[block.reference.flatten()]
    found, uses = torch.zeros_like(noisy), torch.zeros_like(noisy[:, 0])
    parts = (torch.split(own, _AT_ONCE) for own in (near, level))
    for group, s_group in zip(*parts, strict=True):
        changes, left = _changes(noisy[group], clean[group], s_group, groups)
        left = left / len(axes.coordinates) + 1 / near.shape[1]
        weights = (1 / (left.clamp_min(_LEAST_LEFT) * s_group**2))[:, None].expand(group.shape)
        found.index_add_(0, group.flatten(), changes.mul_(weights[..., None]).flatten(0, 1))
        uses.index_add_(0, group.flatten(), weights.flatten())
    return _image(found, axes, y, groups.side), _covered(uses, y, groups.side)


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


def _changes(noisy: Tensor, clean: Tensor, s: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
    """Of groups of whitened noisy windows (T, K, r) with noise of level s (T,): their posterior
    means under the Gaussian of their group of clean ones, less these; and the sum of the squares of
    the filter, (T,)."""
    K = clean.shape[1]
    mean = clean.mean(dim=1, keepdim=True)
    spread, offset = clean.sub_(mean), noisy.sub_(mean)
    # C (C + total I)^-1 with C = spread^T spread / K, by a system of K equations instead of r
    parts = groups.gain**2, groups.missing**2
    total = (K * sum(parts) * s**2)[:, None]
    gram = spread @ spread.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1, keepdim=True)
    if float((trace / total).max()) * torch.finfo(gram.dtype).eps > _ROUNDOFF:
        spread, offset, total = spread.double(), offset.double(), total.double()
        gram = spread @ spread.mT
    gram.diagonal(dim1=1, dim2=2).add_(total)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    gain = parts[0] / sum(parts)
    share = ((offset @ spread.mT) @ inverse).mul_(gain)
    share.diagonal(dim1=1, dim2=2).sub_(1)
    changes = torch.baddbmm(offset, share, spread, beta=1 - gain)
    kept = inverse.mul_(-total[:, :, None])  # the filter of the K windows, I - total (gram)^-1
    kept.diagonal(dim1=1, dim2=2).add_(1)
    return changes.to(mean), kept.square().sum(dim=(1, 2)).to(mean)


def _coordinates(images: Tensor, axes: _Axes, side: int) -> Tensor:
    """Of all windows of images (n, c, h, w), (n, L, r): a convolution, which takes a third of the
    time of laid out windows."""
    n, c, _, _ = images.shape
    images = images.contiguous(memory_format=torch.channels_last)
    filters = axes.coordinates.T.reshape(-1, c, side, side)
    found = F.conv2d(images, filters.contiguous(memory_format=torch.channels_last))
    return found.permute(0, 2, 3, 1).reshape(n, -1, len(filters))


def _image(found: Tensor, axes: _Axes, reference: Tensor, side: int) -> Tensor:
    """The sum of overlapping windows of these coordinates (L, r), in the shape of `reference`."""
    windows = axes.windows.T @ found.T  # laid out as fold wants them
    return F.fold(windows[None], (reference.shape[1], reference.shape[2]), side)[0]


def _covered(uses: Tensor, reference: Tensor, side: int) -> Tensor:
    """The sum over the windows that cover a pixel of numbers of windows (L,), (1, h, w)."""
    _, h, w = reference.shape
    around = F.pad(uses.view(1, h - side + 1, w - side + 1), (side - 1,) * 4)
    return F.avg_pool2d(around, side, stride=1, divisor_override=1)
