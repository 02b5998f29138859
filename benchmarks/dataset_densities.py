"""The densities on a data set: 60,000 images of Fashion-MNIST to fit to, 256 others to denoise.

    python benchmarks/dataset_densities.py      # ten minutes on one thread

Images of 28 x 28 stand in the middle of black 32 x 32, black is 0 and white 1. The figures are the
mean squared error of the posterior mean, times 1000, at each noise level. `fit` and `batch` are
processor seconds: of the fit, and of one evaluation of 64 images that each have a noise level of
their own, as in a step of training. Writes results/dataset_densities.json and .md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from _common import environment, write
from score_embedding import frequencies
from score_embedding.arrays import normal
from score_embedding.config.sections import DataLoader
from score_embedding.data import idx
from score_embedding.densities import Density, combined, fit, image_mixture, splitting
from score_embedding.densities.combined import Combined
from score_embedding.densities.model import FitOptions

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIDE, HELD_OUT, BATCH = 32, 256, 64


def images_of(part: idx.Part) -> Tensor:
    """All images of a part, (n, 1, 32, 32) in [0, 1]."""
    read = idx.read_part(DataLoader(dataset="fashion_mnist", image_size=SIDE, channels=1), part)
    return torch.from_numpy(read.images).permute(0, 3, 1, 2).float() / 255


def densities_of(images: Tensor) -> Iterator[tuple[str, Callable[[], Density]]]:
    """Names, and what fits each to images."""
    whole: dict[str, Any] = {"images": images, "side": SIDE}
    yield "white", lambda: fit("white", images)
    yield "stationary", lambda: fit("stationary", **whole)
    yield "low_rank", lambda: fit("low_rank", **whole)
    yield "gaussian", lambda: fit("gaussian", **whole)
    yield "empirical, 2000 images", lambda: fit("empirical", images[:2000], side=SIDE)
    yield "empirical, 10,000 images", lambda: fit("empirical", images[:10_000], side=SIDE)
    yield "patch_mixture", lambda: fit("patch_mixture", images)
    yield "patch_mixture, 50 components", lambda: fit("patch_mixture", images, components=50)
    yield "patch_mixture, 6 x 6", lambda: fit("patch_mixture", images, side=6)
    yield "patch_mixture, 12 x 12", lambda: fit("patch_mixture", images, side=12)
    yield "image_mixture", lambda: fit("image_mixture", images)
    yield "image_mixture, 50 components", lambda: fit("image_mixture", images, components=50)
    own = fit("combined", images)
    yield "combined", lambda: fit("combined", images)
    yield "combined, stride 1", lambda: replace(own, stride=1)
    yield "combined, stride 4", lambda: replace(own, stride=4)
    yield "combined, one weight for all frequencies", lambda: changed(own, images, rings=1)
    yield "combined, of one Gaussian", lambda: changed(own, images, components=1)
    yield "combined, 50 components", lambda: fit("combined", images, components=50)


def changed(
    density: Density, images: Tensor, rings: int | None = None, components: int | None = None
) -> Density:
    """A combined density with another number of rings, or components of whole images."""
    model = density.model
    assert isinstance(model, Combined)
    fitted, held_out = splitting.split(len(images), 0, combined.HELD_OUT)
    of_images = model.images
    if components is not None:
        of_images = image_mixture.fit(images[fitted], FitOptions(components=components))
    rings, generator = rings or frequencies.count(SIDE, SIDE), torch.Generator().manual_seed(0)
    again = combined.combine(of_images, model.patches, images[held_out], rings, generator)
    return replace(density, model=again)


def errors(density: Density, x_0: Tensor) -> dict[str, str]:
    """Mean squared error times 1000 at each noise level."""
    found = {}
    for s in LEVELS:
        x = x_0 + s * normal(x_0.shape, torch.Generator().manual_seed(0))
        error = float((density.denoise(x, s) - x_0).square().mean())
        found[f"noise {s:g}"] = f"{1000 * error:.{2 if error < 0.01 else 1}f}"
    return found


def seconds(function: Callable[[], Any]) -> float:
    """Processor seconds of one call: other work on the machine changes them little."""
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    machine = environment()
    images, others = images_of("train"), images_of("test")
    generator = torch.Generator().manual_seed(1)
    x_0 = others[torch.randperm(len(others), generator=generator)[:HELD_OUT]]
    levels = torch.linspace(-4, 1.6, BATCH).exp()
    batch = x_0[:BATCH] + levels[:, None, None, None] * normal(x_0[:BATCH].shape, generator)
    rows = []
    for name, make in densities_of(images):
        started = time.process_time()
        density = make()
        took = time.process_time() - started
        one = min(seconds(lambda d=density: d.denoise(batch, levels)) for _ in range(3))
        row = {"density": name, "fit (s)": took, "batch (s)": one, **errors(density, x_0)}
        if name.startswith("combined, ") and "components" not in name:
            row["fit (s)"] = None  # not of the whole
        rows.append(row)
        print(row, flush=True)
    write("dataset_densities", rows, machine)


if __name__ == "__main__":
    main()
