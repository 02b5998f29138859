"""The pictures of a sweep's results: measures over each key, and all samples."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from score_embedding.comparison.pictures import add_caption, samples_of, starts_of
from score_embedding.comparison.spec import Comparison, Job, run_name
from score_embedding.comparison.sweeps import results
from score_embedding.comparison.sweeps.settings import BASE, short, value_at, value_text
from score_embedding.report import figures

_MARKS = ("o", "s", "^", "D", "v", "P")
_PRIOR_STYLES = {"unit": "-", "matched": "--"}
_GREY = "#444444"
_LOGARITHMIC = ("loss", "solve_seconds")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Line:
    """The settings that differ in one key only, along the axis of its values."""

    label: str
    settings: list[str]
    places: list[float]


def metrics_over_keys(
    runs: pd.DataFrame, found: pd.DataFrame, comparison: Comparison, caption: str
) -> Figure:
    """A column of panels for each key, a row for each measure: the mean over the seeds with its
    standard deviation, and each seed as a point. A line for each prior where the measure depends
    on it, and in a grid for each combination of the other keys."""
    assert comparison.sweep is not None
    rows, keys = _rows(found, comparison), list(comparison.sweep.series)
    with mpl.rc_context(figures.STYLE):
        size = 3.3 * len(keys) + 2.6, 2.0 * len(rows) + 1.0
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), len(keys), squeeze=False, sharex="col", sharey="row")
        for column, key in enumerate(keys):
            lines, ticks = _lines(comparison, key)
            for axis, name in zip(axes[:, column], rows, strict=True):
                _draw_measure(axis, runs, found, name, lines)
            _scale(axes[-1][column], ticks)
            axes[-1][column].set_xlabel(key)
        for axis, (name, heading) in zip(axes[:, 0], rows.items(), strict=True):
            axis.set_ylabel(heading)
            values = runs[name].dropna()
            if name in _LOGARITHMIC and 0 < 8 * values.min() < values.max():
                axis.set_yscale("log")
            elif name == "iterations":
                axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for axis in axes[0]:  # of the lines in its column
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        several = any(len(_lines(comparison, key)[0]) > 1 for key in keys)
        priors = dict.fromkeys(found["prior"])
        if len(priors) > 1:
            figure.legend(handles=_of_priors(priors, several), loc="outside right center")
        add_caption(figure, f"{caption}. Mean ± standard deviation over the seeds; dots: runs")
    return figure


def _of_priors(priors: Iterable[str], grey: bool) -> list[Line2D]:
    """The legend of the priors."""
    colours = itertools.repeat(_GREY) if grey else figures.COLOURS
    return [
        Line2D([], [], color=colour, ls=_PRIOR_STYLES.get(prior, "-"), label=f"{prior} prior")
        for prior, colour in zip(priors, colours, strict=False)
    ]


def _rows(found: pd.DataFrame, comparison: Comparison) -> dict[str, str]:
    """The measures that are drawn, and their labels: of the times to a target only that to the
    highest target that all runs of some setting reached; iterations where there are any."""
    drawn: dict[str, str] = {}
    for name, heading in results.measures(comparison).items():
        means = found.get(f"{name}_mean")
        if means is None or means.isna().all() or (name == "iterations" and not means.any()):
            continue
        if results.is_time(name):
            drawn = {key: text for key, text in drawn.items() if not results.is_time(key)}
            heading = f"seconds to {heading.removesuffix(': s')}"
        drawn[name] = heading
    return drawn


def _lines(comparison: Comparison, key: str) -> tuple[list[_Line], dict[float, str]]:
    """The lines over a key, by the values of the other keys, and the ticks of its axis: numbers at
    their own place, other values one after another."""
    assert comparison.sweep is not None
    others = [other for other in comparison.sweep.series if other != key]
    values = {s: value_at(comparison.configs[s], key) for s in comparison.sweep.series[key]}
    distinct = list({value_text(value): value for value in values.values()})
    if _numeric(values.values()):
        places = {setting: float(value) for setting, value in values.items()}
    else:
        places = {s: float(distinct.index(value_text(value))) for s, value in values.items()}
    labelled: dict[str, list[str]] = {}
    for setting in sorted(places, key=lambda setting: places[setting]):
        config = comparison.configs[setting]
        label = ", ".join(f"{short(k)} {value_text(value_at(config, k))}" for k in others)
        labelled.setdefault(label, []).append(setting)
    lines = [
        _Line(label if len(labelled) > 1 else "", own, [places[s] for s in own])
        for label, own in labelled.items()
    ]
    return lines, {places[setting]: value_text(value) for setting, value in values.items()}


def _numeric(values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _draw_measure(
    axis: Axes, runs: pd.DataFrame, found: pd.DataFrame, name: str, lines: list[_Line]
) -> None:
    """The lines of one measure, one for each prior where it depends on that; side by side, so that
    none hides another."""
    by_prior = name == "ssim_minmax" or results.is_time(name)
    priors = list(dict.fromkeys(found["prior"]))
    drawn = [
        (k, prior) for k in range(len(lines)) for prior in (priors if by_prior else priors[:1])
    ]
    places = [place for line in lines for place in line.places]
    for number, (k, prior) in enumerate(drawn):
        line = lines[k]
        colour = figures.COLOURS[(k if len(lines) > 1 else priors.index(prior)) % 6]
        if not by_prior and len(lines) == 1:
            colour = _GREY  # of no prior
        at = _beside(line.places, places, number - (len(drawn) - 1) / 2)
        own = found[found["prior"] == prior].set_index("setting").loc[line.settings]
        look: dict[str, Any] = {"ms": 4, "lw": 1.3, "capsize": 2.5, "elinewidth": 0.9}
        axis.errorbar(
            at,
            own[f"{name}_mean"],
            own[f"{name}_std"].fillna(0),
            ls=_PRIOR_STYLES.get(prior, "-") if by_prior else "-",
            marker=_MARKS[k % len(_MARKS)],
            color=colour,
            label=line.label if prior == priors[0] else None,
            **look,
        )
        here = runs[(runs["prior"] == prior) & runs["setting"].isin(line.settings)]
        x = here["setting"].map(dict(zip(line.settings, at, strict=True)))
        axis.plot(x, here[name], ".", color=colour, ms=5, alpha=0.45, mew=0)


def _beside(places: list[float], of_all: list[float], number: float) -> list[float]:
    """Places moved by a 70th of the axis, `number` times."""
    first, last = min(of_all), max(of_all)
    if _logarithmic(first, last):
        return [place * (last / first) ** (number / 70) for place in places]
    return [place + (last - first) * number / 70 for place in places]


def _logarithmic(first: float, last: float) -> bool:
    """Whether an axis between these values is: where they span a factor of 4."""
    return 0 < 4 * first <= last


def _scale(axis: Axes, ticks: dict[float, str]) -> None:
    """The values as ticks."""
    first, last = min(ticks), max(ticks)
    if _logarithmic(first, last):
        axis.set_xscale("log")
        margin = (last / first) ** 0.08
        axis.set_xlim(first / margin, last * margin)
    elif last > first:
        axis.set_xlim(first - 0.1 * (last - first), last + 0.1 * (last - first))
    axis.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(list(ticks), list(ticks.values()))


def samples(jobs: list[Job], comparison: Comparison, caption: str) -> Figure:
    """All samples, min-max scaled: a row for each setting and image, the ground truth first, and a
    column for each start and seed. A run that is missing is an empty frame."""
    arrays = {job.path.name: samples_of(job) for job in jobs}
    starts = list(dict.fromkeys(itertools.chain(*(starts_of(own) for own in arrays.values()))))
    columns = list(itertools.product(starts, comparison.seeds))
    rows: list[tuple[str, int, Arrays | None]] = []
    for setting in comparison.configs:
        of_seeds = (arrays.get(run_name(setting, seed)) for seed in comparison.seeds)
        known = next(filter(None, of_seeds), None)
        shown = min(len(known["images"]), figures.IMAGES_SHOWN) if known else 1
        rows += [(setting, i, known) for i in range(shown)]
    figure, axes = figures.grid(len(rows), 1 + len(columns), side=1.3)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height - 0.3 * (len(rows) - 1))  # only the first has titles
    for row, (setting, i, known) in zip(axes, rows, strict=True):
        _image(row[0], known["images"][i] if known else None)
        _name_row(row[0], _described(comparison, setting) if i == 0 else "")
        for axis, (start, seed) in zip(row[1:], columns, strict=True):
            own = arrays.get(run_name(setting, seed))
            key = starts_of(own).get(start) if own else None
            _image(axis, figures.minmax(own[key][i]) if own and key else None)
    titles = ["ground truth", *(f"{start},\nseed {seed}" for start, seed in columns)]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8, parse_math=False)
    add_caption(figure, f"{caption}. Min-max scaled")
    return figure


def _described(comparison: Comparison, setting: str) -> str:
    """The values of the keys that are varied, a line each; "base" where only the base config's own
    value of several keys could be meant."""
    assert comparison.sweep is not None
    series = comparison.sweep.series
    keys = [key for key, settings in series.items() if setting in settings]
    if setting == BASE and len({*series.values()}) > 1:
        return BASE
    config = comparison.configs[setting]
    lines = [f"{short(key)} {value_text(value_at(config, key))}" for key in keys]
    return "\n".join(textwrap.fill(line, 20) for line in lines)


def _name_row(axis: Axes, name: str) -> None:
    place: Any = {"textcoords": "offset points", "ha": "right", "va": "center", "rotation": 90}
    axis.annotate(name, (0, 0.5), (-5, 0), "axes fraction", fontsize=8, parse_math=False, **place)


def _image(axis: Axes, x: NDArray[Any] | None) -> None:
    """The image (c, h, w), or a frame that says that there is none."""
    if x is not None:
        figures.image(axis, x, "")
        return
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    axis.set_box_aspect(1)
    axis.text(0.5, 0.5, "missing", ha="center", va="center", fontsize=8, transform=axis.transAxes)
