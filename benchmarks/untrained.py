"""Untrained denoisers of a data set: error at each noise level, and agreement with a network.

    python benchmarks/untrained.py                          # a quarter of an hour, one core
    python benchmarks/untrained.py --reference RUN_FOLDER   # and r^2 against its trained network
    python benchmarks/untrained.py --images 200 --tests 16 --equivariant 4           # a minute

Every denoiser knows the training images only, and is measured on the first images of the test part
with the same noise: mean squared error over all pixels x 1000, images in [0, 1]. r^2 is the median
over the images of the coefficient of determination against the reference's outputs
(evaluation/denoiser_error.py). Seconds are those of the processor for 256 images, the mean over the
noise levels; other work on the machine does not count.

Densities (`score_embedding.fit`) are fitted to all training images. The rivals that compare with
every training image are given the first --images of them, and their parameter is chosen for each
noise level on TRIED training images that come after these; the equivariant machine, whose cost
grows with the square of the number of pixels, is given --equivariant images and measured on a
quarter of the test images. The columns say how many. Writes results/untrained.json and .md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import score_embedding as se
from _common import environment, write
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import load_labelled
from score_embedding.evaluation import denoiser_error
from score_embedding.evaluation.denoiser_error import LEVELS
from score_embedding.evaluation.held_out import Denoise
from score_embedding.evaluation.rivals import calibration, local_score, locality
from score_embedding.runs import folder as run_folder
from score_embedding.runs import loading

DENSITIES = (
    "white",
    "stationary",
    "low_rank",
    "gaussian",
    "patch_mixture",
    "empirical",
    "image_mixture",
    "combined",
)
SIDES = (3, 5, 7, 9, 13, 17, 23, 31)
SMALL_SIDES = (1, 3, 5, 7)  # of the equivariant machine: larger windows take too long
THRESHOLDS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
TRIED = 16  # training images that parameters are chosen on

NAMES = {"white": "one variance (Karras et al.'s skip path)", "gaussian": "Wiener (gaussian)"}


@dataclass(frozen=True)
class Contender:
    """A denoiser, the number of training images that it has, the share of the test images that it
    is measured on, and how it was chosen."""

    name: str
    images: int
    denoise: Denoise
    share: float = 1.0
    chosen: str = ""


def density(kind: str, images: Tensor) -> Contender:
    fitted = se.fit(kind, images, side=None if kind in ("white", "patch_mixture") else 32)
    return Contender(NAMES.get(kind, kind), len(images), fitted.denoise)


def local(images: Tensor, tried: Tensor) -> Contender:
    def machine(x: Tensor, s: float, side: float) -> Tensor:
        return local_score.local(x, images, s, int(side))

    found = calibration.calibrated(machine, tried, LEVELS, SIDES)
    return Contender("local score", len(images), found.denoise, chosen=_sides(found))


def equivariant(images: Tensor, tried: Tensor) -> Contender:
    def machine(x: Tensor, s: float, side: float) -> Tensor:
        return local_score.equivariant(x, images, s, int(side))

    found = calibration.calibrated(machine, tried[: TRIED // 4], LEVELS, SMALL_SIDES)
    return Contender("equivariant local score", len(images), found.denoise, 0.25, _sides(found))


def by_statistics(images: Tensor, tried: Tensor) -> Contender:
    fitted = locality.fit(images)
    found = calibration.calibrated(fitted.denoise, tried, LEVELS, THRESHOLDS)
    thresholds = "/".join(f"{found.chosen[level]:g}" for level in LEVELS)
    name = "locality from data statistics"
    return Contender(name, len(images), found.denoise, chosen=f"thresholds {thresholds}")


def _sides(found: calibration.Calibrated) -> str:
    return "sides " + "/".join(f"{found.chosen[level]:g}" for level in LEVELS)


def measured(contender: Contender, tests: Tensor, reference: Denoise | None) -> dict[str, Any]:
    tests = tests[: max(1, round(contender.share * len(tests)))]
    row: dict[str, Any] = {
        "denoiser": contender.name,
        "training images": contender.images,
        "test images": len(tests),
    }
    seconds, agreement = 0.0, {}
    for level in LEVELS:
        started = time.process_time()
        answers = denoiser_error.outputs(contender.denoise, tests, level)
        seconds += time.process_time() - started
        row[f"{level:g}"] = 1000 * denoiser_error.mean_squared_error(answers, tests)
        if reference:
            expected = denoiser_error.outputs(reference, tests, level)
            agreement[f"r^2 at {level:g}"] = denoiser_error.r_squared(answers, expected)
    row |= agreement
    row["CPU s for 256 images"] = seconds / len(LEVELS) / len(tests) * 256
    row["chosen"] = contender.chosen
    print(row, flush=True)
    return row


def reference_of(folder: Path | None, num_images: int) -> Denoise | None:
    """The denoiser of a run folder's network, which was trained on N images."""
    if folder is None:
        return None
    found, config = run_folder.open_existing(folder)
    return loading.load_model(found, config, num_images, torch.device("cpu")).denoise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--images", type=int, default=2000, help="training images of rivals")
    parser.add_argument("--equivariant", type=int, default=20, help="and of the equivariant one")
    parser.add_argument("--tests", type=int, default=256)
    parser.add_argument("--reference", type=Path, help="run folder of a trained network")
    options = parser.parse_args()
    machine = environment()
    data = DataLoader(
        dataset=options.dataset, classes=["all"], contrast="own", channels=options.channels
    )
    images = load_labelled(data).images
    tests = load_labelled(data, "test").images[: options.tests]
    known, tried = images[: options.images], images[options.images :][:TRIED]
    reference = reference_of(options.reference, len(images))
    contenders: list[Callable[[], Contender]] = [
        *(partial(density, kind, images) for kind in DENSITIES),
        partial(local, known, tried),
        partial(equivariant, images[: options.equivariant], tried),
        partial(by_statistics, known, tried),
    ]
    rows = [measured(contender(), tests, reference) for contender in contenders]
    if options.reference and reference:
        rows.append(measured(Contender("the reference", len(images), reference), tests, reference))
    write("untrained", rows, {"error x 1000 at noise": "in the columns", **machine})


if __name__ == "__main__":
    main()
