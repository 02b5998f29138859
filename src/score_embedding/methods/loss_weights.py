"""Weights of the squared error at each noise level (training.loss_weight).

Min-SNR (Hang et al. 2023) limits the weight of little noise. For the clean image x_0 in [-1, 1],
whose signal-to-noise ratio in x_t = alpha x_0 + sigma z is SNR = alpha^2 / sigma^2, the loss is

    min(SNR, 5) |D(x_t) - x_0|^2.

In terms of the noise, z - z' = -(alpha / sigma) (x_0 - D), so the same loss is
min(SNR, 5) / SNR |z' - z|^2. For images in [0, 1] with noise of level s, x_0 = 2 image - 1 has
noise of level 2 s: SNR = 1 / (4 s^2), and its squared error is four times that of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from score_embedding.methods.preconditioning import Precomputed

LIMIT = 5.0  # the authors' choice


@dataclass(frozen=True)
class LossWeight:
    """Weighted errors, whose mean square is the loss.

    Attributes
    ----------
    image : of a denoiser: its error (b, c, h, w) for images in [0, 1], noise levels (b,), and what
        is known before training.
    noise : of a prediction of the noise: its error (b, c, h, w), and the SNR (b,).
    """

    image: Callable[[Tensor, Tensor, Precomputed], Tensor]
    noise: Callable[[Tensor, Tensor], Tensor]


def _min_snr_of_image(error: Tensor, s: Tensor, known: Precomputed) -> Tensor:
    del known
    snr = 1 / (4 * s**2)
    return 2 * snr.clamp(max=LIMIT).sqrt()[:, None, None, None] * error


def _min_snr_of_noise(error: Tensor, snr: Tensor) -> Tensor:
    return (LIMIT / snr).clamp(max=1).sqrt()[:, None, None, None] * error


LOSS_WEIGHTS = {
    # Each method's own: the residual has unit variance; all steps of a chain count the same.
    "standard": LossWeight(
        lambda error, s, known: known.scaled(error, s, -1), lambda error, _: error
    ),
    "min_snr": LossWeight(_min_snr_of_image, _min_snr_of_noise),
}
