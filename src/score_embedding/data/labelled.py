"""Images with class labels, as 8-bit pixels in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from score_embedding.errors import DataError

Part = Literal["train", "test"]  # a data set's own split


@dataclass(frozen=True)
class Labelled:
    """Images of one size, and their classes.

    Attributes
    ----------
    images : uint8 (n, h, w, c).
    labels : int64 (n,), the number of each image's class.
    classes : the names of all classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def of_classes(self, wanted: Sequence[str]) -> Labelled:
        """The images of these classes, in the order of the data set. DataError for a class that it
        does not have."""
        numbers = [number_of(name, self.classes, "data_loader.classes") for name in wanted]
        return self._taken(np.flatnonzero(np.isin(self.labels, numbers)))

    def drawn(self, count: int, seed: int, name: str) -> Labelled:
        """`count` images without replacement, by numpy's RandomState(seed). DataError, which begins
        with `name`, where there are fewer."""
        if count > len(self):
            raise DataError(f"{name}: {len(self)} images, {count} asked for (num_images)")
        chosen = np.random.RandomState(seed).choice(len(self), count, replace=False)
        return self._taken(chosen)

    def padded(self, size: tuple[int, int]) -> Labelled:
        """In the middle of black images of this size (h, w), where no side is shorter than theirs;
        else as they are."""
        h, w = self.images.shape[1:3]
        below, right = size[0] - h, size[1] - w
        if min(below, right) < 0 or below == right == 0:
            return self
        around = [(0, 0), *((rest // 2, rest - rest // 2) for rest in (below, right)), (0, 0)]
        return replace(self, images=np.pad(self.images, around))

    def _taken(self, places: NDArray[np.int64]) -> Labelled:
        return replace(self, images=self.images[places], labels=self.labels[places])


Keep = Callable[[Labelled], Labelled]  # of the images of a file, those that are wanted


def joined(parts: Sequence[Labelled]) -> Labelled:
    """The images of several parts of a data set, one part after another."""
    images, labels = ([getattr(part, name) for part in parts] for name in ("images", "labels"))
    return Labelled(np.concatenate(images), np.concatenate(labels), parts[0].classes)


def number_of(name: str, classes: tuple[str, ...], key: str) -> int:
    """The place of a class among others. DataError, which names the config's `key`, where it is not
    one of them."""
    if name in classes:
        return classes.index(name)
    close = get_close_matches(name, classes, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise DataError(f"{key}: {name!r} is not one of {', '.join(classes)}{hint}")


def check_labels(labels: NDArray[np.int64], classes: tuple[str, ...], source: str) -> None:
    """Raise DataError, which names the source, where a label is not the number of a class."""
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise DataError(
            f"{source}: a label {wrong[0]}, the last class is number {len(classes) - 1}"
        )
