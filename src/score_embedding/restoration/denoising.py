"""Denoising and inpainting of arrays, in the manner of skimage.restoration.

Both rest on one posterior mean D(x, s) and its score (D - x) / s^2: of the bundled patch mixture,
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
from scipy.ndimage import distance_transform_edt
from skimage.util import img_as_float32
from torch import Tensor

from score_embedding import progress
from score_embedding._deprecated import positional_options
from score_embedding.arrays import real_array, refuse_gradient, torch_defaults, with_float64
from score_embedding.restoration import models, noise
from score_embedding.restoration.adaptive import Estimate
from score_embedding.restoration.models import Model, bundled, denoiser
from score_embedding.restoration.noise import checked_sigma, estimate_sigma

__all__ = [
    "Mode",
    "Model",
    "bundled",
    "checked_sigma",
    "clean",
    "denoise",
    "denoiser",
    "estimate_sigma",
    "filled",
    "inpaint",
    "to_array",
    "to_tensor",
]

Mode = Literal["mean", "sample"]

MAX_VALUE = 10.0  # of floating-point pixels, white being 1: larger ones are on another scale
MIN_SIGMA = 1e-3  # noise of a quarter of a grey level of 256, at which sampling ends
SAMPLING_STEPS = 10  # of Heun's method
INPAINTING_STEPS = 40
INPAINTING_SIGMA = 0.5  # noise level from which inpainting starts
_MARGIN = 48  # pixels around the missing ones that inpainting is computed on


@positional_options
@torch_defaults()
def denoise(
    image: NDArray[Any],
    *,
    sigma: ArrayLike | None = None,
    model: Model | None = None,
    mode: Mode = "mean",
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """An image without its noise.

    Parameters
    ----------
    image : (h, w), (h, w, 1) or (h, w, 3), of any size and either byte order; uint8, uint16 or bool
        in the range of their type, or floating point with white at 1.
    sigma : standard deviation of the noise, white being 1; an array, such as one value a channel,
        must hold equal numbers. None or "auto": estimated.
    model : "fit" (the default): the bundled patch mixture adapted to the image itself; "bundled":
        that mixture unchanged, which is faster; the folder of a run, whose answer is refined by
        the image's own neighbourhoods; a score_embedding.Density.
    mode : "mean", the posterior mean; "sample": along the probability flow from the image's noise
        level to none, which keeps texture at the price of a larger error.
    device : to compute on; the CPU in place of a device without float64.

    Returns
    -------
    denoised : float32, shape of the image, in [0, 1]; at sigma 0 the image unchanged.

    Raises
    ------
    ValueError : an image, sigma, model, mode or device that is not valid; masked pixels.
    DataError : an image too small to estimate sigma from, a model of other channels, or of its own
        images only.
    RunFolderError, CheckpointError : a run folder that is missing or damaged.

    Warns
    -----
    UserWarning : the model of a run folder was trained on one image only.
    """
    image = _native(image, "image")
    x = _on(device, image)
    level = noise.noise_level(sigma, x)
    estimate = _resolved(models.FIT if model is None else model, x).estimate(
        x, level, mode == "mean"
    )
    return to_array(clean(x, level, estimate, mode), image.ndim)


@positional_options
@torch_defaults()
def inpaint(
    image: NDArray[Any],
    mask: NDArray[Any],
    *,
    model: Model | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[Any]:
    """An image with the pixels filled in where `mask`, (h, w) or (h, w, 1), is not 0; all other
    pixels keep their values.

    What the image holds under the mask is never read, and may be NaN. `model` is "bundled" by
    default and cannot be "fit". Otherwise parameters, result, errors and warnings as `denoise`, but
    the result of float64 is float64; ValueError also for a mask of another size than the image.
    """
    if isinstance(model, str) and model == models.FIT:
        raise ValueError(
            'model: "fit" would be fitted to the missing pixels as well; "bundled" is not'
        )
    image, mask = _native(image, "image"), _native(mask, "mask")
    hole = np.asarray((mask[..., 0] if mask.ndim == 3 and mask.shape[2] == 1 else mask) != 0)
    where = hole[..., None] if image.ndim == 3 else hole
    if hole.shape == image.shape[:2]:  # `filled` refuses others
        known = np.where(where, np.zeros((), image.dtype), image)
    else:
        known = image
    x = _on(device, known)
    estimate = _resolved(models.BUNDLED if model is None else model, x).estimate(
        x, MIN_SIGMA, False
    )
    answer = to_array(filled(x, torch.from_numpy(hole).to(x.device), estimate), image.ndim)
    return answer if image.dtype.kind != "f" else np.where(where, answer, image)


def clean(x: Tensor, sigma: float, estimate: Estimate, mode: Mode = "mean") -> Tensor:
    """An image x (c, h, w) with noise of level sigma, denoised by the posterior mean `estimate` and
    clipped to [0, 1]; at sigma 0 unchanged. ValueError for another mode."""
    if mode not in ("mean", "sample"):
        raise ValueError(f'mode must be "mean" or "sample", got {mode!r}')
    if sigma == 0:
        return x
    answer = estimate(x, sigma) if mode == "mean" else _flow(x, sigma, estimate)
    return answer.clamp(0, 1)


def filled(x: Tensor, missing: Tensor, estimate: Estimate) -> Tensor:
    """An image x (c, h, w) filled in where `missing` (h, w) is true; other pixels bit for bit.

    Missing pixels start as their nearest known one. From noise of level INPAINTING_SIGMA down, they
    are replaced by their posterior mean at each level, with less noise added each time. Only the
    surroundings of the missing pixels are computed.

    Raises
    ------
    ValueError : a mask of another size, or one that covers the whole image.
    """
    if missing.shape != x.shape[1:]:
        mask_size, size = ("x".join(map(str, s)) for s in (missing.shape, x.shape[1:]))
        raise ValueError(f"the mask is {mask_size} (h x w), the image {size}")
    if not missing.any():
        return x
    if missing.all():
        raise ValueError("the mask covers the whole image: no pixel is left to fill in from")
    rows, columns = (_surroundings(missing.any(dim=axis)) for axis in (1, 0))
    part, hole = x[:, rows, columns], missing[rows, columns]
    generator = torch.Generator("cpu").manual_seed(0)
    i, j = distance_transform_edt(hole.cpu().numpy(), return_distances=False, return_indices=True)
    y = part[:, torch.from_numpy(i), torch.from_numpy(j)]
    with progress.stage("filling in", total=INPAINTING_STEPS) as stage:
        for s in _log_spaced(INPAINTING_SIGMA, MIN_SIGMA, INPAINTING_STEPS):
            z = torch.randn(y.shape, generator=generator, dtype=torch.float32, device="cpu").to(y)
            answer = estimate(torch.where(hole, y + s / 2 * z, part), s)
            y = torch.where(hole, answer, part)
            stage.update()
    result = x.clone()
    result[:, rows, columns] = torch.where(hole, y.clamp(0, 1), part)
    return result


def to_tensor(image: NDArray[Any]) -> Tensor:
    """(h, w), (h, w, 1) or (h, w, 3) to float32 (c, h, w), white at 1. ValueError for anything
    else, and for pixels that are masked, NaN, infinite or beyond MAX_VALUE."""
    image = _native(image, "image")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"image: (h, w) or (h, w, 3) is needed, got shape {image.shape}")
    if image.size == 0:
        raise ValueError(f"image: empty, shape {image.shape}")
    if image.dtype.kind != "f" and image.dtype not in (np.uint8, np.uint16, np.bool_):
        raise ValueError(f"image: uint8, uint16, bool or floats are needed, not {image.dtype}")
    pixels = np.asarray(img_as_float32(image) if image.dtype.kind != "f" else image, np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError("image: holds pixels that are NaN or infinite")
    if np.abs(pixels).max() > MAX_VALUE:
        least, most = pixels.min(), pixels.max()
        raise ValueError(f"image: floats from {least:g} to {most:g}; white must be at 1")
    return torch.from_numpy(np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C"))


def to_array(x: Tensor, ndim: int) -> NDArray[np.float32]:
    """(c, h, w) to (h, w) or (h, w, c)."""
    pixels: NDArray[np.float32] = x.cpu().numpy().transpose(1, 2, 0)
    return pixels[..., 0] if ndim == 2 else pixels


def _native(values: Any, name: str) -> NDArray[Any]:
    """An array in the byte order of this machine. ValueError where entries are masked, no real
    numbers, or require a gradient."""
    refuse_gradient(values, name, "which denoising and inpainting do not have")
    array = real_array(values, name)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _on(device: torch.device | str, image: NDArray[Any]) -> Tensor:
    x = to_tensor(image)
    try:
        return x.to(with_float64(torch.device(device)))
    except (RuntimeError, AssertionError, TypeError) as error:  # by the build of torch
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device: {device!r} cannot be used here ({reason})") from None


def _resolved(model: Model, x: Tensor) -> models.Denoiser:
    """The denoiser of `model` for the image x, for a public function to use."""
    resolved = models.resolve(model, x.device)
    resolved.check_channels(len(x))
    if resolved.caution:
        warnings.warn(resolved.caution, UserWarning, stacklevel=5)
    return resolved


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


def _surroundings(missing: Tensor) -> slice:
    """From _MARGIN before the first true value to _MARGIN after the last."""
    places = missing.nonzero()[:, 0]
    return slice(max(0, int(places[0]) - _MARGIN), int(places[-1]) + 1 + _MARGIN)
