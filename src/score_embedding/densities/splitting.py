"""A seeded split of images into those that a density is fitted to and those held out."""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 0.1  # of the images, that is held out
LEAST = 20  # images, of which two are held out; fewer are not divided


def split(count: int, seed: int, most: int) -> tuple[Tensor, Tensor]:
    """Which of `count` images, at least LEAST, are fitted to and which are held out: a tenth, and
    at most `most`. Indices on the CPU, both in ascending order."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    shuffled = torch.randperm(count, generator=generator, device="cpu")
    held_out = min(int(SHARE * count), most)
    return shuffled[held_out:].sort().values, shuffled[:held_out].sort().values
