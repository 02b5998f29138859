"""Rings of spatial frequency: functions of the radius of a frequency, for images of any size."""

from __future__ import annotations

import torch
from torch import Tensor

from score_embedding.dct import dct

_MOST = 8


def count(h: int, w: int) -> int:
    """The number of rings in images of h x w pixels; none of them is empty."""
    return max(1, min(_MOST, min(h, w) // 2))


def at_frequencies(values: Tensor, h: int, w: int) -> Tensor:
    """Values of rings (b, R) at the frequencies of an h x w DCT, (b, h, w): linear between the
    middles of the rings."""
    last = values.shape[1] - 1
    place = (_place(h, w, last + 1).to(values) - 0.5).clamp(0, last)
    below = place.long().clamp_max(max(last - 1, 0))
    above = (below + 1).clamp_max(last)
    return torch.lerp(values[:, below], values[:, above], place - below)


def power(x: Tensor, rings: int) -> Tensor:
    """Mean square of the DCT of images (n, c, h, w) in each ring, (R,)."""
    h, w = x.shape[-2:]
    of_frequency = dct(x).square().mean(dim=(0, 1)).flatten()
    ring = _place(h, w, rings).long().flatten().to(x.device)
    total = x.new_zeros(rings).index_add_(0, ring, of_frequency)
    return total / ring.bincount(minlength=rings)


def _place(h: int, w: int, rings: int) -> Tensor:
    """Radius of each frequency of an h x w DCT in rings, from 0 up to below `rings`."""
    down, right = (torch.arange(side, dtype=torch.float64, device="cpu") / side for side in (h, w))
    return ((down[:, None] ** 2 + right**2) / 2).sqrt() * rings
