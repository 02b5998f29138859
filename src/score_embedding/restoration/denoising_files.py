"""Denoising of photograph files: what the command denoise does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from score_embedding import progress
from score_embedding.errors import (
    DataError,
    DivergenceError,
    IncompleteError,
    Interrupted,
    LimitError,
)
from score_embedding.restoration import (
    before_after,
    denoising,
    file_pages,
    models,
    noise_given,
    places,
)
from score_embedding.restoration.denoising import Mode
from score_embedding.restoration.models import Denoiser
from score_embedding.restoration.noise import Noise
from score_embedding.restoration.noise_given import Kind
from score_embedding.restoration.photographs.known import known_pixels
from score_embedding.restoration.photographs.photograph import Mask, Photograph
from score_embedding.restoration.photographs.reading import Source
from score_embedding.restoration.photographs.scale import Scale
from score_embedding.restoration.places import Given

log = logging.getLogger(__name__)

# The others are filled in without noise, and the noise is estimated by a median.
_LEAST_KNOWN = 0.75


@dataclass(frozen=True)
class Options:
    """How to denoise: sigma (None: estimated), model, mode, device, noise and strength as in
    denoising.denoise, but of floating-point files, sigma is in the unit of their values; of files
    with several pages all are denoised, or the one numbered `page`, from 1."""

    sigma: float | None
    model: str
    mode: Mode
    device: torch.device
    page: int | None = None
    noise: Kind = "auto"
    strength: float = 1.0


@dataclass(frozen=True)
class _Job:
    """A photograph that has been checked, the place of its result and the pages to denoise."""

    given: Given
    target: Path
    pages: range  # from 0


def denoise(
    paths: Sequence[Path], options: Options, out: Path | None = None, overwrite: bool = False
) -> Iterator[Path]:
    """Denoise each photograph, and those in each folder, into a file of its name with DENOISED
    appended, beside it or in the folder `out`, and draw a picture of before and after; gives each
    file when it is written.

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
    _check_sigma(options.sigma)
    model = models.resolve(options.model, options.device)
    jobs, skipped = _planned(places.photographs_of(paths), options, model, out)
    targets = [job.target for job in jobs]
    places.check_free(targets, [job.given.path for job in jobs], overwrite)
    for folder in {target.parent for target in targets}:
        file_pages.make_folder(folder)
    if model.caution:
        log.warning("warning: %s", model.caution)
    done, pages = 0, sum(len(job.pages) for job in jobs)
    with progress.stage("denoising", total=pages, least=2) as stage:
        for number, job in enumerate(jobs, start=1):
            position = f" ({number} of {len(jobs)})" if len(jobs) > 1 else ""
            try:
                before, after, labels = _denoise_file(job, options, model, position, stage)
                done += 1
                yield job.target
                before_after.draw(before, after, job.target, labels)
            except (DataError, LimitError, DivergenceError) as error:
                if not job.given.of_folder:
                    raise
                skipped.append(str(error))
            except Interrupted as stop:
                if len(jobs) > 1:
                    stop.add_note(f"{done} of {len(jobs)} photographs are denoised")
                raise
    if skipped:
        listed = "\n".join(skipped)
        raise IncompleteError(f"denoised {done} photographs, skipped {len(skipped)}:\n{listed}")


def _planned(
    given: list[Given], options: Options, model: Denoiser, out: Path | None
) -> tuple[list[_Job], list[str]]:
    """What to denoise, and what is wrong with files in folders. Raises DataError with what is wrong
    with files that are named, or where nothing is left to denoise."""
    jobs: list[_Job] = []
    skipped: list[str] = []
    problems: list[str] = []
    with progress.stage("checking", total=len(given), least=2) as stage:
        for photograph in given:
            try:
                jobs.append(_checked(photograph, options, model, out))
            except DataError as error:
                (skipped if photograph.of_folder else problems).append(str(error))
            except LimitError as error:
                if not photograph.of_folder:
                    raise
                skipped.append(str(error))
            stage.update()
    if problems or not jobs:
        raise DataError("\n".join(problems or skipped))
    return jobs, skipped


def _checked(given: Given, options: Options, model: Denoiser, out: Path | None) -> _Job:
    """Raises DataError where the photograph cannot be denoised with these options."""
    path = given.path
    with file_pages.opened(path) as source:
        pages = file_pages.chosen(source, options.page)
        suffix = file_pages.suffix(source, options.page) + places.DENOISED
        job = _Job(given, given.result(suffix, source.ending, out), pages)
        for index in pages:
            found = file_pages.read(source, index, options.model, options.device)
            try:
                known = _known(found, options)
                for part in found.parts:
                    model.check_channels(part.stop - part.start)
                    _check_noise(part.stop - part.start, found, found.scale(part, known), options)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
    return job


def _denoise_file(
    job: _Job, options: Options, model: Denoiser, position: str, stage: progress.Stage
) -> tuple[Tensor, Tensor, tuple[str, str]]:
    """Gives the first page before and after, (c, h, w), and what to write above them."""
    path, target = job.given.path, job.target
    with file_pages.opened(path) as source:
        pages = _Pages(source, job.pages, options, model, position, stage)
        results = iter(pages)
        first = next(results)
        whole = len(job.pages) == source.count and target.suffix == path.suffix
        unchanged = not any(pages.levels) and (source.count == 1 or options.sigma == 0)
        if whole and unchanged:
            file_pages.copy(path, target)
            stage.update(source.count - 1)
        else:
            file_pages.write(chain([first], results), source, job.pages, target)
    pages.log_levels()
    how = f"noise {pages.levels[0]:.3g} ({_how(options)})"
    name = f"{path.name}{file_pages.suffix(source, options.page).replace('_', ', ')}"
    labels = (f"{name}, {how}", f"model {options.model}, {options.mode}")
    return (*pages.first, labels)


class _Pages:
    """The pages of a file, denoised one after the other.

    Attributes
    ----------
    levels : of noise of each part of the pages so far, white being 1.
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
            found = file_pages.read(self._source, index, options.model, options.device)
            units: list[Tensor | None] = []
            known = _known(found, options)
            for part in found.parts:
                x, scale = found.unit(part, known).to(options.device), found.scale(part, known)
                noise = _noise(x, scale, options)
                self.levels.append(scale.file_sigma(noise.level))
                if len(self.levels) == 1:
                    self._log_first(found, scale, known, noise)
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
        path, level = self._source.path, self.levels[0]
        count = f"{len(self._pages)} pages, the first " if len(self._pages) > 1 else ""
        log.info(
            "%s%s: %s%s; noise %s, %s; model %s",
            path,
            self._position,
            count,
            file_pages.size(found),
            f"{level:.4g}" if scale.has_own_unit else f"{level:.4f} ({noise.described()})",
            _how(self._options),
            self._options.model,
        )
        file_pages.log_unread(self._source)
        if known is not None:
            share = 100 * (1 - known.mean())
            log.info("%s: %.2g %% of it hold no data, such as NaN, and are kept", path, share)


def _known(found: Photograph, options: Options) -> Mask | None:
    """The pixels that hold data; None: all. Raises DataError where they are too few."""
    known = known_pixels(found)
    if known is not None and not known.any():
        raise DataError("holds no pixel that is finite")
    if known is not None and options.sigma is None and known.mean() < _LEAST_KNOWN:
        raise DataError(
            f"{100 * (1 - known.mean()):.0f} % of its pixels hold no data, such as NaN: too many "
            f"for its noise to be estimated (--sigma VALUE)"
        )
    return known


def _denoised(x: Tensor, noise: Noise, options: Options, model: Denoiser) -> Tensor:
    return denoising.clean(x, noise, model, options.mode).cpu()


def _noise(x: Tensor, scale: Scale, options: Options) -> Noise:
    """The noise of x in [0, 1], given or estimated. Raises DataError where it cannot be."""
    with _sigma_named(scale, options) as given:
        return noise_given.noise_of(x, given, options.noise, options.strength)


def _check_noise(channels: int, found: Photograph, scale: Scale, options: Options) -> None:
    """As `_noise`, without estimating it: that is done when the photograph is denoised."""
    with _sigma_named(scale, options) as given:
        noise_given.check((channels, *found.colour.shape[:2]), given, options.noise)


@contextmanager
def _sigma_named(scale: Scale, options: Options) -> Iterator[float | None]:
    """The given sigma where white is at 1; errors about it become those of the user."""
    try:
        yield None if options.sigma is None else scale.unit_sigma(options.sigma)
    except DataError as error:
        raise DataError(f"{error} (--sigma VALUE)") from None
    except ValueError as error:
        if scale.low == 0 and scale.high == scale.white:
            raise DataError(str(error)) from None
        raise DataError(
            f"sigma: {options.sigma:g} is too much where white is {scale.white:g} and the values "
            f"are from {scale.low:g} to {scale.high:g}"
        ) from None


def _check_sigma(sigma: float | None) -> None:
    """Raise DataError for a level that suits no scale."""
    try:
        noise_given.checked_sigma(0.0 if sigma is None else min(sigma, 1.0))
    except ValueError as error:
        raise DataError(str(error)) from None


def _how(options: Options) -> str:
    return "estimated" if options.sigma is None else "given"
