"""Arrays of pixels as images to restore, and results in the layout of the array.

An array is an image or a stack of images, which are restored one by one. RGB images are restored in
colour, the alpha of RGBA stays, and any other number of channels is restored as that many grey
images. The models take floating-point pixels, black at 0 and white at 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.arrays import real_array, refuse_gradient, with_float64

__all__ = ["ChannelAxis", "Pixels", "native", "read"]

ChannelAxis = int | Literal["auto"] | None

MAX_CHANNELS = 8  # of an array whose channel axis is not given: its last axis may be that
RGB, ALPHA = 3, 3  # number of colour channels, and the channel that follows them in RGBA
ROUNDOFF = 1e-3  # of grey levels of 255 in float32
MAX_VALUE = 10.0  # of floats, white being 1: larger ones are on another scale


@dataclass(frozen=True)
class Pixels:
    """An array as images.

    Attributes
    ----------
    values : float32 (n, h, w, c), black at 0 and white at 1; 0 where `missing`.
    missing : bool (n, h, w, c), entries of the array that are masked or, by the mask of inpainting,
        to be filled in.
    range : black and white of the array, if its results are on the scale of the array; else None.
    opaque : the alpha of pixels that are filled in.
    deep : whether the array has more than 8 bits, by its type and by its values.
    shape, axis : of the array, and its channel axis (None: it has none).
    device : of the images.
    """

    values: NDArray[np.float32]
    missing: NDArray[np.bool_]
    range: tuple[float, float] | None
    opaque: float
    deep: bool
    shape: tuple[int, ...]
    axis: int | None
    device: torch.device

    @property
    def channels(self) -> int:
        """Of each image: 3 or 1."""
        return len(self._planes[0])

    def unit_sigma(self, sigma: Any) -> Any:
        """A noise level in units of the array's results in units of white less black; what is no
        number stays unchanged."""
        if self.range is None or sigma is None or isinstance(sigma, str):
            return sigma
        try:
            return np.asarray(sigma, dtype=np.float64) / (self.range[1] - self.range[0])
        except (TypeError, ValueError):
            return sigma

    def images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each image (c, h, w), and its missing pixels (h, w): where any channel is missing."""
        for values, missing in zip(self.values, self.missing, strict=True):
            for plane in self._planes:
                image = torch.from_numpy(np.ascontiguousarray(values[..., plane]))
                hole = torch.from_numpy(missing[..., plane].any(axis=-1))
                yield image.permute(2, 0, 1).contiguous().to(self.device), hole.to(self.device)

    def array(self, results: Iterable[Tensor]) -> NDArray[np.float32]:
        """Restored images (c, h, w), in the order of `images`, in the layout and, with `range`, on
        the scale of the array."""
        restored, found = self.values.copy(), iter(results)
        if restored.shape[3] == RGB + 1:
            restored[self.missing[..., ALPHA], ALPHA] = self.opaque
        for values in restored:
            for plane in self._planes:
                values[..., plane] = next(found).cpu().permute(1, 2, 0).numpy()
        if self.range is not None:
            low, high = self.range
            restored = (low + restored.astype(np.float64) * (high - low)).astype(np.float32)
        return self.laid_out(restored)

    def laid_out(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (n, h, w, c) in the layout of the array."""
        if self.axis is None:
            return values[..., 0].reshape(self.shape)
        others = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        return np.moveaxis(values.reshape(*others, self.shape[self.axis]), -1, self.axis)

    @property
    def _planes(self) -> Sequence[list[int]]:
        """The channels that are restored together."""
        count = self.values.shape[3]
        return [[0, 1, 2]] if count in (RGB, RGB + 1) else [[k] for k in range(count)]


def read(
    image: Any,
    mask: Any = None,
    *,
    channel_axis: ChannelAxis = "auto",
    data_range: tuple[float, float] | None = None,
    by_own_range: bool = False,
    device: torch.device | str = "cpu",
) -> Pixels:
    """An array as images.

    Parameters
    ----------
    image : (h, w), (n, h, w), or either with a channel axis; real numbers in either byte order; a
        masked array's entries are missing where they are masked.
    mask : (h, w) or that of each image of a stack, with or without a channel axis of length 1:
        missing pixels beside those.
    channel_axis : as in scikit-image, None for none; "auto": none in two dimensions, else the last
        axis, of at most MAX_CHANNELS.
    data_range : black and white; None: those of the type of unsigned integers and bool, 0 and 1 of
        floats.
    by_own_range : whether floats beyond 0 and 1 have their own minimum and maximum as range.

    Raises
    ------
    ValueError : anything else; known entries that are NaN, infinite or, as floats without a range,
        beyond MAX_VALUE; a device that cannot be used.
    """
    refuse_gradient(image, "image", "which denoising and inpainting do not have")
    own_mask = np.ma.getmaskarray(image) if isinstance(image, np.ma.MaskedArray) else None
    array = native(np.ma.getdata(image) if own_mask is not None else image, "image")
    axis = _channel_axis(array.shape, channel_axis)
    values = _stacked(array, axis)
    missing = np.zeros(values.shape, bool)
    if own_mask is not None:
        missing |= _stacked(own_mask, axis)
    if mask is not None:
        missing |= _hole(mask, array.shape, axis, missing.shape)
    ends, on_scale = _ends(values, missing, data_range, by_own_range)
    unit = _unit(values, missing, ends, data_range is not None)
    low, high = ends if values.dtype.kind == "f" else (0.0, 1.0)
    opaque = (1 - low) / (high - low)  # of floats, alpha is 1 whatever the range of the colours
    scale = ends if on_scale else None
    deep = array.dtype.itemsize > 1 and not _has_8_bits(unit)
    return Pixels(unit, missing, scale, opaque, deep, array.shape, axis, usable(device))


def _has_8_bits(unit: NDArray[np.float32]) -> bool:
    """Whether values in [0, 1] are whole grey levels of 255."""
    levels = 255 * unit
    return bool((np.abs(levels - levels.round()) < ROUNDOFF).all())


def flagged(mask: Any, name: str = "mask") -> NDArray[np.bool_]:
    """Where an array of real numbers is not 0."""
    return np.asarray(native(mask, name) != 0)


def check_mask_size(shape: Sequence[int], *sizes: Sequence[int]) -> None:
    """Raise ValueError where the shape of a mask is none of these sizes, the first the image's."""
    if tuple(shape) not in map(tuple, sizes):
        mask, image = ("x".join(map(str, lengths)) for lengths in (shape, sizes[0]))
        raise ValueError(f"the mask is {mask} (h x w), the image {image}")


def native(values: Any, name: str) -> NDArray[Any]:
    """An array in the byte order of this machine. ValueError where entries are masked, no real
    numbers, or require a gradient."""
    refuse_gradient(values, name, "which denoising and inpainting do not have")
    array = real_array(values, name)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def usable(device: torch.device | str) -> torch.device:
    """`device`, or the CPU where that has no float64. ValueError where it cannot be used."""
    try:
        found = with_float64(torch.device(device))
        torch.zeros(1, dtype=torch.float32, device=found).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:  # by the build
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device: {device!r} cannot be used here ({reason})") from None
    return found


def _channel_axis(shape: tuple[int, ...], given: ChannelAxis) -> int | None:
    """The channel axis as a number from 0, or None. ValueError for other shapes."""
    ndim = len(shape)
    remedy = "channel_axis=None is a stack of grey images, channel_axis=0 channels before rows"
    if given == "auto":
        if ndim in (3, 4) and shape[-1] > MAX_CHANNELS:
            raise ValueError(
                f"image: shape {shape}: the last axis is too long for channels, of which there may "
                f"be {MAX_CHANNELS}; {remedy}"
            )
        axis = None if ndim == 2 else ndim - 1
    elif given is None or (isinstance(given, int) and -ndim <= given < ndim):
        axis = None if given is None else given % ndim
    else:
        raise ValueError(
            f'channel_axis: "auto", None or an axis of shape {shape} is needed, got {given!r}'
        )
    if ndim - (axis is not None) not in (2, 3):
        raise ValueError(
            f"image: (h, w), (n, h, w) or either with channels is needed, got shape {shape} with "
            f"{'no channel axis' if axis is None else f'channel axis {axis}'}"
        )
    if 0 in shape:
        raise ValueError(f"image: empty, shape {shape}")
    return axis


def _stacked(array: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """(n, h, w, c)"""
    moved = array[..., None] if axis is None else np.moveaxis(array, axis, -1)
    return moved[None] if moved.ndim == 3 else moved


def _hole(
    mask: Any, shape: tuple[int, ...], axis: int | None, stacked: tuple[int, ...]
) -> NDArray[np.bool_]:
    """The mask as an array that broadcasts to `stacked`, (n, h, w, c)."""
    hole = flagged(mask)
    spatial = tuple(length for k, length in enumerate(shape) if k != axis)
    if axis is not None and hole.ndim == len(shape) and hole.shape[axis] == 1:
        hole = hole.squeeze(axis)
    elif hole.shape not in (spatial, spatial[-2:]) and hole.ndim > 2 and hole.shape[-1] == 1:
        hole = hole[..., 0]
    check_mask_size(hole.shape, spatial, spatial[-2:])
    return np.broadcast_to(hole.reshape(-1, *stacked[1:3])[..., None], stacked)


def _ends(
    values: NDArray[Any],
    missing: NDArray[np.bool_],
    given: tuple[float, float] | None,
    by_own_range: bool,
) -> tuple[tuple[float, float], bool]:
    """Black and white of known values, and whether results are on this scale."""
    kind = values.dtype.kind
    if given is not None:
        ends = np.asarray(given, dtype=np.float64) if np.ndim(given) == 1 else np.zeros(0)
        if ends.shape != (2,) or not np.isfinite(ends).all() or not ends[0] < ends[1]:
            raise ValueError(
                f"data_range: two numbers are needed, black and a larger white, got {given!r}"
            )
        return (float(ends[0]), float(ends[1])), True
    if kind == "b":
        return (0.0, 1.0), False
    if kind == "u" and values.dtype.itemsize <= 2:
        return (0.0, float(np.iinfo(values.dtype).max)), False
    if kind in "ui":
        raise ValueError(
            f"image: the black and white of {values.dtype} are not known; give "
            f"data_range=(black, white), such as {_example(values, missing)}"
        )
    colours = slice(RGB if values.shape[3] == RGB + 1 else None)  # without alpha
    known = values[..., colours][~missing[..., colours]]
    if by_own_range and known.size and np.isfinite(known).all():
        low, high = float(known.min()), float(known.max())
        if (low < 0 or high > 1) and low < high:
            return (low, high), True
    return (0.0, 1.0), False


def _example(values: NDArray[Any], missing: NDArray[np.bool_]) -> tuple[int, int]:
    known = values[~missing]
    return (int(known.min()), int(known.max())) if known.size else (0, 255)


def _unit(
    values: NDArray[Any],
    missing: NDArray[np.bool_],
    ends: tuple[float, float],
    ranged: bool,
) -> NDArray[np.float32]:
    """Values with black at 0 and white at 1, missing ones 0. ValueError for known ones that are NaN
    or infinite, or beyond MAX_VALUE without a range."""
    low, high = ends
    known = np.where(missing, np.zeros((), values.dtype), values)
    wide = known.astype(np.result_type(values.dtype, np.float32), copy=False)
    if not np.isfinite(wide).all():
        raise ValueError("image: holds pixels that are NaN or infinite")
    if ends != (0.0, 1.0):
        wide = (wide.astype(np.float64) - low) / (high - low)
    most = max(float(wide.max(initial=0)), -float(wide.min(initial=0)))
    if most > MAX_VALUE:
        least, largest = values[~missing].min(), values[~missing].max()
        remedy = "white must be at 1, or give data_range=(black, white)"
        if ranged:
            remedy = f"too far beyond data_range=({low:g}, {high:g})"
        raise ValueError(f"image: values from {least:g} to {largest:g}; {remedy}")
    return np.where(missing, 0, wide).astype(np.float32)
