"""What the quiet tiles of an image hold: where an image is flat, what varies is noise.

Tiles are sorted by brightness, and in each of a few ranges those of least energy, a plane removed,
are taken (Ponomarenko et al. 2007; Colom, Buades and Morel 2014). Two standard deviations are
measured in each range:

- `total`, from the energy of its quiet tiles. The least energies of many are below the mean even
  where all tiles hold the same noise; the expected ratio is divided out.
- `white`, from the smallest principal components of the small windows in them (Pyatykh, Hesser and
  Zheng 2013; Chen, Zhu and Heng 2015): texture and patterns lie in the larger ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from score_embedding.data.image_files import LUMA
from score_embedding.restoration import clipping
from score_embedding.restoration.noise import Values, variances

SIDE, STEP, REACH = 24, 8, 7  # pixels along a tile and between tiles; largest lag of a correlation
SMALL_SIDE, SMALL_STEP = 12, 4
QUIETEST = 0.1  # share of the tiles of a brightness range that is taken as noise alone
RANGES = 6  # of brightness, with as many tiles each
LEAST_TILES = 24  # to take from a range
QUANTUM = 1 / 255  # of the brightness
MARGIN = 1.25  # factor by which the ranges of the same noise may differ, measured
DARKEST, END = 0.05, 0.08  # brightness: less is taken as this; next to black or white, where noise
# is cut off
_WINDOW = 5  # pixels along a window for principal components
_MOST_TILES = 20000
_LEAST = 1e-6
_LEAST_RATIO = 0.75  # of energies: a wider spread is not of noise


@dataclass(frozen=True)
class Range:
    """What the quiet tiles of one range of brightness hold: `white` of each channel, the
    autocovariance (c, c, 2 R + 1, 2 R + 1), and how many times more energy its busy tiles have."""

    brightness: float
    whites: Values
    covariance: Values
    busy: float

    @property
    def totals(self) -> Values:
        return np.asarray(np.sqrt(variances(self.covariance).clip(_LEAST**2)))

    @property
    def far(self) -> float:
        """The largest correlation at the largest lag, along a row or a column."""
        middle = self.covariance.shape[2] // 2
        ends = self.covariance[0, 0, [0, middle], [middle, 0]]
        return float(np.abs(ends).max() / self.totals[0] ** 2)

    @property
    def total(self) -> float:
        return float(np.sqrt(np.mean(self.totals**2)))

    @property
    def white(self) -> float:
        return float(np.sqrt(np.mean(self.whites**2)))


def unclipped(tiles: Tensor) -> Tensor:
    """The tiles without pixels at the ends of the range, where noise is cut off. Where these are
    few, those with as many as noise explains, and the standard deviation undone that is lost."""
    black, white = clipping.clipped(tiles, QUANTUM / 2)
    share = (black | white).flatten(2).double().mean(dim=2).amax(dim=1)
    for most in (0.0, clipping.MOST_CLIPPED, 1.0):
        usable = share <= most
        if int(usable.sum()) >= 4 * LEAST_TILES:
            break
    return clipping.uncut(tiles[usable], black[usable], white[usable])


def measured(tiles: Tensor) -> list[Range]:
    mean = tiles.mean(dim=(2, 3))
    brightness = mean @ LUMA.to(mean) if mean.shape[1] == 3 else mean.mean(dim=1)
    flat = _without_plane(tiles)
    energy = flat.square().mean(dim=(1, 2, 3))
    count = max(1, min(RANGES, len(tiles) // (4 * LEAST_TILES)))
    found = []
    for own in brightness.argsort().chunk(count):
        taken = min(len(own), max(LEAST_TILES, round(QUIETEST * len(own))))
        quiet = own[energy[own].argsort()[:taken]]
        covariance = autocovariance(flat[quiet], min(REACH, flat.shape[-1] - 1))
        ratio = _expected_ratio(covariance, taken / len(own), flat)
        whites = principal_deviations(flat[quiet]) / math.sqrt(ratio)
        busy = float(energy[own].quantile(0.9) / energy[quiet].mean().clamp_min(_LEAST**2))
        found.append(Range(float(brightness[quiet].mean()), whites, covariance / ratio, busy))
    return found


def autocovariance(tiles: Tensor, reach: int) -> Values:
    """Of tiles (n, c, s, s) of mean 0: (c, c, 2 reach + 1, 2 reach + 1), of channel a at a pixel
    with channel b at the pixel (i - reach, j - reach) further down and right."""
    n, _, s, _ = tiles.shape
    size = s + reach
    spectrum = torch.fft.rfft2(tiles, s=(size, size))
    cross = torch.einsum("nahw,nbhw->abhw", spectrum.conj(), spectrum)
    sums = torch.fft.irfft2(cross, s=(size, size)).double().numpy()
    lags = np.arange(-reach, reach + 1)
    pairs = (s - np.abs(lags))[:, None] * (s - np.abs(lags)) * n
    return np.asarray(sums[:, :, lags[:, None], lags] / pairs)


def _expected_ratio(covariance: Values, share: float, tiles: Tensor) -> float:
    """The mean energy of the quietest `share` of tiles that all hold the same noise, as a multiple
    of the mean of all. The energies are taken as normally distributed."""
    if share >= 1:
        return 1.0
    total = variances(covariance).sum() ** 2
    if total <= 0:
        return 1.0
    pixels = tiles.shape[2] * tiles.shape[3]
    spread = math.sqrt(2 * float((covariance**2).sum()) / (total * pixels))
    normal = NormalDist()
    return max(_LEAST_RATIO, 1 - spread * normal.pdf(normal.inv_cdf(share)) / share)


def principal_deviations(tiles: Tensor) -> Values:
    """The standard deviation of white noise of each channel of tiles (n, c, s, s), from the
    eigenvalues of the covariance of their windows: the largest set of smallest ones whose mean is
    not above their median."""
    side = min(_WINDOW, tiles.shape[-1])
    found = []
    for channel in tiles.unbind(dim=1):
        windows = channel.unfold(1, side, 2).unfold(2, side, 2).reshape(-1, side**2).double()
        covariance = windows.T @ windows / len(windows)
        values = torch.linalg.eigvalsh(covariance).clamp_min(0).numpy()
        counts = [n for n in range(1, len(values) + 1) if _balanced(values[:n])]
        found.append(math.sqrt(float(np.mean(values[: max(counts)]))))
    return np.array(found)


def _balanced(values: Values) -> bool:
    return float(np.mean(values)) <= float(np.median(values)) * (1 + 1e-9)


def tiles_of(x: Tensor, side: int, step: int) -> Tensor:
    """Tiles of an image (c, h, w), (n, c, side, side); of many an even selection."""
    _, h, w = x.shape
    count = ((h - side) // step + 1) * ((w - side) // step + 1)
    step *= max(1, math.ceil(math.sqrt(count / _MOST_TILES)))
    tiles: Tensor = x.unfold(1, side, step).unfold(2, side, step)
    return tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)


def _without_plane(tiles: Tensor) -> Tensor:
    """Tiles (n, c, s, s) less the plane that is closest to each."""
    s = tiles.shape[-1]
    ramp = torch.linspace(-1, 1, s, dtype=tiles.dtype)
    one = torch.ones(s, s, dtype=tiles.dtype)
    planes = torch.stack([one, ramp[:, None] * one, ramp * one]).flatten(1)
    axes = torch.linalg.qr(planes.T).Q
    flat = tiles.flatten(2)
    rest: Tensor = flat - (flat @ axes) @ axes.T
    return rest.view_as(tiles)


def correlation_of(ranges: list[Range]) -> Values:
    """The mean correlation (c, c, 2 R + 1, 2 R + 1) of ranges, each of which has some variation."""
    each = []
    for own in ranges:
        deviations = own.totals
        each.append(own.covariance / (deviations[:, None] * deviations)[:, :, None, None])
    return np.asarray(np.mean(each, axis=0))


def at_most_by_brightness(brightness: Values, deviations: Values, margin: float = MARGIN) -> Values:
    """Standard deviations (c, r) measured at r levels of brightness (r,), none more than noise
    could have where it has less at another level.

    Texture raises what a range measures and nothing lowers it, except near black and white. The
    variance of noise grows at most in proportion to the brightness; the gamma of a file raises it
    in the dark, more slowly. `margin`: the factor by which measurements of the same noise differ.
    """
    levels = brightness.clip(DARKEST)
    relied = (levels > END) & (levels < 1 - END)
    if not relied.any():
        return deviations
    ratio = levels[:, None] / levels
    most = deviations[:, None] * margin * np.maximum(ratio**0.5, ratio**-0.25)  # (c, r, r)
    return np.asarray(np.minimum(deviations, most[:, :, relied].min(axis=2)))


def less(deviations: Values, detail: float) -> Values:
    """Standard deviations less that of `detail`, in quadrature."""
    return np.asarray(np.sqrt((deviations**2 - detail**2).clip(0)))
