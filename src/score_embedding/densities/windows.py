"""Estimates of overlapping windows, averaged into an image.

A density of small arrays is applied to an image of any size through its windows: each window is
replaced by its posterior mean, and a pixel is the average over the windows that cover it. The
average is not the posterior mean under one density of whole images, which has no closed form (Zoran
and Weiss 2011), unless the image is a single window.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops

BATCH_PIXELS = 2**17  # of the windows at a time, so that memory does not grow with the image


def average(
    images: Tensor,
    size: tuple[int, int],
    stride: int,
    estimate: Callable[[Tensor], Tensor],
    batch_pixels: int = BATCH_PIXELS,
) -> Tensor:
    """`estimate`, of windows (L, c * h * w) of this size every `stride` pixels, over images
    (n, c, H, W), averaged where they overlap. Shape and dtype of the images.

    A strip of rows at a time. Where the windows do not come out even, or the image is smaller than
    one, it is continued by its mirror image.
    """
    n, _, H, W = images.shape
    h, w = size
    padded_h, padded_w = _covered(H, h, stride), _covered(W, w, stride)
    images = crops.continued(images, padded_h, padded_w)
    total = torch.zeros_like(images)
    count = torch.zeros_like(images[:1, :1])
    rows = max(1, batch_pixels // (n * stride * padded_w)) * stride  # of first rows in a strip
    tops = range(0, padded_h - h + 1, rows)
    with progress.stage("denoising", total=len(tops), least=3) as stage:
        for top in tops:
            strip = slice(top, min(top + rows - stride + h, padded_h))
            there = images[:, :, strip]
            arrays = F.unfold(there, size, stride=stride).transpose(1, 2).contiguous()
            found = estimate(arrays.flatten(0, 1)).view(arrays.shape).transpose(1, 2)
            shape = (there.shape[2], there.shape[3])
            total[:, :, strip] += F.fold(found, shape, size, stride=stride)
            ones = found.new_ones(1, h * w, found.shape[2])
            count[:, :, strip] += F.fold(ones, shape, size, stride=stride)
            stage.update()
    return (total / count)[:, :, :H, :W]


def _covered(length: int, window: int, stride: int) -> int:
    """The smallest length from `length` on that windows cover evenly."""
    steps = -(-max(length - window, 0) // stride)
    return window + steps * stride
