"""A small convolutional classifier, whose penultimate layer gives features of images.

The usual feature network of the Fréchet distance was trained on photographs, in colour. For a small
labelled data set a classifier of its own classes separates its images better, and is trained in
minutes (benchmarks/train_features.py). Distances in its features compare methods on that data set;
they are not comparable with published ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from score_embedding import atomic_files
from score_embedding.errors import CheckpointError

FEATURES = 96
_WIDTHS = ((32, 2), (64, 2), (64, 1), (FEATURES, 2), (FEATURES, 1))  # channels, stride


class Classifier(nn.Module):
    """uint8 images (b, c, h, w) to features (b, 96); `logits` of these are those of the classes.

    About 0.2 million parameters: five 3 x 3 convolutions, each with batch normalisation and ReLU,
    then the mean over all pixels.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for width, stride in _WIDTHS:
            layers += [
                nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.channels = channels
        self.layers = nn.Sequential(*layers)
        self.logits = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images.to(self.logits.weight.dtype) / 255 - 0.5)
        return features.mean(dim=(2, 3))


def save(classifier: Classifier, path: Path, dataset: str, accuracy: float) -> None:
    """Write the weights in float16, with the data set, the accuracy on its test part and a SHA-256
    of the weights, as a safetensors file."""
    tensors = {
        name: value.detach().cpu().half().contiguous()
        for name, value in classifier.state_dict().items()
        if value.is_floating_point()  # not the counters of batches
    }
    about = {"dataset": dataset, "accuracy": accuracy, "sha256": _digest(tensors)}
    with atomic_files.replacing(path) as partial:
        save_file(tensors, partial, {"classifier": json.dumps(about)})


@dataclass(frozen=True)
class Trained:
    """A classifier with the data set that it was trained on, the accuracy on the test part of that,
    and the SHA-256 of its weights."""

    network: Classifier
    dataset: str
    accuracy: float
    sha256: str


def load(path: Path, device: torch.device) -> Trained:
    """The classifier of a file of `save` in float32, in evaluation mode, on the device.

    Raises
    ------
    CheckpointError : missing, truncated, changed, or not a classifier.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about = json.loads((file.metadata() or {})["classifier"])
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        if about["sha256"] != _digest(tensors):
            raise CheckpointError(f"{path}: changed since it was written; nothing was loaded")
        dataset, accuracy = str(about["dataset"]), float(about["accuracy"])
        classifier = Classifier(tensors["layers.0.weight"].shape[1], len(tensors["logits.bias"]))
        counters = {k: v for k, v in classifier.state_dict().items() if not v.is_floating_point()}
        classifier.load_state_dict({**counters, **tensors})
    except (
        *(OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError),
        *(RuntimeError, RecursionError),
    ) as error:
        raise CheckpointError(
            f"{path}: not a classifier that can be read ({error}); "
            f"benchmarks/train_features.py makes one"
        ) from None
    network = classifier.to(device).eval().requires_grad_(False)
    return Trained(network, dataset, accuracy, about["sha256"])


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
