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
    skipped : what is wrong with others, which were found in folders.
    verb : what is done with them, as a participle for messages.
    done : how many of them are.
    """

    jobs: list[Job]
    model: Denoiser
    skipped: list[str]
    verb: str = "denoised"
    done: int = field(default=0, init=False)

    @classmethod
    def checked(
        cls,
        paths: Sequence[Path],
        options: Options,
        out: Path | None,
        verb: str = "denoised",
        first_page: bool = False,
    ) -> Batch:
        """The photographs that are named, and those in each folder; of each all pages that the
        options choose, or the first of these. Raises DataError with what is wrong with files that
        are named, or where none is left."""
        options.noise.check_sigma()
        batch = cls([], models.resolve(options.model, options.device), [], verb)
        given = places.photographs_of(paths)
        problems: list[str] = []
        with progress.stage("checking", total=len(given), least=2) as stage:
            for photograph in given:
                try:
                    batch.jobs.append(_job(photograph, options, batch.model, out, first_page))
                except DataError as error:
                    (batch.skipped if photograph.of_folder else problems).append(str(error))
                except LimitError as error:
                    if not photograph.of_folder:
                        raise
                    batch.skipped.append(str(error))
                stage.update()
        if problems or not batch.jobs:
            raise DataError("\n".join(problems or batch.skipped))
        return batch

    def claim(self, written: Iterable[Path], overwrite: bool) -> None:
        """Check that all these files may be written, and create their folders."""
        files = list(written)
        places.check_free(files, [job.given.path for job in self.jobs], overwrite)
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
                stop.add_note(f"{self.done} of {len(self.jobs)} photographs are {self.verb}")
            raise

    def end(self) -> None:
        """Raise IncompleteError where photographs in a folder were left out."""
        if self.skipped:
            listed = "\n".join(self.skipped)
            raise IncompleteError(
                f"{self.verb} {self.done} photographs, skipped {len(self.skipped)}:\n{listed}"
            )


def _job(
    given: Given, options: Options, model: Denoiser, out: Path | None, first_page: bool
) -> Job:
    """Raises DataError where the photograph cannot be denoised with these options."""
    with file_pages.opened(given.path) as source:
        pages = file_pages.chosen(source, options.page)
        pages = pages[:1] if first_page else pages
        suffix = file_pages.suffix(source, options.page) + places.DENOISED
        for index in pages:
            found = file_pages.read(source, index, options.model, options.device)
            try:
                known = options.noise.known(found)
                for part in found.parts:
                    model.check_channels(part.stop - part.start)
                    options.noise.check(found, part, found.scale(part, known))
            except DataError as error:
                raise DataError(f"{given.path}: {error}") from None
        return Job(given, given.result(suffix, source.ending, out), pages)
