"""The one parameter of a rival, chosen once for each noise level on training images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from score_embedding.evaluation.denoiser_error import mean_squared_error, outputs

# Noisy images (b, c, h, w), their noise level and the parameter -> denoised images.
Machine = Callable[[Tensor, float, float], Tensor]


@dataclass(frozen=True)
class Calibrated:
    """A machine with the parameter chosen for each noise level: a denoiser."""

    machine: Machine
    chosen: dict[float, float]

    def denoise(self, x: Tensor, s: Tensor) -> Tensor:
        """Images x (b, c, h, w), all of the noise level s[0], with the parameter of the calibrated
        level that is nearest in the logarithm."""
        level = float(s[0])
        nearest = min(self.chosen, key=lambda known: abs(math.log(known / level)))
        return self.machine(x, level, self.chosen[nearest])


def calibrated(
    machine: Machine, images: Tensor, levels: Sequence[float], candidates: Sequence[float]
) -> Calibrated:
    """With the candidate of least mean squared error at each noise level, on training images
    (m, c, h, w) that the machine itself must not have."""
    chosen = {}
    for level in levels:
        errors = {}
        for candidate in candidates:
            denoise = Calibrated(machine, {level: candidate}).denoise
            errors[candidate] = mean_squared_error(outputs(denoise, images, level), images)
        chosen[level] = min(errors, key=errors.__getitem__)
    return Calibrated(machine, chosen)
