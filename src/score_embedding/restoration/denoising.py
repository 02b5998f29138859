"""Denoising of arrays, in the manner of skimage.restoration.

It rests on one posterior mean D(y) and its score Sigma_n^-1 (D - y): of the bundled patch mixture,
of that mixture adapted to the image (adaptive.py), of a trained model, or of a given density.

The noise is Gaussian, and may depend on the brightness, be shared by neighbouring pixels and
channels, or vary by a map (noise.py); it is given, or estimated from the image.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from score_embedding import progress
from score_embedding._deprecated import positional_options
from score_embedding.arrays import torch_defaults
from score_embedding.restoration import (
    highlights,
    inpainting,
    models,
    noise_given,
    pixels,
    posterior,
    workers,
)
from score_embedding.restoration.adaptive import Estimate
from score_embedding.restoration.contrast import Contrast
from score_embedding.restoration.models import Model
from score_embedding.restoration.noise import Noise, Stationary
from score_embedding.restoration.noise_given import Kind
from score_embedding.restoration.pixels import ChannelAxis

__all__ = ["Mode", "clean", "denoise", "estimate_noise"]

Mode = Literal["mean", "sample"]

MIN_SIGMA = 1e-3  # noise of a quarter of a grey level of 256, at which sampling ends
SAMPLING_STEPS = 10  # of Heun's method


@positional_options
@torch_defaults()
@workers.one_thread_each()
def denoise(
    image: NDArray[Any],
    *,
    sigma: ArrayLike | None = None,
    model: Model | None = None,
    mode: Mode = "mean",
    device: torch.device | str = "cpu",
    channel_axis: ChannelAxis = "auto",
    data_range: tuple[float, float] | None = None,
    noise: Kind | Noise = "auto",
    strength: float = 1.0,
) -> NDArray[np.float32]:
    """An image without its noise.

    Parameters
    ----------
    image : (h, w), with channels (h, w, c), or a stack of either, (n, h, w) or (n, h, w, c), of any
        size and either byte order; each image of a stack is denoised alone. Three channels are
        RGB, four RGBA, of which alpha stays unchanged; others, at most eight, are as many grey
        images. uint8, uint16, bool or floating point; other integers with data_range. Masked pixels
        are filled in before, and are masked in the result. An image of more than 8 bits that fills
        less than a quarter of black to white, such as 12-bit data in uint16, is stretched for the
        model and the estimate, and its result is on the scale of the others again.
    sigma : standard deviation of the noise, white being 1, or with data_range in units of the
        image: a number, one a channel (c,), or a map (h, w). None or "auto": estimated, for each
        image of a stack.
    model : "fit" (the default): the bundled patch mixture adapted to the image itself; "fast": with
        less of both, in a fraction of the time; "bundled": that mixture unchanged; the folder of a
        run, whose answer is refined by the image's own neighbourhoods; a score_embedding.Density.
        A network, and a density that is no Gaussian mixture, are evaluated as for white noise of
        the same level; all else uses the correlation and the map of the noise, too.
    mode : "mean", the posterior mean; "sample": along the probability flow from the image's noise
        level to none, which keeps texture at the price of a larger error: less than that of the
        noisy image in photographs, up to 3 dB more in patterns that the model does not know.
    device : to compute on; the CPU in place of a device without float64.
    channel_axis : the axis of the channels, None for none, as in scikit-image: a stack of grey
        images has none. "auto": none in two dimensions, else the last axis, which must be 8 long
        at most.
    data_range : black and white in units of the image. None: the range of the type of integers; 0
        and 1 of floats.
    noise : "auto": what the estimate finds, or white where sigma is given; "white"; "camera",
        shared by neighbouring pixels; "poisson", with a variance that grows with brightness; or a
        Noise, such as `estimate_noise` returns.
    strength : factor of the standard deviation; 0 leaves the image unchanged.

    Returns
    -------
    denoised : float32, shape of the image, white at 1 or, with data_range, on the scale of the
        image; clipped to black and white, or to the image's own least and largest pixel where the
        result goes farther than noise explains, as in highlights above 1; at sigma 0 the image
        unchanged. A masked array where pixels of the image are masked.

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
    resolved = models.resolve_for_user(model, found.channels, found.device, stacklevel=5)
    given = found.unit_sigma(sigma)

    def restored(x: Tensor, missing: Tensor) -> Tensor:
        x = inpainting.start(x, missing) if missing.any() else x
        own, contrast = _noise_and_contrast(x, found.deep, given, noise, strength)
        answer = clean(contrast.unit(x), own, resolved, mode, beyond=True)
        return contrast.restored(answer) if own.level else x

    answer = found.array(restored(x, missing) for x, missing in found.images())
    masked = found.laid_out(found.missing)
    return np.ma.masked_array(answer, masked) if masked.any() else answer


def clean(
    x: Tensor,
    noise: Noise,
    model: models.Denoiser,
    mode: Mode = "mean",
    beyond: bool = False,
) -> Tensor:
    """An image x (c, h, w) with this noise, denoised by `model` and clipped to [0, 1], or with
    `beyond` to `highlights.limits`; without noise unchanged. ValueError for another mode."""
    if mode not in ("mean", "sample"):
        raise ValueError(f'mode must be "mean" or "sample", got {mode!r}')
    if noise.level == 0:
        return x

    def mean(y: Tensor, own: Stationary) -> Tensor:
        return model.estimate(y, own, True)(y, own)

    def draft(y: Tensor, own: Stationary) -> Tensor:
        return (model.draft or model.estimate)(y, own, True)(y, own)

    def sample(y: Tensor, own: Stationary) -> Tensor:
        return _flow(y, own, model.estimate(y, own, False))

    with workers.one_thread_each():
        if mode == "mean":
            found = posterior.restored(x, noise, mean, draft)
        else:
            found = posterior.restored(x, noise, sample)
        return found.clamp(*(highlights.limits(x, found, noise.level) if beyond else (0.0, 1.0)))


@workers.one_thread_each()
def estimate_noise(
    image: NDArray[Any],
    *,
    noise: Kind = "auto",
    channel_axis: ChannelAxis = "auto",
    data_range: tuple[float, float] | None = None,
) -> Noise:
    """The noise of an image, estimated from it, for `denoise`; its `described()` says it in words.

    Parameters and errors as of `denoise`; ValueError for a stack, whose images differ in noise.
    """
    found = pixels.read(image, channel_axis=channel_axis, data_range=data_range, device="cpu")
    first, *others = (x for x, _ in found.images())
    if others:
        raise ValueError("image: a stack; estimate the noise of each of its images")
    own, contrast = _noise_and_contrast(first, found.deep, None, noise)
    return contrast.restored_noise(own)


def _noise_and_contrast(
    x: Tensor, deep: bool, sigma: Any, noise: Kind | Noise, strength: float = 1.0
) -> tuple[Noise, Contrast]:
    """How an image x (c, h, w) is stretched, and the noise that it has then."""
    if isinstance(noise, Noise):
        own = noise_given.noise_of(x, sigma, noise, strength)
        contrast = Contrast.of(x, deep, from_zero=noise.counts)
        return contrast.unit_noise(own), contrast
    contrast = Contrast.of(x, deep, from_zero=noise == "poisson")
    if not noise_given.is_auto(sigma):
        most = np.max(noise_given.checked_sigma(sigma, tuple(x.shape)))
        if most > contrast.high - contrast.low:
            contrast = Contrast()  # hardly anything is left of the image in any case
    unit = contrast.unit(x)
    return noise_given.noise_of(unit, contrast.unit_sigma(sigma), noise, strength), contrast


def _flow(x: Tensor, noise: Stationary, estimate: Estimate) -> Tensor:
    """Along dx/ds = (x - D(x, s)) / s, the probability flow in the noise level, from that of the
    image down, by Heun's method in even steps of log s; ends with the posterior mean at the lowest
    level."""
    sigma = noise.level
    levels = np.geomspace(sigma, min(MIN_SIGMA, sigma / 2), SAMPLING_STEPS + 1).tolist()
    at = [replace(noise, level=level) for level in levels]
    with progress.stage("sampling", total=SAMPLING_STEPS) as stage:
        for own, below in pairwise(at):
            slope = (x - estimate(x, own)) / own.level
            step = below.level - own.level
            ahead = x + step * slope
            x = x + step * (slope + (ahead - estimate(ahead, below)) / below.level) / 2
            stage.update()
    return estimate(x, at[-1])
