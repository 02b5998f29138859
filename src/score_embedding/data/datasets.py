"""The images that a config asks for; each data set is read by its module in kinds.DATASETS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_embedding import kinds
from score_embedding.config.schema import AnyConfig
from score_embedding.config.sections import DataLoader, HeldOut
from score_embedding.data import bundled_pictures, crops, files
from score_embedding.data.image_files import Named
from score_embedding.data.images import load, load_at_own_contrast, of_pixels
from score_embedding.data.labelled import Labelled, Part, number_of
from score_embedding.errors import DataError

ALL = "all"  # of the classes
CROPS = 16  # drawn where data_loader.num_images is not given


@dataclass(frozen=True)
class LabelledImages:
    """Images, float32 (n, c, h, w) on the CPU, the number of the class of each, int64 (n,), and the
    names of the classes. Of images without classes there are no labels and no names."""

    images: Tensor
    labels: Tensor | None
    classes: tuple[str, ...] = ()

    def taken(self, places: Tensor) -> LabelledImages:
        """The images at these places (m,)."""
        labels = None if self.labels is None else self.labels[places]
        return replace(self, images=self.images[places], labels=labels)


def load_dataset(options: DataLoader) -> Tensor:
    """The images that a config's data_loader section asks for, float32 (n, c, h, w) on the CPU.

    With crops they are crops at places drawn from data_loader.seed, at their own contrast; else
    each image is scaled to [0, 1], as `load_images` does. With rotate_augment each image is
    followed by its rotations by 90, 180 and 270 degrees (by 180 only where h != w, so that the size
    stays), each an image of its own.

    Raises
    ------
    DataError : as `load_images`, a data set that is not on disk, or too few images in it.
    """
    return _turned(_loaded(options), options).images


def load_training(config: AnyConfig) -> LabelledImages:
    """The images that a config trains on, with their classes: those of `load_dataset` without the
    share that held_out keeps for measuring. Errors as there."""
    found, held_out = _loaded(config.data_loader), config.held_out
    if held_out and held_out.share is not None:
        found = found.taken(_share(len(found.images), held_out)[1])
    return _turned(found, config.data_loader)


def load_held_out_images(config: AnyConfig) -> Tensor:
    """The images of the data set that a config holds out, float32 (n, c, h, w) on the CPU: of the
    data set's test part, or the share that is not trained on; at most held_out.num_images of them,
    which its seed draws.

    Raises
    ------
    DataError : as `load_dataset`.
    """
    options, held_out = config.data_loader, config.held_out
    assert held_out is not None
    if held_out.share is not None:
        found = _loaded(options)
        places = _share(len(found.images), held_out)[0]
    else:
        found = load_labelled(options, "test")
        places = _shuffled(len(found.images), held_out.seed)
    if not len(places):
        raise DataError(f"held_out: {options.dataset} has no images of these classes to hold out")
    return found.taken(places[: held_out.num_images]).images


def _share(n: int, held_out: HeldOut) -> tuple[Tensor, Tensor]:
    """The numbers of the images that are held out, of n, and those of the others, in order."""
    assert held_out.share is not None
    if n < 2:
        raise DataError(f"held_out.share: {n} image cannot be divided; more images are needed")
    count = min(max(1, round(held_out.share * n)), n - 1)
    places = _shuffled(n, held_out.seed)
    return places[:count], places[count:].sort().values


def _shuffled(n: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).permutation(n))


def _loaded(options: DataLoader) -> LabelledImages:
    """The images of a data_loader section, each once."""
    if options.crops:
        generator = torch.Generator(device="cpu").manual_seed(options.seed)
        count = options.num_images or CROPS
        photographs = load_photographs(options)
        return LabelledImages(
            crops.draw(photographs, options.image_size, count, generator, True), None
        )
    if kinds.DATASETS[options.dataset].labelled:
        return load_labelled(options)
    own = options.contrast == "own"
    return LabelledImages(load(_sources(options), options.image_size, options.channels, own), None)


def _turned(found: LabelledImages, options: DataLoader) -> LabelledImages:
    """With rotate_augment each image is followed by its rotations."""
    turns = quarter_turns(options)
    if len(turns) == 1:
        return found
    turned = torch.stack([torch.rot90(found.images, k, dims=(2, 3)) for k in turns], dim=1)
    labels = None if found.labels is None else found.labels.repeat_interleave(len(turns))
    return replace(found, images=turned.flatten(0, 1), labels=labels)


def load_labelled(options: DataLoader, part: Part = "train") -> LabelledImages:
    """The images of a part of a labelled data set that a data_loader section asks for: those of
    its classes, and of these, for training, num_images drawn from its seed.

    Raises
    ------
    DataError : the data set is missing or damaged, has no such class, or too few images.
    """
    kind = kinds.DATASETS[options.dataset]
    classes = options.classes or [kind.published or ALL]

    def keep(images: Labelled) -> Labelled:
        return images if classes == [ALL] else images.of_classes(classes)

    found: Labelled = kind.load().read_part(options, part, keep)
    count = options.num_images or (None if options.takes_all else 1)
    if count and part == "train":
        found = found.drawn(count, options.seed, f"{options.dataset}, {', '.join(classes)}")
    return LabelledImages(
        of_pixels(found.images, options.image_size, options.channels, options.contrast == "own"),
        torch.from_numpy(found.labels),
        found.classes,
    )


def class_names(options: DataLoader) -> tuple[str, ...]:
    """The names of all classes of a labelled data set, by their numbers; it is not read."""
    names: tuple[str, ...] = kinds.DATASETS[options.dataset].load().class_names(options)
    return names


def class_numbers(options: DataLoader, wanted: Sequence[str], key: str) -> list[int]:
    """The numbers of classes by their names, or with `all` of those that are trained on. DataError,
    which names the config's `key`, for one that the data set does not have or that is not trained
    on."""
    names, kind = class_names(options), kinds.DATASETS[options.dataset]
    trained = options.classes or [kind.published or ALL]
    known = names if trained == [ALL] else tuple(name for name in names if name in trained)
    if list(wanted) == [ALL]:
        wanted = known
    for name in wanted:
        number_of(name, known, key)
    return [names.index(name) for name in wanted]


def quarter_turns(options: DataLoader) -> tuple[int, ...]:
    """The rotations in which each image is in the data set, by 90 degrees each."""
    h, w = options.image_size
    if not options.rotate_augment:
        return (0,)
    return (0, 1, 2, 3) if h == w else (0, 2)


def load_photographs(options: DataLoader) -> list[Tensor]:
    """The photographs that crops are taken of: float32 (c, h, w) each, at their own size divided by
    data_loader.shrink, and at their own contrast, 0 black and 1 white.

    Raises
    ------
    DataError : as `load_images`.
    """
    return load_at_own_contrast(_uncropped(options), options.channels, options.shrink)


def load_held_out(options: HeldOut, channels: int) -> dict[str, Tensor]:
    """The photographs of a config's held_out section by their names, as `load_photographs`."""
    named = _held_out(options)
    found = load_at_own_contrast(named, channels, options.shrink)
    names = [Path(name).name for name, _ in named]
    if len(set(names)) < len(names):  # of several folders
        names = [name for name, _ in named]
    cut = [crops.middle(photograph, options.crop or 10**9) for photograph in found]
    return dict(zip(names, cut, strict=True))


def check_apart(held_out: HeldOut, trained_on: DataLoader) -> None:
    """Raise DataError where a file is held out and trained on, whichever way each is named."""
    if not trained_on.of_files:
        return
    named = _uncropped(trained_on) if trained_on.crops else _sources(trained_on)
    trained = {os.path.realpath(str(source)) for _, source in named}
    both = [name for name, file in _held_out(held_out) if os.path.realpath(str(file)) in trained]
    if both:
        raise DataError(f"held_out: {', '.join(both)}: trained on, too")


def _sources(options: DataLoader) -> list[Named]:
    named: list[Named] = kinds.DATASETS[options.dataset].load().read(options)
    return named


def _uncropped(options: DataLoader) -> list[Named]:
    """All photographs that crops are drawn from: num_images is the number of crops."""
    return _sources(options.model_copy(update={"num_images": None}))


def _held_out(options: HeldOut) -> list[Named]:
    named = bundled_pictures.named(options.image or [], "held_out.image")
    folders = [Path(path).expanduser() for path in options.path or []]
    return named + [each for folder in folders for each in files.expand(folder)]
