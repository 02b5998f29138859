"""What is to be solved, whichever scheme solves it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from score_embedding.fokker_planck.operators.differences import Boundary
from score_embedding.fokker_planck.operators.drift import Drift
from score_embedding.sde import SDE


@dataclass(frozen=True)
class Problem:
    """The log-density m0 (n, c, *grid) at times[0], to be known at all times (N,) in float64.

    dh, boundary and drift are those of `solve`.
    """

    m0: Tensor
    sde: SDE
    times: Tensor
    dh: float = 1.0
    boundary: Boundary = "reflect"
    drift: Drift | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.m0.shape[2:])

    @property
    def diffusion_time(self) -> Tensor:
        """The integral of g^2 from times[0] to each time, (N,)."""
        return self.sde.integral_g2(self.times[0], self.times)
