"""The picture of before and after that accompanies a result, and never costs it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from torch import Tensor

from score_embedding import atomic_files

log = logging.getLogger(__name__)

SUFFIX = "_before_after"


def path_of(target: Path) -> Path:
    """Of the picture beside a result."""
    return target.with_name(f"{target.stem}{SUFFIX}.png")


def draw(before: Tensor, after: Tensor, target: Path, labels: tuple[str, str]) -> None:
    """Draw two states of a photograph (c, h, w) beside the result `target`, which is written
    already. A picture that cannot be drawn is logged as a warning."""
    place = path_of(target)
    try:
        # Here, since an MPLBACKEND that matplotlib does not know makes its import fail.
        from score_embedding.report import before_after_figure, figures

        shown = (printable(labels[0]), printable(labels[1]))
        with atomic_files.replacing(place) as partial:
            figure = before_after_figure.before_after(before.numpy(), after.numpy(), shown)
            figures.save(figure, partial)
    except Exception as error:
        log.warning("warning: %s: the before/after picture could not be drawn (%s)", place, error)


def printable(text: str) -> str:
    """Text that may hold bytes of a file name that are not UTF-8, for a figure."""
    return os.fsencode(text).decode("utf-8", "replace")
