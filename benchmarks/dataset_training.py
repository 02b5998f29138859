"""Training on a data set: does a closed-form skip path need less time than the usual methods?

    python benchmarks/dataset_training.py OUT                          # 15 runs of an hour each
    python benchmarks/dataset_training.py OUT --methods plain patch_mixture --seeds 0 \\
        --seconds 40 --first 10 --samples 200 --set data_loader.num_images=2000   # some minutes

Every method trains the same U-Net on the same images with the same batches, seeds and clock, which
includes what is computed before training and stops during evaluation. At 0, FIRST, 2 FIRST,
4 FIRST ... and SECONDS seconds it is measured, with averaged weights:

- the mean squared error of the denoiser at each noise level, on images of the test part;
- Fréchet distance, precision, recall and memorised share of SAMPLES samples, in the features of a
  classifier of the same data set (benchmarks/train_features.py).

Each finished (method, seed) is kept in OUT as a JSON file with a sheet of samples, so that the
command continues where it was stopped. OUT also gets curves.png, table.md and summary.json: the
medians over the seeds, and how many times faster than `plain` each method reaches the distance that
`plain` has after REACHED seconds and at the end.

    plain          Karras et al. 2022: the skip path is that of white Gaussian data
    patch_mixture  the skip path is a mixture of Gaussians of patches
    combined       the skip path is a combination of densities
    min_snr        plain with the weight of the loss of Hang et al. 2023
    ddpm           DDPM, sampled by DDIM in 40 steps; the others by Heun's method in 18 (36
                   evaluations)
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

from _common import environment, table
from score_embedding import atomic_files
from score_embedding.config import loading
from score_embedding.config.schema import AnyConfig
from score_embedding.data.datasets import load_dataset, load_labelled
from score_embedding.evaluation import denoiser_error, features, quality
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.methods.network import ScoreNetwork
from score_embedding.runs.environment import processor_of
from score_embedding.training.loop import train
from score_embedding.training.warm_up import warm_up

mpl.use("agg")
from matplotlib import pyplot as plt

REACHED = 300.0  # seconds of `plain` whose distance is to be reached
SHOWN = 64  # samples of a sheet

CONFIG: dict[str, Any] = {
    "name": "dataset_training",
    "data_loader": {
        "dataset": "fashion_mnist",
        "classes": "all",
        "contrast": "own",
        "image_size": 32,
        "channels": 1,
        "batch_size": 32,
    },
    "model": {
        "network": "unet",
        "image_conditioning": "none",
        "in_channels": 1,
        "out_channels": 1,
        "ch": 32,
        "ch_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [8],
        "dropout": 0.0,
    },
    "training": {
        "epochs": 10**9,
        "steps_per_epoch": "one",
        "lr": 5e-4,
        "ema": 0.999,
        "warmup": 100,
        "grad_clip": 1.0,
    },
}
_CONTINUOUS: dict[str, Any] = {
    "diffusion": {"embedding": "residual", "sigma": 25.0},
    "sample": {"solver": "heun", "steps": 18},
}
METHODS: dict[str, dict[str, Any]] = {
    "plain": {**_CONTINUOUS, "image_density": {"kind": "white"}},
    "patch_mixture": {**_CONTINUOUS, "image_density": {"kind": "patch_mixture"}},
    "combined": {**_CONTINUOUS, "image_density": {"kind": "combined"}},
    "min_snr": {
        **_CONTINUOUS,
        "image_density": {"kind": "white"},
        "training": {"loss_weight": "min_snr"},
    },
    "ddpm": {"sample_method": "ddim", "sample": {"steps": 40, "chain": "clipped"}},
}

Row = dict[str, Any]

# ------------------------------------------------------------------------------ one run


def config_of(method: str, seed: int, options: argparse.Namespace) -> AnyConfig:
    """The config of a method: CONFIG, the method's own sections, then --set."""
    values = copy.deepcopy(CONFIG)
    for section, own in METHODS[method].items():
        same = values.get(section)
        values[section] = {**same, **own} if isinstance(same, dict) else own
    values["training"] |= {"seed": seed, "seconds": options.seconds}
    values["misc"] = {"profile_freq": options.first}
    for change in options.changes:
        loading.change(values, change)
    return loading.validate(values, source="dataset_training")


def measured(
    config: AnyConfig, real: quality.Reference, tests: Tensor, options: argparse.Namespace
) -> tuple[list[Row], Tensor]:
    """A run: a row for each evaluation, and the last samples."""
    device, images = torch.device(options.device), real.images
    method = method_of(config)
    method.check(images)
    warm_up(method, device)
    known = method.precompute(images, device)
    network = build_network(method, len(images), device)
    samples = torch.empty(0)
    evaluations = 0  # that the loop has asked for, one every `first` seconds

    def evaluated(network: ScoreNetwork) -> dict[str, float]:
        nonlocal samples
        model = TrainedModel(method, network, known)
        errors = denoiser_error.errors(model.denoise, tests)
        samples = model.sample(images, options.samples).x
        found = asdict(quality.measure(samples, real))
        numbers = {key: value for key, value in found.items() if isinstance(value, int | float)}
        return {f"error_{level:g}": error for level, error in errors.items()} | numbers

    def when_asked_for(network: ScoreNetwork) -> dict[str, float]:
        nonlocal evaluations
        evaluations += 1
        is_power_of_two = evaluations & (evaluations - 1) == 0
        last = (evaluations + 0.5) * options.first > options.seconds
        return evaluated(network) if is_power_of_two and not last else {}

    rows: list[Row] = [
        {"step": 0, "training_seconds": sum(known.seconds.values()), **evaluated(network)}
    ]
    objective = method.objective(images, known)
    history = train(network, objective, config, known.seconds, when_asked_for)
    rows += [row for row in history.rows if "frechet" in row]
    # Without a step where the clock had run out before the first.
    last = history.rows[-1] if history.rows else rows[0]
    rows.append({**last, "training_seconds": history.training_seconds, **evaluated(network)})
    return rows, samples


def sheet(path: Path, samples: Tensor) -> None:
    """A picture of the first samples (n, c, h, w)."""
    shown = samples[:SHOWN].clamp(0, 1).cpu()
    side = int(len(shown) ** 0.5)
    _, c, h, w = shown.shape
    grid = shown[: side**2].reshape(side, side, c, h, w).permute(0, 3, 1, 4, 2)
    pixels = grid.reshape(side * h, side * w, c).numpy()
    plt.imsave(path, pixels.repeat(3 // c, axis=2))


def finished(path: Path, settings: Row) -> bool:
    """Whether a run is there. It must be of the same settings."""
    if not path.exists():
        return False
    if json.loads(path.read_text(encoding="utf-8"))["settings"] != settings:
        raise SystemExit(f"{path}: a run of other settings; give another OUT, or remove it")
    return True


# ------------------------------------------------------------------------------ all runs

Runs = dict[str, list[list[Row]]]  # method -> seeds -> evaluations


def at(rows: list[Row], seconds: float) -> float:
    """The Fréchet distance after some seconds: between evaluations linear in log(seconds)."""
    times = [max(row["training_seconds"], 1e-3) for row in rows]
    return float(np.interp(np.log(seconds), np.log(times), [row["frechet"] for row in rows]))


def seconds_to(rows: list[Row], distance: float) -> float:
    """Seconds until a Fréchet distance is reached for the first time; infinite if it is not."""
    if rows[0]["frechet"] <= distance:
        return float(max(rows[0]["training_seconds"], 1e-3))
    for before, after in itertools.pairwise(rows):
        if after["frechet"] <= distance:
            share = (before["frechet"] - distance) / (before["frechet"] - after["frechet"])
            ends = np.log([max(row["training_seconds"], 1e-3) for row in (before, after)])
            return float(np.exp(ends[0] + share * (ends[1] - ends[0])))
    return float("inf")


def ratios(runs: Runs, method: str, seconds: float) -> list[float]:
    """How many times faster than `plain` each seed reaches plain's distance at these seconds."""
    pairs = zip(runs["plain"], runs[method], strict=True)
    return [seconds / seconds_to(own, at(plain, seconds)) for plain, own in pairs]


def summary(runs: Runs, seconds: float) -> list[Row]:
    """A row for each method and evaluation, medians over the seeds."""
    rows = []
    targets = [("the end", seconds)] + ([("300 s", REACHED)] if seconds > REACHED else [])
    for method, seeds in runs.items():
        for number, evaluations in enumerate(zip(*seeds, strict=True)):

            def of(key: str, evaluations: tuple[Row, ...] = evaluations) -> float:
                return median(row[key] for row in evaluations)

            row: Row = {"method": method, "seeds": len(seeds), "seconds": of("training_seconds")}
            row["steps"] = int(of("step"))
            for level in denoiser_error.LEVELS:
                row[f"error at {level:g} x 1000"] = 1000 * of(f"error_{level:g}")
            for key in ("frechet", "frechet_floor", "precision", "recall", "memorised"):
                row[key] = of(key)
            if "plain" in runs and number == len(seeds[0]) - 1:
                for name, target in targets:
                    row[f"times faster to plain's distance at {name}"] = median(
                        ratios(runs, method, target)
                    )
            rows.append(row)
    return rows


def curves(path: Path, rows: list[Row]) -> None:
    """Fréchet distance and errors over the training seconds."""
    shown = [("frechet", "Fréchet distance")]
    shown += [(f"error at {s:g} x 1000", f"error at noise {s:g} x 1000") for s in (0.1, 0.5, 2)]
    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 3.5), layout="constrained")
    for axis, (key, label) in zip(axes, shown, strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            seconds = [max(row["seconds"], 1.0) for row in own]  # the untrained model's may be 0
            axis.plot(seconds, [row[key] for row in own], "o-", label=method, markersize=3)
        axis.set(xscale="log", yscale="log", xlabel="training seconds", title=label)
    axes[0].axhline(rows[0]["frechet_floor"], color="grey", ls=":", label="real test images")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=3600.0, help="training seconds of a run")
    parser.add_argument("--first", type=float, default=40.0, help="seconds to the first evaluation")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=256, help="images of the test part")
    parser.add_argument("--features", type=Path, help="classifier; default the bundled one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", dest="changes", nargs="*", default=[], metavar="section.key=value")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    device = torch.device(options.device)
    configs = {
        (method, seed): config_of(method, seed, options)
        for method in options.methods
        for seed in options.seeds
    }
    data = next(iter(configs.values())).data_loader
    weights = options.features or features.BUNDLED[data.dataset]
    network = features.load(weights, device)
    images = load_dataset(data).to(device)
    tests = load_labelled(data, "test").images.to(device)
    real = quality.reference(images, network, tests[: options.samples])
    runs: Runs = {method: [] for method in options.methods}
    for (method, seed), config in configs.items():
        path = options.out / f"{method}_seed{seed}.json"
        settings = {
            "config": loading.dump(config),
            "first": options.first,
            "samples": options.samples,
            "held out": options.held_out,
            "features": network.name,
            "device": processor_of(device),
        }
        if not finished(path, settings):
            machine = environment()
            rows, samples = measured(config, real, tests[: options.held_out], options)
            sheet(path.with_suffix(".png"), samples)
            document = {"settings": settings, "environment": machine, "rows": rows}
            atomic_files.write_json(path, document)
            print(f"{path}: distance {rows[-1]['frechet']:.1f} at the end", flush=True)
        runs[method].append(json.loads(path.read_text(encoding="utf-8"))["rows"])
    rows = summary(runs, options.seconds)
    about = {
        "features": network.name,
        "samples": options.samples,
        "training images": len(images),
        "held-out images": options.held_out,
        "device": processor_of(device),
        "threads": torch.get_num_threads(),
    }
    curves(options.out / "curves.png", rows)
    text = table(options.out.name, rows, about)
    atomic_files.write_text(options.out / "table.md", text)
    atomic_files.write_json(options.out / "summary.json", {"environment": about, "rows": rows})
    print(text)


if __name__ == "__main__":
    main()
