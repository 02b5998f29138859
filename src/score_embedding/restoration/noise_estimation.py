"""The noise of a photograph, estimated from the photograph itself.

The quiet tiles of each range of brightness (quiet_tiles.py) say how strong the noise is by its
energy, `total`, and by its smallest principal components, `white`. Independent noise has the two
nearly equal where the image is flat, and `white` is not raised by texture. Noise that a camera has
processed is correlated: `white` is then a small part of `total` (camera_noise.py).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import nnls
from skimage.restoration import estimate_sigma as wavelet_sigma
from torch import Tensor

from score_embedding.errors import DataError
from score_embedding.restoration import (
    camera_noise,
    drawings,
    impulses,
    quiet_patches,
    shown_noise,
    two_values,
)
from score_embedding.restoration.noise import Noise, independent
from score_embedding.restoration.quiet_tiles import (
    LEAST_TILES,
    QUANTUM,
    SIDE,
    SMALL_SIDE,
    SMALL_STEP,
    STEP,
    Range,
    at_most_by_brightness,
    less,
    measured,
    tiles_of,
    unclipped,
)

MIN_SIDE = 4  # pixels along a side from which noise can be estimated
INDEPENDENT = 0.4  # `white` as a multiple of `total` from which noise is taken as independent
CAMERA_AT_MOST = 15 * QUANTUM  # of `total`: correlated noise of more is taken as texture, unless
CONSTANT = 1.1  # LEAST_RANGES or more agree to this factor, other tiles hold
BUSIER = 2.0  # times as much energy, and
FORGOTTEN = 0.25  # the correlation at the largest lag is less
LEAST_RANGES = 3  # of brightness that can agree or differ
CONSTANT_WHITE = 1.25  # factor to which the ranges of independent noise agree where it is constant
DETAIL = 2 * QUANTUM  # what fine detail without any noise measures as `white`; subtracted in
# quadrature
_LEAST = 1e-6


def estimated(x: Tensor, kind: str = "auto") -> Noise:
    """The noise of an image (c, h, w), white being 1: of the kind "white", "camera" or "poisson",
    or for "auto" of the one that the image shows.

    Raises
    ------
    DataError : an image with a side of fewer than MIN_SIDE pixels.
    """
    check_size(x.shape)
    c, h, w = x.shape
    x = x.detach().cpu().float()
    if drawings.has_two_values(x):
        return Noise.white(0.0, c)
    tiles = tiles_of(x, min(SIDE, h, w), STEP)
    if drawings.is_drawn(x, background=kind != "poisson"):
        found = Noise.white(0.0, c)
    elif len(tiles) < LEAST_TILES:
        found = Noise.white(_of_wavelets(x), c)
    else:
        found = two_values.at_most(_of_tiles(x, tiles, kind), x)
    return replace(found, impulses=impulses.share(x))


def _of_tiles(x: Tensor, tiles: Tensor, kind: str) -> Noise:
    if kind == "poisson":
        return _poisson(measured(tiles))
    ranges = measured(unclipped(tiles))
    if kind == "white":
        return quiet_patches.at_most(_independent(ranges, one_level=True), x)
    small = measured(unclipped(tiles_of(x, min(SMALL_SIDE, *x.shape[1:]), SMALL_STEP)))
    if kind == "auto" and shown_noise.is_shown(ranges, small):
        return quiet_patches.at_most(
            shown_noise.of_ranges(ranges, small), x, quiet_patches.CORRELATED
        )
    quiet = min(ranges, key=lambda own: own.total)
    independent = quiet.white >= INDEPENDENT * quiet.total or not _may_be_camera(ranges)
    if kind == "auto" and independent:
        return quiet_patches.at_most(_independent(ranges), x)
    found = camera_noise.of_ranges(ranges, small)
    # Flat places of a camera's colour photograph may hold no noise at all.
    return found if len(x) == 3 else quiet_patches.at_most(found, x, quiet_patches.PROCESSED)


def check_size(shape: Sequence[int]) -> None:
    """Raise DataError where an image (c, h, w) has a side of fewer than MIN_SIDE pixels."""
    _, h, w = shape
    if min(h, w) < MIN_SIDE:
        raise DataError(f"the noise of a {h}x{w} image cannot be estimated; its sigma is needed")


def estimate_sigma(x: Tensor) -> float:
    """The level of independent noise of an image x (c, h, w), white being 1. Errors of
    `estimated`."""
    return estimated(x, "white").level


def _may_be_camera(ranges: list[Range]) -> bool:
    total = np.array([own.total for own in ranges])
    if total.min() <= CAMERA_AT_MOST:
        return True
    if len(ranges) < LEAST_RANGES:
        return False
    busy = min(own.busy for own in ranges)
    far = max(own.far for own in ranges)
    return bool(total.max() <= CONSTANT * total.min() and busy >= BUSIER and far < FORGOTTEN)


def _independent(ranges: list[Range], one_level: bool = False) -> Noise:
    levels = np.array([own.brightness for own in ranges])
    measured_whites = np.stack([own.whites for own in ranges], axis=1)  # (c, ranges)
    whites, c = at_most_by_brightness(levels, measured_whites), len(measured_whites)
    if one_level or len(ranges) < LEAST_RANGES or whites.max() <= CONSTANT_WHITE * whites.min():
        # texture only raises it: the lower quartile, not the median
        return Noise.white(less(np.quantile(whites, 0.25, axis=1), DETAIL), c)
    return Noise(levels, less(whites, DETAIL), independent(c))


def _poisson(ranges: list[Range]) -> Noise:
    """Variance a x + b with a and b from 0 on, fitted to the ranges by relative error."""
    variance = np.array([own.white**2 for own in ranges])
    weights = 1 / variance.clip(_LEAST**2)
    columns = np.stack([[own.brightness for own in ranges], np.ones(len(ranges))], axis=1)
    slope, offset = nnls(columns * weights[:, None], variance * weights)[0]
    return Noise.poisson(float(slope), float(offset), len(ranges[0].whites))


def _of_wavelets(x: Tensor) -> float:
    """The mean over the channels of scikit-image's estimate from the finest wavelet coefficients
    (Donoho and Johnstone 1994), for images too small for tiles."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a channel that is constant, or has few columns
        found = [float(wavelet_sigma(channel)) for channel in x.numpy()]
    return sum(s for s in found if math.isfinite(s)) / len(found)
