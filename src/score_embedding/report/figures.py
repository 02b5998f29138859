"""Figures of a run, from the arrays and rows of its folder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from score_embedding.evaluation import metrics

Arrays = dict[str, NDArray[Any]]

DPI = 160
IMAGES_SHOWN = 4  # rows of a figure, at most
TIMES_SHOWN = 6
LEVELS_SHOWN = 3
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "path",
}
_BLUE, _ORANGE, _GREY = "#2066a8", "#d1700d", "#8a8a8a"
COLOURS = (_BLUE, _ORANGE, "#2f8f4e", "#8c4fa0", "#b03a48", "#4f6d7a")
_OF_THE_FONT = "Glyph .* missing from|Matplotlib currently does not support"  # warnings
HOW = {"minmax": "min-max scaled", "clipped": "clipped"}


def save(figure: Figure, target: Path | BinaryIO) -> None:
    """Write a figure as PNG, DPI pixels an inch; characters that its font lacks become boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _OF_THE_FONT)
        figure.savefig(target, format="png", dpi=DPI, facecolor="white")


def score_fields(arrays: Arrays) -> Figure:
    """Image, log-density and score (means over channels) at times from the first to the last."""
    figure = Figure(figsize=_score_grid_size(arrays), layout="constrained")
    _draw_score_fields(arrays, figure)
    return figure


def solution(arrays: Arrays) -> Figure:
    """Score and log-density as pictures and over time, and the residuals of the iteration."""
    width, height = _score_grid_size(arrays)
    width = max(width, 6.5)
    figure = Figure(figsize=(width, height + 2.6), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[height, 2.6])[:, 0]
    _draw_score_fields(arrays, above)
    diagnostics = json.loads(str(arrays["diagnostics"]))
    with mpl.rc_context(STYLE):
        left, right = below.subplots(1, 2)
        _draw_over_time(arrays, left)
        _draw_residuals(diagnostics, right)
    heading = f"{diagnostics['scheme']}, {diagnostics['boundary']} boundary, drift "
    figure.suptitle(f"{heading}{diagnostics['drift']}, N = {len(arrays['times'])}", fontsize=9)
    return figure


def _draw_over_time(arrays: Arrays, axis: Axes) -> None:
    """Root mean square of the score, and the range of the log-density, of all that is shown."""
    n = min(len(arrays["scores"]), IMAGES_SHOWN)
    m, s = arrays["log_density"][:n], arrays["scores"][:n]
    per_time = (0, 2, 3, 4)
    spread = (m.max(axis=(3, 4)) - m.min(axis=(3, 4))).max(axis=(0, 2))
    axis.plot(arrays["times"], np.sqrt((s**2).mean(axis=per_time)), color=_BLUE, label="RMS score")
    axis.plot(arrays["times"], spread, color=_ORANGE, label="range of log p")
    if (s != 0).any():
        axis.set_yscale("log")
    axis.set_xlabel("t")
    axis.legend()


def _draw_residuals(diagnostics: dict[str, Any], axis: Axes) -> None:
    """Relative change per iteration, one line for each time step."""
    histories = diagnostics["residuals"]
    if not histories:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "no iteration, no residual", ha="center", transform=axis.transAxes)
        return
    for k, history in enumerate(histories):
        shade = 0.35 + 0.6 * k / len(histories)
        axis.semilogy(range(1, len(history) + 1), history, ".-", lw=0.8, color=mpl.cm.Blues(shade))
    axis.axhline(diagnostics["tolerance"], color=_GREY, lw=0.8, ls="--")
    # Folders of version 0.1.0 do not name what is iterated.
    labels = {"sweep": "sweep", "time step": "iteration of a time step"}
    axis.set_xlabel(labels.get(str(diagnostics.get("iteration")), "iteration"))
    axis.set_ylabel("relative change")


def _score_grid_size(arrays: Arrays) -> tuple[float, float]:
    rows = 2 * min(len(arrays["scores"]), IMAGES_SHOWN)
    return _grid_size(rows, 1 + min(len(arrays["times"]), TIMES_SHOWN))


def _draw_score_fields(arrays: Arrays, figure: Figure | SubFigure) -> None:
    times, shown = arrays["times"], _evenly(len(arrays["times"]), TIMES_SHOWN)
    n = min(len(arrays["scores"]), IMAGES_SHOWN)
    axes = _bare_axes(figure, 2 * n, 1 + len(shown))
    for i in range(n):
        image(axes[2 * i][0], arrays["images"][i], "image")
        for k, above, below in zip(shown, axes[2 * i][1:], axes[2 * i + 1][1:], strict=True):
            m, score = (arrays[name][i, k].mean(axis=0) for name in ("log_density", "scores"))
            bound = float(np.abs(score).max()) or 1.0
            _field(above, m, f"log p\nt = {times[k]:.2f}", "viridis")
            _field(below, score, f"score\n±{bound:.2g}", "RdBu_r", (-bound, bound))


def embedded(arrays: Arrays) -> Figure:
    """The embedded images x^n, each min-max scaled, with the range that its values span."""
    times, shown = arrays["times"], _evenly(len(arrays["times"]), TIMES_SHOWN)
    n = min(len(arrays["embedded"]), IMAGES_SHOWN)
    figure, axes = grid(n, len(shown))
    for i in range(n):
        for axis, k in zip(axes[i], shown, strict=True):
            x = arrays["embedded"][i, k]
            image(axis, minmax(x), f"t = {times[k]:.2f}\n[{x.min():.2f}, {x.max():.2f}]")
    return figure


def samples(arrays: Arrays) -> Figure:
    """Ground truth, sample min-max scaled, sample clipped; one row an image."""
    n = min(len(arrays["samples"]), IMAGES_SHOWN)
    description = json.loads(str(arrays["description"]))
    figure, axes = grid(n, 3, side=1.7)
    for i in range(n):
        x = arrays["samples"][i]
        image(axes[i][0], arrays["images"][arrays["truth"][i]], "ground truth")
        image(axes[i][1], minmax(x), "sample, min-max scaled")
        image(axes[i][2], np.clip(x, 0, 1), "sample, clipped")
    total = len(arrays["samples"])
    of = f"the first {n} of {total} samples; " if n < total else ""
    figure.suptitle(f"{of}{how_sampled(description)}", fontsize=9)
    return figure


def strip(arrays: Arrays) -> Figure:
    """From the start of sampling to the sample, each min-max scaled, beside the ground truth where
    there is one."""
    # A chain of few steps repeats states.
    times, shown = np.unique(arrays["path_times"], return_index=True)
    path, times = arrays["path"][shown[::-1]], times[::-1]
    n, compared = min(path.shape[1], IMAGES_SHOWN), len(arrays["truth"]) > 0
    figure, axes = grid(n, len(path) + compared)
    for i in range(n):
        for axis, x, t in zip(axes[i], path[:, i], times, strict=False):
            image(axis, minmax(x), f"t = {t:.3g}")
        if compared:
            image(axes[i][-1], arrays["images"][arrays["truth"][i]], "ground truth")
    return figure


def denoised(arrays: Arrays) -> Figure:
    """Photographs beside what noise of some levels, and then the method, have made of them."""
    description = json.loads(str(arrays["description"]))
    names, levels = description["names"], description["levels"]
    n, shown = min(len(names), IMAGES_SHOWN), _evenly(len(levels), LEVELS_SHOWN)
    figure, axes = grid(n, 1 + 2 * len(shown), side=1.5)
    for i in range(n):
        image(axes[i][0], arrays[f"photograph_{i}"], names[i])
        for k, (noisy, answer) in zip(shown, axes[i][1:].reshape(-1, 2), strict=True):
            image(noisy, arrays[f"noisy_{i}"][k], f"noise {levels[k]:g}")
            psnr, ssim = description["psnr"][i][k], description["ssim"][i][k]
            image(answer, arrays[f"denoised_{i}"][k], f"{psnr:.2f} dB, SSIM {ssim:.3f}")
    return figure


def how_sampled(description: dict[str, Any]) -> str:
    """One line on start, sampler and seed, for captions."""
    noise = f"N(0, {description['prior_std']:.3g}² I)"
    if description["type"] == "conditional":
        weight = description["conditional_weight"]
        start = f"start {weight:g} image + {1 - weight:g} {noise}"
    else:
        start = f"prior {description['prior']}: {noise}"
    sampler = description.get("sampler") or _sampler_of_older_runs(description)
    return (
        f"{start}; {sampler}; {description['metrics']['nfe']:.0f} NFE; seed {description['seed']}"
    )


def _sampler_of_older_runs(description: dict[str, Any]) -> str:
    """The sampler in a few words, which version 0.1.0 did not write down."""
    if "solver" not in description:
        return str(description["method"]).upper()
    rk45 = f"RK45, tolerance {description.get('tolerance', 0):g}"
    sampler = rk45 if description["solver"] == "rk45" else f"Heun, {description['steps']} steps"
    return f"{sampler}, denoised at the end" if description.get("denoise") else sampler


def curves(rows: list[dict[str, float]]) -> Figure:
    """Loss, SSIM and MSE of the samples over steps (left) and over training time (right)."""
    lines = {
        "SSIM": {f"ssim_{how}": label for how, label in HOW.items()},
        "MSE": {f"mse_{how}": label for how, label in HOW.items()},
    }
    figure, axes = _courses(rows, lines)
    axes[1][0].set_ylim(top=1.0)
    axes[1][1].set_ylim(axes[1][0].get_ylim())
    axes[2][0].set_yscale("log")
    axes[2][1].set_yscale("log")
    axes[1][0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def denoising_curves(rows: list[dict[str, float]], levels: list[float]) -> Figure:
    """Loss and PSNR at each noise level over steps (left) and over training time (right)."""
    lines = {"PSNR (dB)": {f"psnr_{level:g}": f"noise {level:g}" for level in levels}}
    figure, axes = _courses(rows, lines)
    axes[1][0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, columnspacing=1)
    return figure


def _courses(
    rows: list[dict[str, float]], lines: dict[str, dict[str, str]]
) -> tuple[Figure, NDArray[Any]]:
    """The loss, and below it an axis for each of `lines`: its label, and the columns of the metrics
    that it shows with what they are called."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.2 * (1 + len(lines))), layout="constrained")
        axes = figure.subplots(1 + len(lines), 2, sharex="col")
        for column, key in enumerate(("step", "training_seconds")):
            x = [row[key] for row in rows]
            loss = np.array([row["loss"] for row in rows])
            axes[0][column].plot(x, loss, color=_GREY, lw=0.6, alpha=0.6)
            axes[0][column].plot(x, _running_median(loss), color=_BLUE, lw=1.4)
            axes[0][column].set_yscale("log")
            for below, names in zip(axes[1:], lines.values(), strict=True):
                for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
                    points = [(row[key], row[name]) for row in rows if name in row]
                    below[column].plot(
                        *zip(*points, strict=True), "o-", ms=3, lw=1.2, color=colour, label=label
                    )
        for axis, label in zip(axes, ("loss (line: running median)", *lines), strict=True):
            axis[0].set_ylabel(label)
        axes[-1][0].set_xlabel("step")
        axes[-1][1].set_xlabel("training time, pre-computation included (s)")
    return figure, axes


def _running_median(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(median_filter(values, size=max(3, len(values) // 20), mode="nearest"))


def _evenly(count: int, shown: int) -> list[int]:
    return sorted({round(k) for k in np.linspace(0, count - 1, shown)})


def grid(rows: int, columns: int, side: float = 1.15) -> tuple[Figure, NDArray[Any]]:
    figure = Figure(figsize=_grid_size(rows, columns, side), layout="constrained")
    return figure, _bare_axes(figure, rows, columns)


def _grid_size(rows: int, columns: int, side: float = 1.15) -> tuple[float, float]:
    return side * columns, (side + 0.3) * rows + 0.2


def _bare_axes(figure: Figure | SubFigure, rows: int, columns: int) -> NDArray[Any]:
    with mpl.rc_context(STYLE):
        axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(False)
        axis.set_axis_off()
    return axes


def image(axis: Axes, x: NDArray[Any], title: str) -> None:
    pixels = np.clip(x, 0, 1).transpose(1, 2, 0)
    axis.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=8, parse_math=False)


def _field(
    axis: Axes,
    values: NDArray[Any],
    title: str,
    colours: str,
    limits: tuple[float | None, float | None] = (None, None),
) -> None:
    axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    axis.set_title(title, fontsize=8)


def minmax(x: NDArray[Any]) -> NDArray[Any]:
    return metrics.minmax(torch.from_numpy(x)[None])[0].numpy()
