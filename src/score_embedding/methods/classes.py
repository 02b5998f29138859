"""The class of an image as a condition of the network.

The network has an embedding for each class of the data set, and one for no class. In training a
share of the labels is replaced by the latter, so that one network draws samples of a class and
samples of the whole data set (Ho and Salimans 2022, arXiv 2207.12598, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.arrays import uniform

DROPPED = 0.1  # share of the labels of a batch that are replaced


@dataclass(frozen=True)
class Labels:
    """The class of each training image, int64 (n,), and the number that stands for no class."""

    numbers: Tensor
    none: int

    def of(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """The labels of the images at these places (b,), a share of them replaced; on the device of
        the labels."""
        labels = self.numbers[places.to(self.numbers.device)]
        dropped = uniform((len(places),), generator).to(labels.device) < DROPPED
        return torch.where(dropped, self.none, labels)
