"""What a solve returns: the value, where it holds, and how it was obtained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class Diagnostics:
    """How a solution was obtained.

    Attributes
    ----------
    scheme, dh, boundary : as asked for; the boundary of `published` is "wrapping", its own.
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
        if self.tolerance is None:
            effort = "no iteration" if self.drift != "none" else "exact in time, no iteration"
        elif self.scheme == "published":
            effort = f"{sum(self.iterations)} sweeps to tolerance {self.tolerance:g}"
        else:
            effort = (
                f"{sum(self.iterations)} iterations over {len(self.iterations)} time steps to "
                f"tolerance {self.tolerance:g}"
            )
        return f"{self.setting}: {effort}, {self.seconds:.3g} s"

    @property
    def setting(self) -> str:
        """Scheme, boundary and drift in words."""
        return f"{self.scheme}, {self.boundary} boundary, drift {self.drift}"


def slowest(parts: Iterable[list[list[float]]]) -> list[list[float]]:
    """The longest residual history of each time step among parts of the channels."""
    return [max(step, key=len) for step in zip(*parts, strict=True)]


def merged(parts: list[Diagnostics]) -> Diagnostics:
    """The diagnostics of one solve that was made in parts, some of the images in each."""
    residuals = slowest(part.residuals for part in parts)
    return replace(
        parts[0],
        seconds=sum(part.seconds for part in parts),
        iterations=[len(step) for step in residuals],
        residuals=residuals,
        warnings=[warning for part in parts for warning in part.warnings],
    )


@dataclass(frozen=True)
class Solution:
    """Log-density (n, N, c, *grid) at the N times (N,), with diagnostics; for `published` also the
    scheme's own score (n, N, c, h, w)."""

    log_density: Tensor
    times: Tensor
    diagnostics: Diagnostics
    score: Tensor | None = None
