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

from score_embedding.arrays import finite, number

Time = float | Tensor


class SDE(Protocol):
    """What a Fokker-Planck solve needs to know of an SDE: its diffusion, integrated exactly."""

    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient g(t)."""

    def integral_g2(self, a: Time, b: Time) -> Tensor:
        """Integral of g^2 from a to b."""


LARGEST = 1e150  # of sigma and beta: their squares are then finite


def require(sde: object, *methods: str) -> None:
    """Raise ValueError where `sde` lacks one of the methods that are needed of an SDE."""
    missing = [name for name in methods if not callable(getattr(sde, name, None))]
    if missing:
        raise ValueError(
            f"sde must be an SDE such as VarianceExploding(5.0), got {sde!r:.100}, which has no "
            f"method {', '.join(missing)}"
        )


def _tensor(t: Time) -> Tensor:
    """In the dtype to compute in: that of a floating-point tensor, else float64."""
    if isinstance(t, Tensor):
        return t if t.is_floating_point() else t.to(torch.float64)
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")


def _finite(result: Tensor, what: str, remedy: str) -> Tensor:
    """The result, `finite` on the CPU: on a GPU the check would wait for all that is computed."""
    return finite(result, what, remedy) if result.device.type == "cpu" else result


_IN_RANGE = "use times from 0 to 1, or a smaller sigma or beta"


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
    ValueError : sigma is not a positive number below 1e150.
    DivergenceError : a result is NaN or infinite, such as the standard deviation at a negative
        time. On a GPU it is returned.
    """

    sigma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", number(self.sigma, "sigma", above=0, below=LARGEST))

    def f(self, x: Tensor, t: Time) -> Tensor:  # noqa: ARG002 - a drift depends on x and t
        """Drift f(x, t), shape of x: zero everywhere."""
        return torch.zeros_like(_tensor(x))

    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient g(t) = sigma^t."""
        return _finite(torch.exp(math.log(self.sigma) * _tensor(t)), "g(t)", _IN_RANGE)

    def integral_g2(self, a: Time, b: Time) -> Tensor:
        """Integral of g^2 from a to b: (sigma^(2b) - sigma^(2a)) / (2 ln sigma).

        Written with expm1, so that neither sigma near 1 nor b near a loses digits.
        """
        return _finite(self._integral_g2(_tensor(a), _tensor(b)), "the integral of g^2", _IN_RANGE)

    def _integral_g2(self, a: Tensor, b: Tensor) -> Tensor:
        k, span = 2 * math.log(self.sigma), b - a
        return torch.exp(k * a) * torch.expm1(k * span) / k if k else span

    def std(self, t: Time) -> Tensor:
        """Standard deviation of x(t) given x(0): sqrt((sigma^(2t) - 1) / (2 ln sigma))."""
        t = _tensor(t)
        return _finite(self._integral_g2(torch.zeros_like(t), t).sqrt(), "std(t)", _IN_RANGE)

    def time_of(self, std: Time) -> Tensor:
        """The time at which the marginal standard deviation is `std`: the inverse of `std(t)`."""
        k, std = 2 * math.log(self.sigma), _tensor(std)
        variance = std**2
        time = variance if k == 0 else torch.log1p(k * variance) / k
        limit = f" and below {(-k) ** -0.5:.4g}, which it approaches" if k < 0 else ""
        time = torch.where(std >= 0, time, math.nan)
        return _finite(time, "the time of std", f"use a std from 0 on{limit}")

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
    ValueError : a beta is not a positive number below 1e150.
    DivergenceError : as for `VarianceExploding`.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_max"):
            beta = number(getattr(self, name), name, above=0, below=LARGEST)
            object.__setattr__(self, name, beta)

    def beta(self, t: Time) -> Tensor:
        """g(t)^2, rising linearly from beta_min to beta_max."""
        return self.beta_min + (self.beta_max - self.beta_min) * _tensor(t)

    def rate(self, t: Time) -> Tensor:
        """The rate beta(t)/2 at which the drift pulls towards 0."""
        return self.beta(t) / 2

    def f(self, x: Tensor, t: Time) -> Tensor:
        """Drift f(x, t) = -beta(t)/2 x; t broadcasts with x."""
        x = _tensor(x)
        return -self.rate(t).to(x) * x

    def g(self, t: Time) -> Tensor:
        """Diffusion coefficient g(t) = sqrt(beta(t))."""
        return _finite(self.beta(t).sqrt(), "g(t)", _IN_RANGE)

    def integral_g2(self, a: Time, b: Time) -> Tensor:
        """Integral of beta from a to b, exact by the trapezium rule."""
        return _finite(self._integral_g2(_tensor(a), _tensor(b)), "the integral of g^2", _IN_RANGE)

    def _integral_g2(self, a: Tensor, b: Tensor) -> Tensor:
        return (b - a) * (self.beta(a) + self.beta(b)) / 2

    def std(self, t: Time) -> Tensor:
        """Standard deviation of x(t) given x(0): sqrt(1 - exp(-integral of beta))."""
        t = _tensor(t)
        variance = -torch.expm1(-self._integral_g2(torch.zeros_like(t), t))
        return _finite(variance.sqrt(), "std(t)", _IN_RANGE)
