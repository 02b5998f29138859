"""The pictures of a comparison: quality over training time, and answers side by side."""

from __future__ import annotations

import itertools
import json
import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from score_embedding import atomic_files
from score_embedding.comparison import denoising
from score_embedding.comparison.denoising import Course, Rival
from score_embedding.comparison.spec import Comparison, Job
from score_embedding.comparison.summary import Outcome
from score_embedding.comparison.tables import PRIOR_NAMES
from score_embedding.report import figures
from score_embedding.runs import folder as run_folder

_DASHES = (":", "-.", (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))
_SHEET_COLUMNS = 6
_COLOURED = [mpl.colormaps["tab10"](i) for i in range(10) if i != 7]  # 7 is grey


def ssim_over_time(found: list[Outcome], comparison: Comparison, caption: str) -> Figure:
    """A line for each run, a colour for each method, a panel for each prior; methods that are not
    trained are dashed lines across."""
    priors = list(dict.fromkeys(outcome.prior for outcome in found))
    colours = {
        method: mpl.colormaps["tab20" if len(comparison.configs) > 10 else "tab10"](i)
        for i, method in enumerate(comparison.configs)
    }
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.6 * len(priors) + 1.8, 4.2), layout="constrained")
        axes = figure.subplots(1, len(priors), sharey=True, squeeze=False)[0]
        for axis, prior in zip(axes, priors, strict=True):
            labelled = set()
            for outcome in found:
                if outcome.prior != prior:
                    continue
                new = outcome.method not in labelled
                labelled.add(outcome.method)
                look: dict[str, Any] = {
                    "color": colours[outcome.method],
                    "label": outcome.method if new else None,
                }
                seconds, ssim = np.array(outcome.curve).T
                if outcome.steps == 0:
                    axis.axhline(ssim[-1], ls="--", lw=1, **look)
                else:
                    axis.plot(seconds, ssim, "o-", ms=2, lw=1, alpha=0.8, **look)
            for target in comparison.targets:
                axis.axhline(target, color="#bbbbbb", lw=0.5, zorder=0)
            axis.set_title(PRIOR_NAMES[prior])
            axis.set_xlabel("training time, pre-computation included (s)")
        axes[0].set_ylabel("SSIM (min-max scaled)")
        axes[0].set_ylim(top=1.02)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
        add_caption(figure, caption)
    return figure


def sample_sheet(jobs: list[Job], comparison: Comparison, caption: str) -> Figure:
    """The samples of the first finished seed of each method, from each prior, min-max scaled,
    beside the ground truth; one row an image and prior."""
    samples = {}
    for job in jobs:
        if job.method not in samples:
            samples[job.method] = samples_of(job)
    images = next(iter(samples.values()))["images"]
    keys = {method: starts_of(arrays) for method, arrays in samples.items()}
    starts = list(dict.fromkeys(start for of in keys.values() for start in of))
    shown = min(len(images), figures.IMAGES_SHOWN)
    methods = [method for method in comparison.configs if method in samples]
    figure, axes = figures.grid(shown * len(starts), 1 + len(methods), side=1.25)
    for p, start in enumerate(starts):
        for i in range(shown):
            row = axes[p * shown + i]
            figures.image(row[0], images[i], f"ground truth\n({start})")
            for axis, method in zip(row[1:], methods, strict=True):
                if start in keys[method]:
                    x = samples[method][keys[method][start]][i]
                    figures.image(axis, figures.minmax(x), method)
    add_caption(figure, caption)
    return figure


def psnr_over_time(
    found: list[Course], rivals: list[Rival], comparison: Comparison, caption: str
) -> Figure:
    """A panel for each noise level, a colour for each method, its median a line, each seed a thin
    one; a density without training is dashed, in the colour of its residual, from its fit on;
    classical denoisers are grey lines across."""
    assert comparison.held_out is not None
    levels = comparison.held_out.levels
    families = dict.fromkeys(map(_family, comparison.configs))
    colours = dict(zip(families, itertools.cycle(_COLOURED), strict=False))
    columns = 1 if len(levels) == 1 else 2
    rows = -(-len(levels) // columns)
    methods = list(dict.fromkeys(course.method for course in found))
    first, last = min(c.times[0] for c in found), max(c.times[-1] for c in found)
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.3 * columns + 2.2, 3.2 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for unused in axes.flat[len(levels) :]:
            unused.set_axis_off()
        for axis, level in zip(axes.flat, levels, strict=False):
            name = f"psnr_{level:g}"
            for method in methods:
                own = [course for course in found if course.method == method]
                colour = colours[_family(method)]
                if not own[0].trained:
                    start = max(course.times[0] for course in own)
                    height = denoising.median_at(own, level, start)
                    axis.plot(
                        [start, last], [height, height], "--", lw=1.2, color=colour, label=method
                    )
                    continue
                for course in own if len(own) > 1 else []:
                    values = [row[name] for row in course.evaluations]
                    axis.plot(course.times, values, lw=0.5, alpha=0.4, color=colour)
                start, end = max(c.times[0] for c in own), min(c.times[-1] for c in own)
                times = sorted({t for c in own for t in c.times if start <= t <= end})
                line = [denoising.median_at(own, level, t) for t in times]
                marks = {"marker": "o", "ms": 2.5, "lw": 1.4, "color": colour, "label": method}
                axis.plot(times, line, **marks)
            for rival, dashes in zip(rivals, _DASHES, strict=False):
                look: dict[str, Any] = {"color": "#555555", "ls": dashes, "lw": 0.9, "zorder": 1}
                axis.axhline(rival.measured.means()[name], label=rival.name, **look)
            axis.set_xscale("log")
            axis.set_xlim(0.9 * first, 1.1 * last)
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_title(f"noise {level:g}")
        for axis in axes[:, 0]:
            axis.set_ylabel("PSNR (dB)")
        for axis in axes[-1]:
            axis.set_xlabel("training time, pre-computation included (s)")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
        add_caption(figure, caption)
    return figure


def denoised_sheet(
    jobs: list[Job], rivals: list[Rival], comparison: Comparison, caption: str
) -> Figure:
    """The first photograph with noise of a middle level, what the first finished seed of each
    method and the classical denoisers make of it, and the photograph itself."""
    assert comparison.held_out is not None
    k = len(comparison.held_out.levels) // 2
    shown: list[tuple[Any, str]] = []
    for method in comparison.configs:
        job = next((job for job in jobs if job.method == method), None)
        if job is None:
            continue
        arrays = atomic_files.read_arrays(job.path / run_folder.DENOISED, "description")
        description = json.loads(str(arrays["description"]))
        if not shown:
            name, level = description["names"][0], comparison.held_out.levels[k]
            shown = [(arrays["photograph_0"], name), (arrays["noisy_0"][k], f"noise {level:g}")]
        shown.append((arrays["denoised_0"][k], f"{method}\n{description['psnr'][0][k]:.2f} dB"))
    for rival in rivals:
        measured = rival.measured
        title = f"{rival.name}\n{measured.psnr[0][k]:.2f} dB"
        shown.append((measured.denoised[0][k].numpy(), title))
    rows = -(-len(shown) // _SHEET_COLUMNS)
    figure, axes = figures.grid(rows, -(-len(shown) // rows), side=1.9)
    for axis, (picture, title) in zip(axes.flat, shown, strict=False):
        figures.image(axis, picture, title)
    add_caption(figure, caption)
    return figure


def _family(method: str) -> str:
    """What a density's method with training and the one without have in common."""
    return method.removesuffix("_residual").removesuffix("_alone")


def add_caption(figure: Figure, text: str) -> None:
    """The text above the figure, in lines that fit its width."""
    characters = int(14 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(text, characters), fontsize=8)


def samples_of(job: Job) -> dict[str, Any]:
    """The arrays of a finished run's samples. Raises RunFolderError where they are damaged."""
    return atomic_files.read_arrays(
        job.path / run_folder.SAMPLES, "samples", "images", "description"
    )


def starts_of(arrays: dict[str, Any]) -> dict[str, str]:
    """The name of each array of samples, by what the samples started from."""
    description = json.loads(str(arrays["description"]))
    if description["type"] == "conditional":
        return {"conditional": "samples"}
    others = [key for key in arrays if key.startswith("samples_")]
    named = {f"{key.removeprefix('samples_')} prior": key for key in others}
    return dict(sorted({**named, f"{description['prior']} prior": "samples"}.items(), reverse=True))
