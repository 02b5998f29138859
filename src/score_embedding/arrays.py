"""Numpy or torch in, torch out: how the public functions take their arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ArrayLike = Tensor | NDArray[Any]

_KEPT = (torch.float16, torch.bfloat16, torch.float32)


def to_tensor(x: ArrayLike, ndim: int | None = None, name: str = "array") -> Tensor:
    """A tensor on the device of the input, in the dtype to compute in: float32 for float16,
    bfloat16 and float32, float64 for everything else. Arrays may be of either byte order.

    Raises
    ------
    ValueError : the number of dimensions is not `ndim`, a value is NaN, infinite or masked, or the
        dtype is not one of real numbers.
    """
    if isinstance(x, Tensor):
        if x.is_complex():
            raise ValueError(f"{name} must hold real numbers, got dtype {x.dtype}")
        tensor = x.to(torch.float32 if x.dtype in _KEPT else torch.float64)
    else:
        tensor = _from_numpy(x, name)
    if ndim is not None and tensor.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(tensor.shape)}")
    # One sum finds most bad values; it may also overflow, and then every value is looked at.
    if not (torch.isfinite(tensor.detach().sum()) or torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds values that are NaN or infinite")
    return tensor


def result_dtype(x: ArrayLike) -> torch.dtype:
    """The dtype of results for the input x: that of x where it is float16, bfloat16 or float32,
    float64 otherwise."""
    if isinstance(x, Tensor):
        return x.dtype if x.dtype in _KEPT else torch.float64
    dtype = np.asarray(x).dtype
    widths = {2: torch.float16, 4: torch.float32}
    return widths.get(dtype.itemsize, torch.float64) if dtype.kind == "f" else torch.float64


def refuse_gradient(x: object, name: str, reason: str) -> None:
    """Raise ValueError where x requires a gradient, which would be lost without a word."""
    if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, {reason}; use {name}.detach()")


def number(x: Any, name: str) -> Any:
    """x, a tensor of one entry as a plain number. ValueError where it requires a gradient."""
    refuse_gradient(x, name, "which numbers do not have")
    return x.item() if isinstance(x, Tensor) else x


def _from_numpy(x: NDArray[Any], name: str) -> Tensor:
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has masked values; fill them first, with {name}.filled(value)")
    array = np.asarray(x)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    computed = np.float64 if result_dtype(array) == torch.float64 else np.float32
    # A copy: torch would share memory that may not be written to, and warn of it.
    return torch.from_numpy(np.array(array, dtype=computed, order="C"))


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Torch's own default dtype, float32, and default device, the CPU, in place of those that the
    caller has set, and has again afterwards. Also a decorator."""
    dtype = torch.get_default_dtype()
    device = torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        # A device as context adds to the cost of every call: only where it changes anything.
        with nullcontext() if device.type == "cpu" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def with_float64(device: torch.device) -> torch.device:
    """`device`, or the CPU where that has no float64 (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device
