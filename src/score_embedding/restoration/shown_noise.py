"""Correlated noise that quiet tiles show alone: blurred, resampled or stored as JPEG.

Texture is shared by the channels, reaches far, and differs from place to place. Where the quiet
tiles of a picture hold nothing of the kind, what they hold is noise, whatever its correlation.
"""

from __future__ import annotations

import numpy as np

from score_embedding.restoration.noise import Noise, Values
from score_embedding.restoration.quiet_tiles import (
    QUANTUM,
    Range,
    at_most_by_brightness,
    correlation_of,
    less,
)

FAR = 0.12  # correlation at the largest lag: of noise it is less
APART = 0.3  # correlation of the channels: of texture it is more
NOISE_ALONE = 0.75  # `white` as a multiple of `total` from which tiles hold next to no texture
SMALL_TO_LARGE = 0.75  # standard deviation in small tiles as a multiple of that in large ones: of
# texture it is less
AGREE, AT_MOST = 1.12, 3  # the quietest ranges of brightness, that many, agree to this factor
CORRELATED = 0.15  # of neighbours or channels: less is taken as none
DETAIL = 2 * QUANTUM  # what fine detail without any noise measures; subtracted in quadrature
LEAST = 2 * QUANTUM  # of `total`: less may be the rounding and processing of the file


def is_shown(ranges: list[Range], small: list[Range]) -> bool:
    """Whether the quiet tiles, of large ones and of small ones, show correlated noise alone."""
    quiet = _quiet(ranges)
    if quiet[0].total < LEAST or min(own.far for own in quiet) > FAR:
        return False
    correlation = correlation_of(quiet)
    c, centre = len(correlation), correlation.shape[2] // 2
    own = np.einsum("aaij->ij", correlation) / c
    near = (own[centre, centre + 1] + own[centre + 1, centre]) / 2
    between = _between(correlation)
    if max(near, between) < CORRELATED:
        return False
    if _alone(quiet[0]):
        return True
    if c > 1:
        return between < APART
    agree = len(quiet) > 1 and quiet[-1].total <= AGREE * quiet[0].total
    least = np.mean(sorted(own.total for own in small)[:2])
    return agree and float(least) >= SMALL_TO_LARGE * quiet[0].total


def of_ranges(ranges: list[Range], small: list[Range]) -> Noise:
    """The noise of ranges of brightness of large and of small tiles, the quietest of which show it
    alone. Small tiles hold less texture beside it."""
    quiet = _quiet(ranges)
    found = np.stack([own.totals for own in ranges], axis=1)
    if _alone(quiet[0]):  # `white`, which texture does not raise elsewhere
        whites = np.stack([own.whites for own in ranges], axis=1)
        found = np.minimum(found, whites * quiet[0].total / quiet[0].white)
    if len(small) == len(ranges):
        least = quiet[0].total / min(own.total for own in small)
        found = np.minimum(found, least * np.stack([own.totals for own in small], axis=1))
    levels = np.array([own.brightness for own in ranges])
    deviations = less(at_most_by_brightness(levels, found), DETAIL)
    return Noise(levels, deviations, correlation_of(quiet))


def _quiet(ranges: list[Range]) -> list[Range]:
    """The ranges with the least variation; where the least holds no texture, those without."""
    quiet = sorted(ranges, key=lambda own: own.total)[:AT_MOST]
    return [own for own in quiet if _alone(own)] if _alone(quiet[0]) else quiet


def _alone(own: Range) -> bool:
    return own.white >= NOISE_ALONE * own.total


def _between(correlation: Values) -> float:
    """The mean correlation of two channels at one pixel; 0 of one channel."""
    c, centre = len(correlation), correlation.shape[2] // 2
    if c == 1:
        return 0.0
    return float(correlation[:, :, centre, centre][~np.eye(c, dtype=bool)].mean())
