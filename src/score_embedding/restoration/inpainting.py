"""Inpainting of arrays, in the manner of skimage.restoration.

Holes start as the biharmonic continuation of their surroundings (Damelin and Hoang 2018). Under a
mixture of windows the missing pixels are then estimated given the known ones in closed form
(conditional.py); in wide holes the two are averaged. Any other model, which can only denoise, is
evaluated at falling noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from score_embedding import progress
from score_embedding._deprecated import positional_options
from score_embedding.arrays import normal, torch_defaults
from score_embedding.restoration import conditional, models, pixels, workers
from score_embedding.restoration.adaptive import Estimate
from score_embedding.restoration.models import Denoiser, Model
from score_embedding.restoration.noise import Stationary
from score_embedding.restoration.pixels import ChannelAxis

__all__ = ["by_levels", "filled", "inpaint", "start"]

FIRST_SIGMA, LAST_SIGMA, STEPS = 0.1, 1e-3, 20  # noise levels of a model that only denoises
SURROUNDINGS = 128  # pixels around all holes that they are filled in, and a mixture adapted, from
WIDE = 6.0  # pixels to the nearest known one, in a hole that no window sees both sides of
SMOOTH_SHARE = 0.3  # of the biharmonic continuation there, against structures continued wrongly
MARGIN = 48  # pixels around a hole that such a model is evaluated on


@positional_options
@torch_defaults()
@workers.one_thread_each()
def inpaint(
    image: NDArray[Any],
    mask: ArrayLike | None = None,
    *,
    model: Model | None = None,
    device: torch.device | str = "cpu",
    channel_axis: ChannelAxis = "auto",
    data_range: tuple[float, float] | None = None,
) -> NDArray[Any]:
    """An image with its missing pixels filled in; all other pixels keep their values.

    Parameters
    ----------
    image : as in `denoise`; its values where pixels are missing are never read and may be NaN. A
        masked array's pixels are missing where they are masked.
    mask : missing pixels, (h, w) or (h, w, 1), where it is not 0; for a stack one mask for all
        images or one for each. None: none beside those of a masked array.
    model : "fit" (the default): the bundled patch mixture adapted to the known pixels; "bundled"
        or "fast": that mixture unchanged; a score_embedding.Density; the folder of a run. Of the
        last, and of a density that is no Gaussian mixture, the posterior mean at falling noise
        levels is used, which takes longer.
    device : to compute on; the CPU in place of a device without float64.
    channel_axis : as in `denoise`.
    data_range : black and white, as in `denoise`; None: floats beyond [0, 1] have their own
        least and largest known value.

    Returns
    -------
    filled : shape of the image. Of floats in their dtype (float32 at least), with all known pixels
        bit for bit; of integers float32, white at 1 or, with data_range, on the scale of the image.
        The alpha of RGBA is opaque where pixels were filled in.

    Raises
    ------
    ValueError : an image, mask, model, axis, range or device that is not valid; no known pixel.
    DataError : a model of other channels, or of its own images only.
    RunFolderError, CheckpointError : a run folder that is missing or damaged.

    Warns
    -----
    UserWarning : the model of a run folder was trained on one image only.
    """
    if mask is None and not isinstance(image, np.ma.MaskedArray):
        raise ValueError("mask: needed for an image that is not a masked array")
    found = pixels.read(
        image,
        mask,
        channel_axis=channel_axis,
        data_range=data_range,
        by_own_range=True,
        device=device,
    )
    denoiser = models.resolve_for_user(model, found.channels, found.device, stacklevel=5)
    answer = found.array(filled(x, missing, denoiser) for x, missing in found.images())
    values = pixels.native(np.ma.getdata(image), "image")
    if found.range is None and values.dtype.kind != "f":
        return answer
    floats = np.float32 if values.dtype.kind != "f" else np.result_type(values, np.float32)
    return np.where(found.laid_out(found.missing), answer, values).astype(floats, copy=False)


@workers.one_thread_each()  # files call it alone
def filled(x: Tensor, missing: Tensor, model: Denoiser) -> Tensor:
    """An image x (c, h, w) filled in where `missing` (h, w) is true; other pixels bit for bit.

    Raises
    ------
    ValueError : a mask of another size, or one that covers the whole image.
    DataError, RunFolderError, CheckpointError : as `inpaint`.
    """
    check_mask(missing, x.shape[1:])
    model.check_channels(len(x))
    if not missing.any():
        return x
    area = _box(missing)
    known, hole = x[:, *area], missing[area]
    first = start(known, hole)
    if model.mixture is None:
        white = Stationary.white(LAST_SIGMA, len(x))
        answer = by_levels(known, hole, first, model.estimate(known, white, False))
    else:
        fill = conditional.adaptively_filled if model.adapted else conditional.filled
        answer = fill(known, hole, first, model.mixture(len(x)))
        answer = torch.where(_wide(hole), torch.lerp(answer, first, SMOOTH_SHARE), answer)
    result = x.clone()
    result[:, *area] = torch.where(hole, answer.clamp(0, 1), known)
    return result


def check_mask(missing: Tensor, size: Sequence[int]) -> None:
    """Raise ValueError where `missing` (h, w) is not of this size, or no pixel is known."""
    pixels.check_mask_size(missing.shape, size)
    if missing.all():
        raise ValueError("the mask covers the whole image: no pixel is left to fill in from")


def start(x: Tensor, missing: Tensor) -> Tensor:
    """An image x (c, h, w) with the biharmonic continuation of the known pixels where it is missing
    (h, w), and their mean where that is not finite, as for a single known pixel. ValueError where
    no pixel is known."""
    check_mask(missing, x.shape[1:])
    hole = missing.cpu().numpy()
    image = np.where(hole, 0, x.cpu().numpy())
    found = torch.from_numpy(inpaint_biharmonic(image, hole, channel_axis=0)).to(x)
    mean = x[:, ~missing].mean(dim=1)[:, None, None]
    return torch.where(missing, torch.where(found.isfinite(), found, mean), x)


def by_levels(x: Tensor, missing: Tensor, first: Tensor, estimate: Estimate) -> Tensor:
    """Missing pixels of x (c, h, w) by a model that denoises: they are replaced by their posterior
    mean at each of STEPS noise levels, with less noise added each time. Group by group of holes
    whose surroundings overlap."""
    answer = first.clone()
    levels = np.geomspace(FIRST_SIGMA, LAST_SIGMA, STEPS).tolist()
    areas = list(_surroundings(missing))
    with progress.stage("filling in", total=len(areas) * STEPS) as stage:
        for area in areas:
            generator = torch.Generator("cpu").manual_seed(0)
            known, hole, y = x[:, *area], missing[area], first[:, *area]
            for s in levels:
                z = normal(y.shape, generator).to(y)
                noisy = torch.where(hole, y + s / 2 * z, known)
                y = torch.where(hole, estimate(noisy, Stationary.white(s, len(x))), known)
                stage.update()
            answer[:, *area] = torch.where(hole, y, answer[:, *area])
    return answer


def _wide(missing: Tensor) -> Tensor:
    """The pixels (h, w) of holes in which some pixel is farther than WIDE from all known ones."""
    hole = missing.cpu().numpy()
    labels, count = ndimage.label(hole, np.ones((3, 3)))
    depth = ndimage.maximum(ndimage.distance_transform_edt(hole), labels, np.arange(count + 1))
    return torch.from_numpy(np.asarray(depth)[labels] > WIDE).to(missing.device)


def _box(missing: Tensor) -> tuple[slice, slice]:
    """The part of the image around all holes, with SURROUNDINGS on each side."""
    places = [missing.any(dim=axis).nonzero()[:, 0] for axis in (1, 0)]
    first, last = ([int(of[k]) for of in places] for k in (0, -1))
    rows, columns = (
        slice(max(0, low - SURROUNDINGS), high + 1 + SURROUNDINGS)
        for low, high in zip(first, last, strict=True)
    )
    return rows, columns


def _surroundings(missing: Tensor) -> Iterator[tuple[slice, slice]]:
    """The parts of the image to compute: boxes of the holes and MARGIN pixels around them, those
    that overlap taken together."""
    boxes = ndimage.find_objects(ndimage.label(missing.cpu().numpy(), np.ones((3, 3)))[0])
    near = np.zeros(tuple(missing.shape), np.bool_)
    for box in boxes:
        near[tuple(slice(max(0, side.start - MARGIN), side.stop + MARGIN) for side in box)] = True
    yield from ndimage.find_objects(ndimage.label(near)[0])
