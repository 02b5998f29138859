"""What a run leaves of each station: scores, samples, metrics, and the state of a divergence."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_embedding import atomic_files, densities
from score_embedding.config.schema import AnyConfig, BaselineConfig, Config
from score_embedding.errors import CheckpointError, DivergenceError, RunFolderError
from score_embedding.evaluation import metrics
from score_embedding.evaluation.held_out import Measured
from score_embedding.methods import ddpm, residual, samplers
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.precomputation import Precomputed
from score_embedding.methods.samplers import Samples
from score_embedding.report import figures
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder
from score_embedding.sde import VarianceExploding
from score_embedding.training import checkpoints
from score_embedding.training.loop import NotFiniteError
from score_embedding.training.state import History

SCORE_ARRAYS = ("images", "times", "log_density", "scores", "embedded", "diagnostics")
SAMPLE_ARRAYS = ("samples", "path", "path_times", "images", "truth", "description")


def write_scores(folder: RunFolder, images: Tensor, precomputed: Precomputed) -> None:
    """scores.npz (fields in float32, the solver's diagnostics as JSON) and scores.png. The fields
    may be those of the first images only."""
    arrays = {
        "images": _numpy(images),
        "times": _numpy(precomputed.times),
        "log_density": _numpy(precomputed.log_density).astype(np.float32),
        "scores": _numpy(precomputed.scores).astype(np.float32),
        "embedded": _numpy(precomputed.embedded),
        "diagnostics": np.array(json.dumps(dataclasses.asdict(precomputed.diagnostics))),
    }
    atomic_files.write_arrays(folder / run_folder.SCORES, arrays)
    with atomic_files.replacing(folder / run_folder.SCORES_PICTURE) as partial:
        figures.save(figures.solution(arrays), partial)


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


def write_density(folder: RunFolder, precomputed: residual.Precomputed) -> None:
    """density.safetensors, and preconditioning.json: what it leaves of the data."""
    densities.save(precomputed.density, folder / run_folder.DENSITY)
    values = {
        "mean": precomputed.mean,
        "sigma_data": precomputed.sigma_data,
        "levels": precomputed.levels.tolist(),
        "spread": precomputed.spread.tolist(),
        "sha256": checkpoints.sha256_of(folder / run_folder.DENSITY),
    }
    own = {checkpoints.OWN_DIGEST: checkpoints.digest(values)}
    atomic_files.write_json(folder / run_folder.PRECONDITIONING, {**values, **own})


def read_density(folder: RunFolder, device: torch.device) -> residual.Precomputed:
    """What `write_density` has written. Raises RunFolderError or CheckpointError where a file is
    missing or damaged."""
    path, density_path = folder / run_folder.PRECONDITIONING, folder / run_folder.DENSITY
    own = checkpoints.OWN_DIGEST
    values = atomic_files.read_json(path, "mean", "sigma_data", "levels", "spread", "sha256", own)
    if values.pop(own) != checkpoints.digest(values):
        raise CheckpointError(f"{path}: changed since it was written; nothing was loaded")
    density = densities.load(density_path)
    if values["sha256"] != checkpoints.sha256_of(density_path):
        raise CheckpointError(f"{density_path}: changed since it was written; nothing was loaded")
    levels = torch.tensor(values["levels"])
    return residual.Precomputed(
        density.to(torch.empty(0, device=device)),
        float(values["mean"]),
        float(values["sigma_data"]),
        levels,
        torch.tensor(values["spread"]).reshape(len(levels), -1),  # of older runs one number a level
    )


def write_denoised(
    folder: RunFolder, measured: Measured, photographs: dict[str, Tensor], config: AnyConfig
) -> None:
    """denoised.npz: photographs, noisy and denoised, numbered in the order of the names, and what
    was measured as JSON; denoised.png."""
    description = {
        "method": config.method,
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
    with atomic_files.replacing(folder / run_folder.DENOISED_PICTURE) as partial:
        figures.save(figures.denoised(arrays), partial)


def write_samples(
    folder: RunFolder,
    drawn: dict[str, Samples],
    images: Tensor,
    truth: Tensor,
    config: AnyConfig,
    values: dict[str, float],
    seconds: float,
) -> None:
    """samples.npz, with how they were drawn and their metrics as JSON, and sample.png.

    `drawn`: the samples from sample.prior under "", those from other priors under their names.
    `truth`: which of the images (b,) each sample is compared with.
    """
    samples = drawn[""]
    description: dict[str, Any] = {
        **config.sample.model_dump(),
        "method": config.method,
        "prior_std": _start_std(config),
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
    with atomic_files.replacing(folder / run_folder.SAMPLE_PICTURE) as partial:
        figures.save(figures.samples(arrays), partial)


def _start_std(config: AnyConfig) -> float:
    if isinstance(config, BaselineConfig):
        return ddpm.start_std(config)
    return samplers.start_std(VarianceExploding(config.diffusion.sigma), config.sample)


def images_file(config: AnyConfig) -> str:
    """The file of a run folder that has the images it was trained on."""
    return run_folder.SCORES if config.method == "score_embedding" else run_folder.SAMPLES


def read_images(folder: RunFolder, config: AnyConfig) -> Tensor:
    """The images that the folder's run was trained on, float32 (n, c, h, w). Raises RunFolderError
    where the file that has them is missing or damaged."""
    path = folder / images_file(config)
    return torch.from_numpy(atomic_files.read_arrays(path, "images")["images"])


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
