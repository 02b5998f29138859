"""Similarity of a sample to its ground truth, under two normalisations that are never mixed.

`_minmax`: the sample is scaled so that its smallest value is 0 and its largest 1, as in the paper.
    It forgives a wrong brightness and contrast.
`_clipped`: the sample unchanged but clipped to [0, 1].

The ground truth, min-max scaled when it was loaded, is not changed. SSIM is scikit-image's (its
7 x 7 window, or the largest odd one that fits), data range 1; PSNR is 10 log10(1 / MSE) in dB.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

LEAST_SIDE = 3  # of an image that has an SSIM, the side of its smallest window
NAMES = [f"{metric}_{how}" for how in ("minmax", "clipped") for metric in ("ssim", "psnr", "mse")]


def minmax(x: Tensor) -> Tensor:
    """Each image of (b, c, h, w) scaled to [0, 1]; a constant one is clipped instead."""
    low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
    return ((x - low) / (high - low)).where(high > low, x.clamp(0, 1))


def nearest(samples: Tensor, images: Tensor) -> Tensor:
    """The index (b,) of the image of (n, c, h, w) that each sample of (b, c, h, w), min-max scaled,
    is nearest to in MSE."""
    distance = torch.cdist(
        minmax(samples).flatten(1),
        images.flatten(1),
        compute_mode="donot_use_mm_for_euclid_dist",  # a matrix product would lose digits
    )
    return distance.argmin(dim=1)


def first_reaching(
    rows: list[dict[str, float]], target: float, column: str = "ssim_minmax"
) -> dict[str, float] | None:
    """The first row of a run's metrics.csv at or above the target; None when there is none."""
    return next((row for row in rows if row.get(column, -math.inf) >= target), None)


def evaluate(samples: Tensor, images: Tensor) -> dict[str, float]:
    """The six metrics of NAMES, each the mean over the b pairs of (b, c, h, w).

    PSNR is taken from the mean MSE, so that one perfect image does not make it infinite.
    """
    values: dict[str, float] = {}
    for how, shown in (("minmax", minmax(samples)), ("clipped", samples.clamp(0, 1))):
        pairs = list(zip(shown.cpu().double().numpy(), images.cpu().double().numpy(), strict=True))
        mse = float(np.mean([np.mean((x - truth) ** 2) for x, truth in pairs]))
        values[f"ssim_{how}"] = float(np.mean([_ssim(x, truth) for x, truth in pairs]))
        values[f"psnr_{how}"] = -10 * math.log10(mse) if mse > 0 else math.inf
        values[f"mse_{how}"] = mse
    return values


def format_metrics(values: dict[str, float]) -> str:
    """The metrics of an evaluation in a few words, for the log."""
    if "ssim_minmax" in values:
        return f"SSIM {values['ssim_minmax']:.4f} (min-max), {values['ssim_clipped']:.4f} (clipped)"
    found = {name: value for name, value in values.items() if name.startswith("psnr_")}
    levels = " / ".join(name.removeprefix("psnr_") for name in found)
    return f"PSNR {' / '.join(f'{v:.2f}' for v in found.values())} dB at noise {levels}"


def clipped(x: Tensor, truth: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM of an image (c, h, w), clipped to [0, 1], against the truth."""
    one, other = (image.cpu().double().numpy() for image in (x.clamp(0, 1), truth))
    mse = float(np.mean((one - other) ** 2))
    return -10 * math.log10(mse) if mse > 0 else math.inf, _ssim(one, other)


def _ssim(x: np.ndarray, truth: np.ndarray) -> float:
    side = min(x.shape[1:])
    window = min(7, side if side % 2 else side - 1)
    if window < LEAST_SIDE:
        return math.nan
    return float(structural_similarity(x, truth, win_size=window, data_range=1.0, channel_axis=0))
