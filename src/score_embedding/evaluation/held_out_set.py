"""Denoising of many held-out images of a data set: the mean squared error at each noise level.

The noise of an image is that of held_out.py. The error is that without clipping, which is
what a denoiser is trained for; the PSNR is that of the answer clipped to [0, 1], the mean over the
images. SSIM is measured only of the few images that a report shows: it takes longer than denoising.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding import progress
from score_embedding.errors import DivergenceError
from score_embedding.evaluation import held_out
from score_embedding.evaluation.held_out import Denoise, Measured, with_noise

SHOWN = 4  # images that are kept with their noise and their answers
BATCH = 256  # images that are denoised together
_LEAST_MSE = 1e-10  # 100 dB: one perfect answer does not make the mean PSNR infinite


@dataclass(frozen=True)
class MeasuredSet:
    """Of `count` images: mean squared error and PSNR at each level, the seconds that denoising
    took, of all together, and the first SHOWN images one by one."""

    count: int
    levels: tuple[float, ...]
    mse: tuple[float, ...]
    psnr: tuple[float, ...]
    seconds: float
    shown: Measured

    def means(self) -> dict[str, float]:
        """psnr_LEVEL and mse_LEVEL."""
        columns = (("psnr", self.psnr), ("mse", self.mse))
        return {
            f"{name}_{level:g}": value
            for name, values in columns
            for level, value in zip(self.levels, values, strict=True)
        }


@torch.no_grad()
def measure(denoise: Denoise, images: Tensor, levels: tuple[float, ...]) -> MeasuredSet:
    """Images (n, c, h, w) at every level, in batches. Raises DivergenceError where an answer is not
    finite."""
    errors: dict[float, list[Tensor]] = {level: [] for level in levels}
    clipped: dict[float, list[Tensor]] = {level: [] for level in levels}
    seconds = 0.0
    with progress.stage("held-out images", total=len(images) * len(levels)) as stage:
        for first in range(0, len(images), BATCH):
            truths = images[first : first + BATCH]
            for level in levels:
                y = torch.stack([with_noise(x, level, first + i) for i, x in enumerate(truths)])
                started = time.perf_counter()
                answer = denoise(y, y.new_full((len(y),), level))
                finite = bool(torch.isfinite(answer).all())  # when a device has done it
                seconds += time.perf_counter() - started
                if not finite:
                    raise DivergenceError(f"held-out images: not finite at noise {level:g}")
                errors[level].append(_mse(answer, truths))
                clipped[level].append(_mse(answer.clamp(0, 1), truths))
                stage.update(len(y))
    psnr = [-10 * torch.cat(clipped[s]).clamp_min(_LEAST_MSE).log10().mean() for s in levels]
    return MeasuredSet(
        len(images),
        levels,
        tuple(float(torch.cat(errors[level]).mean()) for level in levels),
        tuple(float(value) for value in psnr),
        seconds,
        held_out.measure(denoise, _named(images[:SHOWN]), levels),
    )


def _named(images: Tensor) -> dict[str, Tensor]:
    return {f"held-out image {i + 1}": image for i, image in enumerate(images)}


def _mse(x: Tensor, truth: Tensor) -> Tensor:
    """Of each image of (b, c, h, w), in double precision on the CPU, (b,)."""
    return (x - truth).cpu().double().square().flatten(1).mean(dim=1)
