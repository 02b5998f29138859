"""The probability flow that all samplers integrate, and what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from score_embedding.arrays import ArrayLike, number, refuse_gradient, result_dtype, to_tensor
from score_embedding.errors import DivergenceError
from score_embedding.sde import VarianceExploding, require

Score = Callable[[Tensor, Tensor], Tensor]  # (b, c, h, w), (b,) -> (b, c, h, w)

SNAPSHOTS = 9  # states kept along the way, both ends included


@dataclass(frozen=True)
class Samples:
    """The final images and how they were reached.

    Attributes
    ----------
    x : (b, c, h, w) at t = eps.
    path : (SNAPSHOTS, b, c, h, w) at path_times (SNAPSHOTS,), from t = 1 down; over several
        batches, of the images of the first.
    nfe : function evaluations of the score for one image; over several batches, the largest number.
    """

    x: Tensor
    path: Tensor
    path_times: Tensor
    nfe: int


@dataclass
class Snapshots:
    """The SNAPSHOTS states that are shown of a chain of steps; all others can be freed."""

    steps: int
    _kept: dict[int, Tensor] = field(default_factory=dict)

    @property
    def numbers(self) -> Tensor:
        """Which states are kept, (SNAPSHOTS,): 0 is the start. Short chains repeat some."""
        return (
            torch.linspace(0, self.steps, SNAPSHOTS, dtype=torch.float32, device="cpu")
            .round()
            .long()
        )

    def add(self, k: int, x: Tensor) -> None:
        """State x after k steps, kept where it is one of those shown."""
        if k in self.numbers:
            self._kept[k] = x

    def path(self) -> Tensor:
        """The kept states, (SNAPSHOTS, b, c, h, w)."""
        return torch.stack([self._kept[k] for k in self.numbers.tolist()])


def checked_start(sde: VarianceExploding, x: ArrayLike, eps: float) -> tuple[Tensor, float]:
    """x (b, c, h, w) as a tensor in the dtype of the samples, and the end time eps as a float.

    Raises
    ------
    ValueError : an x, eps or sde that cannot be used.
    """
    refuse_gradient(x, "x", "which sampling does not have")
    require(sde, "f", "g", "std")
    return to_tensor(x, ndim=4, name="x").to(result_dtype(x)), number(eps, "eps", above=0, below=1)


@torch.no_grad()
def velocity(score: Score, sde: VarianceExploding, x: Tensor, t: float) -> Tensor:
    """dx/dt of the probability flow at time t. Raises DivergenceError where it is not finite."""
    time = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    result = sde.f(x, t) - sde.g(t).to(x) ** 2 / 2 * score(x, time)
    if not torch.isfinite(result).all():
        raise DivergenceError(f"the score is not finite at t = {t:.4g} while sampling")
    return result


@torch.no_grad()
def denoised(score: Score, sde: VarianceExploding, samples: Samples, eps: float) -> Samples:
    """The samples without the noise that remains at t = eps: their posterior mean
    x + std(eps)^2 score(x, eps), one evaluation more (Tweedie's formula)."""
    time = torch.full((len(samples.x),), eps, dtype=samples.x.dtype, device=samples.x.device)
    x = samples.x + float(sde.std(eps)) ** 2 * score(samples.x, time)
    return Samples(x, torch.cat([samples.path[:-1], x[None]]), samples.path_times, samples.nfe + 1)
