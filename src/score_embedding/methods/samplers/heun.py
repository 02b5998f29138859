"""Heun's method of order 2 with a fixed number of steps (Karras et al. 2022, algorithm 1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from score_embedding._deprecated import positional_options
from score_embedding.arrays import ArrayLike, whole
from score_embedding.config.sections import Sample
from score_embedding.methods.samplers.flow import Samples, Score, Snapshots, checked_start, velocity
from score_embedding.sde import VarianceExploding


def integrate(
    score: Score, sde: VarianceExploding, x: Tensor, eps: float, options: Sample
) -> Samples:
    """From x at t = 1 to t = eps, in the number of steps of the options."""
    return heun(score, sde, x, eps, steps=options.steps)


def describe(options: Sample) -> str:
    return f"Heun, {options.steps} steps"


@positional_options
def heun(
    score: Score, sde: VarianceExploding, x: ArrayLike, eps: float, *, steps: int = 10
) -> Samples:
    """Heun's method of order 2 from x (b, c, h, w) at t = 1 to t = eps, two evaluations a step.

    The times are even in log std(t), where the flow of a diffused density is smoothest. The device
    is that of x, and so is a dtype of float16, bfloat16 or float32, else it is float64. Only the
    states that are shown are kept. Raises DivergenceError when the score is not finite, ValueError
    when x requires a gradient or another argument cannot be used.
    """
    state, eps = checked_start(sde, x, eps)
    steps = whole(steps, "steps", 1)
    times = noise_level_times(sde, eps, steps)
    shown = Snapshots(steps)
    shown.add(0, state)
    for k, (t, s) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True), 1):
        slope = velocity(score, sde, state, t)
        ahead = velocity(score, sde, state + (s - t) * slope, s)
        state = state + (s - t) * (slope + ahead) / 2
        shown.add(k, state)
    return Samples(state, shown.path(), times[shown.numbers], 2 * steps)


def noise_level_times(sde: VarianceExploding, eps: float, steps: int) -> Tensor:
    """steps + 1 times from 1 down to eps, (steps + 1,) in float64, even in log std(t)."""
    t = torch.linspace(1.0, 0.0, 4097, dtype=torch.float64, device="cpu") ** 2 * (1 - eps) + eps
    ends = float(sde.std(1.0).log()), float(sde.std(eps).log())
    levels = torch.linspace(*ends, steps + 1, dtype=torch.float32, device="cpu")
    log_std = sde.std(t).log().flip(0).numpy()
    times = torch.from_numpy(np.interp(levels.numpy(), log_std, t.flip(0).numpy()))
    times[0], times[-1] = 1.0, eps
    return times
