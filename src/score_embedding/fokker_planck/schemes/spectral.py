"""Exact in time: Cole-Hopf transform and cosine basis. Order: exact in time, second in space.

Without drift p = exp(m) obeys the heat equation p_t = (g^2/2) lap p (Cole-Hopf). The second
difference of each axis is diagonal in the orthonormal DCT-II basis C between reflecting walls, with
eigenvalues -Lambda_k = -(2 - 2 cos(pi k / n)) / dh^2, so that for tau = integral of g^2

    p(t) = K_h p0 K_w^T,    K_n = C^T exp(-(tau/2) Lambda) C,

one small matrix product for each axis of a 1-D, 2-D or 3-D grid. K is the heat kernel of the axis:
not negative, its rows sum to 1, so positivity, mass and the maximum principle hold to round-off.

Two extensions keep the form. With 0 beyond the edge, p - 1 vanishes there and is carried by the
DST-I basis. An affine drift f = -rate(t) x is a sum over the axes too: only the kernel changes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from score_embedding.fokker_planck.operators.differences import Boundary
from score_embedding.fokker_planck.operators.drift import AffineDrift
from score_embedding.fokker_planck.operators.kernels import (
    SUBSTEPS,
    affine_kernel,
    heat_kernel,
    precise_heat_kernel,
)
from score_embedding.fokker_planck.problem import Evolution, Options, Problem

CHUNK_BYTES = 2 * 2**20  # of output per chunk: intermediate products stay in the cache
FFT_FROM = 200  # pixels of the longest axis: matrix products cost more from there on
# Round-off of the fast transform, and of the kernels by eigenvectors, is relative to the peak of p,
# which is at most exp(range of m0) times any p: within this range log p is right to about 1e-9.
RANGE = 15.0


def check(problem: Problem) -> None:
    """Raise ValueError for a drift other than an AffineDrift between reflecting walls."""
    affine = isinstance(problem.drift, AffineDrift) and problem.boundary == "reflect"
    if problem.drift is not None and not affine:
        raise ValueError(
            "the spectral scheme knows no drift but an AffineDrift between reflecting walls; "
            "use implicit"
        )


def evolve(
    problem: Problem,
    options: Options,  # noqa: ARG001 - nothing is iterated
    *,
    fft_from: int = FFT_FROM,
    chunk_bytes: int = CHUNK_BYTES,
    substeps: int = SUBSTEPS,
) -> Evolution:
    """The solution at all times at once; differentiable in m0.

    Matrix products, or on large grids and a CPU the fast cosine transform, which takes fewer
    operations. Where log p falls far below its peak the kernels are made at a higher cost, so that
    it is right there too, as far as the dtype can hold p.
    """
    accuracy = "exact in time" if problem.drift is None else ""
    m0, sde, times, drift, dh = problem.m0, problem.sde, problem.times, problem.drift, problem.dh
    if uses_transform(problem, fft_from):
        log_density = _by_transform(m0, problem.diffusion_time, dh)
    elif isinstance(drift, AffineDrift):
        kernels = [affine_kernel(n, sde, times, drift, dh, substeps).to(m0) for n in problem.grid]
        log_density = _by_products(m0, kernels, None, chunk_bytes)
    else:
        tau, deep = tuple(problem.diffusion_time.tolist()), _is_deep(problem)
        kernels, outside = _heat_kernels(
            problem.grid, tau, dh, problem.boundary, deep, m0.dtype, m0.device
        )
        log_density = _by_products(m0, kernels, outside, chunk_bytes)
    return Evolution(log_density, accuracy=accuracy)


def uses_transform(problem: Problem, fft_from: int = FFT_FROM) -> bool:
    """Whether the fast cosine transform is used: where it is faster and accurate enough."""
    plain = problem.drift is None and problem.boundary == "reflect"
    on_cpu = problem.m0.device.type == "cpu" and not problem.m0.requires_grad
    return plain and on_cpu and max(problem.grid) >= fft_from and not _is_deep(problem)


@lru_cache(maxsize=8)
def _heat_kernels(
    grid: tuple[int, ...],
    diffusion_time: tuple[float, ...],
    dh: float,
    boundary: Boundary,
    deep: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[list[Tensor], Tensor | None]:
    """The kernel (N, size, size) of each axis, and what a surrounding p = 1 adds to p (N, *grid),
    where there is one. Kept, for the next images at the same times."""
    make = precise_heat_kernel if deep else heat_kernel
    with torch.inference_mode(False):
        tau = torch.tensor(diffusion_time, dtype=torch.float64, device=device)
        whole = {size: make(size, tau, dh, boundary) for size in set(grid)}
        kernels = {size: K[:, :size, :size].to(dtype) for size, K in whole.items()}
        if boundary == "reflect":
            return [kernels[size] for size in grid], None
        inflow = {
            size: K[:, :size, size] if deep else (1 - K.sum(dim=2)).clamp_min(0)
            for size, K in whole.items()
        }
        outside = _from_outside([inflow[size] for size in grid]).to(dtype)
    return [kernels[size] for size in grid], outside


def _is_deep(problem: Problem) -> bool:
    """Whether log p, that beyond the edge included, spans more than RANGE in a channel."""
    channels = problem.m0.detach().flatten(2)
    highest, lowest = channels.amax(dim=2), channels.amin(dim=2)
    if problem.boundary == "zero":
        highest, lowest = highest.clamp_min(0), lowest.clamp_max(0)
    return bool((highest - lowest).max() > RANGE)


def _from_outside(inflow: list[Tensor]) -> Tensor:
    """What a surrounding p = 1 adds to p, (N, *grid), from the share (N, size) that comes in along
    each axis: 1 - product of (1 - share), added up without cancelling."""
    outside = inflow[0]
    for share in inflow[1:]:
        share = share.reshape(len(share), *[1] * (outside.ndim - 1), -1)
        outside = outside[..., None] + (1 - outside[..., None]) * share
    return outside


def _by_products(
    m0: Tensor, kernels: list[Tensor], outside: Tensor | None, chunk_bytes: int
) -> Tensor:
    """The kernels (N, size, size) of the axes on p0, and what comes from `outside` (N, *grid)."""
    n, c, *grid = m0.shape
    N = len(kernels[0])
    log_density = torch.empty(n, N, c, *grid, dtype=m0.dtype, device=m0.device)
    images_at_once = max(1, chunk_bytes // (log_density[0].nbytes or 1))
    for start in range(0, n, images_at_once):
        chunk = m0[start : start + images_at_once]
        peak = chunk.detach().flatten(2).amax(dim=2).reshape(len(chunk), c, *[1] * len(grid))
        if outside is not None:
            peak = peak.clamp_min(0)
        p = _transported((chunk - peak).exp(), kernels)  # exp cannot overflow
        if outside is not None:
            p = p + outside[:, None, None] * (-peak).exp()
        # Where the kernel underflows, the smallest normal number keeps the logarithm finite.
        m = p.clamp_min_(torch.finfo(p.dtype).tiny).log_().movedim(0, 1)
        if m.requires_grad:
            log_density[start : start + len(chunk)] = m + peak[:, None]
        else:
            torch.add(m, peak[:, None], out=log_density[start : start + len(chunk)])
    log_density[:, 0] = m0  # bit for bit, not to round-off
    return log_density


def _transported(p0: Tensor, kernels: list[Tensor]) -> Tensor:
    """The kernels applied along each axis of p0 (b, c, *grid): (N, b, c, *grid), as few and as
    large products as possible."""
    first, *others = kernels
    lines = p0.movedim(2, 0)
    p = first.flatten(0, 1) @ lines.flatten(1)
    p = p.reshape(len(first), *lines.shape)  # (N, h, b, c, w)
    for axis, kernel in enumerate(others, start=4):
        lines = p.movedim(axis, -1)
        product = torch.bmm(lines.flatten(1, -2), kernel.mT)
        p = product.reshape(lines.shape).movedim(-1, axis)
    return p.movedim(1, 3)


def _by_transform(m0: Tensor, diffusion_time: Tensor, dh: float) -> Tensor:
    """The same by SciPy's fast cosine transform in float64, one channel and time after another."""
    n, c, *grid = m0.shape
    decays = []
    for size in grid:
        Lambda = (2 - 2 * np.cos(np.pi * np.arange(size) / size)) / dh**2
        decays.append(np.exp(-0.5 * diffusion_time.to(torch.float64).numpy()[:, None] * Lambda))
    log_density = torch.empty(n, len(diffusion_time), c, *grid, dtype=m0.dtype, device=m0.device)
    for image, m_image in enumerate(m0.to(torch.float64).numpy()):
        for channel, m_initial in enumerate(m_image):
            peak, lowest = m_initial.max(), m_initial.min()
            p0_hat = scipy.fft.dctn(np.exp(m_initial - peak), norm="ortho", workers=-1)
            for step in range(1, len(diffusion_time)):
                p_hat = p0_hat
                for axis, decay in enumerate(decays):
                    shape = [-1 if a == axis else 1 for a in range(len(grid))]
                    p_hat = p_hat * decay[step].reshape(shape)
                p = scipy.fft.idctn(p_hat, norm="ortho", workers=-1, overwrite_x=True)
                m = np.log(np.clip(p, np.exp(lowest - peak), 1))  # the maximum principle
                log_density[image, step, channel] = torch.from_numpy(m + peak)
    log_density[:, 0] = m0
    return log_density
