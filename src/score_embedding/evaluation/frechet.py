"""Fréchet inception distance (Heusel et al. 2017) of a run's samples, with the user's own network.

The distance between two Gaussians fitted to the features of samples and of training images:

    |mu_1 - mu_2|^2 + trace(C_1 + C_2 - 2 (C_1 C_2)^(1/2)).

It says nothing about a handful of images: below MINIMUM images it is refused. With fewer images
than the 2048 features of the usual network the covariances are singular, and the distance measures
the number of images more than their quality. Published figures use 10,000 to 50,000.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_embedding import progress
from score_embedding.errors import DataError

MINIMUM = 2048
_BATCH = 64


def between(
    samples: Tensor, images: Tensor, weights: Path, device: torch.device, name: str
) -> float:
    """The distance between samples (m, 3, h, w), clipped to [0, 1], and images (n, 3, h, w).

    Parameters
    ----------
    weights : a TorchScript file of a network from uint8 images (b, 3, h, w) to features (b, d),
        such as the inception-2015-12-05.pt that comes with StyleGAN. None is shipped.
    name : of the run, for errors.

    Raises
    ------
    DataError : fewer than MINIMUM images, grey images, or a file that is no such network.
    """
    n, channels = images.shape[:2]
    if reason := refusal(n):
        raise DataError(f"{name}: FID {reason}; see SSIM and PSNR in the report")
    if channels != 3:
        raise DataError(f"{name}: FID needs colour images, these have {channels} channel")
    network = load(weights, device)
    return distance(features(images, network, device), features(samples, network, device))


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


def load(weights: Path, device: torch.device) -> Any:
    """The network of a TorchScript file; no Python in it is run. Raises DataError."""
    if not weights.is_file():
        raise DataError(
            f"{weights}: no such file; FID needs a TorchScript file of a feature network, such as "
            f"inception-2015-12-05.pt"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(weights, map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{weights}: not a TorchScript network ({reason})") from None


@torch.no_grad()
def features(images: Tensor, network: Any, device: torch.device) -> NDArray[np.float64]:
    """Features (n, d) of images (n, 3, h, w), clipped to [0, 1] and rounded to 8 bits."""
    found = []
    with progress.stage("features", total=len(images)) as stage:
        for batch in torch.split(images, _BATCH):
            pixels = (batch.clamp(0, 1) * 255).round().to(torch.uint8).to(device)
            try:
                found.append(_call(network, pixels).double().cpu().numpy())
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise DataError(f"the feature network cannot take these images: {reason}") from None
            stage.update(len(batch))
    return np.concatenate(found)


def distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Fréchet distance between the Gaussians fitted to features (n, d) and (m, d)."""
    (mu_1, C_1), (mu_2, C_2) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (first, second))
    # (C_1 C_2)^(1/2) has the trace of the roots of its eigenvalues, none of which is negative.
    roots = np.sqrt(np.linalg.eigvals(np.atleast_2d(C_1) @ np.atleast_2d(C_2)).real.clip(min=0))
    squared = float(((mu_1 - mu_2) ** 2).sum() + np.trace(np.atleast_2d(C_1 + C_2)))
    return max(0.0, math.fsum([squared, -2 * float(roots.sum())]))


def _call(network: Any, pixels: Tensor) -> Tensor:
    """Features (b, d); NVIDIA's file gives class probabilities unless it is asked for features."""
    names = [argument.name for argument in network.forward.schema.arguments]
    found: Tensor = (
        network(pixels, return_features=True) if "return_features" in names else network(pixels)
    )
    if found.ndim != 2 or len(found) != len(pixels):
        raise DataError(f"the feature network returns {tuple(found.shape)}, not (b, d) features")
    return found
