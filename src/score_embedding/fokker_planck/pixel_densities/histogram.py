"""The official program's density of 2026: a smoothed histogram, for reproduction.

A histogram of the pairs with BINS x BINS bins between their smallest and largest values, a Gaussian
filter, and bilinear interpolation between the bins' centres. The bandwidth is Scott's factor
D^(-1/6) in units of the pixel values (in [0, 1] in the official program). It ignores the covariance
of the pairs: 0.31 at 32 x 32, about the standard deviation of a photograph's pixels, where `exact`
has a width of 0.31 standard deviations. So the result is far smoother, and depends on the scale of
the image. Everything not given here is the default of NumPy's histogram2d and of SciPy's
gaussian_filter: the filter reflects at the histogram's edges and ends at 4 bandwidths.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from score_embedding.fokker_planck.pixel_densities import pairs_of

BINS = 256
WIDEST = 1e4  # in bins: such a filter is constant to round-off


def estimate(channels: Tensor) -> Tensor:
    """The log-density at each pixel, (B, h, w). It is finite, for each pair is in a bin itself."""
    m0 = [_log_density(pairs) for pairs in pairs_of(channels).cpu().numpy()]
    return torch.from_numpy(np.stack(m0)).to(channels).view_as(channels)


def _log_density(pairs: np.ndarray) -> np.ndarray:
    """(D,) at the pairs (D, 2). Both columns are the same values in another order, hence bins."""
    u, v = pairs.T
    counts, edges, _ = np.histogram2d(u, v, bins=BINS, density=True)
    bin_width = edges[1] - edges[0]
    along_axis = smoothing(len(pairs) ** (-1 / 6) / bin_width)
    smooth = along_axis @ counts @ along_axis
    centres = (edges[1:] + edges[:-1]) / 2
    # Pairs less than half a bin from the edge take the value of the outermost centre.
    inside = pairs.clip(centres[0], centres[-1])
    m0: np.ndarray = np.log(RegularGridInterpolator((centres, centres), smooth)(inside))
    return m0


def smoothing(bandwidth: float) -> np.ndarray:
    """The (BINS, BINS) matrix of scipy.ndimage.gaussian_filter1d of a bandwidth in bins. Its time
    does not grow with the bandwidth, which is large where the range of the pixels is small."""
    bandwidth = min(bandwidth, WIDEST)
    reach = int(4 * bandwidth + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / bandwidth) ** 2)
    # Reflection at both edges repeats everything after 2 BINS.
    folded = np.bincount(offsets % (2 * BINS), kernel / kernel.sum(), minlength=2 * BINS)
    i, j = np.indices((BINS, BINS))
    matrix: np.ndarray = folded[(i - j) % (2 * BINS)] + folded[(i + j + 1) % (2 * BINS)]
    return matrix
