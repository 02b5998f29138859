"""A drift f(x, t) on the grid: what a user gives, and what the schemes need of it.

Positions are those of the pixel centres, measured from the grid's middle in units of dh: along an
axis of n pixels, x_i = (i - (n - 1)/2) dh. The drift acts on the density over the pixel grid; it is
not the f of the SDE, which acts on images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.arrays import ArrayLike, number, refuse_gradient, to_tensor
from score_embedding.sde import LARGEST


@dataclass(frozen=True)
class AffineDrift:
    """f(x, t) = -rate(t) x: a pull towards the grid's middle, of Ornstein-Uhlenbeck kind.

    rate : a number, or a function of the time such as `VariancePreserving.rate`.
    """

    rate: float | Callable[[float], float | Tensor]

    def rate_at(self, t: float) -> float:
        """The rate at time t. Raises ValueError where it is not a number below 1e150 in size."""
        rate = self.rate(t) if callable(self.rate) else self.rate
        return number(rate, "rate", above=-LARGEST, below=LARGEST)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return -self.rate_at(t) * x

    def __str__(self) -> str:
        return "-rate(t) x" if callable(self.rate) else f"-{self.rate:g} x"


Drift = Callable[[Tensor, float], Tensor] | ArrayLike


@dataclass(frozen=True)
class DriftField:
    """A drift at one time: its components at the pixel centres (dims, *grid), and for each axis its
    own component on the faces between pixels, the two walls included (size + 1 along that axis)."""

    centres: Tensor
    faces: tuple[Tensor, ...]

    def divergence(self, dh: float) -> Tensor:
        """div f (*grid), second order; first order at the walls where f was given as an array."""
        return sum(
            (face.diff(dim=axis) / dh for axis, face in enumerate(self.faces)),
            start=torch.zeros_like(self.centres[0]),
        )


def positions(grid: tuple[int, ...], dh: float, device: torch.device) -> Tensor:
    """Positions of the pixel centres, (dims, *grid) in float64."""
    axes = [
        (torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2) * dh
        for size in grid
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def field_at(
    drift: Drift, t: float, grid: tuple[int, ...], dh: float, device: torch.device
) -> DriftField:
    """A callable drift is evaluated where it is needed; that of an array (dims, *grid), constant
    in time, is averaged between neighbours and extrapolated linearly to the walls.

    Raises
    ------
    ValueError : the array, or what the callable returns, is not finite or not of shape
        (dims, *grid).
    """
    if not callable(drift):
        centres = _checked(drift, (len(grid), *grid), "drift").to(device, torch.float64)
        return DriftField(centres, tuple(_faces(f, a) for a, f in enumerate(centres)))
    x = positions(grid, dh, device)
    centres = _checked(drift(x, t), x.shape, "drift(x, t)")
    faces = []
    for axis, size in enumerate(grid):
        longer = (*grid[:axis], size + 1, *grid[axis + 1 :])
        x_faces = positions(longer, dh, device)
        faces.append(_checked(drift(x_faces, t), x_faces.shape, "drift(x, t)")[axis])
    return DriftField(centres, tuple(faces))


def _checked(values: ArrayLike, shape: tuple[int, ...], name: str) -> Tensor:
    refuse_gradient(values, name, "which no scheme has")
    field = to_tensor(values, name=name).to(torch.float64)
    if field.shape != shape:
        raise ValueError(f"{name} must be (dims, *grid) = {tuple(shape)}, got {tuple(field.shape)}")
    return field


def _faces(f: Tensor, axis: int) -> Tensor:
    size = f.shape[axis]
    inner = (f.narrow(axis, 0, size - 1) + f.narrow(axis, 1, size - 1)) / 2
    first, last = f.narrow(axis, 0, 1), f.narrow(axis, size - 1, 1)
    if size > 1:
        first = 2 * first - inner.narrow(axis, 0, 1)
        last = 2 * last - inner.narrow(axis, size - 2, 1)
    return torch.cat([first, inner, last], dim=axis)
