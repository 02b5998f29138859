"""Results that go beyond black and white, as the highlights of floating-point images do."""

from __future__ import annotations

import math
from statistics import NormalDist

from torch import Tensor

NOISE_SPAN = 6.0  # standard deviations that noise may carry single pixels beyond black and white
MORE = 1.5  # times as many pixels beyond white as noise alone carries there


def limits(x: Tensor, found: Tensor, sigma: float) -> tuple[float, float]:
    """What `found`, the result for an image x with noise of level sigma, is clipped to: 0 and 1, or
    the least and the largest pixel of the image where the result is farther beyond these than noise
    explains, as in highlights above white."""
    low = float(x.min()) if _is_beyond(-found, sigma) else 0.0
    return low, float(x.max()) if _is_beyond(found - 1, sigma) else 1.0


def _is_beyond(excess: Tensor, sigma: float) -> bool:
    """Whether an excess over white is more than noise of level sigma explains, even if all of it
    were left and the whole image were white."""
    if excess.max() > NOISE_SPAN * sigma:
        return True
    for deviations in (1, 2, 3):
        tail = 1 - NormalDist().cdf(deviations)
        most = MORE * tail + 3 * math.sqrt(tail / excess.numel())
        if (excess > deviations * sigma).float().mean() > most:
            return True
    return False
