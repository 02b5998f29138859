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
from score_embedding.config.schema import AnyConfig, Config
from score_embedding.data.datasets import class_names, load_training
from score_embedding.errors import DivergenceError, RunFolderError
from score_embedding.evaluation import metrics
from score_embedding.evaluation.held_out import Measured
from score_embedding.evaluation.held_out_set import MeasuredSet
from score_embedding.methods.base import Method
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.precomputation import Precomputed
from score_embedding.methods.samplers import Samples
from score_embedding.runs import environment
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
    folder: RunFolder, measured: Measured | MeasuredSet, truths: list[Tensor], method: Method
) -> None:
    """denoised.npz: photographs, noisy and denoised, numbered in the order of the names, and the
    measurements as JSON; of a data set the first images, and the means over all as `set`."""
    shown = measured if isinstance(measured, Measured) else measured.shown
    description: dict[str, Any] = {
        "method": method.config.method,
        "names": shown.names,
        "levels": shown.levels,
        "psnr": shown.psnr,
        "ssim": shown.ssim,
        "mse": shown.mse,
        "seconds": measured.seconds,
    }
    if isinstance(measured, MeasuredSet):
        means = {"count": measured.count, "mse": measured.mse, "psnr": measured.psnr}
        description["set"] = means
    arrays = {"description": np.array(json.dumps(description))}
    for i, truth in enumerate(truths[: len(shown.names)]):
        arrays[f"photograph_{i}"] = _numpy(truth)
        arrays[f"noisy_{i}"] = _numpy(torch.stack(shown.noisy[i]))
        arrays[f"denoised_{i}"] = _numpy(torch.stack(shown.denoised[i]))
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
    `truth`: which of the images (b,) each sample is compared with. Where they are compared with
    none, (0,), no image is stored. Of a network that is conditioned on classes their numbers are
    stored as labels (b,).
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
        "images": _numpy(images if len(truth) else images[:0]),
        "truth": _numpy(truth),
        **{f"samples_{name}": _numpy(other.x) for name, other in drawn.items() if name},
    }
    if method.knows_classes:
        arrays["labels"] = _numpy(method.sampled_index(len(samples.x), 1))
        description["class_names"] = class_names(config.data_loader)
    arrays["description"] = np.array(json.dumps(description))
    atomic_files.write_arrays(folder / run_folder.SAMPLES, arrays)


def read_images(folder: RunFolder, method: Method) -> Tensor:
    """The images that the folder's run was trained on, float32 (n, c, h, w). Raises RunFolderError
    where the file that has them is missing or damaged."""
    path = folder / method.images_file
    return torch.from_numpy(atomic_files.read_arrays(path, "images")["images"])


def start_images(folder: RunFolder, method: Method) -> Tensor:
    """The images (n, c, h, w) that samples of a run are drawn for, and compared with: those that it
    was trained on. With held_out they are compared with none: only a conditional start needs the
    images, and otherwise there is one, black. Errors as `read_images` and `read_again`."""
    config = method.config
    if config.held_out is None:
        return read_images(folder, method)
    if config.draws_samples and config.sample.image_weight is not None:
        return read_again(folder, config)
    return torch.zeros(1, config.data_loader.channels, *config.data_loader.image_size)


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
        and (truth.shape == samples.shape[:1] or len(truth) == len(images) == 0)
        and arrays.get("labels", samples[:, 0, 0, 0]).shape == samples.shape[:1]
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
    """The samples (m, c, h, w) of a run folder, and the training images (n, c, h, w), which are
    read again where the folder does not hold them. Raises RunFolderError where there is no run
    folder, or one without samples, DataError where the images cannot be read again."""
    folder, config = run_folder.open_existing(path, (run_folder.SAMPLES,))
    arrays = atomic_files.read_arrays(folder / run_folder.SAMPLES, "samples", "images")
    images = torch.from_numpy(arrays["images"])
    if not len(images):
        images = read_again(folder, config)
    return torch.from_numpy(arrays["samples"]), images


def read_again(folder: RunFolder, config: AnyConfig) -> Tensor:
    """The images (n, c, h, w) that a run was trained on, from the data set. Raises RunFolderError
    where they are not those that the run began with."""
    images = load_training(config).images
    before = atomic_files.read_json(folder / run_folder.ENVIRONMENT, "images_sha256")
    if before["images_sha256"] != environment.digest(images):
        raise RunFolderError(
            f"{folder.path}: its run was trained on other images than the data set has now; bring "
            f"those back (data_loader.path)"
        )
    return images


def write_metrics(folder: RunFolder, history: History) -> None:
    """metrics.csv: a row a step, metrics where they were evaluated and at the last."""
    columns = ["step", "training_seconds", "loss"]
    if any("ssim_minmax" in row for row in history.rows):
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
