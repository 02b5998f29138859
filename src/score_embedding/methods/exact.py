"""The exact score of the images themselves, diffused: no training, and the bound of all training.

The n images, each equally likely, are a density whose posterior mean D is known at every noise
level (densities/empirical.py), and with it

    score(x, t) = (D(x, t) - x) / std(t)^2.

A network of unlimited capacity learns this score from these images, and no network can learn more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.config.schema import Config
from score_embedding.densities import empirical
from score_embedding.methods.base import Known, Network
from score_embedding.methods.continuous import ContinuousMethod
from score_embedding.methods.samplers import Score
from score_embedding.sde import VarianceExploding


def posterior_mean(x: Tensor, images: Tensor, std: Tensor) -> Tensor:
    """D at x (b, c, h, w) and noise levels std (b,), for images (n, c, h, w), or (b, n, c, h, w)
    where each entry has its own. Shape, dtype and device of x."""
    mean = empirical.posterior_mean(x.flatten(1), images.to(x).flatten(-3), std.to(x))
    return mean.reshape(x.shape)


def score_of(images: Tensor, sde: VarianceExploding) -> Score:
    """score(x, t) of the diffused images (n, c, h, w)."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        std = sde.std(t)
        return (posterior_mean(x, images, std) - x) / std[:, None, None, None].to(x) ** 2

    return score


@dataclass(frozen=True)
class KnownImages(Known):
    """The training images (n, c, h, w), which are the density."""

    images: Tensor


@dataclass(frozen=True)
class ExactScore(ContinuousMethod):
    """The exact score of the training images."""

    trained: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return "Exact score of the images, no training"

    @property
    def denoises_others(self) -> bool:
        return False

    def score(self, network: Network | None, known: Known, images: Tensor, index: Tensor) -> Score:
        del network, images, index
        assert isinstance(known, KnownImages)
        return score_of(known.images, self.sde)

    def precompute(self, images: Tensor, device: torch.device) -> KnownImages:
        return KnownImages({}, images.to(device))

    def load(self, folder: Path, device: torch.device) -> KnownImages:
        images = atomic_files.read_arrays(folder / self.images_file, "images")["images"]
        return KnownImages({}, torch.from_numpy(images).to(device))


def create(config: Config) -> ExactScore:
    """The exact score with a config."""
    return ExactScore(config)
