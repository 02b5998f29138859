"""Many images are sampled in batches that fit the memory."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from typing import Protocol

from score_embedding import progress
from score_embedding.methods.samplers.flow import Samples

# Of one batch: 64 images of 32x32. A fixed rule, not the free memory, so that samples do not depend
# on the machine: RK45 integrates a batch as one system.
BATCH_PIXELS = 2**16


def batch_size(size: tuple[int, int]) -> int:
    """Images (h, w) that are sampled at once."""
    h, w = size
    return max(1, BATCH_PIXELS // (h * w))


def batches(n: int, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The first image of each batch and the first after it, for n images (h, w)."""
    b = batch_size(size)
    for first in range(0, n, b):
        yield first, min(first + b, n)


class Kept(Protocol):
    """Where finished batches are kept, so that sampling can be interrupted and resumed."""

    def read(self, first: int, last: int) -> Samples | None:
        """Samples first to last - 1, where they are kept."""

    def write(self, first: int, part: Samples) -> None:
        """Keep a batch."""


def in_batches(
    draw: Callable[[int, int], Samples], n: int, size: tuple[int, int], kept: Kept | None = None
) -> Samples:
    """n samples of images (h, w), drawn batch by batch: draw(first, last) returns samples first to
    last - 1. Of several batches only the path of the first is returned: the memory of all but the
    final images is that of one batch. Batches that are `kept` are not drawn again."""
    results: Samples | None = None
    with progress.stage("samples", total=n, least=batch_size(size) + 1) as stage:
        for first, last in batches(n, size):
            part = kept.read(first, last) if kept else None
            if part is None:
                part = draw(first, last)
                if kept:
                    kept.write(first, part)
            if (first, last) == (0, n):
                return part
            results = results or _empty_like(part, n)
            results.x[first:last] = part.x
            results = dataclasses.replace(results, nfe=max(results.nfe, part.nfe))
            stage.to(last)
            del part
            gc.collect()  # scipy's solver refers to itself: nothing else frees its states
    if results is None:
        raise ValueError("there are no images to draw samples for")
    return results


def _empty_like(part: Samples, n: int) -> Samples:
    """Where the samples of n images go; shape, dtype and device by those of the first batch."""
    return Samples(part.x.new_empty((n, *part.x.shape[1:])), part.path, part.path_times, 0)
