"""The exact score of the images themselves, diffused: no training, and the bound of all training.

Under a variance-exploding SDE the density at time t of n images x_1 .. x_n, each equally likely, is
the mean of the Gaussians N(x_i, std(t)^2 I). Its score is known:

    score(x, t) = (D(x, t) - x) / std(t)^2,    D = sum over i of w_i(x, t) x_i,
    w_i proportional to exp(-|x - x_i|^2 / (2 std(t)^2)).

D is the posterior mean of the image given x (Karras et al. 2022, appendix B.3). It is what a
network of unlimited capacity learns from these images, and all that it can learn from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from score_embedding import sampling
from score_embedding.config import Config
from score_embedding.sampling import Samples, Score
from score_embedding.sde import VarianceExploding


def posterior_mean(x: Tensor, images: Tensor, std: Tensor) -> Tensor:
    """D at x (b, c, h, w) and noise levels std (b,), for images (n, c, h, w), or (b, n, c, h, w)
    where each entry has its own. Shape, dtype and device of x."""
    flat, known = x.flatten(1), images.to(x).flatten(-3)  # (b, P), and (n, P) or (b, n, P)
    own = known.ndim == 3
    # Differences first: distances of a matrix product would lose the digits that the weights need.
    distance = torch.cdist(
        flat[:, None] if own else flat, known, compute_mode="donot_use_mm_for_euclid_dist"
    ).reshape(len(x), -1)  # (b, n)
    weights = torch.softmax(-((distance / std.to(x)[:, None]) ** 2) / 2, dim=1)
    mean = (weights[:, None] @ known)[:, 0] if own else weights @ known
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
    return sampling.draw(
        score_of(images, sde), images, sde, config.sample, config.misc.eps, config.training.seed
    )
