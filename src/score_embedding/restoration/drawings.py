"""Pictures that are drawn: constant in places where a photograph would have noise."""

from __future__ import annotations

import torch
from torch import Tensor

from score_embedding.restoration.quiet_tiles import tiles_of

DARK = 0.08  # brightness within which of black and white a camera may leave no noise
_FLAT_SHARE = 0.3  # of the tiles without any variation: drawn, not photographed
_EMPTY_SHARE = 0.6  # of the tiles that are all black or white
# Text and lines on white: of small tiles, the share that is all black or white, and of the other
# tiles, the share that touches neither. An overexposed photograph has more of those.
_SMALL, _BACKGROUND, _APART = 4, 0.1, 0.25


def is_drawn(x: Tensor, background: bool = True) -> bool:
    """Whether an image (c, h, w) of more than two values has no noise for sure: constant in many
    places that are not clipped, or drawn on a background of black or white. `background`: whether
    the last is proof; of counts it is none, many of which are 0 in the dark."""
    low, high = _extremes(x, 8)
    inside = ((high < 1 - DARK) & (low > DARK)).all(dim=1)
    constant = (high == low).all(dim=1)
    share = float((constant & inside).float().mean())
    if share > _FLAT_SHARE or float((constant & ~inside).float().mean()) > _EMPTY_SHARE:
        return True
    return background and _on_background(x)


def has_two_values(x: Tensor) -> bool:
    return len(torch.unique(x[:, ::3, ::3])) <= 2 and len(torch.unique(x)) <= 2


def _on_background(x: Tensor) -> bool:
    low, high = _extremes(x, _SMALL)
    empty = ((high <= 0) | (low >= 1)).all(dim=1)
    if float(empty.float().mean()) < _BACKGROUND:
        return False
    low, high = _extremes(x, 2 * _SMALL)
    empty = ((high <= 0) | (low >= 1)).all(dim=1)
    apart = ((low > 0) & (high < 1)).all(dim=1)
    return float(apart.sum()) < _APART * float((~empty).sum())


def _extremes(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each channel of tiles of this side, (n, c) each."""
    tiles = tiles_of(x, min(side, *x.shape[1:]), side).flatten(2)
    return tiles.amin(dim=2), tiles.amax(dim=2)
