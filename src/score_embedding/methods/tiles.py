"""Large images tile by tile, blended so that no seam shows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_embedding import progress

# Pixels. A network that was trained on small crops normalises by what it sees: on whole photographs
# it is a little worse than on tiles. An overlap of 32 is no better.
SIDE, OVERLAP = 128, 16


def blended(
    image: Tensor, estimate: Callable[[Tensor], Tensor], side: int = SIDE, overlap: int = OVERLAP
) -> Tensor:
    """`estimate`, of tiles (c, h, w) of at most side x side pixels, over an image (c, H, W).

    Where tiles overlap, their weights fall linearly to their edges: what differs between two tiles
    passes from one into the other over `overlap` pixels. An image of one tile is
    evaluated unchanged.
    """
    _, H, W = image.shape
    (rows, height), (columns, width) = (_tiles(length, side, overlap) for length in (H, W))
    if len(rows) == len(columns) == 1:
        return estimate(image)
    total, weights = torch.zeros_like(image), torch.zeros_like(image[0])
    with progress.stage("denoising", total=len(rows) * len(columns)) as stage:
        for top in rows:
            for left in columns:
                place = (slice(top, top + height), slice(left, left + width))
                down = _ramp(height, overlap, top > 0, top + height < H)
                right = _ramp(width, overlap, left > 0, left + width < W)
                weight = (down[:, None] * right).to(image)
                total[:, *place] += weight * estimate(image[:, *place])
                weights[place] += weight
                stage.update()
    return total / weights


def _tiles(length: int, side: int, overlap: int) -> tuple[list[int], int]:
    """Where tiles start along an axis, and their length: as few as reach from end to end, evenly
    spaced, no longer than they need to be."""
    if length <= side:
        return [0], length
    count = -(-(length - overlap) // (side - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    return [round(k * (length - size) / (count - 1)) for k in range(count)], size


def _ramp(length: int, overlap: int, rises: bool, falls: bool) -> Tensor:
    """Weights (length,) of a tile along an axis: 1, but rising and falling at inner edges."""
    up = ((torch.arange(length, dtype=torch.float32, device="cpu") + 0.5) / overlap).clamp(max=1)
    weight = up if rises else torch.ones(length, dtype=torch.float32, device="cpu")
    return torch.minimum(weight, up.flip(0)) if falls else weight
