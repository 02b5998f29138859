"""Crops of images of any sizes, all places equally likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Crops:
    """Crops of one size (h, w) of images (c, h, w), which are at least as large; `places`, in
    float64: how many places each image has for one."""

    images: Sequence[Tensor]
    size: tuple[int, int]
    places: Tensor

    @classmethod
    def of(cls, images: Sequence[Tensor], size: tuple[int, int]) -> Crops:
        """Of images of any sizes; those that are smaller are continued by their mirror image."""
        h, w = size
        whole = [continued(x, max(x.shape[1], h), max(x.shape[2], w)) for x in images]
        places = [(x.shape[1] - h + 1) * (x.shape[2] - w + 1) for x in whole]
        return cls(whole, size, torch.tensor(places, dtype=torch.float64, device="cpu"))

    def draw(self, count: int, generator: torch.Generator, flip: bool = False) -> Tensor:
        """`count` crops (count, c, h, w), flipped left to right at random with `flip`."""
        h, w = self.size
        device = generator.device
        places = self.places.to(device)
        which = torch.multinomial(places, count, replacement=True, generator=generator)
        shares = torch.rand(count, 3, generator=generator, dtype=torch.float64, device=device)
        drawn = []
        for i, (down, right, turn) in zip(which.tolist(), shares.tolist(), strict=True):
            _, height, width = self.images[i].shape
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            crop = self.images[i][:, top : top + h, left : left + w]
            drawn.append(crop.flip(2) if flip and turn < 0.5 else crop)
        return torch.stack(drawn)


def draw(
    images: Sequence[Tensor],
    size: tuple[int, int],
    count: int,
    generator: torch.Generator,
    flip: bool = False,
) -> Tensor:
    """`count` crops (count, c, *size) of images (c, h, w) of any sizes, as `Crops` draws them."""
    return Crops.of(images, size).draw(count, generator, flip)


def middle(image: Tensor, side: int) -> Tensor:
    """The middle side x side square of an image (c, h, w), or what there is of it."""
    _, h, w = image.shape
    top, left = max(0, (h - side) // 2), max(0, (w - side) // 2)
    return image[:, top : top + side, left : left + side]


def continued(image: Tensor, h: int, w: int) -> Tensor:
    """The image (..., H, W) continued by its mirror image, as often as needed, to (..., h, w)."""
    for axis, wanted in ((-2, h), (-1, w)):
        length = image.shape[axis]
        if wanted > length:
            i = torch.arange(wanted, device=image.device) % (2 * length)
            image = image.index_select(axis, torch.minimum(i, 2 * length - 1 - i))
    return image
