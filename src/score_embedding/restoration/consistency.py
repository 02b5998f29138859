"""What is taken from an image, checked against the noise it is said to have.

The residual y - D(y) must be noise alone. Where its mean square over a neighbourhood is more than
the noise's, it holds part of the image too, and the posterior mean and the image are averaged: of
a residual whose mean square is q times the noise's variance, the share (q - 1) / q is given back
(James and Stein 1961), so that on average the result is nowhere further from the truth than the
noisy image; and all of it from q = ALL_FROM on, where little of it is noise. No pixel moves by more
than a few standard deviations of its noise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding.restoration.noise import Noise

SIDE = 9  # pixels along a neighbourhood
CONFIDENCE = 3.0  # standard deviations of q that noise alone may have above 1
ALL_FROM = 2.5  # q from which the image is kept
FARTHEST = 4.0  # standard deviations of the noise that a pixel may move
_LEAST = 1e-6


def consistent(y: Tensor, answer: Tensor, noise: Noise) -> Tensor:
    """The denoised image `answer` (c, h, w) of y with as much of y given back as its noise
    demands."""
    deviation = _deviation(answer, noise)
    residual = y - answer
    power = _mean_square(residual) / _mean_square(deviation)
    excess = (power - 1 - CONFIDENCE * _spread(noise)).clamp_min(0)
    share = (excess / (1 + excess) * ALL_FROM / (ALL_FROM - 1)).clamp_max(1)
    farthest = FARTHEST * deviation
    return y - torch.minimum(torch.maximum(residual * (1 - share), -farthest), farthest)


def _mean_square(x: Tensor) -> Tensor:
    """Over the channels and the neighbourhood of each pixel of x (c, h, w), (1, h, w)."""
    return F.avg_pool2d(_padded(x.square().mean(dim=0, keepdim=True)), SIDE, stride=1)


def _deviation(x: Tensor, noise: Noise) -> Tensor:
    """The standard deviation of the noise at each pixel of x (c, h, w)."""
    found = noise.at(x.detach().cpu().numpy().astype(np.float64))
    if noise.scale is not None:
        found = found * noise.scale
    return torch.from_numpy(found).to(x).clamp_min(_LEAST)


def _spread(noise: Noise) -> float:
    """The standard deviation of the mean square of noise over a neighbourhood, its own mean 1."""
    numbers = noise.channels * SIDE**2
    return math.sqrt(2 * float(np.sum(noise.correlation**2)) / numbers)


def _padded(x: Tensor) -> Tensor:
    half = SIDE // 2
    mode = "reflect" if min(x.shape[1:]) > half else "replicate"
    return F.pad(x[None], (half, half, half, half), mode=mode)[0]
