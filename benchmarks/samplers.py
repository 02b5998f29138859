"""The effect of the sampler on the samples of trained networks.

Reads the runs of a comparison (score-embedding compare) and samples from each network again, with
more steps, another solver, and the posterior mean at the end. Reports the SSIM of the min-max
scaled sample from the config's own prior, median over the seeds.

    python benchmarks/samplers.py saves/comparison_one score_embedding ddpm_plain ddim_plain
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from _common import environment, write
from score_embedding.config.schema import AnyConfig
from score_embedding.evaluation import samples as evaluation
from score_embedding.methods.base import method_of
from score_embedding.runs import artifacts
from score_embedding.runs import folder as run_folder
from score_embedding.runs.loading import load_model

FLOW: dict[str, dict[str, Any]] = {
    "Heun, 10 steps": {"solver": "heun", "steps": 10},
    "Heun, 50 steps": {"solver": "heun", "steps": 50},
    "RK45, 1e-3": {"solver": "rk45", "tolerance": 1e-3},
    "Heun, 10 steps, denoised": {"solver": "heun", "steps": 10, "denoise": True},
}
CHAIN = {f"{steps} steps": {"steps": steps} for steps in (50, 1000)}


def sampled(folder: Path, options: dict[str, Any]) -> dict[str, float]:
    """The metrics of new samples from a run folder's network."""
    opened, config = run_folder.open_existing(folder)
    images = artifacts.read_images(opened, method_of(config))
    changed: AnyConfig = config.model_copy(
        update={"sample": config.sample.model_copy(update=options)}
    )
    model = load_model(opened, config, len(images), torch.device("cpu")).with_config(changed)
    return evaluation.measure(model, {"": model.sample(images)}, images)


def main() -> None:
    folder, methods = Path(sys.argv[1]), sys.argv[2:]
    machine = environment()
    rows = []
    for method in methods:
        runs = sorted((folder / "runs").glob(f"{method}_seed?"))
        _, config = run_folder.open_existing(runs[0])
        samplers = CHAIN if method_of(config).baseline else FLOW
        for name, options in samplers.items():
            found = [sampled(run, options) for run in runs]
            row = {"method": method, "sampler": name, "runs": len(runs)}
            columns = {"SSIM": "ssim_minmax", "NFE": "nfe"}
            row |= {name: median(values[key] for values in found) for name, key in columns.items()}
            rows.append(row)
            print(row, flush=True)
    write(f"samplers_{folder.name}", rows, machine)


if __name__ == "__main__":
    main()
