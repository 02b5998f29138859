"""The command line: it parses arguments and calls the package. Modules that load torch are imported
only when a command needs them."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console

from score_embedding import progress
from score_embedding.cli import comparisons, photographs, runs
from score_embedding.errors import Interrupted, ScoreEmbeddingError
from score_embedding.training import signals

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train score-based diffusion models that start from a pre-computed score.",
)
for command in (
    *(runs.run, runs.solve, runs.sample, runs.report, runs.fid, runs.evaluate, runs.configs),
    *(comparisons.compare, comparisons.reproduce),
    *(photographs.denoise, photographs.inpaint),
):
    app.command()(command)
_NO_MEMORY = ("out of memory", "can't allocate memory")  # in the text of torch's RuntimeError
_errors = Console(stderr=True, soft_wrap=True)


def main() -> None:
    """Entry point: a user's mistake is one message and an exit status, never a traceback."""
    os.environ["MPLBACKEND"] = "agg"  # figures only become files; a notebook's may not work here
    try:
        with signals.handled():
            app([argument for argument in sys.argv[1:] if argument != "--debug"])  # _say reads it
    except ScoreEmbeddingError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except Interrupted as stop:
        _errors.print(str(stop), style="yellow", markup=False, highlight=False)
        sys.exit(stop.exit_code)
    except BrokenPipeError:  # the process that reads the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"{where}{error.strerror or error}")
        sys.exit(ScoreEmbeddingError.exit_code)
    except (MemoryError, RuntimeError) as error:
        out_of_memory = any(text in str(error) for text in _NO_MEMORY)
        if not out_of_memory and not isinstance(error, MemoryError):
            raise
        _say(f"out of memory ({error}); a smaller image, batch or network needs less memory")
        sys.exit(ScoreEmbeddingError.exit_code)


def _say(message: str) -> None:
    """Print an error; with --debug, its traceback first."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    _errors.print(f"error: {shown}", style="red", markup=False, highlight=False)


class _ConsoleHandler(logging.Handler):
    """Writes log lines to the console, so that they do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with progress.bars_cleared():
            _errors.print(record.getMessage(), markup=False, highlight=False)


def _version(value: bool) -> None:
    if value:
        from score_embedding import __version__

        typer.echo(f"score-embedding {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version; exit."),
    ] = False,
) -> None:
    del debug, version  # read by _say and by the callback
    logger = logging.getLogger("score_embedding")
    logger.handlers = [_ConsoleHandler()]
    logger.setLevel(logging.INFO)
    progress.show(_errors)
