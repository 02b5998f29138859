"""Quality of a run on a data set, from its folder: its samples, and its denoiser."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_embedding import atomic_files, kinds
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import load_labelled
from score_embedding.errors import ConfigError, RunFolderError
from score_embedding.evaluation import denoiser_error, features, quality
from score_embedding.methods.base import method_of
from score_embedding.runs import artifacts, loading
from score_embedding.runs import folder as run_folder

ENOUGH = 2000  # samples for a Fréchet distance
HELD_OUT = 256  # images of the test part that the denoiser is measured on, at most


def evaluate(path: Path, weights: Path | None, device: torch.device) -> dict[str, Any]:
    """The quality of a run's samples and the error of its denoiser at each noise level; also
    written to quality.json in the folder.

    `weights`: the network of the features (evaluation/features.py); by default the classifier that
    the package has of the data set. The denoiser is measured on the test part of a data set that
    has one, and which of its images are measured does not depend on the run.

    Raises
    ------
    RunFolderError : no run folder, or one without samples.
    ConfigError : no network is given, and the package has none of the data set.
    DataError, CheckpointError : the test part, the network or the model cannot be read, or there
        are too few samples.
    """
    folder, config = run_folder.open_existing(path)
    method, data = method_of(config), config.data_loader
    if not folder.has(run_folder.SAMPLES):
        raise RunFolderError(
            f"{path}: no samples to evaluate; score-embedding sample {path} -n {ENOUGH} draws some"
        )
    weights = weights or features.BUNDLED.get(data.dataset)
    if weights is None:
        raise ConfigError(
            f"--features is needed: the package has a classifier of "
            f"{', '.join(features.BUNDLED)} only, not of {data.dataset}; "
            f"benchmarks/train_features.py trains one"
        )
    network = features.load(weights, device)
    samples, images = artifacts.read_samples(path)
    tests = test_images(data)
    real = quality.reference(images, network, tests)
    values: dict[str, Any] = asdict(quality.measure(samples, real))
    if tests is not None and method.denoises_others:
        model = loading.load_model(folder, config, len(images), device)
        shown = tests[:HELD_OUT].to(device)
        errors = denoiser_error.errors(model.denoise, shown)
        values["held_out"] = len(shown)
        values["errors"] = {f"{level:g}": error for level, error in errors.items()}
    with run_folder.locked(path):
        atomic_files.write_json(folder / run_folder.QUALITY, values)
    return values


def test_images(data: DataLoader) -> Tensor | None:
    """The images of the test part of a run's data set (n, c, h, w), None where it has none."""
    return load_labelled(data, "test").images if kinds.DATASETS[data.dataset].labelled else None


def lines(values: dict[str, Any]) -> list[str]:
    """The result of `evaluate` as a short table."""
    rows = [
        (f"Fréchet distance of {values['samples']} samples", f"{values['frechet']:.2f}"),
        ("precision", f"{values['precision']:.3f}"),
        ("recall", f"{values['recall']:.3f}"),
        ("memorised share", f"{values['memorised']:.1%}"),
        ("distance to the nearest training image (RMS)", f"{values['nearest']:.4f}"),
    ]
    if values["frechet_floor"] is not None:
        floor = f"Fréchet distance of {values['floor_images']} real test images"
        rows.insert(1, (floor, f"{values['frechet_floor']:.2f}"))
    for level, error in values.get("errors", {}).items():
        what = f"error of denoising {values['held_out']} test images at noise {level}, x 1000"
        rows.append((what, f"{1000 * error:.2f}"))
    notes = [f"Features: {values['features']}; {values['images']} training images."]
    if values["samples"] < ENOUGH:
        notes.append(
            f"Of fewer than {ENOUGH} samples the Fréchet distance is too large and varies much; "
            f"sample RUN_FOLDER -n {ENOUGH} draws as many."
        )
    width = max(len(name) for name, _ in rows)
    shown = [f"{name:<{width}}  {value:>8}" for name, value in rows]
    return [*shown, *notes]
