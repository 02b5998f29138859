"""Quality of samples: distance to the training images, coverage, and copies of them.

Each number depends on the features, on how many samples there are, and on the training images, so
they are stated beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.errors import DataError
from score_embedding.evaluation import frechet, memorisation
from score_embedding.evaluation.features import FeatureNetwork
from score_embedding.evaluation.precision_recall import NEIGHBOURS, precision_recall


@dataclass(frozen=True)
class Reference:
    """What samples are compared with, computed once.

    Attributes
    ----------
    images : the training images (n, c, h, w).
    features : theirs (n, d).
    held_out : features of real images that were not trained on, (m, d), m may be 0.
    """

    network: FeatureNetwork
    images: Tensor
    features: NDArray[np.float64]
    held_out: NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """Measurements of samples, with what they depend on.

    Attributes
    ----------
    features : the network in whose features they are.
    samples, images : how many there are of both.
    frechet : Fréchet distance of the samples to the training images.
    frechet_floor : that of held-out real images, as many as there are samples or all there are
        (`floor_images`); None without held-out images. A perfect sampler reaches it.
    precision, recall : of the samples, and as many training images (`compared`).
    memorised : share of the samples that copy a training image (memorisation.py).
    nearest : median distance to the nearest training image, root mean square of the pixels.
    """

    features: str
    samples: int
    images: int
    frechet: float
    frechet_floor: float | None
    floor_images: int
    precision: float
    recall: float
    compared: int
    memorised: float
    nearest: float


def reference(images: Tensor, network: FeatureNetwork, held_out: Tensor | None = None) -> Reference:
    """Of training images (n, c, h, w) and held-out ones. Raises DataError for images that the
    network cannot take."""
    features = network.features(images)
    others = features[:0] if held_out is None else network.features(held_out)
    return Reference(network, images, features, others)


def measure(samples: Tensor, real: Reference) -> Quality:
    """Of samples (n, c, h, w), clipped to [0, 1]. Memory is bounded but for the features.

    Raises
    ------
    DataError : too few samples or training images for neighbours.
    """
    count = min(len(samples), len(real.images))
    if count <= NEIGHBOURS:
        raise DataError(
            f"{len(samples)} sample(s) of {len(real.images)} training image(s): more than "
            f"{NEIGHBOURS} of both are needed; draw more with `sample -n`"
        )
    found = real.network.features(samples)
    floor = real.held_out[: len(samples)]
    precision, recall = precision_recall(_spread(real.features, count), found[:count])
    neighbours = memorisation.nearest(samples, real.images)
    pixels = real.images[0].numel() ** 0.5
    return Quality(
        real.network.name,
        len(samples),
        len(real.images),
        frechet.distance(real.features, found),
        frechet.distance(real.features, floor) if len(floor) > 1 else None,
        len(floor),
        precision,
        recall,
        count,
        neighbours.share,
        float(neighbours.distances[:, 0].median()) / pixels,
    )


def _spread(features: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`count` of the rows, evenly spaced: data sets may be sorted."""
    chosen: NDArray[np.float64] = features[np.linspace(0, len(features) - 1, count).astype(int)]
    return chosen
