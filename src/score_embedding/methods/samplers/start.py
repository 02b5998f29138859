"""Where sampling starts: the prior, and the random numbers of each image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from score_embedding.arrays import normal
from score_embedding.config.sections import Start
from score_embedding.sde import VarianceExploding


def start_std(sde: VarianceExploding, options: Start) -> float:
    """Standard deviation of the noise at the start. Unconditional: 1 with prior "unit", the
    paper's, and the SDE's own std(1) with "matched". Conditional: sigma, as in the paper."""
    if options.type == "conditional":
        return sde.sigma
    return sde.prior_std if options.prior == "matched" else 1.0


def start(
    images: Tensor,
    std: float,
    seed: int,
    conditional_weight: float | None = None,
    first: int = 0,
) -> Tensor:
    """The state at t = 1 for each image, (b, c, h, w), dtype and device of `images`.

    Unconditional: N(0, std^2 I). Conditional, with weight w: w * image + (1 - w) * N(0, std^2 I).
    Image i draws from (seed, first + i), so that the size of a batch never changes a picture.
    """
    generators = [generator_of(seed, first + i) for i in range(len(images))]
    noise = [normal(images.shape[1:], generator) for generator in generators]
    x = std * torch.stack(noise).to(images)
    if conditional_weight is not None:
        x = conditional_weight * images + (1 - conditional_weight) * x
    return x


def generator_of(seed: int, i: int, stream: int = 0) -> torch.Generator:
    """The random numbers of image i. `stream` separates those of its start (0) from those of the
    steps after it (1)."""
    own_seed = int(np.random.SeedSequence([seed, i, stream]).generate_state(1)[0])
    return torch.Generator("cpu").manual_seed(own_seed)
