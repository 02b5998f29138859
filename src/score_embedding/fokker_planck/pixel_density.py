"""Initial log-density m0 of an image on its own pixel grid.

Per image and channel with D = h*w pixels, the k-th pixel of the column-major order is paired with
the k-th of the row-major order, (u_k, v_k). m0 at pixel k is the logarithm of the Gaussian kernel
density estimate of the D pairs (their full 2x2 covariance, Scott's factor D^(-1/6)), evaluated at
(u_k, v_k) (Na, Gao, Wan 2024, section 3). Both methods first whiten the pairs, so that the kernel
becomes a unit Gaussian.

A constant channel has no density: its m0 is 0, and so is its score. A channel equal to its own
transpose (any 1 x k picture) has all pairs on the line u = v: its density is taken along that line.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from score_embedding import progress
from score_embedding._deprecated import positional_options
from score_embedding.arrays import ArrayLike, refuse_gradient, to_tensor

Method = Literal["exact", "binned"]

# Cell of the binned estimate, in kernel widths. The largest error in the log-density grows as its
# square: docs/theory.md has the measured figures.
CELL = 0.175
GAP = 8.0  # kernel widths: the kernel is 1e-14 there
WIDE = 20.0  # kernel widths: wider grids are searched for gaps
BATCH_ROWS = 512  # kernel rows held at once by the exact estimate
BATCH_CHANNELS = 8  # channels binned at once


@positional_options
def log_density(images: ArrayLike, *, method: Method = "exact") -> Tensor:
    """Log-density of each channel's pixel pairs at its own pixels.

    Parameters
    ----------
    images : (n, c, h, w), any scale: the estimate is invariant up to a constant per channel.
    method : "exact" sums all D^2 kernels, as scipy.stats.gaussian_kde does; "binned" bins the
        pairs linearly on a grid, smooths it by a separable Gaussian and interpolates, in O(D). Its
        largest difference from "exact" is below 0.02 on photographs.

    Returns
    -------
    m0 : float64 (n, c, h, w) for images of every dtype, on the device of the input.

    Raises
    ------
    ValueError : not four dimensions, a value that is NaN or infinite, an unknown method, or a
        gradient wanted of "binned", which is too rough to have one.
    """
    if method not in ("exact", "binned"):
        raise ValueError(f'method must be "exact" or "binned", got {method!r}')
    if method == "binned":
        refuse_gradient(images, "images", 'which method "binned" does not have ("exact" does)')
    x = to_tensor(images, ndim=4, name="images").to(torch.float64)
    n, c, h, w = x.shape
    u = x.transpose(2, 3).reshape(n * c, h * w)
    v = x.reshape(n * c, h * w)
    z, log_scale = _whiten(torch.stack([u, v], dim=-1))
    kernel_sum = _exact_sum(z) if method == "exact" else _binned_sum(z)
    m0 = torch.log(kernel_sum / (h * w)) - log_scale[:, None]
    return torch.where(torch.isfinite(log_scale)[:, None], m0, 0.0).reshape(n, c, h, w)


def _whiten(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (B, D, 2) in which the kernel is exp(-|z - z'|^2 / 2), and the log of its
    normalisation (B,), which is infinite where all pairs coincide.

    A direction in which the pairs do not vary gets coordinate 0: it carries no density.
    """
    D = pairs.shape[1]
    scott = D ** (-1 / 6)
    centred = pairs - pairs.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred / max(D - 1, 1)
    variance, axes = torch.linalg.eigh(covariance)  # ascending
    # Round-off of the mean and the products leaves this much variance on a constant channel.
    floor = 1e-13 * (pairs.square().mean(dim=(1, 2)) + torch.finfo(pairs.dtype).tiny)
    varies = variance > torch.maximum(1e-12 * variance[:, 1], floor)[:, None]
    width = torch.where(varies, variance.sqrt() * scott, 1.0)
    z = torch.where(varies[:, None], centred @ axes / width[:, None], 0.0)
    dimensions = varies.sum(dim=1)
    log_scale = 0.5 * math.log(2 * math.pi) * dimensions.to(width) + width.log().sum(dim=1)
    return z, torch.where(dimensions > 0, log_scale, math.inf)


def _exact_sum(z: Tensor) -> Tensor:
    """Sum over k' of exp(-|z_k - z_k'|^2 / 2), (B, D). At least 1, so its logarithm is safe."""
    total = torch.empty(z.shape[:2], dtype=z.dtype, device=z.device)
    with progress.stage("log-density", total=len(z)) as stage:
        for channel, points in enumerate(z):
            half_square = 0.5 * points.square().sum(dim=1)
            for start in range(0, len(points), BATCH_ROWS):
                rows = slice(start, start + BATCH_ROWS)
                exponent = points[rows] @ points.T
                exponent -= half_square[rows, None]
                exponent -= half_square
                total[channel, rows] = exponent.exp_().sum(dim=1)
            stage.update()
    return total


def _binned_sum(z: Tensor) -> Tensor:
    """The sum of `_exact_sum` by linear binning, separable smoothing and linear interpolation.

    Binning and interpolating each widen the kernel by CELL^2/6 on average; the smoothing kernel is
    made narrower by as much. A pair's own contribution, where the error would be largest, is known
    exactly and replaced by 1.
    """
    position = z - z.amin(dim=1, keepdim=True)
    wide = position.amax(dim=(1, 2)) > WIDE
    if bool(wide.any()):
        position[wide] = _without_gaps(z[wide])
    extent = position.amax(dim=(1, 2)) / CELL
    total = torch.empty(z.shape[:2], dtype=z.dtype, device=z.device)
    for channels in torch.split(extent.argsort(), BATCH_CHANNELS):  # of like size: one grid for all
        cells = int(extent[channels].max()) + 2  # a point in the last has a right neighbour
        total[channels] = _binned_chunk(position[channels] / CELL, cells)
    return total


def _binned_chunk(position: Tensor, cells: int) -> Tensor:
    """The sums of channels (B, D) at positions (B, D, 2) in units of a cell."""
    B = len(position)
    left = position.floor()
    share = position - left  # weight of the right neighbour, (B, D, 2)
    corners, weights = _bilinear(left.long(), share, cells)

    histogram = torch.zeros(B, cells * cells, dtype=position.dtype, device=position.device)
    for corner, weight in zip(corners, weights, strict=True):
        histogram.scatter_add_(1, corner, weight)

    variance = 1 - CELL**2 / 3
    offset = CELL * torch.arange(cells, dtype=position.dtype, device=position.device)
    kernel = torch.exp(-0.5 * (offset[:, None] - offset).square() / variance) / math.sqrt(variance)
    # No term is negative, so that float32 keeps the sums to 1e-6 of themselves.
    kernel32, histogram32 = kernel.to(torch.float32), histogram.to(torch.float32)
    smooth32 = kernel32 @ histogram32.reshape(B, cells, cells) @ kernel32
    smooth = smooth32.reshape(B, -1).to(position.dtype)
    total = torch.zeros_like(position[..., 0])
    for corner, weight in zip(corners, weights, strict=True):
        total += weight * smooth.gather(1, corner)

    own_axis = kernel[0, 0] + 2 * share * (1 - share) * (kernel[0, 1] - kernel[0, 0])
    return (total - own_axis.prod(dim=-1)).clamp_min(0) + 1


def _without_gaps(z: Tensor) -> Tensor:
    """Coordinates from 0 in which no two neighbours along an axis are more than GAP apart: across
    a gap the kernel is below exp(-GAP^2 / 2), and far outliers would make the grid huge."""
    order = z.argsort(dim=1)
    steps = torch.zeros_like(z)
    steps[:, 1:] = z.gather(1, order).diff(dim=1).clamp_max(GAP)
    return torch.zeros_like(z).scatter_(1, order, steps.cumsum(dim=1))


def _bilinear(left: Tensor, share: Tensor, cells: int) -> tuple[list[Tensor], list[Tensor]]:
    """Flat indices and weights of the four grid points around each pair, each (B, D)."""
    corners, weights = [], []
    for i in (0, 1):
        for j in (0, 1):
            corners.append((left[..., 0] + i) * cells + left[..., 1] + j)
            along_u = share[..., 0] if i else 1 - share[..., 0]
            along_v = share[..., 1] if j else 1 - share[..., 1]
            weights.append(along_u * along_v)
    return corners, weights
