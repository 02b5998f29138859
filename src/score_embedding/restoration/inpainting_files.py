"""Inpainting of photograph files: what the command inpaint does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_embedding import progress
from score_embedding.errors import DataError, DivergenceError
from score_embedding.restoration import before_after, file_pages, inpainting, models, places
from score_embedding.restoration.models import Denoiser
from score_embedding.restoration.photographs import writing
from score_embedding.restoration.photographs.known import known_pixels
from score_embedding.restoration.photographs.photograph import Mask, Photograph
from score_embedding.restoration.photographs.reading import Source
from score_embedding.restoration.places import Given

log = logging.getLogger(__name__)

HOLE_COLOUR = [1.0, 0.0, 1.0]  # of missing pixels in the before/after picture


def inpaint(
    path: Path,
    mask: Path,
    model: str,
    device: torch.device,
    out: Path | None = None,
    overwrite: bool = False,
    page: int | None = None,
) -> Path:
    """Fill in the pixels of a photograph where the mask is light and not transparent, into a file
    of its name with INPAINTED appended, in a lossless format; returns that file. All other pixels
    stay bit for bit, and what is filled becomes opaque; with a mask that is dark everywhere the
    file is a copy.

    Of several pages all are filled in, or the one numbered `page`, from 1: where the mask has as
    many pages, by the page of the same number, otherwise by the only one.

    Raises
    ------
    DataError : files that cannot be read, a mask of another size, of another number of pages or
        without a dark pixel.
    RunFolderError, LimitError : as in `denoise`.
    """
    known = models.resolve(model, device)
    with ExitStack() as stack:
        source, drawn = (stack.enter_context(file_pages.opened(each)) for each in (path, mask))
        chosen = file_pages.chosen(source, page)
        holes = _Holes(source, drawn, model, device)
        shares = [holes.checked_share(index, known) for index in chosen]
        share = 100 * sum(shares) / len(shares)
        copied = not any(shares) and len(chosen) == source.count
        ending = writing.ending_for(source.ending, source.kind, lossless=True)
        suffix = file_pages.suffix(source, page) + places.INPAINTED
        given = Given(path, False, path.stem)
        target = given.result(suffix, path.suffix if copied else ending, out)
        places.check_free([target, before_after.path_of(target)], [path, mask], overwrite)
        file_pages.make_folder(target.parent)
        if known.caution:
            log.warning("warning: %s", known.caution)
        log.info(
            "%s: %s%s, %.1f %% of it missing; model %s",
            path,
            f"{len(chosen)} pages, the first " if len(chosen) > 1 else "",
            file_pages.size(holes.photograph(chosen[0])),
            share,
            model,
        )
        file_pages.log_unread(source)
        pages = _Pages(holes, chosen, known)
        if copied:
            log.info("%s: all dark, nothing is missing", mask)
            next(iter(pages))
            file_pages.copy(path, target)
        else:
            file_pages.write(pages, source, chosen, target)
    labels = (f"{path.name}, {share:.1f} % missing", f"filled in, model {model}")
    before_after.draw(*pages.shown, target, labels)
    return target


class _Holes:
    """The pages of a photograph and where they are missing."""

    def __init__(self, source: Source, mask: Source, model: str, device: torch.device):
        self.source, self._mask, self._model, self.device = source, mask, model, device
        if mask.count not in (1, source.count):
            raise DataError(
                f"{mask.path}: {mask.count} pages, of {source.count} of the photograph; 1, or as "
                f"many, are needed"
            )

    def photograph(self, index: int) -> Photograph:
        return file_pages.read(self.source, index, self._model, self.device)

    def missing(self, index: int) -> Tensor:
        """Where a page is missing, (h, w)."""
        place = index if self._mask.count > 1 else 0
        drawn = file_pages.read(self._mask, place, self._model, self.device)
        if not np.isfinite(drawn.colour).all():
            raise DataError(f"{self._mask.path}: holds pixels that are NaN or infinite")
        missing = (drawn.pixels > drawn.pixels.max() / 2).any(dim=0)  # so that 0 and 1 are a mask
        if drawn.alpha is not None:
            missing &= torch.from_numpy(drawn.alpha > 0)
        return missing

    def checked_share(self, index: int, model: Denoiser) -> float:
        """Which part of a page is missing. Raises DataError where it cannot be filled in."""
        found, missing = self.photograph(index), self.missing(index)
        for part in found.parts:
            model.check_channels(part.stop - part.start)
        try:
            inpainting.check_mask(missing, found.colour.shape[:2])
        except ValueError as error:
            raise DataError(f"{self._mask.path}: {error}") from None
        if not _known(found, missing).any():
            raise DataError(f"{self.source.path}: no pixel that is not masked is finite")
        return float(missing.float().mean())


class _Pages:
    """The pages of a file, filled in one after the other.

    Attributes
    ----------
    shown : the first page with a hole, or else the first, before and after, (c, h, w) in [0, 1].
    """

    def __init__(self, holes: _Holes, pages: range, model: Denoiser):
        self._holes, self._pages, self._model = holes, pages, model
        self.shown: tuple[Tensor, Tensor]
        self._shows_a_hole = False

    def __iter__(self) -> Iterator[Photograph]:
        with progress.stage("inpainting", total=len(self._pages), least=2) as stage:
            for index in self._pages:
                found, missing = self._holes.photograph(index), self._holes.missing(index)
                known = _known(found, missing)
                units: list[Tensor | None] = [None] * len(found.parts)
                if missing.any():
                    for i, part in enumerate(found.parts):
                        x = found.unit(part, known).to(self._holes.device)
                        units[i] = _filled(x, missing, self._model)
                self._show(found, missing, units[0])
                stage.update()
                try:
                    result = found.with_units(units, known, missing.numpy())
                except DivergenceError as error:
                    raise DivergenceError(f"{self._holes.source.path}: {error}") from None
                yield result.made_opaque(missing.numpy())

    def _show(self, found: Photograph, missing: Tensor, filled: Tensor | None) -> None:
        if self._shows_a_hole or (filled is None and hasattr(self, "shown")):
            return
        before = found.unit(found.parts[0], _known(found, missing))
        colour = HOLE_COLOUR if len(before) == 3 else [0.5]
        hole = torch.tensor(colour, dtype=torch.float32, device="cpu")[:, None, None]
        hidden = torch.where(missing, hole, before)
        self.shown = hidden, before if filled is None else filled
        self._shows_a_hole = filled is not None


def _known(found: Photograph, missing: Tensor) -> Mask:
    """The pixels that are neither missing nor without data."""
    present = ~missing.numpy()
    known = known_pixels(found, present)
    return present if known is None else known


def _filled(x: Tensor, missing: Tensor, model: Denoiser) -> Tensor:
    """All that this module needs of the algorithm."""
    return inpainting.filled(x, missing.to(x.device), model).cpu()
