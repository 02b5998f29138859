"""Cross-matrix Krylov projection: search directions of the first images start the later solves.

Order: as `implicit`, whose equations it solves to the same tolerance.

The systems of one time step differ between images only in their advection (`linear.py`). The
search directions of the conjugate residuals of the seed images are orthonormalised into a basis V
for each time step. A later image's first system of that step, A v = b, starts from

    v = m_before + V y,    y minimising |b - A v|

and is then iterated to the tolerance as any other: the projection can only save iterations (Lau,
Na, Wan 2025, arXiv 2511.17634).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_embedding.fokker_planck.operators.linear import (
    DEFAULT_LIMITS,
    Limits,
    System,
    conjugate_residuals,
)
from score_embedding.fokker_planck.problem import Evolution, Options, Problem
from score_embedding.fokker_planck.schemes import implicit
from score_embedding.fokker_planck.solution import slowest

SEEDS = 2  # images
RANK = 8  # of each time step's basis
# Where the solve of a system starts: from the system, its right side, m_before and the basis.
Projection = Callable[[System, Tensor, Tensor, Tensor], Tensor]


def check(problem: Problem) -> None:
    """As `implicit.check`."""
    problem.refuse_gradients("krylov")


def evolve(
    problem: Problem,
    options: Options,
    *,
    seeds: int = SEEDS,
    rank: int = RANK,
    values_at_once: int = implicit.VALUES_AT_ONCE,
    project: Projection | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Evolution:
    """As `implicit.evolve`, with the linear systems always solved iteratively; the first `seeds`
    images are the seeds. `project` chooses where the later systems start, `projected` if None."""
    m0, steps = problem.m0, implicit.time_steps(problem)
    bases: list[Tensor] = []  # of each time step, (rank, *grid)

    def keep_directions(_: int, system: System, b: Tensor, m_before: Tensor) -> Tensor:
        start, _solved, directions = conjugate_residuals(system, b, m_before, 1e-2, limits)
        bases.append(_orthonormal(directions, m_before, rank))
        return start

    def start_projected(i: int, system: System, b: Tensor, m_before: Tensor) -> Tensor:
        return (project or projected)(system, b, m_before, bases[i])

    seeds = min(seeds, len(m0))
    stop = options.tolerance, options.max_iterations
    seeding = implicit.Iteration(*stop, start=keep_directions, limits=limits)
    projecting = implicit.Iteration(*stop, start=start_projected, limits=limits)
    first = implicit.in_chunks(
        m0[:seeds],
        lambda m, names: implicit.march(m, names, steps, seeding),
        channels_at_once=seeds * m0.shape[1],  # one chunk: one basis for each step
    )
    if seeds == len(m0):
        return implicit.evolution(*first)
    rest = implicit.in_chunks(
        m0[seeds:],
        lambda m, names: implicit.march(m, names, steps, projecting),
        channels_at_once=max(1, values_at_once // m0[0, 0].numel()),
        first_image=seeds,
    )
    log_density = torch.cat([first[0], rest[0]])
    return implicit.evolution(log_density, slowest([first[1], rest[1]]))


def _orthonormal(directions: list[Tensor], like: Tensor, most: int) -> Tensor:
    """At most `most` leading left singular vectors of all channels' directions, (rank, *grid)."""
    columns = torch.cat([like[:0], *directions]).flatten(1)
    columns = columns[torch.isfinite(columns).all(dim=1)]
    if len(columns) == 0:
        return like[:0]
    _, sizes, rows = torch.linalg.svd(columns, full_matrices=False)
    rank = min(most, int((sizes > 1e-8 * sizes[0]).sum()))
    basis: Tensor = rows[:rank].reshape(rank, *like.shape[1:])
    return basis


def projected(system: System, b: Tensor, start: Tensor, V: Tensor) -> Tensor:
    """start + V y for each channel (B, *grid), y minimising |b - A (start + V y)|."""
    if len(V) == 0:
        return start
    r = (b - system.apply(start)).flatten(1)[..., None]  # (B, D, 1)
    images = [System(system.heat, u[:, None]).apply(V) for u in system.u.unbind(dim=1)]
    W = torch.stack(images).flatten(2)  # A V of each channel, (B, rank, D)
    gram = W @ W.mT
    gram.diagonal(dim1=1, dim2=2).mul_(1 + 1e-10)  # regular even where V is nearly dependent
    y: Tensor = torch.linalg.solve(gram, W @ r)[..., 0]  # the normal equations will do for a start
    return start + (y @ V.flatten(1)).reshape(start.shape)
