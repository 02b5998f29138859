"""The noise of a photograph, estimated from the photograph itself.

Where an image is flat, what varies is noise. Tiles are sorted by brightness, and in each of a few
ranges those of least energy, a plane removed, are taken (Ponomarenko et al. 2007; Colom, Buades and
Morel 2014). Two standard deviations are measured in each range:

- `total`, from the energy of its quiet tiles. The least energies of many are below the mean even
  where all tiles hold the same noise; the expected ratio is divided out.
- `white`, from the smallest principal components of the small windows in them (Pyatykh, Hesser and
  Zheng 2013; Chen, Zhu and Heng 2015): texture and patterns lie in the larger ones.

Independent noise has the two nearly equal where the image is flat, and `white` is not raised by
texture. Noise that a camera has processed is correlated: `white` is then a small part of `total`,
and the autocovariance of the quiet tiles is that of the noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import torch
from scipy.optimize import nnls
from skimage.restoration import estimate_sigma as wavelet_sigma
from torch import Tensor
from torch.nn import functional as F

from score_embedding.data.image_files import LUMA
from score_embedding.errors import DataError
from score_embedding.restoration.noise import Noise, Values, independent, variances

SIDE, STEP, REACH = 24, 8, 7  # pixels along a tile and between tiles; largest lag of a correlation
QUIETEST = 0.1  # share of the tiles of a brightness range that is taken as noise alone
RANGES = 6  # of brightness, with as many tiles each
LEAST_TILES = 24  # to take from a range
MIN_SIDE = 4  # pixels along a side from which noise can be estimated
QUANTUM = 1 / 255  # of the brightness
INDEPENDENT = 0.4  # `white` as a multiple of `total` from which noise is taken as independent
CAMERA_AT_MOST = 15 * QUANTUM  # of `total`: correlated noise of more is taken as texture, unless
CONSTANT = 1.1  # all ranges agree to this factor, other tiles hold
BUSIER = 2.0  # times as much energy, and
FORGOTTEN = 0.25  # the correlation at the largest lag is less
ABOVE = 1.3  # times its least `total` that a range of correlated noise may have, or
COMPONENTS = 10.0  # times its `white`
CONSTANT_WHITE = 1.25  # factor to which the ranges of independent noise agree where it is constant
IMPULSES_FROM = 0.005  # share of the pixels
# What fine detail without any noise measures; subtracted in quadrature.
DETAIL_WHITE, DETAIL_CAMERA = 2 * QUANTUM, 0.7 * QUANTUM
PROCESSED = 1.3  # standard deviation elsewhere as a multiple of that of flat tiles, for correlated
# noise: what correlates it, a camera's processing and JPEG, also takes noise from flat places
_WINDOW = 5  # pixels along a window for principal components
_MOST_TILES = 20000
DARK = 0.08  # brightness within which of black and white a camera may leave no noise
_FLAT_SHARE = 0.3  # of the tiles without any variation: drawn, not photographed
_EMPTY_SHARE = 0.6  # of the tiles that are all black or white
_LEAST = 1e-6
_LEAST_RATIO = 0.75  # of energies: a wider spread is not of noise


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
    if is_drawn(x):
        return Noise.white(0.0, c)
    tiles = _tiles(x, min(SIDE, h, w), STEP)
    if len(tiles) < LEAST_TILES:
        return Noise.white(_of_wavelets(x), c)
    ranges = _measured(tiles if kind == "poisson" else _unclipped(tiles))
    if kind == "poisson":
        return _poisson(ranges)
    quiet = min(ranges, key=lambda own: own.total)
    independent = quiet.white >= INDEPENDENT * quiet.total or not _may_be_camera(ranges)
    if kind == "white" or (kind == "auto" and independent):
        return replace(_independent(ranges, kind == "white"), impulses=_impulses(x))
    return _correlated(ranges)


def check_size(shape: Sequence[int]) -> None:
    """Raise DataError where an image (c, h, w) has a side of fewer than MIN_SIDE pixels."""
    _, h, w = shape
    if min(h, w) < MIN_SIDE:
        raise DataError(f"the noise of a {h}x{w} image cannot be estimated; its sigma is needed")


def estimate_sigma(x: Tensor) -> float:
    """The level of independent noise of an image x (c, h, w), white being 1. Errors of
    `estimated`."""
    return estimated(x, "white").level


@dataclass(frozen=True)
class _Range:
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


def _may_be_camera(ranges: list[_Range]) -> bool:
    total = np.array([own.total for own in ranges])
    if total.min() <= CAMERA_AT_MOST:
        return True
    busy = min(own.busy for own in ranges)
    far = max(own.far for own in ranges)
    return bool(total.max() <= CONSTANT * total.min() and busy >= BUSIER and far < FORGOTTEN)


def _independent(ranges: list[_Range], one_level: bool = False) -> Noise:
    whites = np.stack([own.whites for own in ranges], axis=1)  # (c, ranges)
    c = len(whites)
    if one_level or len(ranges) < 3 or whites.max() <= CONSTANT_WHITE * whites.min():
        # texture only raises it: the lower quartile, not the median
        return Noise.white(_less(np.quantile(whites, 0.25, axis=1), DETAIL_WHITE), c)
    levels = np.array([own.brightness for own in ranges])
    return Noise(levels, _less(whites, DETAIL_WHITE), independent(c))


def _poisson(ranges: list[_Range]) -> Noise:
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


def _impulses(x: Tensor) -> float:
    """The share of pixels, black or white in all channels, that stand alone."""
    ends = ((x <= 0).all(dim=0) | (x >= 1).all(dim=0)).float()
    padded = F.pad(ends[None, None], (1, 1, 1, 1))
    around = F.conv2d(padded, torch.ones(1, 1, 3, 3))[0, 0] - ends
    share = float(((ends == 1) & (around <= 2)).float().mean())
    return share if share > IMPULSES_FROM and float(ends.mean()) < 0.5 else 0.0


def _correlated(ranges: list[_Range]) -> Noise:
    totals = np.stack([own.totals for own in ranges], axis=1)  # (c, ranges)
    shares = totals[:, None] * totals[None]  # (c, c, ranges)
    covariances = np.stack([own.covariance for own in ranges], axis=-1)
    weights = 1 / np.mean(totals**2, axis=0)
    correlation = np.average(covariances / shares[:, :, None, None], axis=-1, weights=weights)
    whites = np.stack([own.whites for own in ranges], axis=1)
    most = np.maximum(ABOVE * totals.min(axis=1, keepdims=True), COMPONENTS * whites)
    deviations = PROCESSED * _less(np.minimum(totals, most), DETAIL_CAMERA)
    return Noise(np.array([own.brightness for own in ranges]), deviations, correlation)


def _less(deviations: Values, detail: float) -> Values:
    return np.asarray(np.sqrt((deviations**2 - detail**2).clip(0)))


def is_drawn(x: Tensor) -> bool:
    """Whether an image has no noise for sure: of two values, or constant in many places that are
    not clipped."""
    if len(torch.unique(x[:, ::3, ::3])) <= 2 and len(torch.unique(x)) <= 2:
        return True
    tiles = _tiles(x, min(8, *x.shape[1:]), 8).flatten(2)
    low, high = tiles.amin(dim=2), tiles.amax(dim=2)
    inside = ((high < 1 - DARK) & (low > DARK)).all(dim=1)
    constant = (high == low).all(dim=1)
    share = float((constant & inside).float().mean())
    return share > _FLAT_SHARE or float((constant & ~inside).float().mean()) > _EMPTY_SHARE


def _unclipped(tiles: Tensor) -> Tensor:
    """The tiles without pixels at the ends of the range, where noise is cut off; all if few are."""
    clipped = ((tiles <= QUANTUM / 2) | (tiles >= 1 - QUANTUM / 2)).flatten(1).any(dim=1)
    return tiles[~clipped] if int((~clipped).sum()) >= 4 * LEAST_TILES else tiles


def _measured(tiles: Tensor) -> list[_Range]:
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
        found.append(_Range(float(brightness[quiet].mean()), whites, covariance / ratio, busy))
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


def _tiles(x: Tensor, side: int, step: int) -> Tensor:
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
