"""Images of any kind to one tensor: float32 (n, c, h, w), each image min-max scaled to [0, 1]."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.config.sections import DataLoader, HeldOut
from score_embedding.data import cifar, crops, image_files, pickles
from score_embedding.errors import DataError

log = logging.getLogger(__name__)

Source = str | Path | NDArray[Any]
Named = tuple[str, Path | NDArray[Any]]  # the name that errors give, and the image

CROPS = 16  # drawn where data_loader.num_images is not given
PICKLES = {"celeb": "celeb_data.pkl", "imagenet": "imagenet_data.pkl"}


def load_images(
    sources: Source | Sequence[Source], size: int | tuple[int, int] = 32, channels: int = 3
) -> Tensor:
    """Image files, folders of them, or arrays, as one tensor.

    Parameters
    ----------
    sources : one or several of: a file that Pillow reads; a folder, taken in the order of its file
        names; an array (h, w) or (h, w, c) with c = 1, 3 or 4, integer or floating point.
    size : height and width of the result, or one number for both. Bicubic, antialiased; the
        proportions of the source are not kept.
    channels : 3, or 1 for luminance. Grey pictures are repeated, transparency is laid on white.

    Returns
    -------
    images : float32 (n, channels, h, w), each image scaled so that its smallest value is 0 and its
        largest 1; a constant image keeps its value, cut to [0, 1].

    Raises
    ------
    DataError : files that are missing, empty, truncated or no image, or pixels that are NaN or
        infinite. All of them are named at once.
    """
    listed = [sources] if isinstance(sources, str | Path | np.ndarray) else list(sources)
    h, w = (size, size) if isinstance(size, int) else size
    named: list[Named] = []
    for i, source in enumerate(listed):
        if isinstance(source, np.ndarray):
            named.append((f"array {i}", source))
        else:
            named += _expand(Path(source))
    return _load(named, (h, w), channels)


def load_dataset(options: DataLoader) -> Tensor:
    """The images that a config's data_loader section asks for, float32 (n, c, h, w).

    With crops they are crops at places drawn from data_loader.seed, at their own contrast.
    With rotate_augment each image is followed by its rotations by 90, 180 and 270 degrees (by 180
    only where h != w, so that the size stays), each an image of its own.

    Raises
    ------
    DataError : as `load_images`, a data set that is not on disk, or too few images in it.
    """
    if options.crops:
        generator = torch.Generator().manual_seed(options.seed)
        count = options.num_images or CROPS
        images = crops.draw(load_photographs(options), options.image_size, count, generator, True)
    else:
        images = _load(_sources(options), options.image_size, options.channels)
    if options.rotate_augment:
        h, w = options.image_size
        quarter_turns = (0, 1, 2, 3) if h == w else (0, 2)
        turned = [torch.rot90(images, k, dims=(2, 3)) for k in quarter_turns]
        images = torch.stack(turned, dim=1).flatten(0, 1)
    return images


def load_photographs(options: DataLoader) -> list[Tensor]:
    """The photographs that crops are taken of: float32 (c, h, w) each, at their own size but for
    data_loader.shrink, and at their own contrast, 0 black and 1 white.

    Raises
    ------
    DataError : as `load_images`.
    """
    return _each(
        _cropped(options),
        lambda pixels, name: _shrunk(pixels, name, options.channels, options.shrink),
    )


def load_held_out(options: HeldOut, channels: int) -> dict[str, Tensor]:
    """The photographs of a config's held_out section by their names, as `load_photographs`."""
    named = _held_out(options)
    found = _each(named, lambda pixels, name: _shrunk(pixels, name, channels, options.shrink))
    names = [Path(name).name for name, _ in named]
    if len(set(names)) < len(names):  # of several folders
        names = [name for name, _ in named]
    cut = [crops.middle(photograph, options.crop or 10**9) for photograph in found]
    return dict(zip(names, cut, strict=True))


def check_apart(held_out: HeldOut, trained_on: DataLoader) -> None:
    """Raise DataError where a file is held out and trained on, whichever way each is named."""
    if not trained_on.of_files:
        return
    named = _cropped(trained_on) if trained_on.crops else _sources(trained_on)
    trained = {os.path.realpath(str(source)) for _, source in named}
    both = [name for name, file in _held_out(held_out) if os.path.realpath(str(file)) in trained]
    if both:
        raise DataError(f"held_out: {', '.join(both)}: trained on, too")


def data_folder() -> Path:
    """Where data sets are kept: $SCORE_EMBEDDING_DATA, else the user's cache folder."""
    return Path(os.environ.get("SCORE_EMBEDDING_DATA") or pooch.os_cache("score-embedding"))


def _sources(options: DataLoader) -> list[Named]:
    """The data set's images as files or arrays, chosen as the official loader chooses them."""
    given = [Path(p).expanduser() for p in options.path or []]
    n = options.num_images
    if options.dataset in ("folder", "files"):
        found = [named for source in given for named in _expand(source)]
        if n is not None and n > len(found):
            raise DataError(f"data_loader.num_images: {n}, but only {len(found)} images given")
        return found[:n]
    if options.dataset == "sample":
        return _bundled(options.image or [], n, "data_loader.image")
    folders = given or [Path("data"), Path(), data_folder()]
    if options.dataset == "cifar":
        archive = cifar.find(folders)
        if archive is None and given:
            raise DataError(f"{_listed(given)}: no CIFAR-10 here (data_loader.path)")
        dogs = cifar.dogs(archive or cifar.fetch(data_folder()), n or 1, options.seed)
        return [(f"CIFAR-10 dog {i}", dog) for i, dog in enumerate(dogs)]
    return _from_pickle(options.dataset, folders, n or 1)


def _cropped(options: DataLoader) -> list[Named]:
    """What crops are drawn from: all there is, num_images being the number of crops."""
    return _sources(options.model_copy(update={"num_images": None}))


def _held_out(options: HeldOut) -> list[Named]:
    named = _bundled(options.image or [], None, "held_out.image")
    return named + [each for p in options.path or [] for each in _expand(Path(p).expanduser())]


def _bundled(names: list[str], n: int | None, key: str) -> list[Named]:
    pictures = bundled_pictures()
    unknown = [name for name in names if name not in pictures]
    if unknown:
        raise DataError(
            f"{key}: {', '.join(unknown)}: not among the pictures of the installed packages: "
            f"{', '.join(sorted(pictures))}"
        )
    if n is not None and n > len(names):
        raise DataError(f"data_loader.num_images: {n}, but image names {len(names)}")
    return [(name, pictures[name]) for name in names[:n]]


def bundled_pictures() -> dict[str, Path]:
    """The pictures that scikit-image, scikit-learn and matplotlib bring, by name."""
    places = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}
    found: dict[str, Path] = {}
    for package, folder in places.items():
        spec = importlib.util.find_spec(package)  # without importing it, which takes a second
        for root in (spec.submodule_search_locations or []) if spec else []:
            pictures = sorted((Path(root) / folder).glob("*"))
            found |= {p.stem: p for p in pictures if p.suffix in (".png", ".jpg")}
    return found


def _from_pickle(dataset: str, folders: list[Path], n: int) -> list[Named]:
    file_name = PICKLES[dataset]
    candidates = [p if p.is_file() else p / file_name for p in folders]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise DataError(
            f"{file_name}, the images of dataset {dataset}, was looked for at "
            f"{_listed(candidates)}; put it there or name it with --set data_loader.path=PATH"
        )
    content = pickles.read(path.read_bytes(), path)
    is_collection = isinstance(content, list | tuple) or (
        isinstance(content, np.ndarray) and (content.dtype == object or content.ndim == 4)
    )
    if not is_collection or not all(isinstance(item, np.ndarray) for item in content):
        raise DataError(f"{path}: expected an array of images (h, w, 3), found {_kind(content)}")
    # The official loader's choice: one image is a fixed favourite, several are the first ones.
    one = {"celeb": len(content) - 3, "imagenet": 1}[dataset]
    chosen = [one] if n == 1 else list(range(n))
    if not 0 <= max(chosen) < len(content):
        raise DataError(f"{path}: {len(content)} images, too few for num_images: {n}")
    return [(f"{path}[{i}]", content[i]) for i in chosen]


def _expand(path: Path) -> list[Named]:
    """A file as itself, a folder as the files in it; hidden files are passed over."""
    try:
        if not path.is_dir():
            return [(str(path), path)]
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if not files:
        raise DataError(f"{path}: an empty folder")
    return [(str(file), file) for file in files]


def _load(named: list[Named], size: tuple[int, int], channels: int) -> Tensor:
    """All images as one tensor; the problems of all bad ones in one DataError."""
    return torch.stack(_each(named, lambda pixels, name: _prepare(pixels, name, size, channels)))


def _each(named: list[Named], prepare: Callable[[NDArray[Any], str], Tensor]) -> list[Tensor]:
    """Each image's pixels, prepared; the problems of all bad ones in one DataError."""
    if not named:
        raise DataError("no images given")
    images, problems = [], []
    for name, source in named:
        try:
            pixels = image_files.read(source) if isinstance(source, Path) else source
            images.append(prepare(pixels, name))
        except DataError as error:
            problems.append(str(error))
        except MemoryError:
            problems.append(f"{name}: too large for the memory that is free")
    if problems:
        raise DataError("\n".join(problems))
    return images


def _prepare(pixels: NDArray[Any], name: str, size: tuple[int, int], channels: int) -> Tensor:
    """(h, w) or (h, w, c) of any dtype to float32 (channels, *size), min-max scaled to [0, 1]."""
    x = image_files.to_channels(pixels, name, channels)[None]
    if x.shape[-2:] != size:
        if x.shape[-2] * size[1] != x.shape[-1] * size[0]:
            h, w = x.shape[-2:]
            log.info("%s: %dx%d (h x w) is stretched to %dx%d", name, h, w, *size)
        x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    low, high = x.min(), x.max()
    # Resampling leaves round-off on a constant image: not a contrast to be scaled up.
    scaled = (x - low) / (high - low) if high - low > 1e-12 else x.clamp(0, 1)
    return scaled[0].to(torch.float32)


def _shrunk(pixels: NDArray[Any], name: str, channels: int, times: int) -> Tensor:
    """The same at its own contrast, float32 (channels, h, w), each side so many times smaller."""
    x = image_files.to_channels(pixels, name, channels)[None]
    size = [max(1, side // times) for side in x.shape[-2:]]
    if times > 1:
        x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    return x[0].clamp(0, 1).to(torch.float32)


def _kind(content: object) -> str:
    if isinstance(content, np.ndarray):
        return f"an array of shape {content.shape}, dtype {content.dtype}"
    return f"a {type(content).__name__}"


def _listed(paths: list[Path]) -> str:
    return ", ".join(str(p) for p in paths)
