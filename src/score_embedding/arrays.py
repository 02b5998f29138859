"""Numpy or torch in, torch out: how the public functions take their arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from score_embedding.errors import DivergenceError

ArrayLike = Tensor | NDArray[Any]

_KEPT = (torch.float16, torch.bfloat16, torch.float32)


def to_tensor(x: ArrayLike, ndim: int | None = None, name: str = "array") -> Tensor:
    """A tensor on the device of the input, in the dtype to compute in: float32 for float16,
    bfloat16 and float32, float64 for everything else. Arrays may be of either byte order.

    Raises
    ------
    ValueError : the number of dimensions is not `ndim`, a value is NaN, infinite or masked, the
        dtype is not one of real numbers, or a tensor is sparse or quantized.
    """
    if isinstance(x, Tensor):
        _refuse_sparse(x, name)
        if x.is_complex():
            raise ValueError(f"{name} must hold real numbers, got dtype {x.dtype}")
        tensor = x.to(torch.float32 if x.dtype in _KEPT else torch.float64)
    else:
        tensor = _from_numpy(x, name)
    if ndim is not None and tensor.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(tensor.shape)}")
    if not _all_finite(tensor):
        raise ValueError(f"{name} holds values that are NaN or infinite")
    return tensor


def finite(result: Tensor, name: str, remedy: str) -> Tensor:
    """The result of a computation. DivergenceError, with what the caller can change, where a value
    of it is NaN or infinite."""
    if not _all_finite(result):
        raise DivergenceError(f"{name} is not finite in {result.dtype}: {remedy}")
    return result


def _all_finite(x: Tensor) -> bool:
    # One sum finds most bad values; it may also overflow, and then every value is looked at.
    return math.isfinite(x.detach().sum()) or bool(torch.isfinite(x).all())


def result_dtype(x: ArrayLike) -> torch.dtype:
    """The dtype of results for the input x: that of x where it is float16, bfloat16 or float32,
    float64 otherwise."""
    if isinstance(x, Tensor):
        return x.dtype if x.dtype in _KEPT else torch.float64
    dtype = getattr(x, "dtype", np.dtype(float))
    widths = {2: torch.float16, 4: torch.float32}
    return widths.get(dtype.itemsize, torch.float64) if dtype.kind == "f" else torch.float64


def refuse_gradient(x: object, name: str, reason: str) -> None:
    """Raise ValueError where x requires a gradient, which would be lost without a word."""
    if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, {reason}; use {name}.detach()")


def number(x: Any, name: str, above: float = -math.inf, below: float = math.inf) -> float:
    """x, a number or an array of one entry, as a float. ValueError where it requires a gradient,
    or is not a finite number between the bounds, which are excluded."""
    refuse_gradient(x, name, "which numbers do not have")
    value, found = _entry(x), math.nan
    if type(value) is not bool and isinstance(value, Real):
        with suppress(OverflowError):  # an int of many digits
            found = float(value)
    if not (math.isfinite(found) and above < found < below):
        kind = "a positive finite number" if above == 0 else "a finite number"
        limits = [f" above {above:g}"] if above and math.isfinite(above) else []
        limits += [f" below {below:g}"] if math.isfinite(below) else []
        raise ValueError(f"{name} must be {kind}{' and'.join(limits)}, got {x!r:.100}")
    return found


def whole(x: Any, name: str, least: int, most: int = 2**63 - 1) -> int:
    """x, a whole number or an array of one, as an int. ValueError where it is not one from `least`
    to `most`."""
    value = _entry(x)
    if isinstance(value, bool) or not (isinstance(value, Integral) and least <= int(value) <= most):
        limit = f"to {most}" if most < 2**63 - 1 else "on"
        raise ValueError(f"{name} must be a whole number from {least} {limit}, got {x!r:.100}")
    return int(value)


def ascending(times: ArrayLike) -> Tensor:
    """`times` as a tensor (N,). ValueError unless there is at least one, and each is larger than
    the one before."""
    found = to_tensor(times, ndim=1, name="times")
    if len(found) == 0 or bool((found.diff() <= 0).any()):
        raise ValueError(f"times must be ascending and at least one, got {found.tolist()}")
    return found


def _entry(x: Any) -> Any:
    """The one entry of an array, anything else unchanged."""
    one = isinstance(x, Tensor | np.ndarray) and math.prod(x.shape) == 1
    return x.item() if one else x


def real_array(x: Any, name: str) -> NDArray[Any]:
    """x as a numpy array. ValueError where it does not hold real numbers, or some are masked."""
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has masked values; fill them first, with {name}.filled(value)")
    if isinstance(x, Tensor):
        _refuse_sparse(x, name)
        x = x.detach().cpu()
        x = x.float() if x.dtype == torch.bfloat16 else x
    try:
        array = np.asarray(x)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name} must be an array: {error}") from None
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def _from_numpy(x: NDArray[Any], name: str) -> Tensor:
    array = real_array(x, name)
    computed = np.float64 if result_dtype(array) == torch.float64 else np.float32
    # A copy: torch would share memory that may not be written to, and warn of it.
    return torch.from_numpy(np.array(array, dtype=computed, order="C"))


def _refuse_sparse(x: Tensor, name: str) -> None:
    if x.layout != torch.strided or x.is_quantized:
        dense = "dequantize" if x.is_quantized else "to_dense"
        raise ValueError(f"{name} must be a dense tensor, use {name}.{dense}()")


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Numbers from N(0, 1), float32 on the device of the generator, whatever torch's defaults."""
    return torch.randn(
        tuple(shape), generator=generator, dtype=torch.float32, device=generator.device
    )


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """The same from the uniform distribution on [0, 1)."""
    return torch.rand(
        tuple(shape), generator=generator, dtype=torch.float32, device=generator.device
    )


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
