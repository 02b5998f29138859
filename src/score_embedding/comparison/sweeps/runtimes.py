"""The pictures of where a sweep's time goes: seconds by stage, and the residuals of the solve."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from score_embedding.comparison.pictures import add_caption
from score_embedding.comparison.spec import Comparison
from score_embedding.comparison.sweeps import results
from score_embedding.comparison.sweeps.results import Run
from score_embedding.comparison.sweeps.settings import BASE, value_at, value_text
from score_embedding.report import figures

_COLOURS = {stage: mpl.colormaps["tab10"](i) for i, stage in enumerate(results.STAGES)}
_ITERATION = {
    "sweep": "sweep over all time steps",
    "time step": "iteration of the slowest time step",
}


def stages(found: list[Run], comparison: Comparison, caption: str) -> Figure:
    """A bar for each setting: mean seconds over its runs by stage, of the pre-computation (left)
    and of the whole run (right)."""
    settings = [s for s in comparison.configs if any(run.setting == s for run in found)]
    names = [stage for stage in results.STAGES if any(run.stages.get(stage) for run in found)]
    before = [name for name in names if name in results.BEFORE_TRAINING]
    panels = {"pre-computation": before, "whole run": names}
    if not before:
        del panels["pre-computation"]
    with mpl.rc_context(figures.STYLE):
        size = 4.2 * len(panels) + 1.6, 0.34 * len(settings) + 1.9
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, shown) in zip(axes, panels.items(), strict=True):
            _draw_bars(axis, found, settings, shown)
            axis.set_title(title)
            axis.set_xlabel("seconds, mean over the seeds")
        axes[0].invert_yaxis()
        handles, labels = axes[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
        add_caption(figure, caption)
    return figure


def _draw_bars(axis: Axes, found: list[Run], settings: list[str], names: list[str]) -> None:
    left = np.zeros(len(settings))
    for stage in names:
        seconds = np.array(
            [
                np.mean([run.stages.get(stage, 0.0) for run in found if run.setting == setting])
                for setting in settings
            ]
        )
        colour = _COLOURS[stage]
        axis.barh(settings, seconds, left=left, color=colour, height=0.65, label=stage)
        left += seconds
    for y, total in enumerate(left):
        place: Any = {"textcoords": "offset points", "va": "center", "fontsize": 7}
        axis.annotate(f"{total:.3g} s", (total, y), (3, 0), **place)
    axis.margins(x=0.16)
    axis.set_xlim(left=0)
    axis.grid(visible=False, axis="y")


def residuals(found: list[Run], comparison: Comparison, caption: str) -> Figure:
    """Relative change of the solve's iteration over iterations (left; of the slowest time step)
    and over wall clock (right; all time steps), of each setting's first finished seed. A row of
    panels for each key that is varied; a grid has one row."""
    assert comparison.sweep is not None
    first = {run.setting: run.diagnostics for run in reversed(found) if results.iterates(run)}
    rows: dict[tuple[str, ...], list[str]] = {}  # settings and the keys that they vary
    for key, settings in comparison.sweep.series.items():
        known = tuple(setting for setting in settings if setting in first)
        if known:
            rows.setdefault(known, []).append(key)
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(10, 2.9 * len(rows) + 0.7), layout="constrained")
        axes = figure.subplots(len(rows), 2, squeeze=False)
        for pair, (known, keys) in zip(axes, rows.items(), strict=True):
            labelled = {_label(comparison, s, keys): first[s] for s in known}
            _draw_residuals(pair[0], pair[1], labelled)
            handles, labels = pair[0].get_legend_handles_labels()
            pair[1].legend(
                *(handles, labels),
                loc="upper left",
                title=", ".join(keys),
                bbox_to_anchor=(1.01, 1),
                borderaxespad=0,
            )
        add_caption(figure, f"{caption}. Dashed: the tolerance")
    return figure


def _label(comparison: Comparison, setting: str, keys: list[str]) -> str:
    """The value of the key that is varied; in a grid the setting's name."""
    if len(keys) > 1:
        return setting
    value = value_text(value_at(comparison.configs[setting], keys[0]))
    return f"{value} (base)" if setting == BASE else value


def _draw_residuals(left: Axes, right: Axes, first: dict[str, dict[str, Any]]) -> None:
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(first)))
    widths = np.linspace(2.4, 1.0, len(first))  # so that lines that coincide are all seen
    for (setting, diagnostics), colour, width in zip(first.items(), colours, widths, strict=True):
        history = max(diagnostics["residuals"], key=len)
        look: dict[str, Any] = {"color": colour, "marker": ".", "ms": 3.5 + width, "lw": width}
        left.plot(range(1, len(history) + 1), history, label=setting, **look)
        # Folders of older versions have no times.
        clock = diagnostics.get("residual_seconds") or []
        for seconds, values in zip(clock, diagnostics["residuals"], strict=False):
            right.plot(seconds, values, color=colour, marker=".", ms=3, lw=1.0)
    for axis in (left, right):
        axis.set_yscale("log")
        for tolerance in {diagnostics["tolerance"] for diagnostics in first.values()}:
            axis.axhline(tolerance, color="#8a8a8a", lw=0.8, ls="--", zorder=0)
    kinds = {diagnostics["iteration"] for diagnostics in first.values()}
    left.set_xlabel(" / ".join(sorted(_ITERATION.get(kind, kind) for kind in kinds)))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("relative change")
    right.set_xlabel("seconds since the start of the solve")
