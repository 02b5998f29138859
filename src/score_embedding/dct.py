"""The cosine and sine bases of an axis, and the discrete cosine transform of images."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def basis(size: int, boundary: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Orthonormal eigenvectors, as rows (size, size), and eigenvalues (size,) of minus the second
    difference of an axis with dh = 1, float64: the DCT-II basis between reflecting walls, with
    2 - 2 cos(pi k / n), the DST-I basis where 0 lies beyond the edge. Kept: not to be written to.
    """
    with torch.inference_mode(False):
        k = torch.arange(size, device=device)
        # Whole turns are taken off as integers, which keeps the last digits on long axes.
        if boundary == "reflect":
            quarter_turns = k[:, None] * (2 * k + 1) % (4 * size)
            C = torch.cos(math.pi / (2 * size) * quarter_turns.double()) * math.sqrt(2 / size)
            C[0] = 1 / math.sqrt(size)
            angle = math.pi / size * k.double()
        else:
            half_turns = (k[:, None] + 1) * (k + 1) % (2 * size + 2)
            C = torch.sin(math.pi / (size + 1) * half_turns.double()) * math.sqrt(2 / (size + 1))
            angle = math.pi / (size + 1) * (k.double() + 1)
        return C, (2 * torch.sin(angle / 2)).square()


def dct(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of the last two axes. Shape, dtype and device of x."""
    C_h, C_w = _bases(x)
    return C_h @ x @ C_w.T


def inverse_dct(x: Tensor) -> Tensor:
    """The inverse of `dct`."""
    C_h, C_w = _bases(x)
    return C_h.T @ x @ C_w


def _bases(x: Tensor) -> tuple[Tensor, Tensor]:
    h, w = x.shape[-2:]
    return _cosine_basis(h, x.dtype, x.device), _cosine_basis(w, x.dtype, x.device)


@cache
def _cosine_basis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return basis(size, "reflect", torch.device("cpu"))[0].to(device, dtype)
