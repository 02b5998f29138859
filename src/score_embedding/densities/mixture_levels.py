"""The posterior mean of a mixture of Gaussians for images with noise of many levels, all at once.

The closed form is that of mixture.py, with the same axes merged at each level and the same
components left out; it equals one evaluation for each level but for round-off. What depends on the
pixels, the products with all axes, is the same matrix for all levels; what depends on the level is
diagonal. A batch of training, in which each image has a level of its own, then costs two matrix
products, where a loop over levels and components took many small steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers in the largest array: on the CPU it stays in the cache.
NUMBERS = {"cpu": 2**21}
NUMBERS_ELSEWHERE = 2**26


@dataclass(frozen=True)
class Levels:
    """Parameters of a mixture of K components of arrays with d numbers, as GaussianMixture has
    them, and what is left out.

    negligible : axes with less than this share of s^2 in every component are merged into the rest.
    min_probability : components of less than this share of the most likely one's are left out.
    """

    weights: Tensor
    means: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor
    negligible: float
    min_probability: float

    def posterior_mean(self, y: Tensor, s: Tensor) -> Tensor:
        """D(y, s) of arrays y (n, L, d), L of each of n images, at the images' noise levels
        s (n,) > 0; shape of y, dtype and device those of y and of the parameters."""
        K, d, r = self.axes.shape
        limit = NUMBERS.get(y.device.type, NUMBERS_ELSEWHERE)
        rows = max(1, limit // (K * r + d))  # of y at a time
        images = max(1, rows // max(1, y.shape[1]))
        means = torch.empty_like(y)
        # Images of similar levels together: the same axes are merged for all of them.
        for part in torch.split(s.argsort(), images):
            noisy = _noisy(self, s[part])
            found = [
                _posterior_mean(noisy, some, self.min_probability)
                for some in torch.split(y[part], rows, dim=1)
            ]
            means[part] = torch.cat(found, dim=1)
        return means


@dataclass(frozen=True)
class _Noisy:
    """A mixture of K components at n noise levels, in coordinates with its mean at 0.

    Attributes
    ----------
    centre, means : (d,) and (K, d), the mean of the mixture, and of its components without it.
    axes, offset : (d, K r), all axes side by side, and (K r,), their products with the means.
    log_scale, inverse_rest : (n, K), what log of weight_k N(y; mean_k, C_k + s^2 I) is without y,
        and 1 / (rest_k + s^2).
    excess : (n, K, r), the part of y's squared distance that the axes take from |y|^2 / rest.
    rest_gain, gain : (n, K) and (n, K, r), C_k (C_k + s^2 I)^-1: the factor in all directions, and
        what is added to it along the axes.
    """

    centre: Tensor
    means: Tensor
    axes: Tensor
    offset: Tensor
    log_scale: Tensor
    inverse_rest: Tensor
    excess: Tensor
    rest_gain: Tensor
    gain: Tensor


def _noisy(mixture: Levels, s: Tensor) -> _Noisy:
    """Of a mixture at noise levels s (n,)."""
    d, variance = mixture.axes.shape[1], s[:, None].square()  # (n, 1)
    large = mixture.variances > mixture.negligible * variance[..., None]  # (n, K, r)
    rank = large.sum(dim=2).amax(dim=1)  # (n,), the axes that are not merged
    r = int(rank.max())
    place = torch.arange(mixture.variances.shape[1], device=s.device)
    kept = (place < rank[:, None])[:, None]  # (n, 1, r)
    others = (d - rank)[:, None]
    trace = (mixture.variances * ~kept).sum(2) + mixture.rest * (d - len(place))
    rest = torch.where(others > 0, trace / others.clamp_min(1), mixture.rest)
    kept, variances, axes = kept[..., :r], mixture.variances[:, :r], mixture.axes[..., :r]
    noisy, noisy_rest = variances + variance[..., None], rest + variance
    rest_gain = rest / noisy_rest
    log_det = (noisy.log() * kept).sum(2) + others * noisy_rest.log()
    centre = mixture.weights @ mixture.means
    means = mixture.means - centre
    return _Noisy(
        centre=centre,
        means=means,
        axes=axes.permute(1, 0, 2).flatten(1),
        offset=torch.einsum("kd,kdr->kr", means, axes).flatten(),
        log_scale=mixture.weights.log() - log_det / 2,
        inverse_rest=1 / noisy_rest,
        excess=(1 / noisy_rest[..., None] - 1 / noisy).clamp_min(0) * kept,
        rest_gain=rest_gain,
        gain=(variances / noisy - rest_gain[..., None]) * kept,
    )


def _posterior_mean(noisy: _Noisy, y: Tensor, min_probability: float) -> Tensor:
    """Of arrays y (n, L, d)."""
    y = y - noisy.centre
    K, r = noisy.gain.shape[1:]
    z = (y @ noisy.axes - noisy.offset).view(*y.shape[:2], K, r)
    square = y.square().sum(2, keepdim=True) - 2 * y @ noisy.means.T + noisy.means.square().sum(1)
    along_axes = torch.einsum("nlkr,nkr->nlk", z.square(), noisy.excess)
    distance = square * noisy.inverse_rest[:, None] - along_axes
    probability = (noisy.log_scale[:, None] - distance / 2).softmax(2)  # (n, L, K)
    least = min_probability * probability.amax(2, keepdim=True)
    probability = probability.masked_fill(probability < least, 0)
    probability = probability / probability.sum(2, keepdim=True)
    in_rest = probability * noisy.rest_gain[:, None]
    found = (z * noisy.gain[:, None] * probability[..., None]).flatten(2) @ noisy.axes.T
    found += (probability - in_rest) @ noisy.means + in_rest.sum(2, keepdim=True) * y
    found += noisy.centre
    return found
