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

from torch import Tensor

from score_embedding.restoration import clipping, consistency, few_counts
from score_embedding.restoration.noise import Noise, Stationary
from score_embedding.restoration.stabilisation import stabilisation, stationary

GREY = 2.5 / 255  # largest difference of channels that are taken as grey
Answer = Callable[[Tensor, Stationary], Tensor]  # a stabilised image (c, h, w) and its noise


def restored(x: Tensor, noise: Noise, answer: Answer, draft: Answer | None = None) -> Tensor:
    """An image x (c, h, w) without its noise; unchanged at level 0. Not clipped. Of three channels
    that are grey the mean is denoised, and the tint of the whole is kept. `draft` makes
    the estimates that few counts are averaged with. None: `answer` is a sample of the posterior,
    which is not averaged, and in which no bias is undone. What is taken away is checked against the
    noise in any case: for a sample x of the posterior, y - x is distributed as the noise is."""
    if noise.level == 0:
        return x
    if is_grey(x):
        mean = x[:1] + (x - x[:1]).mean(dim=0)  # exact where all three are equal
        tint = (x - mean).mean(dim=(1, 2), keepdim=True)
        return restored(mean, _of_one_channel(noise), answer, draft) + tint
    once = partial(_stabilised, answer=answer)
    if draft is None:
        return consistency.no_more_than_noise(x, once(x, noise), noise)
    if noise.counts:
        found = few_counts.restored(x, noise, partial(_stabilised, answer=draft), once)
    else:
        found = once(x, noise)
    clipped = noise.is_constant and clipping.is_clipped(x)
    return consistency.consistent(x, found, noise, clipped)


def is_grey(x: Tensor) -> bool:
    """Whether an image (c, h, w) has three channels that differ by round-off of a file at most,
    such as that of JPEG."""
    return len(x) == 3 and bool((x.amax(dim=0) - x.amin(dim=0)).max() <= GREY)


def _stabilised(x: Tensor, noise: Noise, answer: Answer) -> Tensor:
    known = stabilisation(noise, float(x.min()), float(x.max()))
    if known is None:
        return answer(x, stationary(noise, noise.deviations[:, 0]))
    return known.restored(answer(known.stabilised(x), known.noise))


def _of_one_channel(noise: Noise) -> Noise:
    return replace(
        noise, deviations=noise.deviations[:1], correlation=noise.correlation[:1, :1].copy()
    )
