"""Images from files, folders, arrays and tensors: float32 (n, c, h, w), each scaled to [0, 1]."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from score_embedding._deprecated import positional_options
from score_embedding.arrays import real_array, refuse_gradient, whole
from score_embedding.data import files, image_files
from score_embedding.data.image_files import Named
from score_embedding.errors import DataError

log = logging.getLogger(__name__)

_BLOCK = 1000  # images
_SOURCES = "a file, folder, array or tensor, or several of them"
Source = str | Path | NDArray[Any] | Tensor


@positional_options
def load_images(
    sources: Source | Sequence[Source], *, size: int | tuple[int, int] = 32, channels: int = 3
) -> Tensor:
    """Image files, folders of them, arrays and tensors, as one tensor.

    Parameters
    ----------
    sources : one or several of: a file that Pillow reads; a folder, taken in the order of its file
        names; an array (h, w), (h, w, c) or (n, h, w, c); a tensor (h, w), (c, h, w) or
        (n, c, h, w); c = 1, 3 or 4, integer or floating point of any width and byte order.
    size : height and width of the result, or one number for both. Bicubic, antialiased; the
        proportions of the source are not kept.
    channels : 3, or 1 for luminance. Grey pictures are repeated, transparency is laid on white.

    Returns
    -------
    images : float32 (n, channels, h, w), each image scaled so that its smallest value is 0 and its
        largest 1; a constant image keeps its value, cut to [0, 1]. On the device of the sources if
        all of them are tensors on one device, else on the CPU.

    Raises
    ------
    DataError : files that are missing, empty, truncated or not an image; pixels that are NaN,
        infinite or masked. All of them are named at once.
    ValueError : a tensor that requires a gradient, or a source, size or number of channels of
        another kind.
    """
    if isinstance(sources, str | Path | np.ndarray | Tensor):
        sources = [sources]
    if not isinstance(sources, Iterable):
        raise ValueError(f"sources must be {_SOURCES}, got {sources!r:.100}")
    listed, height_width = list(sources), _height_width(size)
    if whole(channels, "channels", 1) not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")
    found = [named for i, source in enumerate(listed) for named in _named(source, i)]
    images = load(found, height_width, channels)
    devices = {source.device if isinstance(source, Tensor) else None for source in listed}
    device = devices.pop() if len(devices) == 1 else None
    return images if device is None else images.to(device)


def _height_width(size: Any) -> tuple[int, int]:
    """The size as (height, width). ValueError where it is not one or two whole numbers."""
    pair = isinstance(size, tuple | list | np.ndarray) and np.shape(size) == (2,)
    values = list(size) if pair else [size, size]
    h, w = (whole(value, "size", 1) for value in values)
    return h, w


def _named(source: Source, i: int) -> list[Named]:
    """One of the sources, the i-th, as files or arrays (h, w[, c])."""
    if isinstance(source, Tensor):
        refuse_gradient(source, f"tensor {i}", "which loading does not have")
        name, pixels = f"tensor {i}", real_array(source, f"tensor {i}")
        if pixels.ndim > 2:
            pixels = np.moveaxis(pixels, -3, -1)
    elif isinstance(source, np.ndarray):
        name, pixels = f"array {i}", source
    elif isinstance(source, str | Path) and str(source):
        return files.expand(Path(source))
    else:
        raise ValueError(f"source {i} must be {_SOURCES}, got {source!r:.100}")
    if pixels.ndim != 4:
        return [(name, pixels)]
    if len(pixels) == 0:
        raise DataError(f"{name}: shape {tuple(source.shape)}, no images")
    return [(f"{name}[{k}]", each) for k, each in enumerate(pixels)]


def load(
    named: list[Named], size: tuple[int, int], channels: int, own_contrast: bool = False
) -> Tensor:
    """All images as one tensor, as `load_images`; the problems of all bad ones in one DataError.
    With `own_contrast` 0 is black and 1 white, in all images."""

    # Filled image by image: a list of tens of thousands would be copied to be stacked.
    found = torch.empty(len(named), channels, *size, dtype=torch.float32, device="cpu")
    rows = iter(found.unbind())

    def prepare(pixels: NDArray[Any], name: str) -> Tensor:
        x = image_files.to_channels(pixels, name, channels)
        h, w = x.shape[-2:]
        if h * size[1] != w * size[0]:
            log.info("%s: %dx%d (h x w) is stretched to %dx%d", name, h, w, *size)
        return next(rows).copy_(_prepared(x[None], size, own_contrast)[0])

    each(named, prepare)
    return found


def of_pixels(
    pixels: NDArray[np.uint8], size: tuple[int, int], channels: int, own_contrast: bool = False
) -> Tensor:
    """8-bit images (n, h, w, c), as `load`; block by block, in double precision only there."""
    found = torch.empty(len(pixels), channels, *size)
    for start in range(0, len(pixels), _BLOCK):
        block = slice(start, start + _BLOCK)
        x = torch.from_numpy(pixels[block]).permute(0, 3, 1, 2).double() / 255
        x = image_files.as_channels(x, channels)
        found[block] = _prepared(x, size, own_contrast)
    return found


def load_at_own_contrast(named: list[Named], channels: int, shrink: int) -> list[Tensor]:
    """Each image, float32 (channels, h, w), 0 black and 1 white, its sides divided by `shrink`."""
    return each(named, lambda pixels, name: _shrunk(pixels, name, channels, shrink))


def each(named: list[Named], prepare: Callable[[NDArray[Any], str], Tensor]) -> list[Tensor]:
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


def _prepared(x: Tensor, size: tuple[int, int], own_contrast: bool) -> Tensor:
    """Images (n, c, h, w), 0 black and 1 white, as float32 (n, c, *size); each one scaled so that
    its smallest value is 0 and its largest 1, or cut to that range."""
    if x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    scaled = x.clamp(0, 1)
    if not own_contrast:
        low, high = (
            extreme(x, dim=(1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax)
        )
        # Resampling leaves round-off on a constant image: not a contrast to be scaled up.
        scaled = torch.where(high - low > 1e-12, (x - low) / (high - low), scaled)
    return scaled.to(torch.float32)


def _shrunk(pixels: NDArray[Any], name: str, channels: int, shrink: int) -> Tensor:
    x = image_files.to_channels(pixels, name, channels)[None]
    size = [max(1, side // shrink) for side in x.shape[-2:]]
    if shrink > 1:
        x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    return x[0].clamp(0, 1).to(torch.float32)
