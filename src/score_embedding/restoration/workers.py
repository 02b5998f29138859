"""Parts of an image computed side by side: one thread to a part, and one part to a thread.

Torch's own threads share the work of one small operation after another and wait for each other in
between; beside other busy processes each of these waits is long. Threads that each compute a whole
part wait once, at the end. No thread is left over, so that a process may be forked afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


_threads: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within it each torch operation has one thread, `in_order` as many threads as torch had. Also
    a decorator of functions."""
    if _threads.get() is not None:
        yield
        return
    threads = torch.get_num_threads()
    token = _threads.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _threads.reset(token)


def in_order(function: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
    """`function` of each part, in their order. An error of one ends the others."""
    with one_thread_each():
        threads = _threads.get()
        if threads == 1:
            yield from (function(part) for part in parts)
            return
        with ThreadPoolExecutor(threads) as pool:
            try:
                yield from pool.map(function, parts)
            finally:
                pool.shutdown(cancel_futures=True)
