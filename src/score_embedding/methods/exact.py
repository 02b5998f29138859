"""The exact score of the images themselves, diffused: no training, and the bound of all training.

The n images, each equally likely, are a density whose posterior mean D is known at every noise
level (scores/empirical.py), and with it

    score(x, t) = (D(x, t) - x) / std(t)^2.

It is what a network of unlimited capacity learns from these images, and all that it can learn from
them.
"""

from __future__ import annotations

from torch import Tensor

from score_embedding.config.schema import Config
from score_embedding.densities import empirical
from score_embedding.methods import samplers
from score_embedding.methods.samplers import Samples, Score
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


def sample(images: Tensor, config: Config) -> Samples:
    """One sample from each image's start, by the probability flow of the exact score."""
    sde = VarianceExploding(config.diffusion.sigma)
    return samplers.draw(
        score_of(images, sde), images, sde, config.sample, config.misc.eps, config.training.seed
    )
