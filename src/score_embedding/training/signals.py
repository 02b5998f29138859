"""SIGINT and SIGTERM as an exception that never comes between two halves of a training step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from score_embedding.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds in which further signals are the same request: Ctrl-C reaches a comparison and its runs,
# to which the comparison then sends SIGTERM.
_SAME_REQUEST = 1.0


class Signals:
    """What has arrived, and whether it may be raised now."""

    def __init__(self) -> None:
        self._postponed = False
        self._arrived: signal.Signals | None = None
        self._raised = -math.inf  # when, on the monotonic clock

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """A signal that arrives inside is raised at the end of it."""
        self._postponed = True
        try:
            yield
        finally:
            self._postponed = False
        if self._arrived is not None:
            self._stop(self._arrived)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGNALS."""
        del frame
        self._arrived = signal.Signals(number)
        if not self._postponed and time.monotonic() - self._raised > _SAME_REQUEST:
            self._stop(self._arrived)

    def _stop(self, number: signal.Signals) -> NoReturn:
        self._raised = time.monotonic()
        raise Interrupted(number)


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """An interruption inside says how to resume."""
    try:
        yield
    except Interrupted as stop:
        stop.add_note(advice)
        raise


@contextmanager
def handled() -> Iterator[Signals]:
    """Raise `Interrupted` for SIGINT and SIGTERM. Only the main thread receives signals: in any
    other, nothing changes."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    handled_here = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signals.receive) for number in handled_here}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
