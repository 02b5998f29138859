"""The images that a config asks for; each data set is read by its module in kinds.DATASETS."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from score_embedding import kinds
from score_embedding.config.sections import DataLoader, HeldOut
from score_embedding.data import bundled_pictures, crops, files
from score_embedding.data.image_files import Named
from score_embedding.data.images import load, load_at_own_contrast, of_pixels
from score_embedding.data.labelled import Labelled, Part
from score_embedding.errors import DataError

ALL = "all"  # of the classes
CROPS = 16  # drawn where data_loader.num_images is not given


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
    if options.crops:
        generator = torch.Generator(device="cpu").manual_seed(options.seed)
        count = options.num_images or CROPS
        images = crops.draw(load_photographs(options), options.image_size, count, generator, True)
    elif kinds.DATASETS[options.dataset].labelled:
        images = load_labelled(options).images
    else:
        own = options.contrast == "own"
        images = load(_sources(options), options.image_size, options.channels, own)
    if options.rotate_augment:
        turned = [torch.rot90(images, k, dims=(2, 3)) for k in quarter_turns(options)]
        images = torch.stack(turned, dim=1).flatten(0, 1)
    return images


@dataclass(frozen=True)
class LabelledImages:
    """Images, float32 (n, c, h, w) on the CPU, the number of the class of each, int64 (n,), and the
    names of the classes."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def load_labelled(options: DataLoader, part: Part = "train") -> LabelledImages:
    """The images of a part of a labelled data set that a data_loader section asks for: those of
    its classes, and of these, for training, num_images drawn from its seed.

    Raises
    ------
    DataError : the data set is missing or damaged, has no such class, or too few images.
    """
    kind = kinds.DATASETS[options.dataset]
    found: Labelled = kind.load().read_part(options, part)
    classes = options.classes or [kind.published or ALL]
    if classes != [ALL]:
        found = found.of_classes(classes)
    count = options.num_images or (None if options.takes_all else 1)
    if count and part == "train":
        found = found.drawn(count, options.seed, f"{options.dataset}, {', '.join(classes)}")
    return LabelledImages(
        of_pixels(found.images, options.image_size, options.channels, options.contrast == "own"),
        torch.from_numpy(found.labels),
        found.classes,
    )


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
