"""The command line: it only parses and calls. Heavy imports wait until a command runs."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from score_embedding import progress
from score_embedding.cli import comparisons, runs
from score_embedding.errors import Interrupted, ScoreEmbeddingError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train score-based diffusion models that start from a pre-computed score.",
)
for command in (
    *(runs.run, runs.solve, runs.sample, runs.report, runs.fid, runs.configs),
    *(comparisons.compare, comparisons.reproduce),
):
    app.command()(command)
_errors = Console(stderr=True, soft_wrap=True)


def main() -> None:
    """Entry point: a user's mistake is one message and an exit status, never a traceback."""
    try:
        app()
    except ScoreEmbeddingError as error:
        if "--debug" in sys.argv:
            raise
        _errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        _errors.print(f"{stop}: what was done is kept, --resume goes on", style="yellow")
        sys.exit(stop.exit_code)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


class _ConsoleHandler(logging.Handler):
    """Log lines through the console, so that they do not disturb a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and stop.")
    ] = False,
) -> None:
    del debug, version  # read by main and by the callback
    logger = logging.getLogger("score_embedding")
    logger.handlers = [_ConsoleHandler()]
    logger.setLevel(logging.INFO)
    progress.show(_errors)
