"""Tiny comparisons: the commands that make them, and readers of what they write."""

import json
import re

from command_line import csv_rows as rows_of
from command_line import sets
from score_embedding import atomic_files

METHODS = ("score_embedding", "none", "closed_form", "ddpm_plain")
TARGETS = (0.02, 0.99)  # of these seeds all reach the first but the baseline of seed 5
SEEDS = (2, 5)
PRIORS = {"unit": "", "matched": "matched_"}  # what a run's columns start with
FINAL = ("ssim_minmax", "psnr_minmax", "mse_minmax", "ssim_clipped", "nfe")
MADE = {"comparison.yml", "table.md", "table.tex", "runs.csv", "comparison.json"}
PICTURES = {"ssim_over_time.png", "samples.png"}

DENOISING_METHODS = ("plain", "gaussian_residual", "gaussian_alone")
DENOISING_PICTURES = {"psnr_over_time.png", "denoised.png"}
LEVELS = (0.125, 0.5)
TINY_DENOISING = {
    "data_loader.image": "[astronaut]",
    "data_loader.image_size": 8,
    "data_loader.num_images": 4,
    "data_loader.shrink": 4,
    "data_loader.batch_size": 4,
    "image_density.side": 4,
    "image_density.arrays": 200,
    "model.ch": 8,
    "model.ch_mult": "[1,2]",
    "training.epochs": 4,
    "misc.profile_freq": 1e-6,
    "held_out.image": "[china, flower]",
    "held_out.shrink": 8,
    "held_out.crop": 24,
    "held_out.levels": "[0.125, 0.5]",
}


def command(methods, *options, seeds=SEEDS, out="c", **changes):
    """A comparison of samples: section__key=value changes the config."""
    short = {"training__epochs": 2, "diffusion__num_timesteps": 2} | changes
    if "ddpm_plain" in methods:
        options = ("--set", "ddpm_plain.sample.steps=4", *options)
    return (
        *("compare", "--config", "quickstart", "--methods", ",".join(methods), "--out", out),
        *("--seeds", ",".join(map(str, seeds)), "--targets", ",".join(map(str, TARGETS))),
        *(*sets(**short), *options),
    )


def denoising_command(methods, *options, seeds=SEEDS):
    """A comparison of denoising."""
    changes = [
        part for key, value in TINY_DENOISING.items() for part in ("--set", f"{key}={value}")
    ]
    return (
        *("compare", "--task", "denoising", "--methods", ",".join(methods), "--out", "c"),
        *("--seeds", ",".join(map(str, seeds)), *changes, *options),
    )


def names(methods=METHODS, seeds=SEEDS):
    return [f"{method}_seed{seed}" for method in methods for seed in seeds]


def metrics_of(folder, name):
    return atomic_files.read_rows(folder / "runs" / name / "metrics.csv")


def csv_rows(folder):
    return rows_of(folder / "runs.csv")


def json_of(folder):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads((folder / "comparison.json").read_text(), parse_constant=refuse)


def tables_of(folder):
    """The tables of table.md: (title, note, rows as dictionaries)."""
    found = []
    for part in re.split(r"^### ", (folder / "table.md").read_text(), flags=re.MULTILINE)[1:]:
        title, _, note, _, *lines = part.rstrip("\n").split("\n")
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert set(cells[1]) == {"---"}
        found.append((title, note, [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]))
    return found


def first_at(folder, name, prefix, target):
    """(seconds, step) of the first evaluation at or above the target, by hand."""
    for row in metrics_of(folder, name):
        if row[f"{prefix}ssim_minmax"] >= target:
            return row["training_seconds"], row["step"]
    return None


def stamps(path):
    return {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


def without_times(folder, methods, seed):
    """The rows of runs.csv, except for times."""
    return [
        {key: value for key, value in row.items() if "seconds" not in key}
        for row in csv_rows(folder)
        if row["method"] in methods and row["seed"] == str(seed)
    ]


def write_metrics(folder, name, rows):
    """A run's evaluations, 10 steps apart: (seconds, SSIM), the same under both priors."""
    lines = [
        {"step": 10 * k, "training_seconds": seconds, "loss": 1.0}
        | {
            prefix + key: {"ssim_minmax": ssim, "psnr_minmax": 20, "nfe": 8}.get(key, 0.01)
            for prefix in PRIORS.values()
            for key in FINAL
        }
        for k, (seconds, ssim) in enumerate(rows, start=1)
    ]
    save_metrics(folder / "runs" / name, lines)


def save_metrics(run, lines):
    atomic_files.write_rows(run / "metrics.csv", list(lines[0]), lines)
    state = run / "state.json"
    if state.exists():
        state.write_text(json.dumps(json.loads(state.read_text()) | {"step": len(lines)}))
