"""Samplers of the probability-flow ODE, as plain functions of a score.

dx/dt = f(x, t) - g(t)^2 / 2 * score(x, t), from t = 1 down to eps   (Song et al. 2021, eq. 13).

The start decides as much as the network does: see `start`. All samplers return the final images,
states along the way, and the number of function evaluations (NFE).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from score_embedding import progress
from score_embedding.config import Sample
from score_embedding.errors import DivergenceError
from score_embedding.sde import VarianceExploding

Prior = Literal["unit", "matched"]
Score = Callable[[Tensor, Tensor], Tensor]  # (b, c, h, w), (b,) -> (b, c, h, w)

SNAPSHOTS = 9  # states kept along the way, both ends included


@dataclass(frozen=True)
class Samples:
    """x (b, c, h, w) at t = eps; path (SNAPSHOTS, b, c, h, w) at path_times, from t = 1 down."""

    x: Tensor
    path: Tensor
    path_times: Tensor
    nfe: int


def draw(
    score: Score, images: Tensor, sde: VarianceExploding, options: Sample, eps: float, seed: int
) -> Samples:
    """One sample for each of `images` (b, c, h, w), as a config's sample section asks for."""
    weight = options.conditional_weight if options.type == "conditional" else None
    x = start(images, sde, options.prior, seed, weight)
    if options.solver == "rk45":
        return rk45(score, sde, x, eps, options.tolerance)
    return heun(score, sde, x, eps, options.steps)


def start(
    images: Tensor,
    sde: VarianceExploding,
    prior: Prior,
    seed: int,
    conditional_weight: float | None = None,
) -> Tensor:
    """The state at t = 1 for each image, (b, c, h, w), dtype and device of `images`.

    Unconditional: N(0, prior_std^2 I), where "unit" is the paper's prior_std = 1 and "matched" the
    SDE's own std(1). Conditional, with weight w: w * image + (1 - w) * N(0, sigma^2 I).
    Image i draws from (seed, i), so that the size of a batch never changes a picture.
    """
    noise = torch.stack([_noise(images.shape[1:], seed, i) for i in range(len(images))]).to(images)
    if conditional_weight is not None:
        return conditional_weight * images + (1 - conditional_weight) * sde.sigma * noise
    return noise * (sde.prior_std if prior == "matched" else 1.0)


def rk45(
    score: Score, sde: VarianceExploding, x: Tensor, eps: float, tolerance: float = 1e-3
) -> Samples:
    """Adaptive Runge-Kutta of order 5(4), scipy's: the paper's sampler.

    `tolerance` is relative and absolute. The batch is integrated as one system, so the step serves
    its most demanding image. Raises DivergenceError when the score is not finite.
    """
    nfe = 0

    def velocity(t: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal nfe
        nfe += 1
        stage.to(max(stage.done, 1 - t), note=f"{nfe} evaluations")
        x_t = torch.from_numpy(state.reshape(x.shape)).to(x)
        return _velocity(score, sde, x_t, t).cpu().to(torch.float64).numpy().ravel()

    times = np.linspace(1.0, eps, SNAPSHOTS)
    with progress.stage("sampling (RK45)", total=1 - eps) as stage:
        flow = solve_ivp(
            velocity,
            (1.0, eps),
            x.detach().cpu().to(torch.float64).numpy().ravel(),
            t_eval=times,
            rtol=tolerance,
            atol=tolerance,
        )
    if not flow.success:
        raise DivergenceError(f"RK45 stopped before t = {eps:g}: {flow.message}")
    path = torch.from_numpy(flow.y.T.reshape(SNAPSHOTS, *x.shape)).to(x)
    return Samples(path[-1], path, torch.from_numpy(times), nfe)


def heun(score: Score, sde: VarianceExploding, x: Tensor, eps: float, steps: int = 10) -> Samples:
    """Heun's method of order 2 with a fixed number of steps, two evaluations each.

    The times are even in log std(t), where the flow of a diffused density is smoothest, down to
    eps. Raises DivergenceError when the score is not finite.
    """
    times = noise_level_times(sde, eps, steps)
    states = [x]
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        slope = _velocity(score, sde, x, t)
        ahead = _velocity(score, sde, x + (s - t) * slope, s)
        x = x + (s - t) * (slope + ahead) / 2
        states.append(x)
    kept = torch.linspace(0, steps, SNAPSHOTS).round().long()
    return Samples(x, torch.stack([states[i] for i in kept]), times[kept], 2 * steps)


def noise_level_times(sde: VarianceExploding, eps: float, steps: int) -> Tensor:
    """steps + 1 times from 1 down to eps, (steps + 1,) in float64, even in log std(t)."""
    t = torch.linspace(1.0, 0.0, 4097, dtype=torch.float64) ** 2 * (1 - eps) + eps
    levels = torch.linspace(float(sde.std(1.0).log()), float(sde.std(eps).log()), steps + 1)
    log_std = sde.std(t).log().flip(0).numpy()
    times = torch.from_numpy(np.interp(levels.numpy(), log_std, t.flip(0).numpy()))
    times[0], times[-1] = 1.0, eps
    return times


def _noise(shape: torch.Size, seed: int, i: int) -> Tensor:
    own_seed = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
    return torch.randn(shape, generator=torch.Generator().manual_seed(own_seed))


@torch.no_grad()
def _velocity(score: Score, sde: VarianceExploding, x: Tensor, t: float) -> Tensor:
    time = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    velocity = sde.f(x, t) - sde.g(t).to(x) ** 2 / 2 * score(x, time)
    if not torch.isfinite(velocity).all():
        raise DivergenceError(f"the score is not finite at t = {t:.4g} while sampling")
    return velocity
