"""The networks `published` and `unet` (model.network), trained side by side on one photograph.

    python benchmarks/networks.py                      # 15 minutes, two at a time on two cores
    python benchmarks/networks.py --ch 16 --steps 4    # a minute, as a trial

The settings are those of cifar1 (batch 20, sigma 5, linear time embedding, dropout 0.1, lr 8e-5,
sampling from the unit prior with RK45) but for the width, `ch`, and the image: scikit-image's
astronaut at 32 x 32. Both networks have the same seeds, steps and batches. SSIM is that of the
min-max scaled sample: the median over the seeds, and in brackets the smallest and the largest. The
last row is the difference published - unet, seed by seed. Seconds are those of a training step on
one thread while one other process trains. Writes results/networks.json and .md.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from _common import environment, write
from score_embedding.config import loading
from score_embedding.data.datasets import load_dataset
from score_embedding.evaluation import samples as evaluation
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.methods.network import ScoreNetwork
from score_embedding.training.loop import train

NETWORKS = ("published", "unet")
SEEDS = (0, 1, 2)
EVALUATIONS = 6  # even in the number of steps
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Course:
    """One run: the SSIM after numbers of steps, the seconds of a step, and the parameters."""

    ssim: dict[int, float]
    seconds: float
    parameters: int


def trained(name: str, seed: int, ch: int, steps: int) -> Course:
    """A run of one network with one seed, evaluated EVALUATIONS times."""
    torch.set_num_threads(1)
    changes = [f"model.network={name}", f"model.ch={ch}", f"training.seed={seed}"]
    changes += [f"training.epochs={steps}", "misc.profile_freq=1e-6"]  # asked after every step
    changes += ["data_loader.dataset=sample", "data_loader.image=[astronaut]"]
    method = method_of(loading.load("cifar1", changes))
    images = load_dataset(method.config.data_loader)
    known = method.precompute(images, CPU)
    network = build_network(method, len(images), CPU)
    marks = {round(steps * k / EVALUATIONS) for k in range(1, EVALUATIONS + 1)}
    ssim: dict[int, float] = {}
    done = 0

    def evaluate(network: ScoreNetwork) -> dict[str, float]:
        nonlocal done
        done += 1
        if done in marks:
            model = TrainedModel(method, network, known)
            ssim[done] = evaluation.evaluate(model, images, {})["ssim_minmax"]
        return {}

    objective = method.objective(images, known)
    rows = train(network, objective, method.config, evaluate=evaluate).rows
    clock = [row["training_seconds"] for row in rows]
    return Course(ssim, median(b - a for a, b in pairwise(clock)), network.num_parameters)


def row_of(name: str, parameters: int | None, runs: list[tuple[float, dict[int, float]]]) -> Any:
    """One line of the table: of (seconds, SSIM after numbers of steps) for each seed."""
    row: dict[str, Any] = {"network": name, "parameters": parameters}
    row["seconds a step"] = spread([seconds for seconds, _ in runs])
    for step in runs[0][1]:
        row[f"SSIM, {step} steps"] = spread([ssim[step] for _, ssim in runs])
    return row


def spread(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ch", type=int, default=64, help="model.ch")
    parser.add_argument("--steps", type=int, default=150, help="steps of training")
    options = parser.parse_args()
    machine = environment()
    jobs = [(name, seed, options.ch, options.steps) for seed in SEEDS for name in NETWORKS]
    courses: dict[str, list[Course]] = {name: [] for name in NETWORKS}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for job, course in zip(jobs, pool.map(trained, *zip(*jobs, strict=True)), strict=True):
            courses[job[0]].append(course)
            print(*job, course, flush=True)
    rows = [
        row_of(name, runs[0].parameters, [(run.seconds, run.ssim) for run in runs])
        for name, runs in courses.items()
    ]
    differences = [
        (one.seconds - other.seconds, {k: one.ssim[k] - other.ssim[k] for k in one.ssim})
        for one, other in zip(*courses.values(), strict=True)
    ]
    rows.append(row_of(" - ".join(NETWORKS), None, differences))
    settings = {"ch": options.ch, "seeds": len(SEEDS), "threads a run": 1}
    write("networks", rows, {**settings, **machine})


if __name__ == "__main__":
    main()
