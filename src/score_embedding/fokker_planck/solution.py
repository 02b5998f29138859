"""What a solve returns: the value, where it holds, and how it was obtained."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Diagnostics:
    """How a solution was obtained.

    Attributes
    ----------
    scheme, dh : as asked for.
    tolerance : relative change at which the iteration stopped; None for a scheme without iteration.
    iterations : fixed-point iterations of each time step, the slowest channel's count.
    residuals : the relative changes of that channel at each time step.
    seconds : wall-clock time of the solve.
    """

    scheme: str
    dh: float
    tolerance: float | None
    seconds: float
    iterations: list[int] = field(default_factory=list)
    residuals: list[list[float]] = field(default_factory=list)

    def summary(self) -> str:
        """One line for the log."""
        if self.tolerance is None:
            return f"{self.scheme}: exact in time, no iteration, {self.seconds:.3g} s"
        return (
            f"{self.scheme}: {sum(self.iterations)} iterations over {len(self.iterations)} time "
            f"steps to tolerance {self.tolerance:g}, {self.seconds:.3g} s"
        )


@dataclass(frozen=True)
class Solution:
    """Log-density (n, N, c, h, w) at the N times (N,), with diagnostics."""

    log_density: Tensor
    times: Tensor
    diagnostics: Diagnostics
