"""Adaptive Runge-Kutta of order 5(4), scipy's: the paper's sampler."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from score_embedding import progress
from score_embedding._deprecated import positional_options
from score_embedding.arrays import ArrayLike, number
from score_embedding.config.sections import Sample
from score_embedding.errors import DivergenceError
from score_embedding.methods.samplers.flow import SNAPSHOTS, Samples, Score, checked_start, velocity
from score_embedding.sde import VarianceExploding

LEAST_TOLERANCE = 1e-13  # that scipy's solver reaches in float64


def integrate(
    score: Score, sde: VarianceExploding, x: Tensor, eps: float, options: Sample
) -> Samples:
    """From x at t = 1 to t = eps, with the tolerance of the options."""
    return rk45(score, sde, x, eps, tolerance=options.tolerance)


def describe(options: Sample) -> str:
    return f"RK45, tolerance {options.tolerance:g}"


@positional_options
def rk45(
    score: Score, sde: VarianceExploding, x: ArrayLike, eps: float, *, tolerance: float = 1e-3
) -> Samples:
    """Adaptive Runge-Kutta of order 5(4) from x (b, c, h, w) at t = 1 to t = eps.

    `tolerance` is relative and absolute. The images x are integrated as one system: the step is
    the one that its most demanding image needs, so an image's sample depends, within the tolerance,
    on the others in its batch. The state is integrated in float64; the score sees, and the result
    has, dtype and device as with `heun`, which also has the errors.
    """
    start, eps = checked_start(sde, x, eps)
    tolerance = number(tolerance, "tolerance", above=0)
    if tolerance < (least := max(torch.finfo(start.dtype).eps / 1000, LEAST_TOLERANCE)):
        raise ValueError(
            f"tolerance must be at least {least:.2g} for an x of {start.dtype}, whose round-off "
            f"no smaller step reduces; got {tolerance:g}"
        )
    nfe = 0
    widest, narrowest = float(sde.std(1.0)), float(sde.std(eps))

    def slope(t: float, state: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal nfe
        nfe += 1
        # Its steps are about even in the logarithm of the noise level, not in time.
        stage.to(max(stage.done, math.log(widest / float(sde.std(t)))), note=f"{nfe} evaluations")
        x_t = torch.from_numpy(state.reshape(start.shape)).to(start)
        return velocity(score, sde, x_t, t).cpu().to(torch.float64).numpy().ravel()

    times = np.linspace(1.0, eps, SNAPSHOTS)
    with progress.stage("sampling (RK45)", total=math.log(widest / narrowest)) as stage:
        flow = solve_ivp(
            slope,
            (1.0, eps),
            start.detach().cpu().to(torch.float64).numpy().ravel(),
            t_eval=times,
            rtol=tolerance,
            atol=tolerance,
        )
    if not flow.success:
        raise DivergenceError(f"RK45 stopped before t = {eps:g}: {flow.message}")
    path = torch.from_numpy(flow.y.T.reshape(SNAPSHOTS, *start.shape)).to(start)
    return Samples(path[-1], path, torch.from_numpy(times), nfe)
