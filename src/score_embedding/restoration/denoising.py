"""Taking the noise out of photographs, and filling in what is missing.

All of it is one posterior mean D(x, s), and the score (D - x) / s^2 that comes with it: of a patch
mixture that the package brings, of what is learnt from the photograph at hand (learnt.py), or of a
model that was trained.

The noise is assumed Gaussian, of one strength in all pixels and channels, and independent between
them. What a camera's own processing leaves, JPEG's blocks or grain that is correlated between
neighbours, is not: it is then taken for detail and kept, or the estimate of its strength is low.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.restoration import estimate_sigma as skimage_sigma
from skimage.util import img_as_float32
from torch import Tensor

from score_embedding import densities, progress
from score_embedding.arrays import with_float64
from score_embedding.densities import Density, fitting
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.errors import DataError
from score_embedding.methods.base import method_of
from score_embedding.restoration import adaptive
from score_embedding.restoration.adaptive import Estimate
from score_embedding.runs import folder as run_folder
from score_embedding.runs.loading import load_model

Mode = Literal["mean", "sample"]
Model = str | Path | Density  # "fit", "bundled", a run folder, or a density

LARGEST_SIGMA = 2.0  # white being 1: nothing can be seen long before
BRIGHTEST = 10.0  # of floating-point pixels: more is no noise but another scale
LEAST = 1e-3  # noise of a quarter of a grey level of 256, at which a sample ends
STEPS = 10  # of Heun's method
INPAINTING_STEPS = 40
INPAINTING_FROM = 0.5
_MARGIN = 48  # pixels around what is missing that are looked at


def denoise(
    image: NDArray[Any],
    sigma: float | None = None,
    model: Model | None = None,
    mode: Mode = "mean",
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """An image without its noise, in the manner of skimage.restoration.

    Parameters
    ----------
    image : (h, w) or (h, w, 3), of any size; uint8, uint16 or bool in the range of their type, or
        floating point with white at 1.
    sigma : standard deviation of the noise, white being 1; None: estimated.
    model : "fit" (the default): what is learnt from the image itself, starting from the bundled
        mixture; "bundled": that mixture as it is, faster; the folder of a run, whose answer is
        refined by what is learnt from the image; a density of score_embedding.scores.
    mode : "mean", the posterior mean; "sample": along the probability flow from the image's noise
        level to none, which keeps texture at the price of a larger error.

    Returns
    -------
    denoised : float32, shape of the image, in [0, 1]; at sigma 0 the image as it is.

    Raises
    ------
    ValueError, DataError : an image or sigma that cannot be, a model of other channels.
    """
    image = np.asarray(image)
    x = _on(device, image)
    s = checked_sigma(sigma) if sigma is not None else estimate_sigma(x)
    known = denoiser(model or "fit", x, s, refine=mode == "mean")
    return to_array(clean(x, s, known, mode), image.ndim)


def inpaint(
    image: NDArray[Any],
    mask: NDArray[Any],
    model: Model | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[Any]:
    """An image with the pixels filled in where `mask` (h, w) is not 0; all others are kept as they
    are. Parameters, result and errors as `denoise`, but of float64 the result is float64; also a
    mask of another size."""
    if model == "fit":
        raise ValueError('model: "fit" would learn from what is missing; "bundled" does not')
    image, hole = np.asarray(image), np.asarray(mask) != 0
    x = _on(device, image)
    missing = torch.from_numpy(hole).to(x.device)
    answer = to_array(filled(x, missing, denoiser(model or "bundled", x, LEAST)), image.ndim)
    if image.dtype.kind != "f":
        return answer
    return np.where(hole[..., None] if image.ndim == 3 else hole, answer, image)


def clean(x: Tensor, sigma: float, estimate: Estimate, mode: Mode = "mean") -> Tensor:
    """An image x (c, h, w) with noise of level sigma without it, by the posterior mean `estimate`;
    cut to [0, 1]. At sigma 0 it comes back as it is."""
    if mode not in ("mean", "sample"):
        raise ValueError(f'mode must be "mean" or "sample", got {mode!r}')
    if sigma == 0:
        return x
    answer = estimate(x, sigma) if mode == "mean" else _flow(x, sigma, estimate)
    return answer.clamp(0, 1)


def filled(x: Tensor, missing: Tensor, estimate: Estimate) -> Tensor:
    """An image x (c, h, w) filled in where `missing` (h, w) is true, all other pixels to the bit.

    What is missing starts as the nearest pixel that is not. From noise of level INPAINTING_FROM
    down, it is given its posterior mean at each level, with less noise added each time; what is
    known is never changed. Only the surroundings of what is missing are computed.

    Raises
    ------
    ValueError : a mask of another size, or one that leaves nothing to go by.
    """
    if missing.shape != x.shape[1:]:
        mask_size, size = ("x".join(map(str, s)) for s in (missing.shape, x.shape[1:]))
        raise ValueError(f"the mask is {mask_size} (h x w), the image {size}")
    if not missing.any():
        return x
    if missing.all():
        raise ValueError("the mask covers the whole image: there is nothing to go by")
    rows, columns = (_surroundings(missing.any(dim=axis)) for axis in (1, 0))
    part, hole = x[:, rows, columns], missing[rows, columns]
    generator = torch.Generator().manual_seed(0)
    i, j = distance_transform_edt(hole.cpu().numpy(), return_distances=False, return_indices=True)
    y = part[:, torch.from_numpy(i), torch.from_numpy(j)]
    levels = torch.logspace(math.log10(INPAINTING_FROM), math.log10(LEAST), INPAINTING_STEPS)
    with progress.stage("filling in", total=INPAINTING_STEPS) as stage:
        for s in levels.tolist():
            z = torch.randn(y.shape, generator=generator).to(y)
            answer = estimate(torch.where(hole, y + s / 2 * z, part), s)
            y = torch.where(hole, answer, part)
            stage.update()
    result = x.clone()
    result[:, rows, columns] = torch.where(hole, y.clamp(0, 1), part)
    return result


def estimate_sigma(x: Tensor) -> float:
    """The noise level of an image (c, h, w): scikit-image's, from the finest wavelet coefficients
    (Donoho and Johnstone 1994), the mean over the channels.

    Raises
    ------
    DataError : an image too small to estimate it from.
    """
    h, w = x.shape[-2:]
    if min(h, w) < 4:
        raise DataError(f"the noise of a {h}x{w} image cannot be estimated; its sigma is needed")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a channel that is constant, or has few columns
        found = [float(skimage_sigma(channel)) for channel in x.cpu().numpy()]
    return sum(s for s in found if math.isfinite(s)) / len(found)


def checked_sigma(sigma: float) -> float:
    """Raise ValueError where a noise level is negative, not finite, or absurd."""
    if not 0 <= sigma <= LARGEST_SIGMA:
        raise ValueError(
            f"sigma: {sigma:g}: a standard deviation from 0 to {LARGEST_SIGMA:g} is needed, white "
            f"being 1 (25 grey levels of 255 are 0.098)"
        )
    return float(sigma)


def check_model(model: Model, channels: int) -> None:
    """Raise DataError or RunFolderError where `model` names nothing that denoises images with so
    many channels."""
    if isinstance(model, Density):
        name, of = "density", model.channels
    elif model in ("bundled", "fit"):
        return
    else:
        _, config = run_folder.open_existing(Path(model))
        name, of = str(model), config.data_loader.channels
        data = config.data_loader
        method = method_of(config)
        told = method.uses_index and (data.num_images != 1 or data.rotate_augment)
        if not method.denoises_others or told:
            raise DataError(
                f"{model}: a model of its own images only; one with held_out photographs, as of "
                f"the config photographs, denoises others"
            )
    if of != channels:
        raise DataError(
            f"model {name}: of {of} channel(s), the image has {channels}; bundled and fit take both"
        )


def denoiser(model: Model, x: Tensor, sigma: float, refine: bool = False) -> Estimate:
    """The posterior mean of what `model` names, for an image x (c, h, w) with noise of level sigma;
    with `refine` that of a run folder looks at the image in several sizes, and learns Gaussians of
    its neighbourhoods (learnt.py).

    Raises
    ------
    DataError : a model of other channels than the image, or a run folder whose model denoises
        nothing but its own images.
    RunFolderError, CheckpointError : no run folder, or a damaged one.
    """
    check_model(model, len(x))
    if isinstance(model, Density):
        return _of_density(model)
    if model not in ("bundled", "fit"):
        known = _of_run(Path(model), x.device)
        return adaptive.refined(known) if refine else known
    density = bundled(len(x))
    if model == "fit" and sigma:
        return adaptive.denoiser(density, x, sigma)
    return _of_density(density)


@cache
def bundled(channels: int) -> Density:
    """The patch mixture that the package brings, of colour or (channels 1) of luminance."""
    path = resources.files("score_embedding") / "densities" / "photographs.safetensors"
    density = densities.load(Path(str(path)))
    if channels == 3:
        return density
    assert isinstance(density.model, GaussianMixture)
    return Density(density.kind, fitting.luminance(density.model), density.stride)


def to_tensor(image: NDArray[Any]) -> Tensor:
    """(h, w), (h, w, 1) or (h, w, 3) to float32 (c, h, w), white at 1. Raises ValueError for
    anything else."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"image: (h, w) or (h, w, 3) is needed, got shape {image.shape}")
    if image.size == 0:
        raise ValueError(f"image: empty, shape {image.shape}")
    if image.dtype.kind != "f" and image.dtype not in (np.uint8, np.uint16, np.bool_):
        raise ValueError(f"image: uint8, uint16, bool or floats are needed, not {image.dtype}")
    pixels = np.asarray(img_as_float32(image) if image.dtype.kind != "f" else image, np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError("image: holds pixels that are NaN or infinite")
    if np.abs(pixels).max() > BRIGHTEST:
        least, most = pixels.min(), pixels.max()
        raise ValueError(f"image: floats from {least:g} to {most:g}; white must be at 1")
    return torch.from_numpy(np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C"))


def to_array(x: Tensor, ndim: int) -> NDArray[np.float32]:
    """(c, h, w) to (h, w) or (h, w, c)."""
    pixels: NDArray[np.float32] = x.cpu().numpy().transpose(1, 2, 0)
    return pixels[..., 0] if ndim == 2 else pixels


def _on(device: torch.device | str, image: NDArray[Any]) -> Tensor:
    return to_tensor(image).to(with_float64(torch.device(device)))


def _of_density(density: Density) -> Estimate:
    return lambda x, s: density.denoise(x[None], s)[0]


def _of_run(path: Path, device: torch.device) -> Estimate:
    model = load_model(*run_folder.open_existing(path), 1, device)
    return lambda x, s: model.denoise(x[None], x.new_full((1,), s))[0]


def _flow(x: Tensor, sigma: float, estimate: Estimate) -> Tensor:
    """Along dx/ds = (x - D(x, s)) / s, the probability flow in the noise level, from sigma down, by
    Heun's method in steps even in log s; ends with the posterior mean at the least level."""
    levels = torch.logspace(
        math.log10(sigma), math.log10(min(LEAST, sigma / 2)), STEPS + 1
    ).tolist()
    with progress.stage("sampling", total=STEPS) as stage:
        for s, below in pairwise(levels):
            slope = (x - estimate(x, s)) / s
            ahead = x + (below - s) * slope
            x = x + (below - s) * (slope + (ahead - estimate(ahead, below)) / below) / 2
            stage.update()
    return estimate(x, levels[-1])


def _surroundings(missing: Tensor) -> slice:
    """From _MARGIN before the first true value to _MARGIN after the last."""
    places = missing.nonzero()[:, 0]
    return slice(max(0, int(places[0]) - _MARGIN), int(places[-1]) + 1 + _MARGIN)
