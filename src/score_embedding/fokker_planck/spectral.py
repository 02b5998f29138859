"""Exact in time: Cole-Hopf transform and cosine basis. Order: exact in time, second in space.

Without drift p = exp(m) obeys the heat equation p_t = (g^2/2) lap p (Cole-Hopf). The five-point
Laplacian with reflecting walls is diagonal in the orthonormal DCT-II basis C of each axis, with
eigenvalues -Lambda_k = -(2 - 2 cos(pi k / n)) / dh^2, so that for tau = integral of g^2

    p(t) = K_h p0 K_w^T,    K_n = C^T exp(-(tau/2) Lambda) C,

two small matrix products for all pixels. K is the heat kernel of the axis: not negative, its rows
sum to 1, so positivity, mass and the maximum principle hold to round-off.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHUNK_BYTES = 4 * 2**20  # of output per chunk: intermediate products stay in the cache


def heat_kernel(size: int, diffusion_time: Tensor, dh: float) -> Tensor:
    """The heat kernel of one axis, (N, size, size) in float64, for each diffusion time (N,)."""
    k = torch.arange(size, dtype=torch.float64, device=diffusion_time.device)
    C = torch.cos(math.pi / size * k[:, None] * (k + 0.5)) * math.sqrt(2 / size)
    C[0] = 1 / math.sqrt(size)
    Lambda = (2 - 2 * torch.cos(math.pi * k / size)) / dh**2
    decay = torch.exp(-0.5 * diffusion_time.to(torch.float64)[:, None] * Lambda)
    kernel = (C.T * decay[:, None]) @ C
    return kernel.clamp_min(0)  # entries far from the diagonal are round-off of either sign


def evolve(m0: Tensor, diffusion_time: Tensor, dh: float) -> Tensor:
    """Log-density (n, N, c, h, w) after each diffusion time (N,) from m0 (n, c, h, w)."""
    n, c, h, w = m0.shape
    N = len(diffusion_time)
    along_h = heat_kernel(h, diffusion_time, dh).to(m0.dtype).reshape(N * h, h)
    along_w = heat_kernel(w, diffusion_time, dh).to(m0.dtype)  # symmetric, as every heat kernel
    log_density = torch.empty(n, N, c, h, w, dtype=m0.dtype, device=m0.device)
    images_at_once = max(1, _CHUNK_BYTES // (N * c * h * w * m0.element_size()))
    for start in range(0, n, images_at_once):
        chunk = m0[start : start + images_at_once]
        b = len(chunk)
        peak = chunk.amax(dim=(2, 3), keepdim=True)  # exp cannot overflow
        p0 = (chunk - peak).exp()
        columns = p0.permute(2, 0, 1, 3).reshape(h, b * c * w)
        p = torch.bmm((along_h @ columns).reshape(N, h * b * c, w), along_w)
        # Where the kernel underflows, the smallest normal number keeps the logarithm finite.
        m = p.clamp_min_(torch.finfo(p.dtype).tiny).log_().reshape(N, h, b, c, w)
        torch.add(m.permute(2, 0, 3, 1, 4), peak[:, None], out=log_density[start : start + b])
    still = diffusion_time == 0
    log_density[:, still] = m0[:, None]  # to the bit, not to round-off
    return log_density
