"""Train the small classifier whose features distances of samples are taken in.

    python benchmarks/train_features.py fashion_mnist OUT.safetensors      # some minutes, one core
    python benchmarks/train_features.py cifar OUT.safetensors --path FOLDER --epochs 20

It trains on the training part of a labelled data set, with all its classes, and says the accuracy
on the test part, of the weights as they are saved (float16). The CIFAR-10 dogs alone are one class,
from which no classifier can be trained: the whole set is needed. The file
src/score_embedding/evaluation/fashion_mnist.safetensors is that of the first line.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding import kinds
from score_embedding.arrays import uniform
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import LabelledImages, load_labelled
from score_embedding.evaluation import classifier
from score_embedding.evaluation.classifier import Classifier

BATCH = 128
SHIFT = 2  # pixels, largest random translation along each axis
SMOOTHING = 0.05


def load(dataset: str, path: str | None, part: str) -> LabelledImages:
    channels = 1 if kinds.DATASETS[dataset].load().__name__.endswith("idx") else 3
    options = DataLoader(
        dataset=dataset,
        path=None if path is None else [path],
        classes=["all"],
        contrast="own",
        channels=channels,
    )
    return load_labelled(options, part)  # type: ignore[arg-type]


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (b, c, h, w), shifted and flipped left to right at random."""
    flip, down, right = uniform((3,), generator).tolist()
    x = x.flip(3) if flip < 0.5 else x
    h, w = x.shape[2:]
    top, left = (int(share * (2 * SHIFT + 1)) for share in (down, right))
    return F.pad(x, (SHIFT,) * 4)[:, :, top : top + h, left : left + w]


def accuracy(network: Classifier, data: LabelledImages, device: torch.device) -> float:
    """The share of images whose class is found."""
    correct = 0
    with torch.no_grad():
        for x, labels in zip(data.images.split(512), data.labels.split(512), strict=True):
            found = network.logits(network(as_bytes(x).to(device))).argmax(dim=1).cpu()
            correct += int((found == labels).sum())
    return correct / len(data.labels)


def as_bytes(x: Tensor) -> Tensor:
    return (255 * x).round().to(torch.uint8)


def train(data: LabelledImages, epochs: int, device: torch.device) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = Classifier(data.images.shape[1], len(data.classes)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    pixels, n = as_bytes(data.images), len(data.labels)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=epochs * (n // BATCH)
    )
    started = time.perf_counter()
    for epoch in range(epochs):
        order = torch.randperm(n, generator=generator)[: n // BATCH * BATCH]
        for chosen in order.split(BATCH):
            x = augmented(pixels[chosen], generator).to(device)
            logits = network.logits(network(x))
            loss = F.cross_entropy(
                logits, data.labels[chosen].to(device), label_smoothing=SMOOTHING
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    labelled = [name for name, kind in kinds.DATASETS.items() if kind.labelled]
    parser.add_argument("dataset", choices=labelled)
    parser.add_argument("out", type=Path)
    parser.add_argument("--path", help="the data set's file or folder")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    data = load(options.dataset, options.path, "train")
    present = len(data.labels.unique())
    if present < 2:
        raise SystemExit(
            f"{options.dataset}: images of {present} class; a classifier needs several. Give the "
            f"whole data set with --path, or use the features of another set"
        )
    network = train(data, options.epochs, device)
    test = load(options.dataset, options.path, "test")
    classifier.save(network, options.out, options.dataset, 0.0)
    rounded = classifier.load(options.out, device).network
    found = accuracy(rounded, test, device)
    classifier.save(rounded, options.out, options.dataset, found)
    count = sum(p.numel() for p in network.parameters())
    print(f"{options.out}: {count} parameters, accuracy on {len(test.labels)} test images {found}")


if __name__ == "__main__":
    main()
