"""The local and the equivariant local score machine (Kamb and Ganguli 2024, arXiv 2412.20292).

The optimal denoiser of the training images under the constraint that the answer at a pixel depends
only on a window of `side` x `side` pixels around it: the posterior mean of that pixel over the
windows of the training images, at the same place (local), or at every place (equivariant). It is
their theory of what convolutional networks learn. Beyond the border pixels are 0, as in a network
that pads with zeros, and the authors' equivariant machine with broken borders; for the local one
this is the same as leaving them out.

The side is a function of the noise level, chosen once on training images (calibration.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding.evaluation.rivals.pixelwise import posterior_mean, streamed_mean

_BLOCK = 2**23  # weights at a time


def local(x: Tensor, images: Tensor, s: float, side: int) -> Tensor:
    """The local machine: noisy images x (b, c, h, w) at noise level s > 0, training images
    (n, c, h, w) and windows of an odd side. Shape, dtype and device of x, bounded memory."""
    h, w = x.shape[2:]
    down, right = _band(h, side, x), _band(w, side, x)

    def pool(squares: Tensor) -> Tensor:
        rows = (down @ squares.reshape(h, -1)).reshape(h, w, -1)
        return right @ rows

    return posterior_mean(x, images, s, pool)


def equivariant(x: Tensor, images: Tensor, s: float, side: int, block: int = _BLOCK) -> Tensor:
    """The equivariant machine, as `local`. Its cost is b n (h w)^2: use few training images."""
    b, c, h, w = x.shape
    centre = images.to(x).mean()  # few digits are then lost in the squares
    queries = _windows(x - centre, side, -centre)  # (b h w, d)
    count = max(1, min(len(images), block // (4 * h * w * max(1, c * side**2))))
    rows = max(1, block // (count * h * w))

    def parts(part: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for some in torch.split(images.to(x), count):
            keys = _windows(some - centre, side, -centre)
            # -|y - p|^2 / (2 s^2) but for |y|^2, which is the same for all windows p
            logits = torch.addmm(keys.square().sum(dim=1) / 2, part, keys.T, beta=-1)
            yield logits.div_(s**2)[None], some.permute(0, 2, 3, 1).reshape(1, -1, c)

    answers = [streamed_mean(parts(part))[0] for part in torch.split(queries, rows)]
    return torch.cat(answers).reshape(b, h, w, c).permute(0, 3, 1, 2).contiguous()


def _band(length: int, side: int, like: Tensor) -> Tensor:
    """(length, length): 1 where two places are at most side // 2 apart."""
    places = torch.arange(length, device=like.device)
    return ((places[:, None] - places).abs() <= side // 2).to(like)


def _windows(images: Tensor, side: int, beyond: Tensor) -> Tensor:
    """All windows of images (n, c, h, w), `beyond` outside, (n h w, c side^2)."""
    reach = side // 2
    padded = F.pad(images, (reach,) * 4, value=float(beyond))
    return F.unfold(padded, side).transpose(1, 2).flatten(0, 1)
