"""The first part of the probability flow in closed form, as that of a Gaussian.

At much noise the data look like their Gaussian, whose flow scales each principal axis and costs no
evaluation of the network (Wang and Vastola 2024). A sampler then begins at a lower noise level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.methods.samplers.flow import Samples, Score
from score_embedding.sde import Time, VarianceExploding

GaussianFlow = Callable[[Tensor, float, float], Tensor]  # of states, from a noise level to another
Integrate = Callable[[Score, VarianceExploding, Tensor, float], Samples]


@dataclass(frozen=True)
class Shortened(VarianceExploding):
    """The SDE up to time `end`, on a clock that has 1 there: every sampler begins at 1."""

    end: float

    def g(self, t: Time) -> Tensor:
        """As `VarianceExploding.g`."""
        return math.sqrt(self.end) * super().g(self.end * t)

    def integral_g2(self, a: Time, b: Time) -> Tensor:
        """As `VarianceExploding.integral_g2`."""
        return super().integral_g2(self.end * a, self.end * b)

    def std(self, t: Time) -> Tensor:
        """As `VarianceExploding.std`."""
        return super().std(self.end * t)

    def time_of(self, std: Time) -> Tensor:
        """As `VarianceExploding.time_of`."""
        return super().time_of(std) / self.end


def integrate_below(
    level: float,
    flow: GaussianFlow,
    integrate: Integrate,
    score: Score,
    sde: VarianceExploding,
    x: Tensor,
    eps: float,
) -> Samples:
    """From x at t = 1 by the flow of a Gaussian to noise level `level`, and from there to t = eps
    by the sampler `integrate(score, sde, x, eps)`."""
    end = float(sde.time_of(level))
    shortened = Shortened(sde.sigma, end)
    moved = flow(x, sde.prior_std, level)
    samples = integrate(lambda y, t: score(y, end * t), shortened, moved, eps / end)
    path = torch.cat([x[None], samples.path[1:]])
    times = torch.cat([samples.path_times.new_ones(1), end * samples.path_times[1:]])
    times[-1] = eps
    return Samples(samples.x, path, times, samples.nfe)
