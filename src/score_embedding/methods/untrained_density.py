"""A density's closed-form denoiser and score alone: a residual model without its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from score_embedding.config.schema import Config
from score_embedding.methods.residual import Residual


@dataclass(frozen=True)
class UntrainedDensity(Residual):
    """A density with a config."""

    trained: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"Density {self.config.image_density.kind} in closed form, no training"


def create(config: Config) -> UntrainedDensity:
    """A density with a config."""
    return UntrainedDensity(config)
