"""A sheet of samples that are compared with no image: those of each class in a row of their own."""

from __future__ import annotations

import json

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from score_embedding.report import figures
from score_embedding.report.figures import Arrays, how_sampled

COLUMNS = 12  # samples in a row
ROWS = 6  # of samples of one class, or of none
_GAP = 1  # pixels between two samples


def samples(arrays: Arrays) -> Figure:
    """The samples: beside their ground truth where they have one, else as a sheet."""
    return figures.samples(arrays) if len(arrays["truth"]) else sheet(arrays)


def sheet(arrays: Arrays) -> Figure:
    """The first samples, clipped to [0, 1], of each class in one row, named."""
    description, x = json.loads(str(arrays["description"])), arrays["samples"]
    rows = _by_class(arrays.get("labels", np.zeros(0, int)), description.get("class_names", []))
    shown = rows or {str(i): np.arange(COLUMNS) + COLUMNS * i for i in range(ROWS)}
    shown = {name: places[places < len(x)] for name, places in shown.items()}
    columns = max(len(places) for places in shown.values())
    strips = {name: _strip(x[places], columns) for name, places in shown.items() if len(places)}
    height, width = next(iter(strips.values())).shape[1:]
    inches = min(7.2, 0.9 * columns)
    each = inches * height / width + (0.22 if rows else 0.05)
    figure = Figure(figsize=(inches, each * len(strips) + 0.4), layout="constrained")
    axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for axis, (name, strip) in zip(axes, strips.items(), strict=True):
        axis.set_axis_off()
        figures.image(axis, strip, name if rows else "")
    of = f"{sum(map(len, shown.values()))} of {len(x)} samples, clipped; "
    figure.suptitle(f"{of}{how_sampled(description)}", fontsize=9)
    return figure


def _by_class(labels: NDArray[np.int64], names: list[str]) -> dict[str, NDArray[np.int64]]:
    """The places of the first samples of each class, by its name; none where there is one row."""
    found = [*names, "no class"]
    rows = {found[k]: np.flatnonzero(labels == k)[:COLUMNS] for k in np.unique(labels)}
    return rows if set(rows) - {"no class"} else {}


def _strip(x: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Images (b, c, h, w) side by side, (c, h, width); white where there are fewer than columns."""
    _, c, h, w = x.shape
    strip = np.ones((c, h, columns * (w + _GAP) - _GAP), np.float32)
    for i, image in enumerate(x):
        strip[:, :, i * (w + _GAP) : i * (w + _GAP) + w] = image
    return strip
