"""Samplers of the probability-flow ODE, as plain functions of a score.

dx/dt = f(x, t) - g(t)^2 / 2 * score(x, t), from t = 1 down to eps   (Song et al. 2021, eq. 13).

The start decides as much as the network does: see `start`. All samplers return the final images,
states along the way, and the number of function evaluations (NFE).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from score_embedding import progress
from score_embedding.config.sections import Sample, Start
from score_embedding.errors import DivergenceError
from score_embedding.sde import VarianceExploding

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
    x = start(images, start_std(sde, options), seed, options.image_weight)
    if options.solver == "rk45":
        samples = rk45(score, sde, x, eps, options.tolerance)
    else:
        samples = heun(score, sde, x, eps, options.steps)
    return denoised(score, sde, samples, eps) if options.denoise else samples


def start_std(sde: VarianceExploding, options: Start) -> float:
    """The width of the noise at the start. Unconditional: 1 with prior "unit", the paper's, and
    the SDE's own std(1) with "matched". Conditional: sigma, as in the paper."""
    if options.type == "conditional":
        return sde.sigma
    return sde.prior_std if options.prior == "matched" else 1.0


def start(images: Tensor, std: float, seed: int, conditional_weight: float | None = None) -> Tensor:
    """The state at t = 1 for each image, (b, c, h, w), dtype and device of `images`.

    Unconditional: N(0, std^2 I). Conditional, with weight w: w * image + (1 - w) * N(0, std^2 I).
    Image i draws from (seed, i), so that the size of a batch never changes a picture.
    """
    generators = [generator_of(seed, i) for i in range(len(images))]
    noise = [torch.randn(images.shape[1:], generator=generator) for generator in generators]
    x = std * torch.stack(noise).to(images)
    if conditional_weight is not None:
        x = conditional_weight * images + (1 - conditional_weight) * x
    return x


def generator_of(seed: int, i: int, stream: int = 0) -> torch.Generator:
    """The random numbers of image i; `stream` tells its start (0) from what comes after (1)."""
    own_seed = int(np.random.SeedSequence([seed, i, stream]).generate_state(1)[0])
    return torch.Generator().manual_seed(own_seed)


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


@torch.no_grad()
def denoised(score: Score, sde: VarianceExploding, samples: Samples, eps: float) -> Samples:
    """The samples with the noise that is left at t = eps taken out: their posterior mean
    x + std(eps)^2 score(x, eps), one evaluation more (Tweedie's formula)."""
    time = torch.full((len(samples.x),), eps, dtype=samples.x.dtype, device=samples.x.device)
    x = samples.x + float(sde.std(eps)) ** 2 * score(samples.x, time)
    return Samples(x, torch.cat([samples.path[:-1], x[None]]), samples.path_times, samples.nfe + 1)


def noise_level_times(sde: VarianceExploding, eps: float, steps: int) -> Tensor:
    """steps + 1 times from 1 down to eps, (steps + 1,) in float64, even in log std(t)."""
    t = torch.linspace(1.0, 0.0, 4097, dtype=torch.float64) ** 2 * (1 - eps) + eps
    levels = torch.linspace(float(sde.std(1.0).log()), float(sde.std(eps).log()), steps + 1)
    log_std = sde.std(t).log().flip(0).numpy()
    times = torch.from_numpy(np.interp(levels.numpy(), log_std, t.flip(0).numpy()))
    times[0], times[-1] = 1.0, eps
    return times


@torch.no_grad()
def _velocity(score: Score, sde: VarianceExploding, x: Tensor, t: float) -> Tensor:
    time = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    velocity = sde.f(x, t) - sde.g(t).to(x) ** 2 / 2 * score(x, time)
    if not torch.isfinite(velocity).all():
        raise DivergenceError(f"the score is not finite at t = {t:.4g} while sampling")
    return velocity
