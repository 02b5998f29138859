"""Windows of an image, and the image again as the average of its overlapping windows.

A density of small arrays speaks for an image of any size through its windows: each is given its
posterior mean, and every pixel the average of what the windows that cover it say. That average is
not the posterior mean under one density of whole images, which has no closed form (Zoran and Weiss
2011); for an image that is a single window it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import progress
from score_embedding.data import crops

_PIXELS = 2**17  # windows of so many pixels at a time, so that memory does not grow with the image


def average(
    images: Tensor, size: tuple[int, int], stride: int, estimate: Callable[[Tensor], Tensor]
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
    rows = max(1, _PIXELS // (n * stride * padded_w)) * stride  # of first rows in a strip
    tops = range(0, padded_h - h + 1, rows)
    with progress.stage("denoising", total=len(tops), least=3) as stage:
        for top in tops:
            strip = slice(top, min(top + rows - stride + h, padded_h))
            there = images[:, :, strip]
            arrays = F.unfold(there, size, stride=stride).transpose(1, 2).contiguous()
            found = estimate(arrays.flatten(0, 1)).view(arrays.shape).transpose(1, 2)
            shape = (there.shape[2], there.shape[3])
            total[:, :, strip] += F.fold(found, shape, size, stride=stride)
            ones = torch.ones(1, h * w, found.shape[2]).to(images)
            count[:, :, strip] += F.fold(ones, shape, size, stride=stride)
            stage.update()
    return (total / count)[:, :, :H, :W]


def _covered(length: int, window: int, stride: int) -> int:
    """The smallest length from `length` on that windows cover evenly."""
    steps = -(-max(length - window, 0) // stride)
    return window + steps * stride
