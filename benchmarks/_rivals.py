"""Training-free rivals of `denoise` in benchmarks/image_sets.py, each with a tuned strength.

Wavelets, total variation, non-local means and BM3D are those of score_embedding.restoration.rivals.
OpenCV's fastNlMeansDenoising, and fastNlMeansDenoisingColored for colour, are added where OpenCV is
installed. They take 8 bits only, so noisy images are rounded and clipped for them.

deepinv's own BM3D (`deepinv.models.BM3D(use_legacy=False)`, BSD-3-Clause) is left out. On the
images of TUNED_ON at noise 0.1 it is within 0.1 dB of the package bm3d in grey and 1.3 to 1.9 dB
behind it in colour, and takes 300 to 450 CPU seconds a megapixel, one to three times those of bm3d
there. With `use_legacy=True`, its default, deepinv calls the package bm3d.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_embedding.config.sections import HeldOut
from score_embedding.data.datasets import load_held_out
from score_embedding.evaluation import held_out, metrics
from score_embedding.restoration import rivals

Rival = Callable[[Tensor, float], Tensor]  # noisy (c, h, w) and its noise level -> (c, h, w)
Strength = tuple[float, ...]

OPENCV = "OpenCV non-local means"
PACKAGES = {"bm3d": "bm3d", OPENCV: "cv2"}  # which are no dependencies
# As restoration/rivals.py: the middle 128 x 128 pixels, halved in size. No evaluated image.
TUNED_ON = HeldOut(
    image=["astronaut", "coffee", "chelsea"], shrink=2, crop=128, levels=rivals.LEVELS
)
GRID = tuple(round(0.1 * n, 1) for n in range(3, 13))
# Found by `tuned`, by channels and at each of TUNED_ON.levels: h, and in colour h and hColor, as
# multiples of the noise level. Behind them the mean PSNR in dB.
OPENCV_STRENGTHS: dict[int, tuple[Strength, ...]] = {
    1: ((1.1,), (0.9,), (0.7,), (0.6,)),  # 30.28, 25.24, 21.25, 17.58
    3: ((0.5, 0.5), (0.6, 0.5), (0.5, 0.4), (0.4, 0.4)),  # 28.94, 24.01, 21.02, 17.59
}


def tuned_rivals() -> dict[str, Rival]:
    """Those that are installed."""
    names = ("wavelets", "total_variation", "non_local_means", "bm3d")
    found: dict[str, Rival] = {name: _of_package(name) for name in names}
    found[OPENCV] = lambda y, level: opencv(y, level, _opencv_strength(len(y), level))
    return {name: rival for name, rival in found.items() if name not in missing()}


def missing() -> list[str]:
    """The names of rivals whose package is not installed."""
    return [name for name, package in PACKAGES.items() if not importlib.util.find_spec(package)]


def bm3d(noisy: Tensor, level: float) -> Tensor:
    """BM3D with exactly this noise level, without the tuned factor."""
    return rivals.denoiser("bm3d", 1.0)(noisy[None], torch.tensor([level]))[0]


def opencv(noisy: Tensor, level: float, strength: Strength) -> Tensor:
    """OpenCV's non-local means with its default patches of 7 x 7 within 21 x 21 pixels."""
    cv2 = importlib.import_module("cv2")
    pixels = (255 * noisy).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    h, *h_colour = (255 * level * multiple for multiple in strength)
    if len(noisy) == 1:
        found = cv2.fastNlMeansDenoising(pixels[..., 0].copy(), None, h, 7, 21)[..., None]
    else:  # blue comes first
        bgr = pixels[..., ::-1].copy()
        found = cv2.fastNlMeansDenoisingColored(bgr, None, h, *h_colour, 7, 21)[..., ::-1]
    return torch.from_numpy(found.copy()).permute(2, 0, 1).to(noisy) / 255


def with_anscombe(rival: Rival, noisy: Tensor, peak: float) -> Tensor:
    """Counts `peak` times as large as an image (c, h, w), denoised by a method for Gaussian noise:
    Anscombe's root, scaled to [0, 1] for counts from 0 to `peak`; the method; and the closed form
    of the exact unbiased inverse (Makitalo and Foi 2011)."""
    low, high = 2 * math.sqrt(3 / 8), 2 * math.sqrt(peak + 3 / 8)
    root = 2 * (peak * noisy.double() + 3 / 8).sqrt()
    found = rival((root - low) / (high - low), 1 / (high - low))
    return unbiased_inverse(low + (high - low) * found) / peak


def unbiased_inverse(root: Tensor) -> Tensor:
    """The counts whose Anscombe's root has this mean."""
    D = root.clamp_min(2 * math.sqrt(3 / 8))
    half = math.sqrt(3 / 2)
    counts = D**2 / 4 + half / (4 * D) - 11 / (8 * D**2) + 5 * half / (8 * D**3) - 1 / 8
    return counts.clamp_min(0)


def tuned(channels: int) -> list[tuple[Strength, float]]:
    """OpenCV's: at each level the strength of highest mean PSNR on TUNED_ON, and that PSNR in
    dB."""
    images = list(load_held_out(TUNED_ON, channels).values())
    found = []
    for level in TUNED_ON.levels:
        noisy = [held_out.with_noise(x, level, number) for number, x in enumerate(images)]
        pairs = list(zip(images, noisy, strict=True))
        psnr = {}
        for strength in product(GRID, repeat=min(channels, 2)):
            answers = [metrics.clipped(opencv(y, level, strength), x) for x, y in pairs]
            psnr[strength] = float(np.mean([value for value, _ in answers]))
        best = max(psnr, key=psnr.__getitem__)
        found.append((best, psnr[best]))
    return found


def _of_package(name: str) -> Rival:
    return lambda y, level: rivals.denoise(name, y, level)


def _opencv_strength(channels: int, level: float) -> Strength:
    """Linear in the logarithm of the level and constant beyond the ends, as restoration.rivals."""
    columns: Any = zip(*OPENCV_STRENGTHS[channels], strict=True)
    known = np.log(TUNED_ON.levels)
    return tuple(float(np.interp(math.log(level), known, column)) for column in columns)
