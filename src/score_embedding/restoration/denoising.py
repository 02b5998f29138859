"""Denoising of arrays, in the manner of skimage.restoration.

It rests on one posterior mean D(x, s) and its score (D - x) / s^2: of the bundled patch mixture,
of that mixture adapted to the image (adaptive.py), of a trained model, or of a given density.

The noise is assumed Gaussian, of one standard deviation in all pixels and channels, and independent
between them. Noise that a camera or JPEG has processed is not: it is partly kept as detail, or its
level is estimated too low.
"""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from score_embedding import progress
from score_embedding._deprecated import positional_options
from score_embedding.arrays import torch_defaults
from score_embedding.restoration import inpainting, models, noise, pixels
from score_embedding.restoration.adaptive import Estimate
from score_embedding.restoration.models import Model
from score_embedding.restoration.pixels import ChannelAxis

__all__ = ["Mode", "clean", "denoise"]

Mode = Literal["mean", "sample"]

MIN_SIGMA = 1e-3  # noise of a quarter of a grey level of 256, at which sampling ends
SAMPLING_STEPS = 10  # of Heun's method


@positional_options
@torch_defaults()
def denoise(
    image: NDArray[Any],
    *,
    sigma: ArrayLike | None = None,
    model: Model | None = None,
    mode: Mode = "mean",
    device: torch.device | str = "cpu",
    channel_axis: ChannelAxis = "auto",
    data_range: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """An image without its noise.

    Parameters
    ----------
    image : (h, w), with channels (h, w, c), or a stack of either, (n, h, w) or (n, h, w, c), of any
        size and either byte order; each image of a stack is denoised alone. Three channels are
        RGB, four RGBA, of which alpha stays unchanged; others, at most eight, are as many grey
        images. uint8, uint16, bool or floating point; other integers with data_range. Masked pixels
        are filled in before, and are masked in the result.
    sigma : standard deviation of the noise, white being 1, or with data_range in units of the
        image; an array, such as one value a channel, must hold equal numbers. None or "auto":
        estimated, for each image of a stack.
    model : "fit" (the default): the bundled patch mixture adapted to the image itself; "bundled":
        that mixture unchanged, which is faster; the folder of a run, whose answer is refined by
        the image's own neighbourhoods; a score_embedding.Density.
    mode : "mean", the posterior mean; "sample": along the probability flow from the image's noise
        level to none, which keeps texture at the price of a larger error.
    device : to compute on; the CPU in place of a device without float64.
    channel_axis : the axis of the channels, None for none, as in scikit-image: a stack of grey
        images has none. "auto": none in two dimensions, else the last axis, which must be 8 long
        at most.
    data_range : black and white in units of the image. None: the range of the type of integers; 0
        and 1 of floats.

    Returns
    -------
    denoised : float32, shape of the image, white at 1 or, with data_range, on the scale of the
        image; clipped to black and white, or to the image's own least and largest pixel where
        these are farther off than noise explains; at sigma 0 the image unchanged. A masked array
        where pixels of the image are masked.

    Raises
    ------
    ValueError : an image, sigma, model, mode, device, axis or range that is not valid.
    DataError : an image too small to estimate sigma from, a model of other channels, or of its own
        images only.
    RunFolderError, CheckpointError : a run folder that is missing or damaged.

    Warns
    -----
    UserWarning : the model of a run folder was trained on one image only.
    """
    found = pixels.read(image, channel_axis=channel_axis, data_range=data_range, device=device)
    resolved = models.resolve(models.FIT if model is None else model, found.device)
    resolved.check_channels(found.channels)
    if resolved.caution:
        warnings.warn(resolved.caution, UserWarning, stacklevel=4)
    given = found.unit_sigma(sigma)

    def restored(x: Tensor, missing: Tensor) -> Tensor:
        x = inpainting.start(x, missing) if missing.any() else x
        level = noise.noise_level(given, x)
        estimate = resolved.estimate(x, level, mode == "mean")
        return clean(x, level, estimate, mode, pixels.limits(x, level))

    answer = found.array(restored(x, missing) for x, missing in found.images())
    masked = found.laid_out(found.missing)
    return np.ma.masked_array(answer, masked) if masked.any() else answer


def clean(
    x: Tensor,
    sigma: float,
    estimate: Estimate,
    mode: Mode = "mean",
    limits: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """An image x (c, h, w) with noise of level sigma, denoised by the posterior mean `estimate` and
    clipped to `limits`; at sigma 0 unchanged. ValueError for another mode."""
    if mode not in ("mean", "sample"):
        raise ValueError(f'mode must be "mean" or "sample", got {mode!r}')
    if sigma == 0:
        return x
    answer = estimate(x, sigma) if mode == "mean" else _flow(x, sigma, estimate)
    return answer.clamp(*limits)


def _flow(x: Tensor, sigma: float, estimate: Estimate) -> Tensor:
    """Along dx/ds = (x - D(x, s)) / s, the probability flow in the noise level, from sigma down, by
    Heun's method in even steps of log s; ends with the posterior mean at the lowest level."""
    levels = _log_spaced(sigma, min(MIN_SIGMA, sigma / 2), SAMPLING_STEPS + 1)
    with progress.stage("sampling", total=SAMPLING_STEPS) as stage:
        for s, below in pairwise(levels):
            slope = (x - estimate(x, s)) / s
            ahead = x + (below - s) * slope
            x = x + (below - s) * (slope + (ahead - estimate(ahead, below)) / below) / 2
            stage.update()
    return estimate(x, levels[-1])


def _log_spaced(first: float, last: float, count: int) -> list[float]:
    """Noise levels evenly spaced in their logarithm."""
    ends = math.log10(first), math.log10(last)
    levels: list[float] = torch.logspace(*ends, count, dtype=torch.float32, device="cpu").tolist()
    return levels
