"""Samplers of the probability-flow ODE, by name (kinds.SAMPLERS), and what every sampler shares.

dx/dt = f(x, t) - g(t)^2 / 2 * score(x, t), from t = 1 down to eps   (Song et al. 2021, eq. 13).

A sampler is a module with `integrate(score, sde, x, eps, options) -> Samples` and
`describe(options) -> str`. The start decides as much as the network does: see `start`.
"""

from __future__ import annotations

from torch import Tensor

from score_embedding import kinds
from score_embedding.config.sections import Sample
from score_embedding.methods.samplers.batches import Kept as Kept
from score_embedding.methods.samplers.batches import batch_size as batch_size
from score_embedding.methods.samplers.batches import batches as batches
from score_embedding.methods.samplers.batches import in_batches as in_batches
from score_embedding.methods.samplers.flow import SNAPSHOTS as SNAPSHOTS
from score_embedding.methods.samplers.flow import Samples as Samples
from score_embedding.methods.samplers.flow import Score as Score
from score_embedding.methods.samplers.flow import Snapshots as Snapshots
from score_embedding.methods.samplers.flow import denoised as denoised
from score_embedding.methods.samplers.gaussian_start import GaussianFlow as GaussianFlow
from score_embedding.methods.samplers.gaussian_start import integrate_below
from score_embedding.methods.samplers.start import generator_of as generator_of
from score_embedding.methods.samplers.start import start as start
from score_embedding.methods.samplers.start import start_std as start_std
from score_embedding.sde import VarianceExploding


def draw(
    score: Score,
    images: Tensor,
    sde: VarianceExploding,
    options: Sample,
    eps: float,
    seed: int,
    first: int = 0,
    gaussian_flow: GaussianFlow | None = None,
) -> Samples:
    """One sample for each of `images` (b, c, h, w), as a config's sample section asks for; image i
    draws its noise from (seed, first + i).

    All images are integrated at once: `in_batches` divides many of them into batches that fit the
    memory. `gaussian_flow` is that of the data's Gaussian, for sample.gaussian_above.
    """
    x = start(images, start_std(sde, options), seed, options.image_weight, first)
    sampler = kinds.named(kinds.SAMPLERS, options.solver, "solver").load()

    def integrate(score: Score, sde: VarianceExploding, x: Tensor, eps: float) -> Samples:
        samples: Samples = sampler.integrate(score, sde, x, eps, options)
        return samples

    level = options.gaussian_above
    if gaussian_flow is not None and level is not None and begins_above(sde, options, level):
        samples = integrate_below(level, gaussian_flow, integrate, score, sde, x, eps)
    else:
        samples = integrate(score, sde, x, eps)
    return denoised(score, sde, samples, eps) if options.denoise else samples


def describe(options: Sample) -> str:
    """The sampler and its accuracy, in a few words."""
    sampler = kinds.named(kinds.SAMPLERS, options.solver, "solver").load()
    start = ""
    if options.gaussian_above is not None and options.image_weight is None:
        start = f", above noise {options.gaussian_above:g} the flow of the Gaussian"
    end = ", denoised at the end" if options.denoise else ""
    return f"{sampler.describe(options)}{start}{end}"


def begins_above(sde: VarianceExploding, options: Sample, level: float) -> bool:
    """Whether sampling starts from noise alone, of more than this level."""
    return options.image_weight is None and level < sde.prior_std
