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

import torch
from torch import Tensor

from score_embedding.fokker_planck.operators.linear import System, conjugate_residuals
from score_embedding.fokker_planck.problem import Evolution, Options, Problem
from score_embedding.fokker_planck.schemes import implicit
from score_embedding.fokker_planck.solution import slowest

SEEDS = 2  # images
RANK = 8  # of each time step's basis


def check(problem: Problem) -> None:
    """As `implicit.check`."""
    problem.refuse_gradients("krylov")


def evolve(problem: Problem, options: Options) -> Evolution:
    """As `implicit.evolve`, with the linear systems always solved iteratively; the first SEEDS
    images are the seeds."""
    m0, steps = problem.m0, implicit.time_steps(problem)
    bases: list[Tensor] = []  # of each time step, (rank, *grid)

    def keep_directions(_: int, system: System, b: Tensor, m_before: Tensor) -> Tensor:
        start, _solved, directions = conjugate_residuals(system, b, m_before, reduction=1e-2)
        bases.append(_orthonormal(directions, m_before))
        return start

    def project(i: int, system: System, b: Tensor, m_before: Tensor) -> Tensor:
        return projected(system, b, m_before, bases[i])

    seeds = min(SEEDS, len(m0))
    seeding = implicit.Iteration(options.tolerance, start=keep_directions)
    projecting = implicit.Iteration(options.tolerance, start=project)
    first = implicit.in_chunks(
        m0[:seeds],
        lambda m, names: implicit.march(m, names, steps, seeding),
        channels_at_once=seeds * m0.shape[1],  # one chunk: one basis for each step
    )
    if seeds == len(m0):
        return Evolution(*first, iteration="time step")
    rest = implicit.in_chunks(
        m0[seeds:],
        lambda m, names: implicit.march(m, names, steps, projecting),
        first_image=seeds,
    )
    log_density, residuals = torch.cat([first[0], rest[0]]), slowest([first[1], rest[1]])
    return Evolution(log_density, residuals, iteration="time step")


def _orthonormal(directions: list[Tensor], like: Tensor) -> Tensor:
    """The RANK leading left singular vectors of all channels' directions, (rank, *grid)."""
    columns = torch.cat([like[:0], *directions]).flatten(1)
    columns = columns[torch.isfinite(columns).all(dim=1)]
    if len(columns) == 0:
        return like[:0]
    _, sizes, rows = torch.linalg.svd(columns, full_matrices=False)
    rank = min(RANK, int((sizes > 1e-8 * sizes[0]).sum()))
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
