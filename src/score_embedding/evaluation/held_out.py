"""Denoising of held-out photographs: PSNR and SSIM at each noise level.

Each photograph is given the same noise at each level, whatever the method and its seed. PSNR and
SSIM are those of the denoised photograph, clipped to [0, 1], against the original.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from score_embedding.arrays import normal
from score_embedding.errors import DivergenceError
from score_embedding.evaluation import metrics

Denoise = Callable[[Tensor, Tensor], Tensor]  # (b, c, h, w), noise levels (b,) -> (b, c, h, w)


@dataclass(frozen=True)
class Measured:
    """Per photograph and level: noisy and denoised images (c, h, w), PSNR, SSIM and the mean
    squared error without clipping; the seconds that denoising took, of all together."""

    names: list[str]
    levels: tuple[float, ...]
    noisy: list[list[Tensor]]
    denoised: list[list[Tensor]]
    psnr: list[list[float]]
    ssim: list[list[float]]
    mse: list[list[float]]
    seconds: float

    @property
    def seconds_each(self) -> float:
        """Of one photograph at one level, the mean."""
        return self.seconds / (len(self.names) * len(self.levels))

    def means(self) -> dict[str, float]:
        """psnr_LEVEL, ssim_LEVEL and mse_LEVEL, the means over the photographs."""
        found = {}
        for name, values in (("psnr", self.psnr), ("ssim", self.ssim), ("mse", self.mse)):
            for level, column in zip(self.levels, zip(*values, strict=True), strict=True):
                found[f"{name}_{level:g}"] = float(np.mean(column))
        return found


def columns(levels: tuple[float, ...]) -> list[str]:
    """The names of `Measured.means` that every version has written."""
    return [f"{name}_{level:g}" for name in ("psnr", "ssim") for level in levels]


def with_noise(photograph: Tensor, level: float, number: int) -> Tensor:
    """The photograph (c, h, w) with Gaussian noise of this level; `number` is its seed."""
    seed = int(np.random.SeedSequence([number, round(1e6 * level)]).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    z = normal(photograph.shape, generator).to(photograph)
    return photograph + level * z


@torch.no_grad()
def measure(
    denoise: Denoise, photographs: dict[str, Tensor], levels: tuple[float, ...]
) -> Measured:
    """Every photograph (c, h, w) at every level. Raises DivergenceError where an answer is not
    finite."""
    noisy: list[list[Tensor]] = []
    denoised: list[list[Tensor]] = []
    seconds = 0.0
    for number, (name, photograph) in enumerate(photographs.items()):
        noisy.append([with_noise(photograph, level, number) for level in levels])
        denoised.append([])
        for y, level in zip(noisy[-1], levels, strict=True):
            started = time.perf_counter()
            answer = denoise(y[None], y.new_full((1,), level))[0]
            finite = bool(torch.isfinite(answer).all())  # when a device has done it
            seconds += time.perf_counter() - started
            if not finite:
                raise DivergenceError(f"{name}: denoised at noise {level:g} it is not finite")
            denoised[-1].append(answer)
    truths = list(photographs.values())
    pairs = [
        [metrics.clipped(x, truth) for x in row]
        for row, truth in zip(denoised, truths, strict=True)
    ]
    return Measured(
        list(photographs),
        levels,
        noisy,
        denoised,
        [[psnr for psnr, _ in row] for row in pairs],
        [[ssim for _, ssim in row] for row in pairs],
        [
            [float((x - truth).double().square().mean()) for x in row]
            for row, truth in zip(denoised, truths, strict=True)
        ],
        seconds,
    )
