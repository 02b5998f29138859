"""The problem that a scheme solves, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from score_embedding.arrays import refuse_gradient
from score_embedding.fokker_planck.operators.differences import Boundary
from score_embedding.fokker_planck.operators.drift import Drift
from score_embedding.sde import SDE

LinearMethod = Literal["iterative", "direct"]


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

    def refuse_gradients(self, scheme: str) -> None:
        """Raise ValueError where a gradient is wanted of a scheme that has none."""
        for name, value in (("m0", self.m0), ("drift", self.drift)):
            refuse_gradient(
                value,
                name,
                f"which the {scheme} scheme does not have (spectral is differentiable in m0)",
            )


@dataclass(frozen=True)
class Options:
    """Options of `solve` that only some schemes use: the relative change at which an iteration
    stops, the number of iterations after which it fails, and the method for the linear systems of
    an implicit step."""

    tolerance: float = 2e-8
    max_iterations: int = 500
    linear: LinearMethod = "iterative"


@dataclass(frozen=True)
class Evolution:
    """What a scheme returns.

    Attributes
    ----------
    log_density : (n, N, c, *grid) in the dtype and on the device of m0.
    residuals : relative changes of the slowest channel at each time step, or sweep by sweep.
    clock : for each of them, time.perf_counter() when it was known.
    iteration : "time step" or "sweep", that which is iterated to the tolerance; None: nothing is.
    accuracy : for the log, such as "exact in time".
    warnings : what a reader of the solution should know.
    score : the scheme's own, (n, N, c, *grid); None: central differences of the log-density.
    boundary : the scheme's own, where it is not that of the problem.
    dt : length of the Euler steps with which the scheme's score is embedded; None: the spacing of
        the times.
    """

    log_density: Tensor
    residuals: list[list[float]] = field(default_factory=list)
    iteration: str | None = None
    accuracy: str = ""
    warnings: list[str] = field(default_factory=list)
    score: Tensor | None = None
    boundary: str | None = None
    dt: float | None = None
    clock: list[list[float]] = field(default_factory=list)
