"""Classical denoisers for comparison: wavelets, total variation, non-local means, BM3D.

Each is given the true noise level. Its strength is a multiple of that, from a table by level,
linear in the logarithm of the level and constant beyond the ends. The tables are the results of
`best_multiples`, in steps of 0.1, on the middle 128 x 128 pixels of scikit-image's astronaut,
coffee and chelsea, halved in size, in colour. No held-out image was used.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.data import crops
from score_embedding.errors import ConfigError
from score_embedding.evaluation import held_out
from score_embedding.evaluation.held_out import Denoise

Pixels = NDArray[np.float64]  # (h, w) or (h, w, 3)
Denoiser = Callable[[Pixels, float, float], Pixels]  # noisy, noise level, multiple

LEVELS = (0.05, 0.125, 0.25, 0.5)
# At each of LEVELS; behind them the mean PSNR in dB on the images of the search.
WAVELETS = (1.0, 1.0, 1.0, 1.0)  # 31.62, 26.86, 23.45, 20.56
TOTAL_VARIATION = (0.6, 0.8, 1.0, 1.0)  # 30.77, 26.08, 23.00, 20.39
NON_LOCAL_MEANS = (0.7, 0.5, 0.5, 0.5)  # 31.84, 27.24, 23.57, 20.25
BM3D = (1.1, 1.0, 1.0, 1.0)  # 34.01, 29.11, 25.64, 22.41

_WAVELET = "sym4"
_MIN_SIDE = 16  # pixels, which BM3D needs; smaller images are continued by their mirror image


def wavelets(noisy: Pixels, level: float, multiple: float) -> Pixels:
    """scikit-image's denoise_wavelet: BayesShrink, soft, in YCbCr, with all levels that the image
    size allows; the mean over the four shifts by 0 or 1, which gains 0.2 to 0.7 dB."""
    from pywt import dwtn_max_level
    from skimage.restoration import denoise_wavelet

    axis = _channel_axis(noisy)
    levels = dwtn_max_level(noisy.shape[:2], _WAVELET)
    answers = []
    for shift in ((0, 0), (0, 1), (1, 0), (1, 1)):
        answer = denoise_wavelet(
            np.roll(noisy, shift, axis=(0, 1)),
            sigma=multiple * level,
            method="BayesShrink",
            mode="soft",
            wavelet=_WAVELET,
            wavelet_levels=levels,
            convert2ycbcr=axis is not None,
            channel_axis=axis,
            rescale_sigma=True,
        )
        answers.append(np.roll(answer, [-step for step in shift], axis=(0, 1)))
    return np.asarray(np.mean(answers, axis=0))


def total_variation(noisy: Pixels, level: float, multiple: float) -> Pixels:
    """scikit-image's denoise_tv_chambolle; more than its default iterations gain nothing."""
    from skimage.restoration import denoise_tv_chambolle

    axis = _channel_axis(noisy)
    return np.asarray(denoise_tv_chambolle(noisy, weight=multiple * level, channel_axis=axis))


def non_local_means(noisy: Pixels, level: float, multiple: float) -> Pixels:
    """scikit-image's denoise_nl_means, fast mode, patches of 5 x 5 within 6 pixels."""
    from skimage.restoration import denoise_nl_means

    return np.asarray(
        denoise_nl_means(
            noisy,
            patch_size=5,
            patch_distance=6,
            h=multiple * level,
            sigma=level,
            fast_mode=True,
            channel_axis=_channel_axis(noisy),
        )
    )


def bm3d(noisy: Pixels, level: float, multiple: float) -> Pixels:
    """BM3D by its authors, the package bm3d, in their colour space for colour. Its licence allows
    non-commercial use only: it is no dependency, and used only where the user has installed it."""
    try:
        package = importlib.import_module("bm3d")
    except ImportError:
        raise ConfigError(
            "bm3d is not installed (pip install bm3d; free for non-commercial use only)"
        ) from None
    function = package.bm3d if noisy.ndim == 2 else package.bm3d_rgb
    return np.asarray(function(noisy, multiple * level))


DENOISERS: dict[str, tuple[Denoiser, tuple[float, ...]]] = {
    "wavelets": (wavelets, WAVELETS),
    "total_variation": (total_variation, TOTAL_VARIATION),
    "non_local_means": (non_local_means, NON_LOCAL_MEANS),
    "bm3d": (bm3d, BM3D),
}


def available() -> list[str]:
    """The names of those that can be used: all, and bm3d only if it is installed."""
    return [name for name in DENOISERS if name != "bm3d" or importlib.util.find_spec("bm3d")]


def denoise(name: str, noisy: Tensor, level: float) -> Tensor:
    """An image (c, h, w), c = 1 or 3, in [0, 1] before noise of this level was added, denoised; on
    its device, not clipped. Raises ConfigError for an unknown name."""
    multiple = float(np.interp(math.log(level), np.log(LEVELS), _entry(name)[1]))
    return _applied(name, noisy, level, multiple)


def denoiser(name: str, multiple: float | None = None) -> Denoise:
    """The denoiser as held_out.measure takes it; `multiple` None: that of the table."""

    def answer(y: Tensor, s: Tensor) -> Tensor:
        if multiple is None:
            return denoise(name, y[0], float(s))[None]
        return _applied(name, y[0], float(s), multiple)[None]

    return answer


def best_multiples(
    name: str, images: Sequence[Tensor], levels: Sequence[float], multiples: Sequence[float]
) -> list[tuple[float, float]]:
    """At each level the multiple of highest mean PSNR over the images, and that PSNR in dB."""
    found = []
    named = {str(i): image for i, image in enumerate(images)}
    for level in levels:
        psnr = {}
        for multiple in multiples:
            measured = held_out.measure(denoiser(name, multiple), named, (level,))
            psnr[multiple] = measured.means()[f"psnr_{level:g}"]
        best = max(psnr, key=psnr.__getitem__)
        found.append((best, psnr[best]))
    return found


def _entry(name: str) -> tuple[Denoiser, tuple[float, ...]]:
    if name not in DENOISERS:
        raise ConfigError(f"{name}: no classical denoiser; there are {', '.join(DENOISERS)}")
    return DENOISERS[name]


def _applied(name: str, noisy: Tensor, level: float, multiple: float) -> Tensor:
    function, _ = _entry(name)
    h, w = noisy.shape[1:]
    continued = crops.continued(noisy.detach().cpu(), max(h, _MIN_SIDE), max(w, _MIN_SIDE))
    pixels = continued.double().numpy().transpose(1, 2, 0)
    grey = pixels.shape[2] == 1
    answer = function(pixels[:, :, 0] if grey else pixels, level, multiple)
    answer = (answer[:, :, None] if grey else answer)[:h, :w]
    return torch.from_numpy(np.ascontiguousarray(answer.transpose(2, 0, 1))).to(noisy)


def _channel_axis(noisy: Pixels) -> int | None:
    return None if noisy.ndim == 2 else -1
