"""All Fokker-Planck schemes: time, memory, error, growth with the size of the image.

    python benchmarks/solvers.py                # about 15 minutes
    python benchmarks/solvers.py --only ratios  # one of: ratios, grid, errors, many

sigma_base 5, N = 20, three channels; photographs that scikit-image ships. Writes results/solvers_*
(JSON, and a table of the same rows), and docs/images/solvers.png.

ratios : pairs timed in turns within one process, with their targets.
grid   : seconds an image and peak memory for each scheme, size and batch. Cases that would take
         longer than PATIENCE, or more than 4 GiB of output, are left out; the table says so.
errors : against the closed form for a smooth density.
many   : 50,000 images through the streamed solve, and the time to compute an image's embedding in
         the training loop as a share of a training step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from _common import crops, environment, in_turns, ratios, resident, spread, write
from score_embedding.config import loading
from score_embedding.config.sections import Diffusion, Misc
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solve import solve
from score_embedding.methods import precomputation
from score_embedding.methods.base import method_of
from score_embedding.methods.model import build_network
from score_embedding.sde import VarianceExploding
from score_embedding.training.loop import train

SDE = VarianceExploding(sigma=5.0)
TIMES = torch.linspace(1e-3, 1.0, 20, dtype=torch.float64)
SIZES = (16, 32, 64, 128, 256)
BATCHES = (1, 10, 100, 1000)
PATIENCE = 40.0  # seconds of one call
LARGEST = 4 * 2**30  # bytes of output
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "solvers.png"

Row = dict[str, Any]
Solver = Callable[[Tensor], Any]

SOLVERS: dict[str, Solver] = {
    "spectral, float32": lambda m0: solve(m0.to(torch.float32), SDE, TIMES),
    "spectral, float64": lambda m0: solve(m0, SDE, TIMES),
    "implicit, iterative": lambda m0: solve(m0, SDE, TIMES, scheme="implicit"),
    "implicit, direct": lambda m0: solve(m0, SDE, TIMES, scheme="implicit", linear="direct"),
    "krylov": lambda m0: solve(m0, SDE, TIMES, scheme="krylov"),
    "published": lambda m0: solve(m0, SDE, TIMES, scheme="published"),
}


def densities(n: int, size: int) -> Tensor:
    """Log-densities of n crops of photographs, (n, 3, size, size)."""
    if size == 256:  # the photographs are too small for crops of that size
        return log_density(crops(n, 128).repeat_interleave(2, 2).repeat_interleave(2, 3))
    return log_density(crops(n, size))


# Ratios


def against_published() -> list[Row]:
    """Seconds an image of the official discretisation, divided by those of the spectral solve."""
    rows = []
    for size, batch, rounds in ((32, 100, 7), (64, 50, 3), (128, 16, 2)):
        m0 = densities(batch, size)
        one = m0[:1].to(torch.float32)
        many = m0.to(torch.float32)
        seconds = in_turns(
            {
                "published": lambda one=one: solve(one.double(), SDE, TIMES, scheme="published"),
                "alone": lambda one=one: solve(one, SDE, TIMES),
                "batch": lambda many=many: solve(many, SDE, TIMES),
            },
            rounds=rounds,
            # Threads of SciPy's BLAS spin for a while after their last work. This is long enough
            # for them to go to sleep.
            calls={"alone": 2000, "batch": 10},
        )
        seconds["batch"] = [s / batch for s in seconds["batch"]]
        targets = (5000, 1500) if size == 32 else (0, 0)
        for name, target in zip(("batch", "alone"), targets, strict=True):
            what = f"of {batch} images" if name == "batch" else "one image"
            rows.append(
                compared(
                    f"published / spectral float32, {size}x{size}, {what}",
                    ratios(seconds["published"], seconds[name]),
                    seconds["published"],
                    seconds[name],
                    target,
                )
            )
    return rows


def against_direct() -> list[Row]:
    """Schemes that solve the same equations to the same tolerance, on 24 images."""
    m0 = densities(24, 32)
    names = ("implicit, direct", "implicit, iterative", "krylov")
    solvers = {name: (lambda name=name: SOLVERS[name](m0)) for name in names}
    seconds = in_turns(solvers, rounds=3)
    direct, iterative, krylov = (seconds[name] for name in names)
    rows = [
        compared("implicit direct / krylov, 24 images", ratios(direct, krylov), direct, krylov, 0),
        compared(
            "implicit direct / iterative, 24 images",
            ratios(direct, iterative),
            direct,
            iterative,
            0,
        ),
        compared(
            "krylov / iterative, 24 images: what the projection costs",
            ratios(krylov, iterative),
            krylov,
            iterative,
            0,
        ),
    ]
    saved = [100 * (1 - k / d) for k, d in zip(krylov, direct, strict=True)]
    rows.append(
        {
            "measured": "krylov: less time than implicit direct, %",
            **spread(saved),
            "target": "> 43.7",
            "met": median(saved) > 43.7,
        }
    )
    return rows


def against_memory() -> list[Row]:
    """Time of the spectral solve of 32 images at 128x128, divided by that of writing its output."""
    m0 = densities(32, 128).to(torch.float32)
    shape = (32, len(TIMES), 3, 128, 128)
    kept = torch.empty(shape)
    seconds = in_turns(
        {
            "solve": lambda: solve(m0, SDE, TIMES),
            "fresh": lambda: torch.full(shape, 1.0),
            "again": lambda: kept.fill_(1.0),
        },
        rounds=7,
    )
    rows = []
    for name, what in (("fresh", "new memory"), ("again", "memory already in use")):
        gain = ratios(seconds["solve"], seconds[name])
        rows.append(
            {
                "measured": f"spectral float32, 32 images at 128x128 / writing to {what} once",
                **spread(gain),
                "slower, s": median(seconds["solve"]),
                "faster, s": median(seconds[name]),
                "target": "<= 10",
                "met": median(gain) <= 10,
            }
        )
    return rows


def compared(
    measured: str, gain: list[float], slower: list[float], faster: list[float], target: float
) -> Row:
    row: Row = {"measured": measured, **spread(gain)}
    row |= {"slower, s": median(slower), "faster, s": median(faster)}
    return row | ({"target": f">= {target}", "met": median(gain) >= target} if target else {})


# Grid of sizes and batches


def grid() -> list[Row]:
    rows: list[Row] = []
    for name, solver in SOLVERS.items():
        for size in SIZES:
            for batch in BATCHES:
                rows.append(cell(name, solver, size, batch, rows))
                print(rows[-1], flush=True)
    return rows


def cell(name: str, solver: Solver, size: int, batch: int, known: list[Row]) -> Row:
    row: Row = {"scheme": name, "size": size, "batch": batch}
    output = batch * len(TIMES) * 3 * size**2 * (4 if "float32" in name else 8)
    if output > LARGEST:
        return row | {"note": f"not run: {output / 2**30:.0f} GiB of output"}
    expected = forecast(name, size, batch, known)
    if expected > PATIENCE:
        return row | {"note": f"not run: about {expected:.0f} s"}
    m0 = densities(batch, size)
    if expected < 5:
        solver(m0)
    times, started = [], time.perf_counter()
    while not times or (len(times) < 5 and time.perf_counter() - started < 5):
        reset_peak()
        before, clock = resident("VmRSS"), time.perf_counter()
        kept = solver(m0)
        times.append(time.perf_counter() - clock)
        memory = (resident("VmHWM") - before) / kept.log_density.nbytes
        del kept
    return row | {"s an image": median(times) / batch, "peak memory / output": memory}


def forecast(name: str, size: int, batch: int, known: list[Row]) -> float:
    """Estimated seconds, from smaller sizes: growth with the pixels to the power 1.5."""
    measured = [row for row in known if row["scheme"] == name and "s an image" in row]
    if not measured:
        return 0.0
    last = measured[-1]
    return float(last["s an image"]) * batch * (size / last["size"]) ** 3


def reset_peak() -> None:
    """Reset the peak memory of the process to its current one."""
    Path("/proc/self/clear_refs").write_text("5")


def exponents(rows: list[Row]) -> dict[tuple[str, int], float]:
    """The exponent k of seconds an image ~ pixels^k, fitted for each scheme and batch."""
    fitted = {}
    for name in SOLVERS:
        for batch in BATCHES:
            x, y = series(rows, name, batch)
            if len(x) >= 3:
                fitted[name, batch] = float(np.polyfit(2 * np.log(x), np.log(y), 1)[0])
    return fitted


def series(rows: list[Row], name: str, batch: int) -> tuple[list[int], list[float]]:
    chosen = [r for r in rows if (r["scheme"], r["batch"]) == (name, batch) and "s an image" in r]
    return [row["size"] for row in chosen], [row["s an image"] for row in chosen]


def draw(rows: list[Row], machine: dict[str, Any]) -> None:
    fitted = exponents(rows)
    with mpl.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.25}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axis = figure.subplots()
        for k, name in enumerate(SOLVERS):
            for batch, style in ((1, "--"), (100, "-")):
                x, y = series(rows, name, batch)
                if not x:
                    continue
                growth = fitted.get((name, batch))
                label = f"{name}, batch {batch}"
                label += f": pixels^{growth:.2f}" if growth is not None else ""
                axis.loglog(x, y, style, marker="o", ms=3, color=f"C{k}", label=label)
        axis.set_xticks(SIZES, [f"{size}²" for size in SIZES])
        axis.minorticks_off()
        axis.set_ylabel("seconds an image")
        axis.set_title(
            f"sigma 5, N = 20, 3 channels; {machine['cpu']}, {machine['threads']} threads"
        )
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.savefig(PICTURE, dpi=160, facecolor="white")


# Errors


def errors() -> list[Row]:
    """Largest error of log p at t = 1 on 32 x 32 units, where p is a product of two damped cosines
    between reflecting walls."""
    rows = []
    for size in SIZES[:-1]:
        dh = 32 / size
        m0, exact = cosine(size, 0.0), cosine(size, float(SDE.integral_g2(TIMES[0], TIMES[-1])))
        row: Row = {"size": size, "dh": dh}
        for name, scheme in (
            ("spectral, float64", "spectral"),
            ("implicit", "implicit"),
            ("published", "published"),
        ):
            m = solve(m0, SDE, TIMES, scheme=scheme, dh=dh).log_density[:, -1]
            row[name] = float((m - exact).abs().max())
        single = solve(m0.to(torch.float32), SDE, TIMES, dh=dh).log_density[:, -1]
        row["spectral, float32"] = float((single.double() - exact).abs().max())
        for count in (80, 320):
            times = torch.linspace(1e-3, 1.0, count, dtype=torch.float64)
            m = solve(m0, SDE, times, scheme="implicit", dh=dh).log_density[:, -1]
            row[f"implicit, N = {count}"] = float((m - exact).abs().max())
        rows.append(row)
    return rows


def cosine(size: int, tau: float) -> Tensor:
    x = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    along = [
        1 + a * np.exp(-tau / 2 * (np.pi * k / 32) ** 2) * torch.cos(np.pi * k * x)
        for a, k in ((0.6, 4), (0.4, 6))
    ]
    return (along[0][:, None] * along[1]).log()[None, None]


# Many images


def many() -> list[Row]:
    diffusion, misc = Diffusion(), Misc()
    images = crops(50_000, 32).to(torch.float32)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        precomputation.write_all_scores(images, diffusion, misc, Path(folder) / "scores.npy")
    rows: list[Row] = [
        {"measured": "50,000 images to a mapped file, s", "value": time.perf_counter() - started}
    ]
    started = time.perf_counter()
    embedded = precomputation.EmbeddedImages(images, diffusion, misc, images.device)
    rows.append(
        {"measured": "50,000 log-densities, kept, s", "value": time.perf_counter() - started}
    )
    started = time.perf_counter()
    for index in range(len(embedded)):
        embedded[index]
    each = (time.perf_counter() - started) / len(images)
    rows.append({"measured": "solve, score and embedding in the loop, s an image", "value": each})
    for ch in (32, 64, 128):
        step = step_seconds(ch, images[:4])
        rows.append({"measured": f"a training step at ch {ch}, batch 20, s", "value": step})
        rows.append(
            {
                "measured": f"share of a step at ch {ch}, %",
                "value": 100 * each / step,
                "target": "< 2",
                "met": 100 * each / step < 2,
            }
        )
    return rows


def step_seconds(ch: int, images: Tensor) -> float:
    """Median seconds of a step of the network unet, cifar1's sizes but `ch` channels, of five."""
    overrides = [f"model.ch={ch}", "model.network=unet", "training.epochs=6"]
    config = loading.load("cifar1", overrides)
    method, images = method_of(config), images[:1]
    known = method.precompute(images, images.device)
    network = build_network(method, len(images), images.device)
    rows = train(network, method.objective(images, known), config).rows
    return median(np.diff([row["training_seconds"] for row in rows]).tolist())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("ratios", "grid", "errors", "many"))
    only = parser.parse_args().only
    machine = environment()
    if only in (None, "ratios"):
        rows = against_published() + against_direct() + against_memory()
        write("solvers_ratios", rows, machine)
    if only in (None, "errors"):
        write("solvers_errors", errors(), machine)
    if only in (None, "many"):
        write("solvers_many", many(), machine)
    if only in (None, "grid"):
        rows = grid()
        growth = [
            {"scheme": name, "batch": batch, "note": f"seconds an image ~ pixels^{k:.2f}"}
            for (name, batch), k in exponents(rows).items()
        ]
        write("solvers_grid", rows + growth, machine)
        draw(rows, machine)


if __name__ == "__main__":
    main()
