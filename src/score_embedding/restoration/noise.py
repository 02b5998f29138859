"""The noise level of an image: how it is given, and how it is estimated.

The noise is modelled as white and Gaussian: one standard deviation sigma for all pixels and
channels (white being 1), independent between them.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from skimage.restoration import estimate_sigma as skimage_sigma
from torch import Tensor

from score_embedding.errors import DataError

MAX_SIGMA = 2.0  # white being 1: an image is unrecognisable at much lower levels
MIN_SIDE = 4  # pixels along a side from which sigma can be estimated


def noise_level(sigma: ArrayLike | None, x: Tensor) -> float:
    """The noise level to denoise an image x (c, h, w) with: `sigma` itself, checked, or where it
    is None or "auto" the estimate from the image. Errors of `checked_sigma`, `estimate_sigma`."""
    if sigma is None or (isinstance(sigma, str) and sigma == "auto"):
        return estimate_sigma(x)
    return checked_sigma(sigma)


def estimate_sigma(x: Tensor) -> float:
    """The noise level of an image x (c, h, w), white being 1: the mean over the channels of
    scikit-image's estimate from the finest wavelet coefficients (Donoho and Johnstone 1994).

    Raises
    ------
    DataError : an image with a side of fewer than MIN_SIDE pixels.
    """
    h, w = x.shape[-2:]
    if min(h, w) < MIN_SIDE:
        raise DataError(f"the noise of a {h}x{w} image cannot be estimated; its sigma is needed")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a channel that is constant, or has few columns
        found = [float(skimage_sigma(channel)) for channel in x.cpu().numpy()]
    return sum(s for s in found if math.isfinite(s)) / len(found)


def checked_sigma(sigma: Any) -> float:
    """`sigma` as one number: a number, or an array of equal numbers, such as one per channel.

    Raises
    ------
    ValueError : not a number, numbers that differ, or one that is not in 0 to MAX_SIGMA.
    """
    try:
        if np.asarray(sigma).dtype == bool:
            raise TypeError
        levels = np.unique(np.asarray(sigma, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f'sigma: a number or "auto" is needed, got {sigma!r}') from None
    if levels.size != 1:
        raise ValueError(
            f"sigma: {sigma}: one standard deviation for all pixels and channels is needed; the "
            f"root of the mean of their squares is the closest one"
        )
    level = float(levels[0])
    if not 0 <= level <= MAX_SIGMA:
        raise ValueError(
            f"sigma: {level:g}: a standard deviation from 0 to {MAX_SIGMA:g} is needed, white "
            f"being 1 (25 grey levels of 255 are 0.098)"
        )
    return level
