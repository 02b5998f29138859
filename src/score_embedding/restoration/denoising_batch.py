"""The photographs of one call of the command denoise: checked before anything is written, and
worked on one after the other, where one that fails in a folder costs no other."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from score_embedding import progress
from score_embedding.errors import (
    DataError,
    DivergenceError,
    IncompleteError,
    Interrupted,
    LimitError,
)
from score_embedding.restoration import file_pages, models, places
from score_embedding.restoration.denoising import Mode
from score_embedding.restoration.file_noise import FileNoise
from score_embedding.restoration.models import Denoiser
from score_embedding.restoration.photographs.reading import Source
from score_embedding.restoration.places import Given

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to denoise: the noise, and model, mode and device as in denoising.denoise; of files with
    several pages all are denoised, or the one numbered `page`, from 1."""

    noise: FileNoise
    model: str
    mode: Mode
    device: torch.device
    page: int | None = None


@dataclass(frozen=True)
class Job:
    """A photograph that has been checked, the place of its result and the pages to denoise."""

    given: Given
    target: Path
    pages: range  # from 0


@dataclass
class Batch:
    """Photographs of which each can be denoised.

    Attributes
    ----------
    model : that denoises them.
    verb : what is done with them, as a participle for messages.
    skip_existing : whether those whose result exists already are left out.
    skipped : what is wrong with others, which were found in folders.
    existing : how many others have a result already, and are left out.
    done : how many of them are finished.
    """

    jobs: list[Job]
    model: Denoiser
    verb: str
    skip_existing: bool
    skipped: list[str] = field(default_factory=list, init=False)
    existing: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    _overwrites: bool = field(default=False, init=False)

    @classmethod
    def checked(
        cls,
        paths: Sequence[Path],
        options: Options,
        out: Path | None,
        skip_existing: bool = False,
        preview: bool = False,
    ) -> Batch:
        """The photographs that are named, and those in each folder; of each all pages that the
        options choose, or for previews the first of these. With `skip_existing` without those whose
        result exists. Raises DataError with what is wrong with files that are named, or where none
        is left."""
        options.noise.check_sigma()
        model = models.resolve(options.model, options.device)
        batch = cls([], model, "previewed" if preview else "denoised", skip_existing)
        given = places.photographs_of(paths)
        problems: list[str] = []
        with progress.stage("checking", total=len(given), least=2) as stage:
            for photograph in given:
                try:
                    batch._add(photograph, options, out, preview)
                except DataError as error:
                    (batch.skipped if photograph.of_folder else problems).append(str(error))
                except LimitError as error:
                    if not photograph.of_folder:
                        raise
                    batch.skipped.append(str(error))
                stage.update()
        if problems or not (batch.jobs or batch.existing):
            raise DataError("\n".join(problems or batch.skipped))
        if batch.existing:
            log.info(
                "--skip-existing: %s left out, the result is there already",
                _photographs(batch.existing),
            )
        return batch

    def _add(self, given: Given, options: Options, out: Path | None, preview: bool) -> None:
        """Raises DataError or LimitError where a photograph cannot be denoised."""
        with file_pages.opened(given.path) as source:
            target = _target(given, source, options, out, preview)
            if self.skip_existing and target.exists():
                self.existing += 1
                return
            pages = file_pages.chosen(source, options.page)
            pages = pages[:1] if preview else pages
            for index in pages:
                _check_page(source, index, options, self.model)
            self.jobs.append(Job(given, target, pages))

    def claim(self, written: Iterable[Path], overwrite: bool) -> None:
        """Check that all these files may be written, and create their folders."""
        files = list(written)
        given = [job.given.path for job in self.jobs]
        places.check_free(files, given, overwrite, "--skip-existing leaves their photographs out, ")
        self._overwrites = overwrite
        for folder in {path.parent for path in files}:
            file_pages.make_folder(folder)
        if self.model.caution:
            log.warning("warning: %s", self.model.caution)

    def position(self, job: Job) -> str:
        """Which of several photographs it is, for messages."""
        count = len(self.jobs)
        return f" ({self.jobs.index(job) + 1} of {count})" if count > 1 else ""

    @contextmanager
    def guarded(self, job: Job) -> Iterator[None]:
        """An error of a photograph in a folder skips it; an interruption says what is done."""
        try:
            yield
        except (DataError, LimitError, DivergenceError) as error:
            if not job.given.of_folder:
                raise
            self.skipped.append(str(error))
        except Interrupted as stop:
            if len(self.jobs) > 1:
                stop.add_note(
                    f"{self.verb} {self.done} of {_photographs(len(self.jobs))}{self._rest}"
                )
            raise

    def end(self) -> None:
        """Raise IncompleteError where photographs in a folder were left out."""
        if self.skipped:
            listed = "\n".join(self.skipped)
            count = len(self.skipped) + self.existing + self.done
            others = f"; {self.done} {self.verb}" if self.done else ""
            raise IncompleteError(
                f"skipped {len(self.skipped)} of {_photographs(count)}{others}:\n{listed}"
            )

    @property
    def _rest(self) -> str:
        """How to denoise the rest of an interrupted batch."""
        if not self.done or self._overwrites:  # earlier results would be left out as well
            return ""
        with_it = "" if self.skip_existing else " with --skip-existing"
        return f"; the same command{with_it} does the rest"


def _photographs(count: int) -> str:
    return f"{count} photograph{'' if count == 1 else 's'}"


def _target(
    given: Given, source: Source, options: Options, out: Path | None, preview: bool
) -> Path:
    suffix = file_pages.suffix(source, options.page) + places.DENOISED
    if preview:
        return given.result(suffix + places.PREVIEW, ".png", out)
    return given.result(suffix, source.ending, out)


def _check_page(source: Source, index: int, options: Options, model: Denoiser) -> None:
    """Raise DataError or LimitError where a page cannot be denoised with these options."""
    found = file_pages.read(source, index, options.model, options.device)
    try:
        known = options.noise.known(found)
        for part in found.parts:
            model.check_channels(part.stop - part.start)
            options.noise.check(found, part, found.scale(part, known))
    except DataError as error:
        raise DataError(f"{source.path}: {error}") from None
