"""Fast Gauss transform: sums of unit Gaussian kernels over points of the plane.

For points (x_k, y_k) with weights w_k, `kernel_sums` returns at each of them

    S_k = sum over j of w_j exp(-((x_k - x_j)^2 + (y_k - y_j)^2) / 2)

Poisson's summation formula separates the kernel along each axis. With a period P and h = 2 pi / P,

    exp(-d^2/2) = h / sqrt(2 pi) sum over m of exp(-(h m)^2/2) exp(i h m d)
                  - sum over j != 0 of exp(-(d + j P)^2/2)

P is the extent of the points plus R, and the series ends where h |m| > R. Both omissions together
are at most 3 exp(-R^2/2). R = `reach(D)` makes this 3e-10 / D, hence 6e-10 in a sum of D kernels
along two axes. So the moments sum_j w_j exp(-i h m z_j) of the points, times the coefficients, are
the Fourier coefficients of S. Both sums over points are computed by

- products of matrices for few points, for gradients, and on other devices than the CPU,
- finufft's non-uniform fast Fourier transforms (Barnett, Magland, af Klinteberg 2019,
  arXiv 1808.06736) otherwise, in D log D operations, with a relative error near NUFFT_TOLERANCE.

Gaps between points are closed, and sets of points that are still wide are cut in half, so that
outliers and heavy tails cost little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import finufft
import numpy as np
import torch
from torch import Tensor

FEW = 1500  # points up to which matrices cost less than finufft
NUFFT_TOLERANCE = 1e-12  # relative; a point far from all others has a sum of 1 among sums up to D
STEP = 8  # of the largest m of finufft's plans
WIDE = 24.0  # kernel widths: wider extents are searched for gaps
MODES = 2**18  # of a series in two dimensions; wider sets of points are cut in half
VALUES = 2**19  # values of the bases held at once


def reach(D: float) -> float:
    """The distance R at which D kernels are negligible: D exp(-R^2 / 2) = 1e-10."""
    return math.sqrt(2 * math.log(1e10 * D))


def kernel_sums(x: Tensor, y: Tensor, weight: Tensor, mirrored: bool = False) -> Tensor:
    """The sums S (B, D) in float64, differentiable in x and y.

    Parameters
    ----------
    x, y : (B, D) float64, the coordinates of B sets of D points, in kernel widths.
    weight : (D,) of the points, not negative.
    mirrored : each point stands for (x, y) and (x, -y), with half of its weight each.
    """
    R = reach(float(weight.sum()))
    y = y.abs() if mirrored else y - y.detach().amin(dim=1, keepdim=True)
    x = _without_gaps(x - x.detach().amin(dim=1, keepdim=True), R)
    y = _without_gaps(y, R)
    series = [
        (Series(along_x, R), Series(along_y * (1 + mirrored), R))
        for along_x, along_y in zip(_largest(x), _largest(y), strict=True)
    ]
    modes = [along_x.modes * along_y.modes for along_x, along_y in series]
    if max(modes) <= MODES:
        return _of_narrow(x, y, weight, mirrored, series)
    sums = []
    for k, one in enumerate(series):
        points = x[k : k + 1], y[k : k + 1], weight, mirrored
        narrow = modes[k] <= MODES
        sums.append(_of_narrow(*points, [one]) if narrow else _of_halves(*points, R))
    return torch.cat(sums)


def _largest(x: Tensor) -> list[float]:
    largest: list[float] = x.detach().amax(dim=1).tolist()
    return largest


def _of_halves(x: Tensor, y: Tensor, weight: Tensor, mirrored: bool, R: float) -> Tensor:
    """The sums (1, D) of one wide set: each half of its longer axis with all that is within R."""
    z = (x if float(x.detach().amax()) > float(y.detach().amax()) else y).detach()[0]
    middle = z.amax() / 2
    is_high = z > middle
    sums, places = [], []
    for half, near in (~is_high, z < middle + R), (is_high, z > middle - R):
        of_near = kernel_sums(x[:, near], y[:, near], weight[near], mirrored)
        sums.append(of_near[:, half[near]])
        places.append(half.nonzero()[:, 0])
    return torch.cat(sums, dim=1)[:, torch.cat(places).argsort()]


def _of_narrow(x: Tensor, y: Tensor, weight: Tensor, mirrored: bool, series: list[Pair]) -> Tensor:
    gradient = x.requires_grad or y.requires_grad
    if x.shape[1] <= FEW or x.device.type != "cpu" or gradient:
        return _by_matrices(x, y, weight, mirrored, series)
    return _by_nufft(x, y, weight, mirrored, series)


@dataclass(frozen=True)
class Series:
    """The Fourier series of exp(-d^2/2) for |d| <= extent, up to the frequency R."""

    extent: float
    R: float

    @property
    def h(self) -> float:
        """The angular frequency of m = 1."""
        return 2 * math.pi / (self.extent + self.R)

    @property
    def largest(self) -> int:
        """The largest m."""
        return math.ceil(self.R / self.h)

    @property
    def modes(self) -> int:
        """The number of m, from -largest to largest."""
        return 2 * self.largest + 1

    def coefficients(self, m: Tensor) -> Tensor:
        """Those of exp(i h m d), for any m."""
        return torch.exp(-0.5 * (self.h * m).square()) * (self.h / math.sqrt(2 * math.pi))


Pair = tuple[Series, Series]  # along x and along y


def _by_nufft(x: Tensor, y: Tensor, weight: Tensor, mirrored: bool, series: list[Pair]) -> Tensor:
    """The sums (B, D). Sets with the same number of modes share a plan of finufft."""

    def modes(k: int) -> tuple[int, ...]:
        return tuple(2 * STEP * -(-along.largest // STEP) + 1 for along in series[k])

    sums, strengths = np.empty(x.shape), weight.numpy().astype(complex)
    for shape, sets in groupby(sorted(range(len(x)), key=modes), key=modes):
        # one thread, so that the result is reproducible bit for bit
        options = {"eps": NUFFT_TOLERANCE, "nthreads": 1, "upsampfac": 2.0}
        to_modes = finufft.Plan(1, shape, isign=-1, **options)
        to_points = finufft.Plan(2, shape, isign=1, **options)
        m = [torch.arange(-(n // 2), n // 2 + 1, dtype=x.dtype, device=x.device) for n in shape]
        for k in sets:
            along_x, along_y = series[k]
            points = along_x.h * x[k].numpy(), along_y.h * y[k].numpy()  # modulo 2 pi
            to_modes.setpts(*points)
            to_points.setpts(*points)
            field = to_modes.execute(strengths)
            if mirrored:
                field = (field + field[:, ::-1]) / 2
            field *= along_x.coefficients(m[0])[:, None].numpy()
            field *= along_y.coefficients(m[1]).numpy()
            sums[k] = to_points.execute(field).real
    return torch.from_numpy(sums)


def _by_matrices(
    x: Tensor, y: Tensor, weight: Tensor, mirrored: bool, series: list[Pair]
) -> Tensor:
    """The sums (B, D). Sets of points of similar extents are computed together."""
    groups = list(_groups(series, x.shape[1]))
    sums = [_of_group(x[group], y[group], weight, both, mirrored) for group, both in groups]
    places = torch.tensor([k for group, _ in groups for k in group], device=x.device)
    return torch.cat(sums)[places.argsort()]


def _groups(series: list[Pair], D: int) -> Iterator[tuple[list[int], Pair]]:
    """Sets of points whose bases together have at most VALUES, and series for all of them."""
    order = sorted(range(len(series)), key=lambda k: sum(along.modes for along in series[k]))
    group: list[int] = []
    common = series[order[0]]
    for k in order:
        along_x, along_y = (max(pair, key=_extent) for pair in zip(common, series[k], strict=True))
        if group and D * (len(group) + 1) * (along_x.modes + along_y.modes) > VALUES:
            yield group, common
            group, (along_x, along_y) = [], series[k]
        group.append(k)
        common = along_x, along_y
    yield group, common


def _extent(series: Series) -> float:
    return series.extent


def _of_group(x: Tensor, y: Tensor, weight: Tensor, series: Pair, mirrored: bool) -> Tensor:
    """The sums (b, D) by real bases: cosines and sines, without the sines of y if mirrored."""
    along_x, along_y = series

    def bases(part: slice) -> tuple[Tensor, Tensor]:
        phi = _harmonics(along_x.h * x[:, part], along_x.largest + 1, even=False)
        return phi, _harmonics(along_y.h * y[:, part], along_y.largest + 1, even=mirrored)

    c_x, c_y = _of_harmonics(along_x, x, even=False), _of_harmonics(along_y, y, even=mirrored)
    size = max(1, VALUES // (len(x) * (len(c_x) + len(c_y))))
    parts = [slice(start, start + size) for start in range(0, x.shape[1], size)]
    field = torch.zeros(len(x), len(c_x), len(c_y), dtype=x.dtype, device=x.device)
    for part in parts:
        phi, psi = bases(part)
        field = field + phi @ (psi * weight[part]).mT
    field = field * c_x[:, None] * c_y
    sums = []
    for part in reversed(parts):  # the bases of the last part are still there
        if part is not parts[-1]:
            phi, psi = bases(part)
        sums.append(((field.mT @ phi) * psi).sum(dim=1))
    return torch.cat(sums[::-1], dim=1)


def _of_harmonics(series: Series, like: Tensor, even: bool) -> Tensor:
    """The coefficients of `_harmonics`: m and -m together."""
    m = torch.arange(series.largest + 1, dtype=like.dtype, device=like.device)
    c = series.coefficients(m) * torch.where(m == 0, 1.0, 2.0).to(m)
    return c if even else torch.cat([c, c])


def _harmonics(angle: Tensor, count: int, even: bool) -> Tensor:
    """cos(m angle) for m < count, and sin(m angle) unless even: (n, modes, D) for (n, D)."""
    step = math.isqrt(count - 1) + 1  # m = q step + r, by the addition theorems
    m = torch.arange(step, dtype=angle.dtype, device=angle.device)[:, None]
    few, steps = m * angle[:, None], (step * m[: -(-count // step)]) * angle[:, None]
    cos_r, sin_r = few.cos()[:, None], few.sin()[:, None]
    cos_q, sin_q = steps.cos()[:, :, None], steps.sin()[:, :, None]
    cos = torch.addcmul(cos_q * cos_r, sin_q, sin_r, value=-1).flatten(1, 2)[:, :count]
    if even:
        return cos
    sin = torch.addcmul(sin_q * cos_r, cos_q, sin_r).flatten(1, 2)[:, :count]
    return torch.cat([cos, sin], dim=1)


def _without_gaps(x: Tensor, R: float) -> Tensor:
    """Coordinates x (B, D) >= 0, in which gaps along the axis are at most R + 2 wide: across more
    no kernel is felt, and far outliers would make the extents huge. 0 counts as a point."""
    if not x.numel() or float(x.detach().amax()) <= WIDE:
        return x
    kept = math.ceil(R) + 1  # cells of width 1 that are kept after one with points
    cell = x.detach().floor().to(torch.int64)
    occupied = torch.zeros(len(x), int(cell.max()) + 1, dtype=torch.int64, device=x.device)
    occupied.scatter_(1, cell, 1)[:, 0] = 1
    points = occupied.cumsum(dim=1)
    before = torch.nn.functional.pad(points, (kept, 0))[:, : points.shape[1]]
    removed = (points == before).cumsum(dim=1)
    return x - removed.gather(1, cell).to(x.dtype)
