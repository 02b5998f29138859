"""The pictures beside the arrays of a run folder. None of them ever costs the result that it shows:
one that cannot be drawn is named in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from score_embedding import atomic_files
from score_embedding.report import figures, sheets
from score_embedding.report.figures import Arrays
from score_embedding.runs import folder as run_folder

log = logging.getLogger(__name__)

# By the file with the arrays: the picture, and how it is drawn.
PICTURES: dict[str, tuple[str, Callable[[Arrays], Figure]]] = {
    run_folder.SCORES: (run_folder.SCORES_PICTURE, figures.solution),
    run_folder.SAMPLES: (run_folder.SAMPLE_PICTURE, sheets.samples),
    run_folder.DENOISED: (run_folder.DENOISED_PICTURE, figures.denoised),
}


def write(folder: Path, name: str) -> None:
    """The picture of one of the files of arrays."""
    picture, draw = PICTURES[name]
    save(folder / picture, lambda: draw(atomic_files.read_arrays(folder / name)))


def save(path: Path, draw: Callable[[], Figure]) -> None:
    """Draw a figure and write it as PNG; a failure is a warning in the log."""
    try:
        with atomic_files.replacing(path) as partial:
            figures.save(draw(), partial)
    except Exception as error:  # whatever matplotlib raises
        log.warning("%s: not drawn (%s: %s)", path, type(error).__name__, error)
