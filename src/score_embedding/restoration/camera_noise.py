"""The noise that a camera leaves in a finished photograph, from what its quiet tiles hold.

A camera's processing correlates the noise: demosaicking spreads it over neighbours and channels,
and the smoothing of colour and JPEG leave the colour part only slow variations. The quiet tiles
show the standard deviation at each brightness, but where a photograph has texture everywhere they
show texture, too, which is longer and greyer than noise. Two remedies:

- In small tiles, texture is a smaller part of the energy than in large ones. What the large tiles
  hold beyond the usual multiple of the small ones is taken as texture.
- Cameras differ little in the correlation. Where the tiles' correlation is that of a camera at the
  nearest lags, `typical` takes its place: averaged over whole pictures of three cameras, it is
  closer to the noise than what tiles of one picture show. The level is then drawn towards LIKELY,
  since cameras differ in it less than the tiles of pictures do.
"""

from __future__ import annotations

import numpy as np

from score_embedding.restoration.noise import Noise, Values
from score_embedding.restoration.quiet_tiles import (
    QUANTUM,
    REACH,
    Range,
    at_most_by_brightness,
    less,
)

PROCESSED = 1.4  # standard deviation elsewhere as a multiple of that of quiet tiles: the processing
# and JPEG take noise from flat places
LARGE_TO_SMALL = 1.4  # standard deviation of noise in large tiles as a multiple of that in small
LEAST_SHARE = 0.6  # of the median over the ranges of brightness: a range that has less is clipped
DETAIL = 0.7 * QUANTUM  # what fine detail without any noise measures; subtracted in quadrature
MARGIN = 3.0  # factor by which ranges of the same noise may differ beyond what brightness explains
NO_VARIATION = 0.1 * QUANTUM  # a range of less holds no noise
# The typical correlation: of the variance, the part that all channels share, how fast that falls
# with the squared distance, and over how many pixels the part of each channel alone falls.
SHARED, FALL, LONG = 0.65, 0.8, 4.0
LIKELY = 3 * QUANTUM  # standard deviation in quiet tiles, and
ABOVE, BELOW = 0.6, 0.8  # powers of its multiple that are relied on: texture raises it more often
NEAREST = 0.5, 0.9  # correlation of neighbours, and
CHANNELS = 0.35, 0.98  # of channels, within which the noise is taken as a camera's


def of_ranges(ranges: list[Range], small: list[Range]) -> Noise:
    """The correlated noise of a photograph, from the ranges of brightness of its large tiles and of
    its small tiles; of large tiles alone where the numbers of ranges differ."""
    totals = np.stack([own.totals for own in ranges], axis=1)  # (c, ranges)
    each = np.sqrt(np.mean(totals**2, axis=0))
    brightness = np.array([own.brightness for own in ranges])
    noise = np.sqrt(np.mean(at_most_by_brightness(brightness, totals, MARGIN) ** 2, axis=0))
    if len(small) == len(ranges):
        noise = np.minimum(noise, LARGE_TO_SMALL * np.array([own.total for own in small]))
    noise = less(noise, DETAIL)
    noise = np.maximum(noise, LEAST_SHARE * np.median(noise))
    varied = each > NO_VARIATION
    # The channels of a range without any variation have equal parts of what it is given.
    parts = np.where(varied, totals / each.clip(NO_VARIATION), 1.0)
    correlation = _correlation(ranges, totals, varied)
    if _of_camera(correlation):
        correlation = typical(len(totals))
        noise = LIKELY * (noise / LIKELY) ** np.where(noise > LIKELY, ABOVE, BELOW)
    return Noise(brightness, PROCESSED * noise * parts, correlation)


def typical(channels: int) -> Values:
    """The correlation of camera noise at lags up to REACH, (c, c, 2 REACH + 1, 2 REACH + 1)."""
    lag = np.arange(-REACH, REACH + 1.0)
    squares = lag[:, None] ** 2 + lag**2
    shared = SHARED * np.exp(-FALL * squares)
    own = (1 - SHARED) * np.exp(-np.sqrt(squares) / LONG)
    return shared + np.eye(channels)[:, :, None, None] * own


def _correlation(ranges: list[Range], totals: Values, varied: Values) -> Values:
    """Of the tiles, all ranges together that vary; of all if none does."""
    shares = totals[:, None] * totals[None]  # (c, c, ranges)
    covariances = np.stack([own.covariance for own in ranges], axis=-1)
    weights = 1 / np.mean(totals**2, axis=0)
    if varied.any():
        weights = weights * varied
    return np.asarray(np.average(covariances / shares[:, :, None, None], axis=-1, weights=weights))


def _of_camera(correlation: Values) -> bool:
    c, centre = len(correlation), correlation.shape[2] // 2
    if c != 3 or centre != REACH:
        return False
    own = np.einsum("aaij->ij", correlation) / c
    nearest = (own[centre, centre + 1] + own[centre + 1, centre]) / 2
    between = correlation[:, :, centre, centre][~np.eye(c, dtype=bool)].mean()
    return bool(NEAREST[0] < nearest < NEAREST[1] and CHANNELS[0] < between < CHANNELS[1])
