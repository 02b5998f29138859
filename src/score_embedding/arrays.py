"""Numpy or torch in, torch out: the one conversion at the door of every public function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ArrayLike = Tensor | NDArray[Any]


def to_tensor(x: ArrayLike, ndim: int | None = None, name: str = "array") -> Tensor:
    """A tensor on the device of the input, float32 where that is float32 and float64 otherwise.

    Raises
    ------
    ValueError : the number of dimensions is not `ndim`, or a value is NaN or infinite.
    """
    # np.array copies: torch would share, and warns of, memory that may not be written to.
    tensor = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x, order="C"))
    if tensor.dtype != torch.float32:
        tensor = tensor.to(torch.float64)
    if ndim is not None and tensor.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(tensor.shape)}")
    # A sum is not finite where a value is not; the closer look tells an overflow from that.
    if not (torch.isfinite(tensor.detach().sum()) or torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds values that are NaN or infinite")
    return tensor
