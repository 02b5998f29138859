"""Pages of photograph files: which of them, whether memory holds them, and how they are written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from score_embedding import atomic_files
from score_embedding.data import image_files
from score_embedding.errors import DataError, LimitError, RunFolderError
from score_embedding.restoration import models
from score_embedding.restoration.photographs import reading, writing
from score_embedding.restoration.photographs.photograph import Photograph
from score_embedding.restoration.photographs.reading import Source
from score_embedding.runs import resources

log = logging.getLogger(__name__)

# Upper bounds of the memory that a photograph takes:
_COPIES = 12  # of it in float32 at the same time
_PLANES = 18  # channels in addition, for the stationary density of a run folder
_WORK = 2**28  # bytes in addition, for a strip of windows and the fit


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """As `reading.opened`, of any number of pixels: `read` compares it with the free memory."""
    with image_files.of_any_size(), reading.opened(path) as source:
        yield source


def chosen(source: Source, page: int | None) -> range:
    """The positions, from 0, of all pages or of the one numbered `page`, from 1. Raises DataError
    where there is no such page."""
    if page is None:
        return range(source.count)
    available = source.count + source.further
    if not 1 <= page <= available:
        has = "1 page" if available == 1 else f"pages 1 to {available}"
        raise DataError(f"{source.path}: --page {page}: it has {has}")
    return range(page - 1, page)


def suffix(source: Source, page: int | None) -> str:
    """What the name of a result says of a single page of several."""
    return "" if page is None or source.count + source.further == 1 else f"_page{page}"


def read(source: Source, index: int, model: str, device: torch.device) -> Photograph:
    """A page, if by its header there is memory for what `model` needs for it."""
    c, h, w = source.shape(index)
    planes = _COPIES * c + (0 if model in models.OF_MIXTURES else _PLANES)
    needed, free = _WORK + 4 * planes * h * w, resources.free_memory(device)
    if needed > free:
        raise LimitError(
            f"{source.path}: needs about {resources.readable(needed)} of memory ({device}), and "
            f"{resources.readable(free)} are free; a part of the photograph needs less"
        )
    return source.read(index)


def write(results: Iterable[Photograph], source: Source, pages: range, target: Path) -> None:
    """The results of the chosen pages of a file: all pages in one file, frames as an animation.
    Errors as `writing.write`."""
    if len(pages) == 1:
        (only,) = results
        alone = only.tiff.alone() if only.tiff is not None and source.count > 1 else only.tiff
        writing.write(only.with_origin(alone), target)
    elif source.kind == "frames":
        writing.write_frames(results, target, source.plays, source.starts_with_still)
    else:
        writing.write_pages(results, len(pages), target)


def copy(path: Path, target: Path) -> None:
    """A file whose pixels stay, bit for bit. Raises RunFolderError where it cannot be written."""
    with atomic_files.replacing(target) as partial:
        shutil.copyfile(path, partial)


def make_folder(folder: Path) -> None:
    """A folder to write into. Raises RunFolderError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be created ({error.strerror})") from None


def log_unread(source: Source) -> None:
    """Log which images of a file are not read."""
    if source.further:
        log.info(
            "%s: the first of its %d pictures; --page N takes another",
            source.path,
            source.count + source.further,
        )
    if source.left_out:
        log.info("%s: previews or masks in it (%d) are left out", source.path, source.left_out)
    if source.lost_tags:
        codes = ", ".join(map(str, source.lost_tags))
        log.info("%s: not kept: TIFF tags that point to places in it (%s)", source.path, codes)


def size(found: Photograph) -> str:
    """Size, channels and depth of a photograph, for messages."""
    h, w, c = found.colour.shape
    kind = "colour" if found.colours == 3 else "grey"
    bands = f", {c - found.colours} further band(s)" if c > found.colours else ""
    alpha = ", with alpha" if found.alpha is not None else ""
    of = " floating point" if found.colour.dtype.kind == "f" else ""
    return f"{w} x {h} pixels, {kind}{bands}{alpha}, {found.depth} bit{of}"
