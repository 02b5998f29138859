"""The protocol of a density's parameters, and the base of those that are of arrays of one shape."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from score_embedding.densities import windows


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit` that only some kinds use: see there."""

    components: int = 20
    rank: int = 64
    em_steps: int = 6
    seed: int = 0


class Model(Protocol):
    """Parameters of a density, from which the closed forms are computed at any noise level."""

    @property
    def channels(self) -> int: ...

    def denoise_images(self, x: Tensor, s: float, stride: int) -> Tensor:
        """The posterior mean of images x (n, c, h, w) at noise level s > 0, shape and dtype of x.
        A density of small arrays is applied to windows every `stride` pixels."""

    def denoise_each(self, x: Tensor, levels: list[float], stride: int) -> Tensor:
        """As `denoise_images`, each image at a noise level of its own."""

    def log_density_images(self, x: Tensor, s: float) -> Tensor:
        """log p of images x (n, c, h, w) with noise of level s > 0, (n,). Raises ValueError where
        they have no density in closed form."""

    def to(self, like: Tensor) -> Self:
        """On the device and in the dtype of `like`."""

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, as they are saved."""

    def check(self, stride: int) -> None:
        """Raise ValueError where the parts, as read from a file, do not fit together."""


@dataclass(frozen=True)
class Parameters:
    """A frozen dataclass whose fields are the tensors of a density."""

    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ()  # names of weights and variances

    @abstractmethod
    def denoise_images(self, x: Tensor, s: float, stride: int) -> Tensor:
        """As `Model.denoise_images`."""

    def denoise_each(self, x: Tensor, levels: list[float], stride: int) -> Tensor:
        """As `Model.denoise_each`, the images of equal level together."""
        denoised = torch.empty_like(x)
        for s, same in by_level(levels):
            denoised[same] = self.denoise_images(x[same], s, stride)
        return denoised

    def tensors(self) -> dict[str, Tensor]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, like: Tensor) -> Self:
        return replace(self, **{name: value.to(like) for name, value in self.tensors().items()})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape that each tensor must have to fit the others."""
        return {name: tuple(value.shape) for name, value in self.tensors().items()}

    def check(self, stride: int) -> None:  # noqa: ARG002 - of windows, which not all have
        tensors, wanted = self.tensors(), self.shapes()
        if not all(v.is_floating_point() and v.isfinite().all() for v in tensors.values()):
            raise ValueError("values that are not finite numbers")
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        if shapes != wanted or any(shape[0] == 0 for shape in wanted.values()):
            raise ValueError(f"shapes {shapes} where {wanted} are needed")
        if not all((tensors[name] >= 0).all() for name in self.NOT_NEGATIVE):
            raise ValueError("a weight or variance below 0")


@dataclass(frozen=True)
class ArrayModel(Parameters):
    """A density of arrays of shape (c, h, w), as rows of d = c h w numbers. Images that are larger
    are denoised window by window."""

    shape: tuple[int, int, int]

    @property
    def channels(self) -> int:
        return self.shape[0]

    @abstractmethod
    def denoise(self, y: Tensor, s: float) -> Tensor:
        """The posterior mean of arrays y (L, d) at noise level s >= 0, shape and dtype of y."""

    @abstractmethod
    def log_density(self, y: Tensor, s: float) -> Tensor:
        """log p of arrays y (L, d) with noise of level s > 0, (L,)."""

    def denoise_images(self, x: Tensor, s: float, stride: int) -> Tensor:
        return windows.average(x, self.shape[1:], stride, lambda y: self.denoise(y, s))

    def log_density_images(self, x: Tensor, s: float) -> Tensor:
        if self.shape[1:] == (1, 1):  # pixels are independent
            pixels = x.permute(0, 2, 3, 1).flatten(0, 2)  # (n h w, c)
            return self.log_density(pixels, s).reshape(len(x), -1).sum(dim=1)
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"images of shape {tuple(x.shape[1:])}: this density is one of arrays of shape "
                f"{self.shape}, and its windows have no joint density in closed form"
            )
        return self.log_density(x.flatten(1), s)

    def check(self, stride: int) -> None:
        c, h, w = self.shape
        if min(c, h, w) < 1 or stride > min(h, w):
            raise ValueError(f"shape {self.shape}, stride {stride}")
        super().check(stride)


def by_level(levels: list[float]) -> Iterator[tuple[float, list[int]]]:
    """Each noise level, and the images that have it."""
    for s in dict.fromkeys(levels):
        yield s, [i for i, level in enumerate(levels) if level == s]


def shape_of(arrays: Tensor) -> tuple[int, int, int]:
    """(c, h, w) of arrays (L, c, h, w)."""
    _, c, h, w = arrays.shape
    return c, h, w


def ones(count: int, like: Tensor) -> Tensor:
    """(count,) on the device and in the dtype of `like`, whatever the default of either is."""
    return torch.ones(count, dtype=like.dtype, device=like.device)
