"""Progress of long stages: a bar with the time left on a terminal, plain lines elsewhere.

Silent until `show` is called, so that the library prints nothing by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from tqdm import tqdm

_FORMAT = "{desc} {bar} {percentage:3.0f} % {elapsed} left {remaining}"

_console: Console | None = None
_line_interval = 10.0


def show(console: Console | None, line_interval: float = 10.0) -> None:
    """Write progress to `console` from now on; None for silence. Where it is no terminal, a stage
    writes a line every `line_interval` seconds."""
    global _console, _line_interval
    _console, _line_interval = console, line_interval


class _Bar(tqdm):  # type: ignore[misc]
    monitor_interval = 0  # no thread of its own


_Bar.set_lock(threading.RLock())  # tqdm's own is shared between processes, and takes a semaphore


class Stage:
    """One stage under way. Its methods are also those that pooch needs of a download bar."""

    def __init__(self, description: str, total: float, shown: bool = True):
        self.description, self.total = description, total
        self.done = 0.0
        self._started = self._last_line = time.monotonic()
        self._console = _console if shown else None
        self._bar: tqdm | None = None
        if self._console and self._console.is_terminal:
            self._bar = _Bar(
                total=total or None,
                desc=description,
                leave=False,
                file=self._console.file,
                dynamic_ncols=True,
                bar_format=_FORMAT,
            )

    def update(self, amount: float = 1) -> None:
        """`amount` more is done."""
        self.to(self.done + amount)

    def to(self, done: float, note: str = "") -> None:
        """`done` of the total is done; `note` is shown beside the description."""
        self.done = done
        text = f"{self.description}  {note}" if note else self.description
        if self._bar is not None:
            self._bar.total = self.total or None
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._console and time.monotonic() - self._last_line >= _line_interval:
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._started
            share = done / self.total if self.total else 0
            left = f", about {elapsed * (1 / share - 1):.0f} s left" if share > 0 else ""
            self._console.print(f"{text}: {share:.0%} after {elapsed:.0f} s{left}", highlight=False)

    def reset(self) -> None:
        """Nothing is done."""
        self.done = 0.0
        if self._bar is not None:
            self._bar.reset()

    def close(self) -> None:
        """The bar disappears."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def stage(description: str, total: float, least: float = 0) -> Iterator[Stage]:
    """A stage of `total` units; one of fewer than `least` is not shown. Stages may be nested."""
    current = Stage(description, total, shown=total >= least)
    try:
        yield current
    finally:
        current.close()


@contextmanager
def bars_cleared() -> Iterator[None]:
    """For writing to the terminal: bars are cleared before, and drawn again after."""
    with _Bar.external_write_mode(_console.file) if _console else nullcontext():
        yield
