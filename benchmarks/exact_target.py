"""The variance that the exact target (training.target: exact) removes from the noise target.

A network without an index learns the mean of the drawn noise z given the noisy image x. The
variance of z around that mean, E|z - E[z | x]|^2 / E|z|^2, is noise in every gradient; the exact
target removes it. It is positive only where x does not determine which image it comes from. The
table gives it over the noise level std(t), for few and many photographs, and the seconds that the
exact target adds to a batch of 20.

    python benchmarks/exact_target.py      # half a minute
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import Tensor

from _common import crops, environment, photographs, write
from score_embedding.methods.exact import posterior_mean

LEVELS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # std(1): 1.5 at sigma_base 2, 2.7 at 5, 9.8 at 25
DRAWS = 500


def scatter(images: Tensor, std: float, generator: torch.Generator) -> float:
    """Share of the noise target's variance that the exact target removes, at one noise level."""
    index = torch.randint(len(images), (DRAWS,), generator=generator)
    z = torch.randn((DRAWS, *images.shape[1:]), generator=generator, dtype=images.dtype)
    x = images[index] + std * z
    mean = (x - posterior_mean(x, images, torch.full((DRAWS,), std))) / std
    return float((z - mean).square().sum() / z.square().sum())


def seconds_of_a_batch(images: Tensor) -> float:
    """Seconds that the exact target adds to drawing a batch of 20, median of ten calls."""
    x = images[torch.arange(20) % len(images)].float()
    std, of_all = torch.ones(20), images.float().expand(20, *images.shape)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        posterior_mean(x, of_all, std)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def main() -> None:
    sets = {
        "3 photographs, 32x32": photographs(32)[:3],
        "12 photographs, 32x32": photographs(32),
        "1000 crops, 32x32": crops(1000, 32),
        "1000 crops, 8x8": crops(1000, 8),
    }
    machine = environment()
    rows = []
    for name, images in sets.items():
        generator = torch.Generator().manual_seed(0)
        row: dict[str, Any] = {"images": name}
        row |= {f"std {std:g}": scatter(images, std, generator) for std in LEVELS}
        row["seconds a batch"] = seconds_of_a_batch(images)
        rows.append(row)
    write("exact_target", rows, machine)


if __name__ == "__main__":
    main()
