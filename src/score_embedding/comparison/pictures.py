"""The pictures of a comparison: SSIM over training time, and samples side by side."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from score_embedding import figures, files, run_folder
from score_embedding.comparison.spec import Comparison, Job
from score_embedding.comparison.summary import Outcome
from score_embedding.comparison.tables import PRIOR_NAMES


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
        _caption(figure, caption)
    return figure


def sample_sheet(jobs: list[Job], comparison: Comparison, caption: str) -> Figure:
    """The samples of the first finished seed of each method, from each prior, min-max scaled,
    beside the ground truth; one row an image and prior."""
    samples = {}
    for job in jobs:
        if job.method not in samples:
            samples[job.method] = files.read_arrays(
                job.path / run_folder.SAMPLES, "samples", "images", "description"
            )
    images = next(iter(samples.values()))["images"]
    keys = {method: _keys(arrays) for method, arrays in samples.items()}
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
    _caption(figure, caption)
    return figure


def _caption(figure: Figure, text: str) -> None:
    characters = int(14 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(text, characters), fontsize=8)


def _keys(arrays: dict[str, Any]) -> dict[str, str]:
    """The name of each array of samples, by what the samples started from."""
    description = json.loads(str(arrays["description"]))
    if description["type"] == "conditional":
        return {"conditional": "samples"}
    others = [key for key in arrays if key.startswith("samples_")]
    named = {f"{key.removeprefix('samples_')} prior": key for key in others}
    return dict(sorted({**named, f"{description['prior']} prior": "samples"}.items(), reverse=True))
