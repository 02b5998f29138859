"""The posterior mean of an image under noise of any model.

Brightness is stabilised, so that the noise is the same everywhere; the image is denoised, and the
brightness restored; with few counts more than once (few_counts.py). The bias of noise of one level
that is cut off at black and white is undone (clipping.py); and what was taken away is checked
against the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from score_embedding.restoration import clipping, consistency, few_counts
from score_embedding.restoration.noise import Noise, Stationary
from score_embedding.restoration.stabilisation import stabilisation, stationary

Answer = Callable[[Tensor, Stationary], Tensor]  # a stabilised image (c, h, w) and its noise


def restored(x: Tensor, noise: Noise, answer: Answer, draft: Answer | None = None) -> Tensor:
    """An image x (c, h, w) without its noise; unchanged at level 0. Not clipped. Of three equal
    channels one is denoised. `draft` makes the estimates that few counts are averaged with. None:
    `answer` is a sample of the posterior, which is neither averaged nor, since it need not be close
    to the mean, checked against the noise."""
    if noise.level == 0:
        return x
    if len(x) == 3 and torch.equal(x[0], x[1]) and torch.equal(x[0], x[2]):
        grey = restored(x[:1], _of_one_channel(noise), answer, draft)
        return grey.expand_as(x).clone()
    once = partial(_stabilised, answer=answer)
    if draft is None:
        return once(x, noise)
    if noise.counts:
        found = few_counts.restored(x, noise, partial(_stabilised, answer=draft), once)
    else:
        found = once(x, noise)
    clipped = noise.is_constant and clipping.is_clipped(x)
    return consistency.consistent(x, found, noise, clipped)


def _stabilised(x: Tensor, noise: Noise, answer: Answer) -> Tensor:
    known = stabilisation(noise, float(x.min()), float(x.max()))
    if known is None:
        return answer(x, stationary(noise, noise.deviations[:, 0]))
    return known.restored(answer(known.stabilised(x), known.noise))


def _of_one_channel(noise: Noise) -> Noise:
    return replace(
        noise, deviations=noise.deviations[:1], correlation=noise.correlation[:1, :1].copy()
    )
