"""Estimates of the density of an image's pixel pairs, by name in kinds.PIXEL_DENSITIES.

Each module defines `estimate`: the log-density of channels (B, h, w) at their own pairs, in
float64, on their device. No channel is constant (pixel_density.py).
"""

from __future__ import annotations

import torch
from torch import Tensor


def pairs_of(channels: Tensor) -> Tensor:
    """The pairs (u_k, v_k) of channels (B, h, w), as (B, h w, 2): the k-th pixel in column-major
    and in row-major order."""
    B = len(channels)
    return torch.stack([channels.mT.reshape(B, -1), channels.reshape(B, -1)], dim=-1)
