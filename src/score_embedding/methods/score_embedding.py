"""The paper's method: pre-computed scores embedded in the images, sliced score-matching loss."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from score_embedding.config import Diffusion, Misc
from score_embedding.density import log_density
from score_embedding.embedding import embed
from score_embedding.fokker_planck import Diagnostics, score, solve
from score_embedding.sampling import Score
from score_embedding.sde import VarianceExploding


@dataclass(frozen=True)
class Precomputed:
    """Everything known before training: the log-density and the score (n, N, c, h, w) in float64,
    the embedded images (n, N, c, h, w) in float32, the N times, diagnostics and stage seconds."""

    times: Tensor
    log_density: Tensor
    scores: Tensor
    embedded: Tensor
    diagnostics: Diagnostics
    seconds: dict[str, float]


@dataclass(frozen=True)
class Batch:
    """Training data of one step: images x (b, c, h, w), times t (b,), image indices (b,)."""

    x: Tensor
    t: Tensor
    index: Tensor


def time_grid(num_timesteps: int, eps: float) -> Tensor:
    """The N times of the solve, linspace(eps, 1, N), in float64."""
    return torch.linspace(eps, 1, num_timesteps, dtype=torch.float64)


def precompute(images: Tensor, diffusion: Diffusion, misc: Misc) -> Precomputed:
    """Log-density, Fokker-Planck solve, score and embedding of images (n, c, h, w)."""
    sde = VarianceExploding(diffusion.sigma)
    times = time_grid(diffusion.num_timesteps, misc.eps).to(images.device)
    clock = [time.perf_counter()]
    m0 = log_density(images, diffusion.density)
    clock.append(time.perf_counter())
    solution = solve(
        m0, sde, times, diffusion.scheme, diffusion.dh, tolerance=diffusion.solve_tolerance
    )
    scores = score(solution.log_density, diffusion.dh, diffusion.boundary)
    clock.append(time.perf_counter())
    embedded = embed(images, scores, sde, times).to(torch.float32)
    clock.append(time.perf_counter())
    density, solve_and_score, embedding = (b - a for a, b in pairwise(clock))
    return Precomputed(
        times=times,
        log_density=solution.log_density,
        scores=scores,
        embedded=embedded,
        diagnostics=solution.diagnostics,
        seconds={"density": density, "solve": solve_and_score, "embedding": embedding},
    )


def draw_batch(
    embedded: Tensor, index: int, batch_size: int, eps: float, generator: torch.Generator
) -> Batch:
    """A batch from the N embedded states of image `index`, each at a time drawn near its own.

    A set is all N states with t = linspace(eps, 1 - dt/2, N, endpoint excluded) + (U - eps) dt/2,
    U uniform on [0, 1), dt = 1/N. ceil(batch_size / N) sets are drawn and batch_size entries kept
    at random, in order (the official sampling of times).
    """
    N = embedded.shape[1]
    dt = 1 / N
    sets = -(-batch_size // N)
    grid = eps + (1 - dt / 2 - eps) / N * torch.arange(N)
    U = torch.rand(sets, N, generator=generator)
    t = (grid + (U - eps) * dt / 2).reshape(-1)
    kept = torch.randperm(sets * N, generator=generator)[:batch_size].sort().values
    device = embedded.device
    return Batch(
        x=embedded[index, (kept % N).to(device)],
        t=t[kept].to(device),
        index=torch.full((batch_size,), index, device=device),
    )


def loss(score: Score, sde: VarianceExploding, batch: Batch, z: Tensor) -> Tensor:
    """Sliced denoising loss, a scalar: with noise z ~ N(0, I) like batch.x and lambda = std(t),

    mean over the batch of 1 / (2 g(t)^2) * sum over pixels of (s(x + lambda z, t) lambda + z)^2.
    """
    std = sde.std(batch.t)[:, None, None, None]
    residual = score(batch.x + std * z, batch.t) * std + z
    weight = 1 / (2 * sde.g(batch.t) ** 2)
    return (weight * residual.square().sum(dim=(1, 2, 3))).mean()
