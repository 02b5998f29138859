"""Opening a file of photographs: tifffile, Pillow or rawpy, by what the file is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from score_embedding.data import image_files
from score_embedding.errors import DataError
from score_embedding.restoration.photographs import pillow_reading, raw, tiff_reading, writing
from score_embedding.restoration.photographs.photograph import Photograph

Kind = writing.Kind


@dataclass(frozen=True)
class Source:
    """A file of photographs, open.

    Attributes
    ----------
    path : of the file.
    kind : one photograph; several pages, as of a TIFF; or the frames of an animation.
    count : pages or frames.
    further : images that are read only when asked for by number, such as the preview of a JPEG.
    left_out : previews and masks of the pages, which are not read.
    lost_tags : TIFF tags that cannot be kept.
    shape : channels without alpha (1 or 3), height and width of a page before its orientation is
        applied, by its header.
    read : a page, counted from 0. Raises DataError for pixels that are damaged.
    ending : of a result, which can hold all that the file holds.
    plays : how often an animation is played, 0 for ever.
    starts_with_still : whether the first frame is not one of the animation.
    """

    path: Path
    kind: Kind
    count: int
    further: int
    shape: Callable[[int], tuple[int, int, int]]
    read: Callable[[int], Photograph]
    ending: str
    plays: int = 0
    starts_with_still: bool = False
    left_out: int = 0
    lost_tags: tuple[int, ...] = ()


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """A file that tifffile, Pillow or rawpy reads.

    Raises
    ------
    DataError : a file that is missing, empty, truncated or not an image.
    """
    image_files.check_file(path)
    with ExitStack() as stack:
        with image_files.damage_named(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large pictures and of damaged tags
            source = _source(path, stack)
        yield source


def read(path: Path, page: int = 0) -> Photograph:
    """One page of a file, counted from 0. Errors as `opened` and `Source.read`."""
    with opened(path) as source:
        return source.read(page)


def _source(path: Path, stack: ExitStack) -> Source:
    if raw.is_raw(path):
        file = raw.RawFile(path)
        return _checked(path, "single", 1, lambda _: file.shape(), lambda _: file.read(), True)
    pages = stack.enter_context(tiff_reading.opened(path))
    if pages is not None:
        return _tiff(path, pages)
    frames = stack.enter_context(pillow_reading.frames(path))
    if frames is not None:
        return replace(
            _checked(path, "frames", len(frames), lambda _: frames.shape, frames.read, False),
            plays=frames.plays,
            starts_with_still=frames.starts_with_still,
        )
    return _by_pillow(path)


def _tiff(path: Path, pages: tiff_reading.TiffPages) -> Source:
    """By tifffile, and by Pillow those pages that tifffile does not read."""

    def shape(index: int) -> tuple[int, int, int]:
        if pages.readable(index):
            return pages.shape(index)
        return image_files.shape_of(path, pages.place(index))

    def read(index: int) -> Photograph:
        reason = ""
        if pages.readable(index):
            try:
                return pages.read(index)
            except MemoryError:
                raise
            except Exception as error:  # a damaged file can raise nearly anything
                reason = str(error)
        try:
            return pages.with_origin(pillow_reading.read(path, pages.place(index)), index)
        except DataError as error:
            if "imagecodecs" in reason:
                raise DataError(f"{error}; or: {reason} (pip install imagecodecs)") from None
            raise

    count = len(pages)
    only_tiff = any(pages.fits_only_tiff(index) for index in range(count))
    kind: Kind = "pages" if count > 1 else "single"
    found = _checked(path, kind, count, shape, read, only_tiff)
    return replace(found, left_out=pages.left_out, lost_tags=tuple(pages.lost_tags))


def _by_pillow(path: Path) -> Source:
    with image_files.opened(path) as opened:
        images, only_tiff = getattr(opened, "n_frames", 1), opened.mode == "F"
    return replace(
        _checked(
            path,
            "single",
            1,
            lambda index: image_files.shape_of(path, index),
            lambda index: pillow_reading.read(path, index),
            only_tiff,
        ),
        further=images - 1,
    )


def _checked(
    path: Path,
    kind: Kind,
    count: int,
    shape: Callable[[int], tuple[int, int, int]],
    read: Callable[[int], Photograph],
    only_tiff: bool,
) -> Source:
    """A source whose errors name the file."""

    def checked_shape(index: int) -> tuple[int, int, int]:
        with image_files.damage_named(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return shape(index)

    def checked(index: int) -> Photograph:
        try:
            with image_files.damage_named(path):
                return read(index)
        except MemoryError:
            raise DataError(f"{path}: too large for the memory that is free") from None

    ending = writing.ending_for(path.suffix, several=kind, only_tiff=only_tiff)
    return Source(path, kind, count, 0, checked_shape, checked, ending)
