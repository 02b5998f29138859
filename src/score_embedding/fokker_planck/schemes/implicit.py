"""The paper's semi-implicit scheme with a consistent stencil, for any drift.

Order: first in time, second in space.

A step of length dt and diffusion time d = integral of g^2 solves

    m_new - (d/2) (lap m_new + grad m_old . grad m_new) + dt (div f + f . grad m_new) = m_before

where one factor of |grad m|^2 is taken from the previous iterate m_old: a linear five-point system,
solved and repeated until the relative change of m falls to the tolerance (Na, Gao, Wan 2024,
Algorithm 1). f is taken at the end of the step. Through reflecting walls no probability flows:
there dm/dx = 2 f / g^2 along the normal, which without drift repeats the edge's own value.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from score_embedding import progress
from score_embedding.errors import ConvergenceError
from score_embedding.fokker_planck.operators.differences import first_difference
from score_embedding.fokker_planck.operators.drift import DriftField, field_at
from score_embedding.fokker_planck.operators.linear import (
    DEFAULT_LIMITS,
    HeatStep,
    Limits,
    System,
    direct,
    iterative,
    norm,
)
from score_embedding.fokker_planck.problem import Evolution, LinearMethod, Options, Problem
from score_embedding.fokker_planck.solution import Histories, slowest

VALUES_AT_ONCE = 2**16  # pixels of all channels solved together: a few such arrays fit the cache

# Where the solve of one system begins, given the step's index, the system and m_before.
Start = Callable[[int, System, Tensor, Tensor], Tensor]
# Channels (B, *grid) and their names to fields (B, N, *grid) and each step's slowest residuals.
March = Callable[[Tensor, list[str]], tuple[Tensor, Histories]]


@dataclass(frozen=True)
class Iteration:
    """How the fixed point of a step is sought."""

    tolerance: float
    max_iterations: int
    linear: LinearMethod = "iterative"
    start: Start | None = None  # of the first linear system of a step; None: m_before
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True)
class Step:
    """All that one time step's systems share. Tensors that broadcast with (dims, *grid)."""

    heat: HeatStep
    velocity: Tensor  # dt f (dims, *grid)
    source: Tensor  # -dt div f + (d/2) * what the ghost cells add to lap m  (*grid)
    ghost_slope: Tensor  # what the ghost cells add to grad m (dims, *grid)

    def system(self, m_old: Tensor) -> System:
        """The linearisation at m_old (B, *grid)."""
        heat = self.heat
        gradient = torch.stack(
            [first_difference(m_old, axis, heat.dh, heat.boundary) for axis in range(1, m_old.ndim)]
        )
        slope = gradient + self.ghost_slope[:, None]
        return System(heat, self.velocity[:, None] - heat.d / 2 * slope)

    def right_side(self, m_before: Tensor, system: System) -> Tensor:
        return m_before + self.source - (system.u * self.ghost_slope[:, None]).sum(dim=0)


def check(problem: Problem) -> None:
    """Raise ValueError where a gradient is wanted: every drift and boundary can be solved."""
    problem.refuse_gradients("implicit")


def evolve(problem: Problem, options: Options, *, limits: Limits = DEFAULT_LIMITS) -> Evolution:
    """The solution, and for each of the N - 1 steps the residuals of its slowest channel. Computed
    in float64.

    Raises
    ------
    ConvergenceError : a step did not reach the tolerance.
    """
    steps = time_steps(problem)
    iteration = Iteration(options.tolerance, options.max_iterations, options.linear, limits=limits)
    return evolution(
        *in_chunks(problem.m0, lambda channels, names: march(channels, names, steps, iteration))
    )


def evolution(log_density: Tensor, found: Histories) -> Evolution:
    """Of fields that were found step by step, with their histories."""
    return Evolution(log_density, found.residuals, iteration="time step", clock=found.clock)


def in_chunks(
    m0: Tensor, march: March, channels_at_once: int | None = None, first_image: int = 0
) -> tuple[Tensor, Histories]:
    """`march` over the channels of all images m0 (n, c, *grid), in float64: log-density
    (n, N, c, *grid) in the dtype of m0, and the residuals of each step's slowest channel."""
    n, c, *grid = m0.shape
    channels_at_once = channels_at_once or max(1, VALUES_AT_ONCE // m0[0, 0].numel())
    channels = m0.detach().to(torch.float64).reshape(n * c, *grid)
    names = [f"image {first_image + k // c}, channel {k % c}" for k in range(n * c)]
    chunks, histories = [], []
    with progress.stage("implicit solve", total=n * c) as stage:
        for first in range(0, n * c, channels_at_once):
            chunk = slice(first, first + channels_at_once)
            fields, history = march(channels[chunk], names[chunk])
            chunks.append(fields.to(m0.dtype))
            histories.append(history)
            stage.update(len(fields))
    log_density = torch.cat(chunks).reshape(n, c, -1, *grid).transpose(1, 2).contiguous()
    log_density[:, 0] = m0.detach()
    return log_density, slowest(histories)


def time_steps(problem: Problem) -> list[Step]:
    """The N - 1 steps between the N times."""
    grid, device, drift = problem.grid, problem.m0.device, problem.drift
    steps = []
    for start, end in pairwise(problem.times.tolist()):
        d, dt = float(problem.sde.integral_g2(start, end)), end - start
        heat = HeatStep(grid, d, problem.dh, problem.boundary, device)
        if drift is None:
            nothing = torch.zeros(len(grid), *grid, dtype=torch.float64, device=device)
            steps.append(Step(heat, velocity=nothing, source=nothing[0], ghost_slope=nothing))
        else:
            steps.append(_with_drift(heat, field_at(drift, end, grid, problem.dh, device), dt))
    return steps


def _with_drift(heat: HeatStep, field: DriftField, dt: float) -> Step:
    """A step of length dt with the drift at its end."""
    d, dh = heat.d, heat.dh
    velocity = dt * field.centres
    source = -dt * field.divergence(dh)
    ghost_slope = torch.zeros_like(velocity)
    walls = field.faces if heat.boundary == "reflect" else ()
    for axis, face in enumerate(walls):
        last = heat.grid[axis] - 1
        for edge, wall, outward in ((0, 0, -1), (last, last + 1, 1)):
            slope = 2 * face.select(axis, wall) * dt / d  # dm/dx at the wall
            ghost_slope[axis].select(axis, edge).add_(slope / 2)
            source.select(axis, edge).add_(outward * slope / dh * d / 2)
    return Step(heat, velocity, source, ghost_slope)


def march(
    m0: Tensor, names: list[str], steps: list[Step], iteration: Iteration
) -> tuple[Tensor, Histories]:
    """Channels m0 (B, *grid), called `names`, through all steps: (B, N, *grid), and for each step
    the residuals of the slowest channel."""
    fields, found = [m0], Histories([], [])
    for i, step in enumerate(steps):
        m, histories, clock = _fixed_point(i, step, fields[-1], names, iteration)
        fields.append(m)
        found.residuals.append(max(histories, key=len))
        found.clock.append(clock)
    return torch.stack(fields, dim=1), found


def _fixed_point(
    i: int, step: Step, m_before: Tensor, names: list[str], iteration: Iteration
) -> tuple[Tensor, list[list[float]], list[float]]:
    """m at the end of step i from m_before (B, *grid), each channel's residuals, and the time at
    which those of each iteration were known."""
    m = m_before.clone()
    histories: list[list[float]] = [[] for _ in m]
    clock: list[float] = []
    going, where = torch.arange(len(m), device=m.device), f"step {i + 1}"
    for count in range(iteration.max_iterations):
        m_old = m[going]
        system = step.system(m_old)
        b = step.right_side(m_before[going], system)
        begin = iteration.start(i, system, b, m_old) if iteration.start and count == 0 else m_old
        if iteration.linear == "direct":
            m_new, solved = direct(system, b)
        else:
            m_new, solved = iterative(system, b, begin, iteration.limits)
        scale = norm(m_old)
        residual = norm(m_new - m_old) / torch.where(scale > 0, scale, 1.0)
        m[going] = m_new
        for channel, value in zip(going.tolist(), residual.tolist(), strict=True):
            histories[channel].append(value)
        clock.append(time.perf_counter())
        failed = ~(solved & torch.isfinite(residual))
        if bool(failed.any()):
            going, where = going[failed], f"{where}, linear system not solved"
            break
        going = going[residual > iteration.tolerance]
        if len(going) == 0:
            wrong = _defect(step, m, m_before) > 10 * max(iteration.tolerance, 1e-12)
            if not bool(wrong.any()):
                return m, histories, clock
            going, where = wrong.nonzero()[:, 0], f"{where}, not a solution"
            break
    channel = int(going[0])
    raise not_converged(
        "implicit", f"{names[channel]}, {where}", histories[channel], iteration.tolerance
    )


def _defect(step: Step, m: Tensor, m_before: Tensor) -> Tensor:
    """How far m (B, *grid) is from solving its step, relative to m, (B,): an iteration can also
    stop for want of digits. NaN counts as infinite."""
    system = step.system(m)
    defect = step.heat.inverse(step.right_side(m_before, system) - system.apply(m))
    scale = norm(m)
    return (norm(defect) / torch.where(scale > 0, scale, 1.0)).nan_to_num(nan=torch.inf)


def not_converged(
    scheme: str, where: str, residuals: list[float], tolerance: float
) -> ConvergenceError:
    reached = f"relative change {residuals[-1]:.2e} after " if residuals else ""
    return ConvergenceError(
        f"{scheme} solve, {where}: {reached}{len(residuals)} iterations, tolerance "
        f"{tolerance:g}; take more time steps (num_timesteps), a larger tolerance, or the "
        f"spectral scheme, which needs no iteration",
        residuals,
    )
