"""Progress of long stages: a bar with the time left on a terminal, plain lines elsewhere.

Silent until `show` is called, so that the library prints nothing by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise

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


@dataclass(frozen=True)
class _Share:
    """A part of a `whole` stage, whose total is 1; None for what is inside a stage of that part."""

    whole: Stage | None
    start: float = 0.0
    length: float = 1.0

    def to(self, share: float) -> None:
        if self.whole is not None:
            self.whole.to(self.start + self.length * share)


_share: ContextVar[_Share | None] = ContextVar("share", default=None)


class _Inner(Stage):
    """A stage within a `whole`, which shows it as a part of its own bar."""

    def __init__(self, description: str, total: float, share: _Share):
        super().__init__(description, total, shown=False)
        self._share = share

    def to(self, done: float, note: str = "") -> None:
        super().to(done, note)
        self._share.to(done / self.total if self.total else 0)


@contextmanager
def stage(description: str, total: float, least: float = 0) -> Iterator[Stage]:
    """A stage of `total` units; one of fewer than `least` is not shown. Stages may be nested;
    within a `whole` they move its bar and have none."""
    share = _share.get()
    if share is None:
        current = Stage(description, total, shown=total >= least)
    else:
        current = _Inner(description, total, share)
    token = _share.set(share and _Share(None))
    try:
        yield current
    finally:
        _share.reset(token)
        current.close()


@contextmanager
def whole(description: str) -> Iterator[None]:
    """One bar for all stages within it, each of which moves it on by its `part`."""
    with stage(description, total=1) as current:
        token = _share.set(_Share(current))
        try:
            yield
        finally:
            _share.reset(token)


@contextmanager
def part(first: float, last: float) -> Iterator[None]:
    """What is done from the share `first` to the share `last`, in [0, 1], of the part around it;
    without effect outside a `whole`."""
    around = _share.get()
    if around is None:
        yield
        return
    length = around.length * (last - first)
    own = _Share(around.whole, around.start + around.length * first, length)
    token = _share.set(own)
    try:
        yield
        own.to(1)
    finally:
        _share.reset(token)


def parts(costs: Sequence[float]) -> list[AbstractContextManager[None]]:
    """A `part` for each of these costs, one after another, which fill the part around them."""
    ends = [sum(costs[:number]) / sum(costs) for number in range(len(costs) + 1)]
    return [part(*pair) for pair in pairwise(ends)]


@contextmanager
def bars_cleared() -> Iterator[None]:
    """For writing to the terminal: bars are cleared before, and drawn again after."""
    with _Bar.external_write_mode(_console.file) if _console else nullcontext():
        yield
