"""Posterior means pixel by pixel over training images, streamed.

With D(x)_q the answer at pixel q and a set Omega_q of pixels around it,

    D(x)_q = sum over i of w_i^q x_i[q],
    w_i^q proportional to exp(-sum over p in Omega_q of (x[p] - x_i[p])^2 / (2 s^2)),

normalised over all training images x_i. With Omega_q all pixels it is the posterior mean under the
empirical density (densities/empirical.py). The squared differences are pooled over Omega_q by
matrix products, exactly: no digits are lost in the difference of large squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

# From squared differences (h, w, m), to their sums over Omega_q at each pixel q, (h w, m).
Pool = Callable[[Tensor], Tensor]

BLOCK = 2**23  # squared differences at a time


def posterior_mean(x: Tensor, images: Tensor, s: float, pool: Pool, block: int = BLOCK) -> Tensor:
    """D of noisy images x (b, c, h, w) at noise level s > 0, over training images (n, c, h, w).
    Shape, dtype and device of x. Memory is that of some blocks, whatever b and n."""
    b, c, h, w = x.shape
    rows = max(1, min(b, block // (h * w)))
    count = max(1, block // (h * w * rows))
    answers = [
        streamed_mean(_parts(part, torch.split(images.to(x), count), s, pool))
        for part in torch.split(x, rows)
    ]
    return torch.cat(answers, dim=1).reshape(h, w, b, c).permute(2, 3, 0, 1).contiguous()


def _parts(
    x: Tensor, blocks: Iterable[Tensor], s: float, pool: Pool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logarithms of the weights (h w, b, n) and values (h w, n, c) of each block of images."""
    b, c, h, w = x.shape
    queries = x.permute(1, 2, 3, 0)[..., None]  # (c, h, w, b, 1)
    for images in blocks:
        keys = images.permute(1, 2, 3, 0)[..., None, :]  # (c, h, w, 1, n)
        squares = (queries[0] - keys[0]).square_()
        for channel in range(1, c):
            squares += (queries[channel] - keys[channel]).square_()
        logits = pool(squares.reshape(h, w, -1)).reshape(h * w, b, -1).div_(-2 * s**2)
        yield logits, images.permute(2, 3, 0, 1).reshape(h * w, -1, c)


def streamed_mean(parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean (q, b, c) of values with weights softmax(logits) over all parts together, of which
    each has logits (q, b, n), overwritten, and values (q, n, c). Only one part is in memory."""
    largest = total = mean = None
    for logits, values in parts:
        highest = logits.amax(dim=2, keepdim=True)
        if largest is None or total is None or mean is None:
            largest, total, mean = highest, 0 * highest, 0 * (highest * values[:, :1])
        new = torch.maximum(largest, highest)
        kept = (largest - new).exp()
        weights = logits.sub_(new).exp_()
        total = kept * total + weights.sum(dim=2, keepdim=True)
        mean = kept * mean + weights @ values
        largest = new
    if mean is None or total is None:
        raise ValueError("there are no training images")
    return mean / total
