"""Error of a denoiser at each noise level, and its agreement with another denoiser.

The mean squared error of a denoiser on images that it was not fitted to is what training lowers, at
each noise level. It is measured on the same noisy images, whatever the denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from score_embedding.errors import DivergenceError
from score_embedding.evaluation.held_out import Denoise, with_noise

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # of images in [0, 1]
_BATCH = 64


def noisy(images: Tensor, level: float) -> Tensor:
    """Images (n, c, h, w) with Gaussian noise of this level, that of image i from the seed i."""
    return torch.stack([with_noise(image, level, i) for i, image in enumerate(images)])


@torch.no_grad()
def outputs(denoise: Denoise, images: Tensor, level: float, batch: int = _BATCH) -> Tensor:
    """`denoise` of `noisy` images (n, c, h, w) in batches, like images. Raises DivergenceError
    where an output is not finite."""
    found = [
        denoise(part, part.new_full((len(part),), level))
        for part in torch.split(noisy(images, level), batch)
    ]
    answer = torch.cat(found)
    if not answer.isfinite().all():
        raise DivergenceError(f"the denoised images at noise {level:g} are not finite")
    return answer


def errors(
    denoise: Denoise, images: Tensor, levels: Sequence[float] = LEVELS
) -> dict[float, float]:
    """The mean squared error on images (n, c, h, w), over all pixels, at each noise level. Tables
    show it times 1000."""
    return {level: mean_squared_error(outputs(denoise, images, level), images) for level in levels}


def mean_squared_error(answers: Tensor, images: Tensor) -> float:
    """Over all pixels of all images (n, c, h, w), summed in float64."""
    return float((answers - images).double().square().mean())


def r_squared(answers: Tensor, references: Tensor) -> float:
    """Agreement of two denoisers' outputs (n, c, h, w) for the same noisy images: the coefficient
    of determination of each image,

        1 - |a - b|^2 / |b - mean(b)|^2,

    a the flattened output and b that of the reference, mean(b) the mean of its pixels; the median
    over the images, as Kamb and Ganguli (2024) compare closed forms with trained networks. At most
    1; negative where a constant image would agree better. A reference that is constant has none and
    is left out; NaN if all are.
    """
    a, b = answers.double().flatten(1), references.double().flatten(1)
    total = (b - b.mean(dim=1, keepdim=True)).square().sum(dim=1)
    rest = (a - b).square().sum(dim=1)
    varied = total > 0
    return float((1 - rest[varied] / total[varied]).quantile(0.5)) if varied.any() else float("nan")
