"""The paper's method: its batches of embedded images, its sliced score-matching loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.precomputation import EmbeddedImages
from score_embedding.sampling import Score
from score_embedding.sde import VarianceExploding


@dataclass(frozen=True)
class Batch:
    """Training data of one step: images x (b, c, h, w), times t (b,), image indices (b,)."""

    x: Tensor
    t: Tensor
    index: Tensor


def draw_batch(
    embedded: Tensor | EmbeddedImages,
    index: int,
    batch_size: int,
    eps: float,
    generator: torch.Generator,
) -> Batch:
    """A batch from the N embedded states of image `index`, each at a time drawn near its own.

    A set is all N states with t = linspace(eps, 1 - dt/2, N, endpoint excluded) + (U - eps) dt/2,
    U uniform on [0, 1), dt = 1/N. ceil(batch_size / N) sets are drawn and batch_size entries kept
    at random, in order (the official sampling of times).
    """
    states = embedded[index]
    N = len(states)
    dt = 1 / N
    sets = -(-batch_size // N)
    grid = eps + (1 - dt / 2 - eps) / N * torch.arange(N)
    U = torch.rand(sets, N, generator=generator)
    t = (grid + (U - eps) * dt / 2).reshape(-1)
    kept = torch.randperm(sets * N, generator=generator)[:batch_size].sort().values
    device = states.device
    return Batch(
        x=states[(kept % N).to(device)],
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
