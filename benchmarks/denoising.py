"""Denoising of held-out photographs: densities, residual models, the plain U-Net, DDPM, the paper's
embedding, and classical denoisers.

    python benchmarks/denoising.py runs [FOLDER]       # half an hour; resumes when stopped
    python benchmarks/denoising.py half_hour [FOLDER]  # 35 minutes a seed; the same
    python benchmarks/denoising.py photographs         # a few minutes, most of them BM3D's
    python benchmarks/denoising.py densities           # a few minutes
    python benchmarks/denoising.py steps               # a minute
    python benchmarks/denoising.py refined FOLDER      # a few minutes; FOLDER is that of runs

`runs` compares all methods over training time, two runs at a time with one thread each, `half_hour`
the two that matter most over a longer one; they write results/denoising/ and
results/denoising_half_hour/, and a picture each in docs/images/. `photographs` denoises whole
photographs as `score-embedding denoise` does, one after another with all cores, and with classical
denoisers: results/photographs.md. `densities` fits each density, and the mixture with other
options, to the photographs of the config: results/densities.md. `steps` is an ablation of the steps
of `fit`: results/fit_steps.md. `refined` measures `score-embedding denoise --model RUN_FOLDER` with
the models of `runs`: results/refined.md.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from _common import RESULTS, environment, write
from score_embedding import densities
from score_embedding.comparison import compare, outputs, spec, variants
from score_embedding.config import loading
from score_embedding.config.sections import HeldOut
from score_embedding.data import crops
from score_embedding.data.datasets import load_held_out, load_photographs
from score_embedding.evaluation import held_out
from score_embedding.report import before_after_figure, figures
from score_embedding.restoration import adaptive, denoising, models, rivals
from score_embedding.restoration.noise import Noise, Stationary

IMAGES = Path(__file__).parents[1] / "docs" / "images"
TEST = HeldOut(image=["china", "flower", "grace_hopper"], shrink=2, levels=(0.05, 0.1, 0.2, 0.5))
SHOWN = 0.1  # the noise of the README's picture
SEEDS = [0, 1, 2]
ROUNDS = 3  # of `photographs`: all denoisers in turn, the median of their seconds
RUNS = {  # where results go; methods, and changes of the config photographs
    "runs": (
        "denoising",
        variants.DEFAULT_OF_DENOISING,
        (
            "training.epochs=1000",
            "training.seconds=90",
            "misc.profile_freq=15",
        ),
    ),
    "half_hour": (
        "denoising_half_hour",
        ("plain", "patch_mixture_residual", "stationary_alone", "patch_mixture_alone"),
        ("training.epochs=1000", "training.seconds=1800", "misc.profile_freq=60"),
    ),
}


def compare_runs(which: str, folder: Path | None) -> None:
    """The runs, their tables and pictures, and copies of them for the repository."""
    results, methods, changes = RUNS[which]
    folder = folder or Path("saves") / results
    wanted = spec.build("photographs", list(methods), SEEDS, None, list(changes))
    compare.compare(wanted, folder, torch.device("cpu"), processes=2)
    kept = RESULTS / results
    kept.mkdir(exist_ok=True)
    for name in (compare.MARKDOWN, compare.JSON, compare.CSV, spec.SPEC):
        shutil.copyfile(folder / name, kept / name)
    picture = outputs.DENOISING_CURVES
    shutil.copyfile(folder / picture, IMAGES / f"{results}_{picture}")


def compare_photographs() -> None:
    """PSNR, SSIM and seconds a photograph of everything that the user need not train."""
    photographs = load_held_out(TEST, 3)
    machine = environment()
    models.bundled(3)  # is read once
    own = {f"`{model}`": _denoiser(model) for model in ("bundled", "fit")}
    others = {name: rivals.denoiser(name) for name in rivals.available()}
    denoisers = own | others
    found = [
        {name: _measured(denoise, photographs) for name, denoise in denoisers.items()}
        for _ in range(ROUNDS)
    ]
    rows = []
    for name, denoise in denoisers.items():
        means, seconds = found[0][name][0], median(of[name][1] for of in found)
        row = {
            "denoiser": name,
            "seconds a photograph": f"{seconds:.2f}",
            "a megapixel": f"{_megapixel(denoise, photographs):.1f}",
        }
        for level in TEST.levels:
            row[f"noise {level:g}: PSNR / SSIM"] = (
                f"{means[f'psnr_{level:g}']:.2f} / {means[f'ssim_{level:g}']:.3f}"
            )
        rows.append(row)
        print(row, flush=True)
    write("photographs", rows, {"mean over": _sizes(photographs), **machine})
    name, truth = next(iter(photographs.items()))
    noisy = held_out.with_noise(truth, SHOWN, 0).clamp(0, 1)
    clean = _denoiser("fit")(noisy[None], torch.tensor([SHOWN]))[0]
    labels = (f"{name}, noise {SHOWN:g}", "denoised")
    figure = before_after_figure.before_after(noisy.numpy(), clean.numpy(), labels)
    figures.save(figure, IMAGES / "before_after.png")


def compare_densities() -> None:
    """Seconds of the fit and PSNR of each density, and of the mixture with other options."""
    machine, photographs = environment(), load_held_out(TEST, 3)
    trained_on = load_photographs(loading.load("photographs").data_loader)
    variants: dict[str, dict[str, Any]] = {
        **{kind: {"kind": kind} for kind in ("white", "stationary", "gaussian", "low_rank")},
        "empirical, 2000 windows": {"kind": "empirical", "arrays": 2000},
        "patch_mixture": {},
        "patch_mixture, 8 components": {"components": 8},
        "patch_mixture, 40 components": {"components": 40},
        "patch_mixture, 6 x 6": {"side": 6},
        "patch_mixture, 10 x 10": {"side": 10},
        "patch_mixture, 50,000 windows, 15 steps": {"arrays": 50_000, "em_steps": 15},
        "patch_mixture, stride 1": {"stride": 1},
        "patch_mixture, stride 4": {"stride": 4},
    }
    rows = []
    for name, options in variants.items():
        started = time.perf_counter()
        density = densities.fit(**{"kind": "patch_mixture", **options}, images=trained_on)
        row: dict[str, Any] = {"density": name, "fit (s)": time.perf_counter() - started}
        means, row["seconds a photograph"] = _measured(density.denoise, photographs)
        row |= {f"noise {level:g}": f"{means[f'psnr_{level:g}']:.2f}" for level in TEST.levels}
        rows.append(row)
        print(row, flush=True)
    write("densities", rows, {"PSNR in dB, mean over": _sizes(photographs), **machine})


def compare_steps() -> None:
    """PSNR and seconds of the steps of `fit`: the bundled mixture, adapted to the photograph or
    not, with or without the half size, and N refinements by neighbourhoods."""
    machine, photographs = environment(), load_held_out(TEST, 3)
    rows = []
    choices = [(False, False, 0), (True, False, 0), (True, True, 0), (False, True, 2)]
    choices += [(True, False, 2), *((True, True, n) for n in (1, 2, 3))]
    for adapt, halve, refinements in choices:
        denoise = _adapted(adapt, halve, refinements)
        means, seconds = _measured(denoise, photographs)
        row: dict[str, Any] = {
            "mixture": "adapted" if adapt else "bundled",
            "also at half the size": halve,
            "neighbourhoods, times": refinements,
            "seconds a photograph": f"{seconds:.2f}",
        }
        row |= {f"noise {level:g}": f"{means[f'psnr_{level:g}']:.2f}" for level in TEST.levels}
        rows.append(row)
        print(row, flush=True)
    write("fit_steps", rows, {"PSNR in dB, mean over": _sizes(photographs), **machine})


def compare_refined(folder: Path) -> None:
    """PSNR and seconds of trained models, alone and refined by the photograph's neighbourhoods:
    medians over the seeds. On whole photographs, as `compare_photographs`."""
    machine, photographs = environment(), load_held_out(TEST, 3)
    models: dict[str, list[held_out.Denoise]] = {}
    for method in ("plain", "ddpm_plain", "patch_mixture_alone", "patch_mixture_residual"):
        paths = [folder / "runs" / f"{method}_seed{seed}" for seed in SEEDS]
        models[method] = [_run(path, refine=False) for path in paths]
        models[f"{method}, refined"] = [_run(path, refine=True) for path in paths]
    models["`fit`"] = [_denoiser("fit")]
    if "bm3d" in rivals.available():
        models["bm3d"] = [rivals.denoiser("bm3d")]
    rows = []
    for name, seeds in models.items():
        found = [_measured(denoise, photographs) for denoise in seeds]
        seconds = median(of for _, of in found)
        row = {
            "denoiser": name,
            "seconds a photograph": f"{seconds:.2f}",
            "a megapixel": f"{_megapixel(seeds[0], photographs):.1f}",
        }
        for level in TEST.levels:
            value = median(means[f"psnr_{level:g}"] for means, _ in found)
            row[f"noise {level:g}"] = f"{value:.2f}"
        rows.append(row)
        print(row, flush=True)
    write("refined", rows, {"mean over": _sizes(photographs), "seeds": len(SEEDS), **machine})


def _run(path: Path, refine: bool) -> held_out.Denoise:
    known = models.denoiser(path, torch.zeros(3, 1, 1), SHOWN, refine)
    return lambda y, s: known(y[0], float(s)).clamp(0, 1)[None]


def _measured(
    denoise: held_out.Denoise, photographs: dict[str, Tensor]
) -> tuple[dict[str, float], float]:
    """Means over the photographs, and seconds for each of them at one level."""
    measured = held_out.measure(denoise, photographs, TEST.levels)
    return measured.means(), measured.seconds_each


def _megapixel(denoise: held_out.Denoise, photographs: dict[str, Tensor]) -> float:
    """Seconds for the first photograph, continued by its mirror image."""
    large = crops.continued(next(iter(photographs.values())), 1000, 1000)
    noisy = held_out.with_noise(large, SHOWN, 0)[None]
    started = time.perf_counter()
    denoise(noisy, torch.tensor([SHOWN]))
    return time.perf_counter() - started


def _sizes(photographs: dict[str, Tensor]) -> str:
    return " and ".join(f"{name} {x.shape[2]} x {x.shape[1]}" for name, x in photographs.items())


def _denoiser(model: str) -> held_out.Denoise:
    def denoise(y: Tensor, s: Tensor) -> Tensor:
        known = models.resolve(model, y.device)
        return denoising.clean(y[0], Noise.white(float(s), y.shape[1]), known)[None]

    return denoise


def _adapted(adapt: bool, halve: bool, refine: bool) -> held_out.Denoise:
    def denoise(y: Tensor, s: Tensor) -> Tensor:
        noise = Stationary.white(float(s), 3)
        estimate = adaptive.denoiser(models.bundled(3), y[0], noise, adapt, halve, refine)
        return estimate(y[0], noise)[None]

    return denoise


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in RUNS:
        compare_runs(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    elif sys.argv[1:] == ["photographs"]:
        compare_photographs()
    elif sys.argv[1:] == ["densities"]:
        compare_densities()
    elif sys.argv[1:] == ["steps"]:
        compare_steps()
    elif sys.argv[1:2] == ["refined"] and len(sys.argv) == 3:
        compare_refined(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
