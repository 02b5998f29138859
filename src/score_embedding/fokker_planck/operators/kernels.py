"""Heat kernels of one axis: the matrices that carry a density exactly from one time to another."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from score_embedding.dct import basis
from score_embedding.fokker_planck.operators.differences import Boundary
from score_embedding.fokker_planck.operators.drift import AffineDrift
from score_embedding.sde import SDE

SUBSTEPS = 320  # of an affine drift over all times, in proportion to the interval


def heat_kernel(
    size: int, diffusion_time: Tensor, dh: float, boundary: Boundary = "reflect"
) -> Tensor:
    """exp(tau/2 times the second difference), (N, size, size) in float64, for each tau of (N,).

    Exact to about 1e-17, which is round-off of its largest entries.
    """
    C, Lambda = basis(size, boundary, diffusion_time.device)
    decay = torch.exp(-0.5 * diffusion_time.to(torch.float64)[:, None] * (Lambda / dh**2))
    kernel = (C.T * decay[:, None]) @ C
    return kernel.clamp_min(0)  # entries far from the diagonal are round-off of either sign


def precise_heat_kernel(
    size: int, diffusion_time: Tensor, dh: float, boundary: Boundary = "reflect"
) -> Tensor:
    """The same with even the smallest entries relatively exact, at many times the cost. For "zero"
    it is (N, size + 1, size + 1): the last column holds what flows in from beyond the edge."""
    inner = torch.ones(size - 1, dtype=torch.float64, device="cpu")
    generator = torch.diag(inner, 1) + torch.diag(inner, -1)
    if boundary == "zero":
        generator = torch.nn.functional.pad(generator, (0, 1, 0, 1))
        generator[0, size] += 1
        generator[size - 1, size] += 1
    generator -= torch.diag(generator.sum(dim=1))
    taus = diffusion_time.tolist()
    kernels = [_positive_exponential(tau / (2 * dh**2) * generator) for tau in taus]
    return torch.stack(kernels).to(diffusion_time.device)


def affine_kernel(
    size: int, sde: SDE, times: Tensor, drift: AffineDrift, dh: float, substeps: int = SUBSTEPS
) -> Tensor:
    """The kernel of an axis with the drift f = -rate(t) x and reflecting walls, (N, size, size) in
    float64, from times[0] to each of the N times; columns sum to 1.

    It is a product of exponentials of the generator with its coefficients integrated over a
    substep: exact in time where rate/g^2 is constant (variance preserving, Ornstein-Uhlenbeck),
    second order in the substep otherwise.
    """
    intervals = []
    times = times.to(torch.float64)
    for start, end in pairwise(times.tolist()):
        count = math.ceil(substeps * (end - start) / float(times[-1] - times[0]))
        ends = torch.linspace(start, end, count + 1, dtype=torch.float64, device="cpu").tolist()
        coefficients = []
        for a, b in pairwise(ends):
            # Simpson's rule: exact for rates up to cubic in time
            pull = drift.rate_at(a) + 4 * drift.rate_at((a + b) / 2) + drift.rate_at(b)
            coefficients.append((float(sde.integral_g2(a, b)), pull * (b - a) / 6))
        intervals.append(tuple(coefficients))
    return _product_of_exponentials(size, tuple(intervals), dh).to(times.device)


@lru_cache(maxsize=8)
def _product_of_exponentials(
    size: int, intervals: tuple[tuple[tuple[float, float], ...], ...], dh: float
) -> Tensor:
    """From the diffusion time and pull of each substep of each interval: (N, size, size). Kept."""
    with torch.inference_mode(False):
        kernel = torch.eye(size, dtype=torch.float64, device="cpu")
        kernels = [kernel]
        for steps in intervals:
            for diffusion_time, pull in steps:
                generator = _generator(size, diffusion_time, pull, dh)
                kernel = _positive_exponential(generator) @ kernel
            kernels.append(kernel)
        return torch.stack(kernels)


def _generator(size: int, diffusion_time: float, pull: float, dh: float) -> Tensor:
    """The flux form of (tau/2) p_xx + pull (x p)_x with exponential fitting: second order, mass
    conserved, rates never negative, and exp(-pull x^2 / tau) stationary bit for bit."""
    faces = (torch.arange(size - 1, dtype=torch.float64, device="cpu") - (size - 2) / 2) * dh
    rate = diffusion_time / (2 * dh**2)
    z = 2 * pull * faces * dh / diffusion_time  # rise of the potential across a face
    up, down = rate * _bernoulli(z), rate * _bernoulli(-z)
    outflow = torch.zeros(size, dtype=torch.float64, device="cpu")
    outflow[:-1] += up
    outflow[1:] += down
    return torch.diag(up, -1) + torch.diag(down, 1) - torch.diag(outflow)


def _bernoulli(z: Tensor) -> Tensor:
    """z / (exp(z) - 1), 1 at 0."""
    return torch.where(z == 0, 1.0, z / torch.expm1(torch.where(z == 0, 1.0, z)))


def _positive_exponential(generator: Tensor) -> Tensor:
    """exp of a matrix whose off-diagonal entries are not negative, by scaling, a Taylor series and
    squaring. Shifted by its largest outflow no term is negative: nothing cancels, and even the
    smallest entries are relatively exact."""
    size = len(generator)
    shift = float(-generator.diagonal().min())
    squarings = max(0, math.ceil(math.log2(shift))) if shift > 0 else 0
    squarings = max(squarings, math.ceil(math.log2(size / 4)))  # the series reaches every entry
    identity = torch.eye(size, dtype=generator.dtype, device=generator.device)
    P = (generator + shift * identity) / 2.0**squarings
    term = exponential = identity
    for k in range(1, 20):  # columns of P sum to 1 at most, and 1/20! is below round-off
        term = term @ P / k
        exponential = exponential + term
    exponential = exponential * math.exp(-shift / 2.0**squarings)
    for _ in range(squarings):
        exponential = exponential @ exponential
    return exponential
