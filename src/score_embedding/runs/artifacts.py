"""What a run leaves in its folder: samples, denoised photographs, metrics, and the state of a
divergence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.config.schema import Config
from score_embedding.errors import DivergenceError, RunFolderError
from score_embedding.evaluation import metrics
from score_embedding.evaluation.held_out import Measured
from score_embedding.methods.base import Method
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.precomputation import Precomputed
from score_embedding.methods.samplers import Samples
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder
from score_embedding.training.loop import NotFiniteError
from score_embedding.training.state import History

SCORE_ARRAYS = ("images", "times", "log_density", "scores", "embedded", "diagnostics")
SAMPLE_ARRAYS = ("samples", "path", "path_times", "images", "truth", "description")


def write_diagnostics(
    folder: RunFolder, num_images: int, precomputed: Precomputed, config: Config
) -> None:
    """diagnostics.json: what was solved and how, and how well the fields kept their mass."""
    m = precomputed.log_density
    log_mass = m.flatten(3).logsumexp(dim=3)  # (n, N, c)
    change = (log_mass - log_mass[:, :1]).expm1().abs().amax()
    values = {
        "images": num_images,
        "image_size": list(m.shape[-2:]),
        "channels": m.shape[2],
        "num_timesteps": m.shape[1],
        "eps": config.misc.eps,
        "sigma": config.diffusion.sigma,
        "density": config.diffusion.density,
        **dataclasses.asdict(precomputed.diagnostics),
        "largest_relative_change_of_mass": float(change),
    }
    atomic_files.write_json(folder / run_folder.DIAGNOSTICS, values)


def write_denoised(
    folder: RunFolder, measured: Measured, photographs: dict[str, Tensor], method: Method
) -> None:
    """denoised.npz: photographs, noisy and denoised, numbered in the order of the names, and the
    measurements as JSON."""
    description = {
        "method": method.config.method,
        "names": measured.names,
        "levels": measured.levels,
        "psnr": measured.psnr,
        "ssim": measured.ssim,
        "seconds": measured.seconds,
    }
    arrays = {"description": np.array(json.dumps(description))}
    for i, photograph in enumerate(photographs.values()):
        arrays[f"photograph_{i}"] = _numpy(photograph)
        arrays[f"noisy_{i}"] = _numpy(torch.stack(measured.noisy[i]))
        arrays[f"denoised_{i}"] = _numpy(torch.stack(measured.denoised[i]))
    atomic_files.write_arrays(folder / run_folder.DENOISED, arrays)


def write_samples(
    folder: RunFolder,
    drawn: dict[str, Samples],
    images: Tensor,
    truth: Tensor,
    method: Method,
    values: dict[str, float],
    seconds: float,
) -> None:
    """samples.npz, with how they were drawn and their metrics as JSON.

    `drawn`: the samples from sample.prior under "", those from other priors under their names.
    `truth`: which of the images (b,) each sample is compared with.
    """
    samples, config = drawn[""], method.config
    (folder / run_folder.QUALITY).unlink(missing_ok=True)  # of earlier samples
    description: dict[str, Any] = {
        **config.sample.model_dump(),
        "method": config.method,
        "sampler": method.sampler,
        "prior_std": method.start_std,
        "seed": config.training.seed,
        "seconds": seconds,
        "metrics": values,
    }
    arrays = {
        "samples": _numpy(samples.x),
        "path": _numpy(samples.path),
        "path_times": _numpy(samples.path_times),
        "images": _numpy(images),
        "truth": _numpy(truth),
        **{f"samples_{name}": _numpy(other.x) for name, other in drawn.items() if name},
        "description": np.array(json.dumps(description)),
    }
    atomic_files.write_arrays(folder / run_folder.SAMPLES, arrays)


def read_images(folder: RunFolder, method: Method) -> Tensor:
    """The images that the folder's run was trained on, float32 (n, c, h, w). Raises RunFolderError
    where the file that has them is missing or damaged."""
    path = folder / method.images_file
    return torch.from_numpy(atomic_files.read_arrays(path, "images")["images"])


def read_sample_arrays(folder: RunFolder) -> dict[str, np.ndarray]:
    """The arrays of samples.npz, SAMPLE_ARRAYS and samples of other priors. Raises RunFolderError
    where the file is damaged or they are not what a run writes."""
    path = folder / run_folder.SAMPLES
    arrays = atomic_files.read_arrays(path, *SAMPLE_ARRAYS)
    samples, images, truth = (arrays[name] for name in ("samples", "images", "truth"))
    problem = ""
    if not (
        samples.ndim == images.ndim == 4
        and samples.shape[1:] == images.shape[1:]
        and truth.shape == samples.shape[:1]
    ):
        problem = f"shapes {samples.shape} of samples, {images.shape} of images, {truth.shape}"
    elif not (truth.dtype.kind == "i" and ((truth >= 0) & (truth < len(images))).all()):
        problem = f"truth names other images than the {len(images)} that there are"
    elif not all(_is_finite(arrays[name]) for name in ("samples", "images", "path")):
        problem = "values that are not finite numbers"
    if problem:
        raise RunFolderError(f"{path}: damaged, {problem}")
    return arrays


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def read_samples(path: Path) -> tuple[Tensor, Tensor]:
    """The samples (m, c, h, w) of a run folder, and the training images (n, c, h, w). Raises
    RunFolderError where there is no run folder, or one without samples."""
    folder, _ = run_folder.open_existing(path, (run_folder.SAMPLES,))
    arrays = atomic_files.read_arrays(folder / run_folder.SAMPLES, "samples", "images")
    return torch.from_numpy(arrays["samples"]), torch.from_numpy(arrays["images"])


def write_metrics(folder: RunFolder, history: History) -> None:
    """metrics.csv: a row a step, metrics where they were evaluated and at the last."""
    columns = ["step", "training_seconds", "loss"]
    if any("nfe" in row for row in history.rows):
        columns += [*metrics.NAMES, "nfe"]
    others = dict.fromkeys(key for row in history.rows for key in row if key not in columns)
    atomic_files.write_rows(folder / run_folder.METRICS, [*columns, *others], history.rows)


def read_metrics(folder: RunFolder) -> list[dict[str, float]]:
    """The rows of metrics.csv. Raises RunFolderError where they are not those of the steps that
    the folder's model has made."""
    path = folder / run_folder.METRICS
    rows = atomic_files.read_rows(path)
    if not rows or not {"step", "training_seconds"} <= rows[-1].keys():
        raise RunFolderError(f"{path}: damaged, its last row is not whole")
    if folder.has(run_folder.STATE):
        state = atomic_files.read_json(folder / run_folder.STATE, "step")
        if len(rows) != max(1, state["step"]):  # without a step, what was measured has a row
            raise RunFolderError(
                f"{path}: damaged, {len(rows)} rows, but the model has made {state['step']} steps"
            )
    return rows


def write_divergence(
    folder: RunFolder, network: ScoreNetwork | None, error: DivergenceError
) -> None:
    """divergence.npz: the weights and, for a loss that is not finite, its batch."""
    weights = network.state_dict() if network else {}
    arrays = {f"weights/{name}": _numpy(w) for name, w in weights.items()}
    if isinstance(error, NotFiniteError):
        arrays |= {name: _numpy(tensor) for name, tensor in vars(error.batch).items()}
    atomic_files.write_arrays(folder / run_folder.DUMP, arrays)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().contiguous().numpy()
