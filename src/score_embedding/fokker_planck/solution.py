"""The solution of a Fokker-Planck problem, and its diagnostics."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from score_embedding.fokker_planck.operators import differences


@dataclass(frozen=True)
class Diagnostics:
    """How a solution was obtained.

    Attributes
    ----------
    scheme, dh, boundary : as given to `solve`; the boundary of `published` is "wrapping", its own.
    drift : "none", or a description of it.
    tolerance : relative change at which the iteration stopped; None for a scheme without iteration.
    seconds : wall-clock time of the solve.
    iterations : fixed-point iterations of each time step, the slowest channel's count; for
        `published`, the sweeps over all time steps.
    residuals : the relative changes of that channel at each time step, or sweep by sweep.
    residual_seconds : for each of the residuals, the seconds from the start of the solve at which
        it was known.
    warnings : what a reader of the solution should know.
    iteration : what one iteration runs over, "time step" or "sweep" (over all time steps).
    accuracy : in words, such as "exact in time"; empty where the scheme's order says it all.
    """

    scheme: str
    dh: float
    tolerance: float | None
    seconds: float
    boundary: str = "reflect"
    drift: str = "none"
    iterations: list[int] = field(default_factory=list)
    residuals: list[list[float]] = field(default_factory=list)
    residual_seconds: list[list[float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    iteration: str | None = None
    accuracy: str = ""

    def summary(self) -> str:
        """One line for the log."""
        if self.tolerance is None:
            effort = ", ".join(filter(None, [self.accuracy, "no iteration"]))
        elif self.iteration == "sweep":
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


@dataclass(frozen=True)
class Histories:
    """Residuals of the slowest channel at each time step, or sweep by sweep, and the time at which
    each was known, in seconds."""

    residuals: list[list[float]]
    clock: list[list[float]]


def slowest(parts: list[Histories]) -> Histories:
    """The longest history of each time step among parts of the channels."""
    counts = [[len(step) for step in part.residuals] for part in parts]
    longest = [max(range(len(parts)), key=lambda k: step[k]) for step in zip(*counts, strict=True)]
    return Histories(
        [parts[k].residuals[i] for i, k in enumerate(longest)],
        [parts[k].clock[i] for i, k in enumerate(longest)],
    )


def merged(parts: list[Diagnostics]) -> Diagnostics:
    """The diagnostics of one solve that was made in parts, some of the images in each."""
    histories, before = [], 0.0
    for part in parts:
        clock = [[before + seconds for seconds in step] for step in part.residual_seconds]
        histories.append(Histories(part.residuals, clock))
        before += part.seconds
    found = slowest(histories)
    return replace(
        parts[0],
        seconds=sum(part.seconds for part in parts),
        iterations=[len(step) for step in found.residuals],
        residuals=found.residuals,
        residual_seconds=found.clock,
        warnings=[warning for part in parts for warning in part.warnings],
    )


@dataclass(frozen=True)
class Solution:
    """A solution of the Fokker-Planck equation.

    Attributes
    ----------
    log_density : (n, N, c, *grid), dtype and device of m0.
    times : (N,).
    diagnostics : scheme, options, iterations, residuals, seconds.
    own_score : the score (n, N, c, h, w) that the scheme `published` computes with its
        log-density; None for all other schemes.
    dt : length of the Euler steps with which `embed` follows this score: 1/N for `published`, whose
        times are 1/(N - 1) apart; None for the spacing of the times.
    """

    log_density: Tensor
    times: Tensor
    diagnostics: Diagnostics
    own_score: Tensor | None = None
    dt: float | None = None

    def score(self) -> Tensor:
        """The paper's scalar score (n, N, c, *grid): the sum of the central differences along all
        grid axes, with the spacing and the boundary of the solve,

            (m[i+1, j] - m[i-1, j] + m[i, j+1] - m[i, j-1]) / (2 dh)    in 2-D,

        or the score of the scheme itself, which `published` has. Shape, dtype and device of
        log_density. Its single terms are `gradient(log_density)`.
        """
        if self.own_score is not None:
            return self.own_score
        used = self.diagnostics
        dims = self.log_density.ndim - 3
        return differences.score(self.log_density, used.dh, used.boundary, dims)
