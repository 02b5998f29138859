"""Denoising of photograph files: what the command denoise does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from torch import Tensor

from score_embedding import progress
from score_embedding.errors import DivergenceError
from score_embedding.restoration import before_after, denoising, file_pages
from score_embedding.restoration.denoising_batch import Batch, Job, Options
from score_embedding.restoration.models import Denoiser
from score_embedding.restoration.noise import Noise
from score_embedding.restoration.photographs.photograph import Mask, Photograph
from score_embedding.restoration.photographs.reading import Source
from score_embedding.restoration.photographs.scale import Scale

log = logging.getLogger(__name__)


def denoise(
    paths: Sequence[Path],
    options: Options,
    out: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> Iterator[Path]:
    """Denoise each photograph, and those in each folder, into a file of its name with DENOISED
    appended, beside it or in the folder `out`, and draw a picture of before and after; gives each
    file when it is written. With `skip_existing` those whose result exists are left out.

    Nothing is written, nor `out` created, before all photographs have been checked. One in a folder
    that cannot be denoised is left out. A picture that cannot be drawn is logged as a warning: it
    never costs the result.

    Raises
    ------
    DataError : files that cannot be read, all of them named; a sigma or model that cannot be.
    RunFolderError : a file that exists already, without `overwrite`; a place without permission.
    LimitError : a photograph that does not fit into memory.
    IncompleteError : in the end, where photographs in a folder were left out.
    Interrupted : by a signal; what is finished stays.
    """
    batch = Batch.checked(paths, options, out, skip_existing)
    targets = [job.target for job in batch.jobs]
    batch.claim([*targets, *map(before_after.path_of, targets)], overwrite)
    pages = sum(len(job.pages) for job in batch.jobs)
    with progress.stage("denoising", total=pages, least=2) as stage:
        for job in batch.jobs:
            with batch.guarded(job):
                position = batch.position(job)
                before, after, labels = _denoise_file(job, options, batch.model, position, stage)
                batch.done += 1
                yield job.target
                before_after.draw(before, after, job.target, labels)
    batch.end()


def _denoise_file(
    job: Job, options: Options, model: Denoiser, position: str, stage: progress.Stage
) -> tuple[Tensor, Tensor, tuple[str, str]]:
    """Gives the first page before and after, (c, h, w), and what to write above them."""
    path, target = job.given.path, job.target
    with file_pages.opened(path) as source:
        pages = _Pages(source, job.pages, options, model, position, stage)
        results = iter(pages)
        first = next(results)
        whole = len(job.pages) == source.count and target.suffix == path.suffix
        alone = source.count == 1 or options.noise.sigma == 0 or options.noise.strength == 0
        unchanged = alone and not any(options.noise.strength * level for level in pages.levels)
        if whole and unchanged:
            file_pages.copy(path, target)
            stage.update(source.count - 1)
        else:
            file_pages.write(chain([first], results), source, job.pages, target)
    pages.log_levels()
    strength = "" if options.noise.strength == 1 else f", strength {options.noise.strength:g}"
    how = f"noise {pages.levels[0]:.3g} ({options.noise.source}){strength}"
    name = f"{path.name}{file_pages.suffix(source, options.page).replace('_', ', ')}"
    labels = (f"{name}, {how}", f"model {options.model}, {options.mode}")
    return (*pages.first, labels)


class _Pages:
    """The pages of a file, denoised one after the other.

    Attributes
    ----------
    levels : of noise of each part of the pages so far, white being 1, before the factor `strength`.
    first : the first page before and after, (c, h, w) in [0, 1].
    """

    def __init__(
        self,
        source: Source,
        pages: range,
        options: Options,
        model: Denoiser,
        position: str,
        stage: progress.Stage,
    ):
        self._source, self._pages, self._options = source, pages, options
        self._model, self._position, self._stage = model, position, stage
        self.levels: list[float] = []
        self.first: tuple[Tensor, Tensor]

    def __iter__(self) -> Iterator[Photograph]:
        options = self._options
        for index in self._pages:
            self._stage.to(self._stage.done, self._source.path.name)
            found = file_pages.read(self._source, index, options.model, options.device)
            units: list[Tensor | None] = []
            known = options.noise.known(found)
            for part in found.parts:
                x, scale = found.unit(part, known).to(options.device), found.scale(part, known)
                noise = options.noise.of(x, scale)
                self.levels.append(scale.file_sigma(noise.level))
                if len(self.levels) == 1:
                    self._log_first(found, scale, known, noise)
                noise = noise.times(options.noise.strength)
                with progress.whole(self._source.path.name):
                    units.append(_denoised(x, noise, options, self._model) if noise.level else None)
                if len(self.levels) == 1:
                    before = x.cpu()
                    self.first = before, before if units[0] is None else units[0]
            self._stage.to(self._stage.done + 1, self._source.path.name)
            yield self._named(partial(found.with_units, units, known, known))

    def log_levels(self) -> None:
        """Log the noise of several pages, where it differs."""
        least, most = min(self.levels), max(self.levels)
        if least < most:
            log.info(
                "%s: noise of all pages and bands %.4g to %.4g", self._source.path, least, most
            )

    def _named(self, changed: Callable[[], Photograph]) -> Photograph:
        try:
            return changed()
        except DivergenceError as error:
            raise DivergenceError(f"{self._source.path}: {error}") from None

    def _log_first(self, found: Photograph, scale: Scale, known: Mask | None, noise: Noise) -> None:
        path = self._source.path
        count = f"{len(self._pages)} pages, the first " if len(self._pages) > 1 else ""
        log.info(
            "%s%s: %s%s; noise %s; model %s",
            path,
            self._position,
            count,
            file_pages.size(found),
            self._options.noise.described(noise, scale),
            self._options.model,
        )
        file_pages.log_unread(self._source)
        if known is not None:
            share = 100 * (1 - known.mean())
            log.info("%s: %.2g %% of it hold no data, such as NaN, and are kept", path, share)


def _denoised(x: Tensor, noise: Noise, options: Options, model: Denoiser) -> Tensor:
    return denoising.clean(x, noise, model, options.mode).cpu()
