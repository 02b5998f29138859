"""Images of few counts: the noisy image and an estimate of it, averaged, are denoised again.

At one count a pixel no function of the counts has noise that is nearly Gaussian. The average
a y + (1 - a) e of the counts y and an estimate e has the mean of y and a^2 times its variance: it
is like an image of 1 / a^2 times as many counts, whose root is stabilised well. Each such average
is denoised, with `a` falling from 1 on, and the answer is the next e (Azzari and Foi 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from score_embedding import progress
from score_embedding.restoration.noise import Noise

ENOUGH = 10.0  # counts, on average, at which the noise of their root is near enough to Gaussian
STEP, LEAST = 0.2, 0.1  # of `a` between two averages, at most, and its least value
_COST = 2.0  # of `final`, as a multiple of that of `draft`

Denoise = Callable[[Tensor, Noise], Tensor]  # an image (c, h, w) and its noise -> (c, h, w)


def restored(x: Tensor, noise: Noise, draft: Denoise, final: Denoise) -> Tensor:
    """An image x (c, h, w) of counts, with this noise: denoised by `draft` in all steps but the
    last, by `final` in that. With ENOUGH counts `final` is the only one."""
    steps, average = shares(x, noise), x
    *drafts, last = progress.parts([1.0] * (len(steps) - 1) + [_COST])
    for (share, following), part in zip(pairwise(steps), drafts, strict=True):
        with part:
            estimate = draft(average, noise.times(share))
        average = torch.lerp(estimate, x, following)
    with last:
        return final(average, noise.times(steps[-1]))


def shares(x: Tensor, noise: Noise) -> list[float]:
    """The shares `a` of the image in the averages, from 1 on. An image whose counts have Gaussian
    noise of variance b added, in counts, is like one with b counts more."""
    mean = np.full((noise.channels, 1), max(0.0, float(x.mean())))
    slope = float(np.mean(noise.slope))
    counts = float(np.mean(noise.at(mean) ** 2)) / slope**2 if slope > 0 else math.inf
    least = min(1.0, max(LEAST, math.sqrt(counts / ENOUGH)))
    steps = math.ceil((1 - least) / STEP)
    return [float(share) for share in np.linspace(1, least, 1 + steps)]
