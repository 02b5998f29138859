"""The protocol of a density's parameters, and the base of those that are of arrays of one shape."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self, get_type_hints

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

    def gaussian_flow(self, x: Tensor, s_from: float, s_to: float) -> Tensor:
        """Images x (n, c, h, w) at noise level s_from moved to s_to by the probability flow of the
        Gaussian of the same mean and covariance. Raises ValueError where they have none."""

    def to(self, like: Tensor) -> Self:
        """On the device and in the dtype of `like`."""

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, as they are saved."""

    def array_shapes(self) -> dict[str, tuple[int, ...] | None]:
        """The shapes (c, h, w) of the arrays that it and its parts are densities of."""

    def check(self, stride: int) -> None:
        """Raise ValueError where the parts, as read from a file, do not fit together."""


@dataclass(frozen=True)
class Parameters:
    """A frozen dataclass whose fields are the tensors of a density, or other densities: its parts,
    of which the tensors are saved as `part.name`."""

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

    @classmethod
    def read(cls, tensors: dict[str, Tensor], shapes: dict[str, Any], name: str = "") -> Self:
        """From `tensors()`, and the shapes of arrays by the name of a part, "" for the whole.
        Raises TypeError where a tensor is missing or there is one too many."""
        own = {key: value for key, value in tensors.items() if "." not in key}
        hints = get_type_hints(cls)
        for part in {key.split(".")[0] for key in tensors if "." in key}:
            if not issubclass(hints.get(part, object), Parameters):
                raise TypeError(f"no part {part}")
            inner = {
                key.removeprefix(f"{part}."): value
                for key, value in tensors.items()
                if key.startswith(f"{part}.")
            }
            own[part] = hints[part].read(inner, shapes, f"{name}.{part}".lstrip("."))
        shape = {"shape": tuple(shapes[name])} if shapes.get(name) else {}
        return cls(**shape, **own)

    def parts(self) -> dict[str, Parameters]:
        """The densities that it is made of, by their names."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Parameters)}

    def own_tensors(self) -> dict[str, Tensor]:
        """The tensors that are of no part."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def tensors(self) -> dict[str, Tensor]:
        found = self.own_tensors()
        for name, part in self.parts().items():
            found |= {f"{name}.{key}": value for key, value in part.tensors().items()}
        return found

    def array_shapes(self) -> dict[str, tuple[int, ...] | None]:
        """The shapes of arrays as `read` needs them."""
        found: dict[str, tuple[int, ...] | None] = {"": getattr(self, "shape", None)}
        for name, part in self.parts().items():
            found |= {
                f"{name}.{key}".rstrip("."): shape for key, shape in part.array_shapes().items()
            }
        return found

    def to(self, like: Tensor) -> Self:
        moved: dict[str, Tensor | Parameters] = {
            name: value.to(like) for name, value in self.own_tensors().items()
        }
        return replace(self, **moved, **{k: part.to(like) for k, part in self.parts().items()})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape that each of its own tensors must have to fit the others."""
        return {name: tuple(value.shape) for name, value in self.own_tensors().items()}

    def check(self, stride: int) -> None:  # noqa: ARG002 - of windows, which not all have
        for part in self.parts().values():
            part.check(1)
        tensors, wanted = self.own_tensors(), self.shapes()
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

    def flow(self, y: Tensor, s_from: float, s_to: float) -> Tensor:  # noqa: ARG002 - not all have
        """As `Model.gaussian_flow`, of arrays y (L, d)."""
        raise ValueError(f"{type(self).__name__} defines no flow of its Gaussian")

    def denoise_levels(self, y: Tensor, levels: list[float]) -> Tensor:
        """The posterior mean of arrays y (n, L, d), of which each of the n groups has a noise level
        of its own; shape and dtype of y."""
        return torch.stack([self.denoise(own, s) for own, s in zip(y, levels, strict=True)])

    def denoise_images(self, x: Tensor, s: float, stride: int) -> Tensor:
        return windows.average(x, self.shape[1:], stride, lambda y: self.denoise(y, s))

    def denoise_each(self, x: Tensor, levels: list[float], stride: int) -> Tensor:
        """As `Model.denoise_each`."""
        if len(set(levels)) == 1:
            return self.denoise_images(x, levels[0], stride)

        def estimate(rows: Tensor) -> Tensor:
            return self.denoise_levels(rows.view(len(x), -1, rows.shape[1]), levels).flatten(0, 1)

        return windows.average(x, self.shape[1:], stride, estimate)

    def log_density_images(self, x: Tensor, s: float) -> Tensor:
        return self.log_density(self._rows(x), s).reshape(len(x), -1).sum(dim=1)

    def gaussian_flow(self, x: Tensor, s_from: float, s_to: float) -> Tensor:
        moved = self.flow(self._rows(x), s_from, s_to)
        n, c, h, w = x.shape
        if self.shape[1:] == (1, 1):
            return moved.view(n, h, w, c).permute(0, 3, 1, 2)
        return moved.view(x.shape)

    def _rows(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w), which are one array each, or one for each pixel: (L, d)."""
        if self.shape[1:] == (1, 1):  # pixels are independent
            return x.permute(0, 2, 3, 1).flatten(0, 2)  # (n h w, c)
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"images of shape {tuple(x.shape[1:])}: this density is one of arrays of shape "
                f"{self.shape}, and its windows have no joint density in closed form"
            )
        return x.flatten(1)

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
