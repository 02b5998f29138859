"""Pictures of two values, such as line art, halftones and dithered pictures, under noise.

Where they have no flat place, their tiles show the pattern, not the noise. What varies around each
of the two values is the noise and whatever else there is: an upper bound of it.
"""

from __future__ import annotations

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from score_embedding.restoration import clipping
from score_embedding.restoration.noise import Noise, Values
from score_embedding.restoration.quiet_tiles import QUANTUM

APART = 5.0  # distance of the two values as a multiple of the standard deviation around them from
# which a picture is taken as one of two values; where all brightness is equally frequent, 3.5
AGREES = 0.8  # of variances: the tiles show the noise, not the pattern
LEFT_AT_ENDS = 0.341  # of the variance of noise around black or white itself, half of it cut off
END = 0.1  # brightness within which of black and white a value counts as these
_LEAST = 1e-6
_PIXELS = 500  # along a side: of a larger image every second, third ... is taken


def at_most(noise: Noise, x: Tensor) -> Noise:
    """The noise of an image x (c, h, w), less strong where two values would leave less."""
    found = around_two_values(x)
    if found is None:
        return noise
    values, measured, pixels = found
    expected = noise.at(values)
    if not expected.any():
        return noise
    share = np.average(measured**2, axis=1, weights=pixels).mean()
    factor = share / np.average(expected**2, axis=1, weights=pixels).mean()
    if factor >= 1:
        return noise
    cut = x.min() >= 0 and x.max() <= 1
    if factor < AGREES and cut and _is_black_and_white(values):
        factor *= LEFT_AT_ENDS  # to be safe, as there are no flat places
    return noise.times(float(factor) ** 0.5)


def around_two_values(x: Tensor) -> tuple[Values, Values, Values] | None:
    """The two values of each channel of an image (c, h, w), (c, 2), the standard deviations around
    them, (c, 2), and how many pixels have each, (2,); None where it has more values."""
    rows, columns = (max(1, size // _PIXELS) for size in x.shape[1:])
    pixels = x[:, ::rows, ::columns].flatten(1).double().numpy()
    grey = pixels.mean(axis=0)
    if np.ptp(grey) < _LEAST:
        return None
    bright = grey > threshold_otsu(grey)
    # Any threshold between two separate classes is Otsu's: the middle of their means is safest.
    bright = grey > (grey[bright].mean() + grey[~bright].mean()) / 2
    sides = pixels[:, ~bright], pixels[:, bright]
    low, high = grey[~bright].mean(), grey[bright].mean()
    if high - low < APART * np.std(grey - np.where(bright, high, low)):
        return None
    values = np.stack([side.mean(axis=1) for side in sides], axis=1)
    deviations = np.stack([_uncut(side).std(axis=1) for side in sides], axis=1)
    return values, deviations, np.array([side.shape[1] for side in sides], np.float64)


def _is_black_and_white(values: Values) -> bool:
    """Whether the two values of each channel (c, 2) are black and white."""
    return bool((values[:, 0] < END).all() and (values[:, 1] > 1 - END).all())


def _uncut(side: Values) -> Values:
    """Pixels (c, n) around one value with the standard deviation before noise was cut off."""
    pixels = torch.from_numpy(side)[None]
    black, white = clipping.clipped(pixels, QUANTUM / 2)
    return np.asarray(clipping.uncut(pixels, black, white)[0])
