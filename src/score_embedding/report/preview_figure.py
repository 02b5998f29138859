"""The figure of a preview of denoising: a detail at several strengths, and the noise curve."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from score_embedding.report import figures

COLUMNS = 3
WIDTH = 3.5  # inches of a panel, so that a pixel of the detail is several of the picture
CURVE, TITLE = 3.6, 0.3  # inches of the height of the plot of the noise, and of a title
THUMBNAIL = 500  # pixels along a side, at most about twice as many
_LINE = 95  # characters of a title above the plot
_CHANNELS = {"red": "#c23b3b", "green": "#2f8f4e", "blue": "#2066a8"}
_NOW = "#d1700d"


@dataclass(frozen=True)
class Panel:
    """The detail (c, h, w) at one strength; `now` marks the one that is set."""

    pixels: NDArray[Any]
    title: str
    now: bool = False


@dataclass(frozen=True)
class Whole:
    """The photograph (c, h, w), and the rows and columns of the detail in it."""

    pixels: NDArray[Any]
    rows: slice
    columns: slice


@dataclass(frozen=True)
class Curve:
    """The standard deviations of each channel (c, n) at n levels of brightness, in grey levels of
    255; `description` in words, `axis` what brightness is measured in."""

    brightness: NDArray[Any]
    deviations: NDArray[Any]
    description: str
    axis: str


def preview(heading: str, panels: Sequence[Panel], whole: Whole, curve: Curve) -> Figure:
    """The panels in rows of COLUMNS; below them the place of the detail, and the noise curve."""
    rows = -(-len(panels) // COLUMNS)
    _, h, w = panels[0].pixels.shape
    height = rows * (TITLE + WIDTH * min(max(h / w, 0.1), 2.0))
    with mpl.rc_context(figures.STYLE):
        size = COLUMNS * WIDTH, TITLE + height + CURVE
        figure = Figure(figsize=size, layout="constrained")
        parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[height, CURVE])
        above, below = parts[:, 0]
        axes = above.subplots(rows, COLUMNS, squeeze=False).flat
        for axis, panel in zip_longest(axes, panels):
            _draw_panel(axis, panel) if panel else axis.set_axis_off()
        left, right = below.subplots(1, 2, width_ratios=[1, COLUMNS - 1])
        _draw_whole(left, whole)
        _draw_curve(right, curve)
        figure.suptitle(heading, fontsize=10, parse_math=False)
    return figure


def _draw_panel(axis: Axes, panel: Panel) -> None:
    _draw_pixels(axis, panel.pixels, panel.title)
    if panel.now:
        axis.title.set(color=_NOW, fontweight="bold")
        for spine in axis.spines.values():
            spine.set(visible=True, color=_NOW, linewidth=3)


def _draw_whole(axis: Axes, whole: Whole) -> None:
    _, h, w = whole.pixels.shape
    step = max(1, max(h, w) // THUMBNAIL)
    _draw_pixels(axis, whole.pixels[:, ::step, ::step], "")
    rows, columns = whole.rows, whole.columns
    if (rows.stop - rows.start, columns.stop - columns.start) == (h, w):
        axis.set_title("the whole photograph is shown", fontsize=8)
        return
    axis.set_title("the place of the detail", fontsize=8)
    corner = columns.start / step, rows.start / step
    size = (columns.stop - columns.start) / step, (rows.stop - rows.start) / step
    axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=_NOW, linewidth=2))


def _draw_pixels(axis: Axes, pixels: NDArray[Any], title: str) -> None:
    figures.image(axis, pixels, title)
    axis.images[0].set_interpolation("nearest")
    axis.grid(False)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _draw_curve(axis: Axes, curve: Curve) -> None:
    """A line for each channel, or one where they are about equal."""
    deviations = curve.deviations
    if len(deviations) == len(_CHANNELS) and np.ptp(deviations, axis=0).max() > 0.1:
        for (name, colour), deviation in zip(_CHANNELS.items(), deviations, strict=True):
            axis.plot(curve.brightness, deviation, color=colour, label=name)
        axis.legend()
    else:  # in full where it is 0, too
        mean = deviations.mean(axis=0)
        axis.plot(curve.brightness, mean, color=figures.COLOURS[0], lw=2, clip_on=False, zorder=3)
    axis.set_xlim(curve.brightness[0], curve.brightness[-1])
    axis.set_ylim(0, 1.25 * float(deviations.max()) or 1)
    axis.set_xlabel(curve.axis)
    axis.set_ylabel("standard deviation of the noise\n(grey levels of 255)")
    axis.set_title(textwrap.fill(curve.description, _LINE), fontsize=8)
