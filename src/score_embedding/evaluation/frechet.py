"""Fréchet inception distance (Heusel et al. 2017) of a run's samples, with the user's own network.

The distance between two Gaussians fitted to the features of samples and of training images:

    |mu_1 - mu_2|^2 + trace(C_1 + C_2 - 2 (C_1 C_2)^(1/2)).

It says nothing about a handful of images: below MINIMUM images it is refused. With fewer images
than the 2048 features of the usual network the covariances are singular, and the distance measures
the number of images more than their quality. Published figures use 10,000 to 50,000.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.errors import DataError
from score_embedding.evaluation import features

MINIMUM = 2048


def between(
    samples: Tensor, images: Tensor, weights: Path, device: torch.device, name: str
) -> float:
    """The distance between samples (m, c, h, w), clipped to [0, 1], and images (n, c, h, w).

    Parameters
    ----------
    weights : a TorchScript file of a network from uint8 images (b, 3, h, w) to features (b, d),
        such as the inception-2015-12-05.pt that comes with StyleGAN, of which none is shipped, or a
        classifier of benchmarks/train_features.py (features.py).
    name : of the run, for errors.

    Raises
    ------
    DataError : fewer than MINIMUM images, images of other channels than the network takes, or a
        file that is no such network.
    """
    n, channels = images.shape[:2]
    if reason := refusal(n):
        raise DataError(f"{name}: FID {reason}; see SSIM and PSNR in the report")
    network = features.load(weights, device)
    if channels != network.channels:
        needed = "colour" if network.channels == 3 else "grey"
        raise DataError(
            f"{name}: FID in the features of {weights.name} needs {needed} images, these have "
            f"{channels} channel(s)"
        )
    return distance(network.features(images), network.features(samples))


def refusal(n: int) -> str:
    """Why the distance to n training images is refused, however many samples there are; "" where
    it is not."""
    if n >= MINIMUM:
        return ""
    return (
        f"of {n} image{'s' if n > 1 else ''} is refused, {MINIMUM} are the least: with fewer "
        f"images than features the fitted covariances are singular and the figure says more about "
        f"the number of images than about their quality"
    )


def distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Fréchet distance between the Gaussians fitted to features (n, d) and (m, d)."""
    (mu_1, C_1), (mu_2, C_2) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (first, second))
    # (C_1 C_2)^(1/2) has the trace of the roots of its eigenvalues, none of which is negative.
    roots = np.sqrt(np.linalg.eigvals(np.atleast_2d(C_1) @ np.atleast_2d(C_2)).real.clip(min=0))
    squared = float(((mu_1 - mu_2) ** 2).sum() + np.trace(np.atleast_2d(C_1 + C_2)))
    return max(0.0, math.fsum([squared, -2 * float(roots.sum())]))
