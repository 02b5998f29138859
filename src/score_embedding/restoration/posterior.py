"""The posterior mean of an image under noise of any model.

Brightness is stabilised, so that the noise is the same everywhere; the image is denoised, and the
brightness restored. The bias of noise of one level that is cut off at black and white is undone
(clipping.py); and what was taken away is checked against the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from score_embedding.restoration import clipping, consistency
from score_embedding.restoration.noise import Noise, Stationary
from score_embedding.restoration.stabilisation import stabilisation, stationary

Answer = Callable[[Tensor, Stationary], Tensor]  # a stabilised image (c, h, w) and its noise


def restored(x: Tensor, noise: Noise, answer: Answer, checked: bool = True) -> Tensor:
    """An image x (c, h, w) without its noise; unchanged at level 0. Not clipped. Of three equal
    channels one is denoised. `checked`: what was taken away is checked against the noise, which a
    sample of the posterior, unlike its mean, need not pass."""
    if noise.level == 0:
        return x
    if len(x) == 3 and torch.equal(x[0], x[1]) and torch.equal(x[0], x[2]):
        grey = restored(x[:1], _of_one_channel(noise), answer, checked)
        return grey.expand_as(x).clone()
    known = stabilisation(noise, float(x.min()), float(x.max()))
    clipped = checked and known is None and clipping.is_clipped(x)
    if known is None:
        found = answer(x, stationary(noise, noise.deviations[:, 0]))
        if clipped:
            found = clipping.restored(found, consistency.deviation(found, noise))
    else:
        found = known.restored(answer(known.stabilised(x), known.noise))
    return consistency.consistent(x, found, noise, clipped) if checked else found


def _of_one_channel(noise: Noise) -> Noise:
    return replace(
        noise, deviations=noise.deviations[:1], correlation=noise.correlation[:1, :1].copy()
    )
