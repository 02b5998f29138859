"""What a solve returns: the value, where it holds, and how it was obtained."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Diagnostics:
    """How a solution was obtained.

    Attributes
    ----------
    scheme, dh, boundary : as asked for.
    drift : "none", or a description of it.
    tolerance : relative change at which the iteration stopped; None for a scheme without iteration.
    seconds : wall-clock time of the solve.
    iterations : fixed-point iterations of each time step, the slowest channel's count; for
        `published`, the sweeps over all time steps.
    residuals : the relative changes of that channel at each time step, or sweep by sweep.
    warnings : what a reader of the solution should know.
    """

    scheme: str
    dh: float
    tolerance: float | None
    seconds: float
    boundary: str = "reflect"
    drift: str = "none"
    iterations: list[int] = field(default_factory=list)
    residuals: list[list[float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for the log."""
        setting = f"{self.scheme}, {self.boundary} boundary, drift {self.drift}"
        if self.tolerance is None:
            return f"{setting}: exact in time, no iteration, {self.seconds:.3g} s"
        kind = "sweeps" if self.scheme == "published" else "time steps"
        return (
            f"{setting}: {sum(self.iterations)} iterations over {len(self.iterations)} {kind} "
            f"to tolerance {self.tolerance:g}, {self.seconds:.3g} s"
        )


@dataclass(frozen=True)
class Solution:
    """Log-density (n, N, c, *grid) at the N times (N,), with diagnostics; for `published` also the
    scheme's own score (n, N, c, h, w)."""

    log_density: Tensor
    times: Tensor
    diagnostics: Diagnostics
    score: Tensor | None = None
