"""What the training loop asks of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (b, c, h, w), (b,), (b,) -> (b, c, h, w)


@dataclass(frozen=True)
class Batch:
    """Training data of one step: noisy images x (b, c, h, w), times t (b,), image indices (b,),
    and what the network learns from: the noise z in x, or its mean given x, like x."""

    x: Tensor
    t: Tensor
    index: Tensor
    z: Tensor


class Objective(Protocol):
    """Batches and loss of one method on one data set."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int:
        """The number of images, each of which is one step of an epoch."""

    def draw_batch(self, index: int, generator: torch.Generator) -> Batch:
        """The batch of a step whose turn is image `index`; all randomness is the generator's."""

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The scalar to be minimised."""
