"""Progress of long stages: a bar with the time left on a terminal, plain lines elsewhere.

Silent until `show` is called, so that the library prints nothing by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_EVERY = 10.0  # seconds between plain lines

_console: Console | None = None
_bars: Progress | None = None


def show(console: Console | None) -> None:
    """Write progress to `console` from now on; None for silence."""
    global _console
    _console = console


class Stage:
    """One stage under way. Its methods are also those that pooch asks of a download bar."""

    def __init__(self, description: str, total: float, shown: bool = True):
        self.description, self.total, self._shown = description, total, shown
        self.done = 0.0
        self._started = self._last_line = time.monotonic()
        self._task = _bars.add_task(description, total=total or None) if _bars and shown else None

    def update(self, amount: float = 1) -> None:
        """`amount` more is done."""
        self.to(self.done + amount)

    def to(self, done: float, note: str = "") -> None:
        """`done` of the total is done; `note` is shown beside the description."""
        self.done = done
        text = f"{self.description}  {note}" if note else self.description
        if _bars and self._task is not None:
            _bars.update(self._task, completed=done, total=self.total or None, description=text)
        elif _console and self._shown and time.monotonic() - self._last_line >= _PLAIN_EVERY:
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._started
            share = done / self.total if self.total else 0
            left = f", about {elapsed * (1 / share - 1):.0f} s left" if share > 0 else ""
            _console.print(f"{text}: {share:.0%} after {elapsed:.0f} s{left}", highlight=False)

    def reset(self) -> None:
        self.done = 0.0

    def close(self) -> None:
        if _bars and self._task is not None:
            _bars.remove_task(self._task)
            self._task = None


@contextmanager
def stage(description: str, total: float, least: float = 0) -> Iterator[Stage]:
    """A stage of `total` units; one of fewer than `least` is not shown. Stages may be nested."""
    global _bars
    shown = total >= least
    outermost = shown and _bars is None and _console is not None and _console.is_terminal
    if outermost:
        _bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=_console,
            transient=True,
        )
        _bars.start()
    current = Stage(description, total, shown)
    try:
        yield current
    finally:
        current.close()
        if outermost and _bars is not None:
            _bars.stop()
            _bars = None
