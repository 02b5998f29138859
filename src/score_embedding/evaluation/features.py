"""Features of images by a network: the user's own as TorchScript, or a small classifier.

Distances of sets of images are taken in them. They depend on the network as much as on the images,
so every result states its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_embedding import progress
from score_embedding.errors import DataError
from score_embedding.evaluation import classifier

# Datasets of which the package brings a classifier, with its file.
BUNDLED = {"fashion_mnist": Path(__file__).parent / "fashion_mnist.safetensors"}
_BATCH = 64


@dataclass(frozen=True)
class FeatureNetwork:
    """A network from uint8 images (b, c, h, w) to features (b, d).

    Attributes
    ----------
    name : what every result says of it.
    channels : c of the images that it takes.
    """

    name: str
    channels: int
    network: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def features(self, images: Tensor) -> NDArray[np.float64]:
        """Features (n, d) of images (n, c, h, w), clipped to [0, 1] and rounded to 8 bits.

        Raises
        ------
        DataError : images of other channels, or the network returns no features of them.
        """
        if images.shape[1] != self.channels:
            raise DataError(
                f"{self.name} takes images of {self.channels} channel(s), these have "
                f"{images.shape[1]}; another network is needed"
            )
        found = []
        with progress.stage("features", total=len(images)) as stage:
            for batch in torch.split(images, _BATCH):
                pixels = (batch.clamp(0, 1) * 255).round().to(torch.uint8).to(self.device)
                try:
                    answer = self.network(pixels)
                except RuntimeError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise DataError(
                        f"the feature network cannot take these images: {reason}"
                    ) from None
                if answer.ndim != 2 or len(answer) != len(batch):
                    raise DataError(
                        f"the feature network returns {tuple(answer.shape)}, not (b, d) features"
                    )
                found.append(answer.double().cpu().numpy())
                stage.update(len(batch))
        return np.concatenate(found)


def load(path: Path, device: torch.device) -> FeatureNetwork:
    """The network of a file: a classifier (.safetensors), or TorchScript, in colour; no Python in
    it is run.

    Raises
    ------
    DataError, CheckpointError : missing, damaged, or no such network.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; FID needs a TorchScript file of a feature network, such as "
            f"inception-2015-12-05.pt, or a classifier of benchmarks/train_features.py"
        )
    if path.suffix == ".safetensors":
        trained = classifier.load(path, device)
        name = (
            f"classifier of {trained.dataset}, {classifier.FEATURES} features, test accuracy "
            f"{trained.accuracy:.1%}, SHA-256 {trained.sha256[:12]}"
        )
        return FeatureNetwork(name, trained.network.channels, trained.network, device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: not a TorchScript network ({reason})") from None
    return FeatureNetwork(f"TorchScript network {path.name}", 3, _caller(script), device)


def _caller(script: Any) -> Callable[[Tensor], Tensor]:
    """The network's features; NVIDIA's file gives class probabilities unless it is asked for
    them."""
    names = [argument.name for argument in script.forward.schema.arguments]
    options = {"return_features": True} if "return_features" in names else {}

    def features(pixels: Tensor) -> Tensor:
        answer: Tensor = script(pixels, **options)
        return answer

    return features
