"""The figure of a photograph before and after."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from score_embedding.report import figures

DETAIL = 128  # pixels along a side of what is enlarged


def before_after(before: NDArray[Any], after: NDArray[Any], labels: tuple[str, str]) -> Figure:
    """Two states of a photograph (c, h, w) side by side, and below them what is in their middle,
    enlarged."""
    _, h, w = before.shape
    side = max(1, min(h // 2, w // 2, DETAIL))
    middle = np.s_[:, (h - side) // 2 : (h + side) // 2, (w - side) // 2 : (w + side) // 2]
    width = 4.0
    height = width * min(max(h / w, 0.25), 2.5)
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(2 * width, height + width + 0.8), layout="constrained")
        axes = figure.subplots(2, 2, height_ratios=[height, width])
    for column, (pixels, label) in enumerate(zip((before, after), labels, strict=True)):
        step = math.ceil(max(h, w) / 1600)  # as many pixels as the picture can show
        figures.image(axes[0][column], pixels[:, ::step, ::step], label)
        figures.image(axes[1][column], pixels[middle], f"the middle {side} x {side} pixels")
    for axis in axes.flat:
        axis.grid(False)
        axis.set_axis_off()
    return figure
