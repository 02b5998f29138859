"""The forward SDE: the one place that knows drift, diffusion and noise level.

dx = f(x, t) dt + g(t) dW,  t in [0, 1]   (Song et al. 2021, eq. 5).

Solver, embedding, loss and sampler all take the same object, so that a change of SDE is a change
of this file only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from score_embedding.arrays import number

Time = float | Tensor


class SDE(Protocol):
    """What a Fokker-Planck solve needs to know of an SDE: its diffusion, integrated exactly."""

    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient g(t)."""

    def integral_g2(self, a: Time, b: Time) -> Tensor:
        """Integral of g^2 from a to b."""


def _tensor(t: Time) -> Tensor:
    if isinstance(t, Tensor):
        return t
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class VarianceExploding:
    """The SDE of the paper: f = 0 and g(t) = sigma^t.

    Times may be floats or tensors of any shape; results are tensors of that shape, of the tensor's
    dtype and device (float64 on the CPU for floats).

    Parameters
    ----------
    sigma : base of the diffusion coefficient, > 0; at 1 the process is a standard Brownian motion.

    Raises
    ------
    ValueError : sigma is not a positive finite number.
    """

    sigma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", number(self.sigma, "sigma"))
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma must be a positive finite number, got {self.sigma!r}")

    def f(self, x: Tensor, t: Time) -> Tensor:  # noqa: ARG002 - a drift depends on x and t
        """Drift f(x, t), shape of x: zero everywhere."""
        return torch.zeros_like(x)

    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient g(t) = sigma^t."""
        return torch.exp(math.log(self.sigma) * _tensor(t))

    def integral_g2(self, a: Time, b: Time) -> Tensor:
        """Integral of g^2 from a to b: (sigma^(2b) - sigma^(2a)) / (2 ln sigma).

        Written with expm1, so that neither sigma near 1 nor b near a loses digits.
        """
        a, b = _tensor(a), _tensor(b)
        k = 2 * math.log(self.sigma)
        span = b - a
        if k == 0:
            return span
        return torch.exp(k * a) * torch.expm1(k * span) / k

    def std(self, t: Time) -> Tensor:
        """Standard deviation of x(t) given x(0): sqrt((sigma^(2t) - 1) / (2 ln sigma))."""
        t = _tensor(t)
        return torch.sqrt(self.integral_g2(torch.zeros_like(t), t))

    def time_of(self, std: Time) -> Tensor:
        """The time at which the marginal standard deviation is `std`: the inverse of `std(t)`."""
        k = 2 * math.log(self.sigma)
        variance = _tensor(std) ** 2
        return variance if k == 0 else torch.log1p(k * variance) / k

    @property
    def prior_std(self) -> float:
        """std(1): the width of the distribution that sampling should start from."""
        return float(self.std(1.0))


@dataclass(frozen=True)
class VariancePreserving:
    """f(x, t) = -beta(t)/2 x and g(t)^2 = beta(t), beta rising linearly from beta_min to beta_max
    (Song et al. 2021, eq. 11). With beta_min = beta_max = 2 theta it is the Ornstein-Uhlenbeck
    process of rate theta. N(0, 1) is stationary. Times and results as for `VarianceExploding`.

    Raises
    ------
    ValueError : a beta is not a positive finite number.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_max"):
            beta = number(getattr(self, name), name)
            object.__setattr__(self, name, beta)
            if not (beta > 0 and math.isfinite(beta)):
                raise ValueError(f"beta must be a positive finite number, got {beta!r}")

    def beta(self, t: Time) -> Tensor:
        """g(t)^2, rising linearly from beta_min to beta_max."""
        return self.beta_min + (self.beta_max - self.beta_min) * _tensor(t)

    def rate(self, t: Time) -> Tensor:
        """The rate beta(t)/2 at which the drift pulls towards 0."""
        return self.beta(t) / 2

    def f(self, x: Tensor, t: Time) -> Tensor:
        """Drift f(x, t) = -beta(t)/2 x; t broadcasts with x."""
        return -self.rate(t).to(x) * x

    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient g(t) = sqrt(beta(t))."""
        return self.beta(t).sqrt()

    def integral_g2(self, a: Time, b: Time) -> Tensor:
        """Integral of beta from a to b, exact by the trapezium rule."""
        a, b = _tensor(a), _tensor(b)
        return (b - a) * (self.beta(a) + self.beta(b)) / 2

    def std(self, t: Time) -> Tensor:
        """Standard deviation of x(t) given x(0): sqrt(1 - exp(-integral of beta))."""
        t = _tensor(t)
        return torch.sqrt(-torch.expm1(-self.integral_g2(torch.zeros_like(t), t)))
