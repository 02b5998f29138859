"""A stationary Gaussian on images of any size: diagonal in the DCT after a rotation of the colours.

With a rotation R that decorrelates the colours, a mean for each of them, and the variance V_c(f) of
colour c at spatial frequency f along each axis of the orthonormal DCT-II, the variance under noise
of level s is V_c(f) + s^2, and the posterior mean is the Wiener filter

    D(y, s) = mean + R^T DCT^-1 [ V_c(f) / (V_c(f) + s^2) DCT [R (y - mean)] ].

V is kept on a grid of frequencies and interpolated in its logarithm: variances of an orthonormal
basis do not depend on the size of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from score_embedding.data import crops
from score_embedding.dct import basis
from score_embedding.densities.model import FitOptions, Parameters


@dataclass(frozen=True)
class Stationary(Parameters):
    """mean (c,), colours (c, c) with orthonormal rows, and variances (c, G, G) at the frequencies
    k / (2 G) cycles per pixel, k = 0 .. G - 1, of each axis."""

    NOT_NEGATIVE: ClassVar = ("variances",)

    mean: Tensor
    colours: Tensor
    variances: Tensor

    @property
    def channels(self) -> int:
        return len(self.mean)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        c, grid = len(self.mean), self.variances.shape[-1]
        return {"mean": (c,), "colours": (c, c), "variances": (c, grid, grid)}

    def denoise_images(self, x: Tensor, s: float, stride: int) -> Tensor:  # noqa: ARG002
        """As `Model.denoise_images`, of whole images: there are no windows."""
        return torch.stack([self.denoise(y, s) for y in x])

    def log_density_images(self, x: Tensor, s: float) -> Tensor:
        """As `Model.log_density_images`, of images of any size."""
        return torch.stack([self.log_density(y, s) for y in x])

    def denoise(self, y: Tensor, s: float) -> Tensor:
        """The posterior mean of an image y (c, h, w) at noise level s, shape and dtype of y."""
        return self._filtered(y, lambda V: V / (V + s**2))

    def gaussian_flow(self, x: Tensor, s_from: float, s_to: float) -> Tensor:
        """As `Model.gaussian_flow`, of images of any size."""

        def scale(V: Tensor) -> Tensor:
            return ((V + s_to**2) / (V + s_from**2)).sqrt()

        return torch.stack([self._filtered(y, scale) for y in x])

    def _filtered(self, y: Tensor, gain_of: Callable[[Tensor], Tensor]) -> Tensor:
        """An image y (c, h, w) of which each colour and frequency is multiplied by the gain of its
        variance.

        The DCT is the real FFT of the image beside its mirror images, one colour after the other:
        beside the image and its result that takes some 18 of its channels.
        """
        own = self.to(y)
        _, h, w = y.shape
        coloured = own._coloured(y)
        filtered = torch.empty_like(coloured)
        for colour, variances in enumerate(own.variances):
            V = _variances_at(variances, _indices(2 * h, y), _indices(w + 1, y), h, w)
            gain = gain_of(V)
            spectrum = torch.fft.rfft2(crops.continued(coloured[colour], 2 * h, 2 * w))
            torch.view_as_real(spectrum).mul_(gain[..., None])  # complex, it would be a copy
            filtered[colour] = torch.fft.irfft2(spectrum, (2 * h, 2 * w))[:h, :w]
        back: Tensor = own.colours.T @ filtered.flatten(1)
        return back.reshape(y.shape) + own.mean[:, None, None]

    def log_density(self, y: Tensor, s: float) -> Tensor:
        """log p of an image y (c, h, w) with noise of level s >= 0, a number."""
        own = self.to(y)
        _, h, w = y.shape
        (C_h, _), (C_w, _) = (basis(size, "reflect", y.device) for size in (h, w))
        coefficients = C_h.to(y) @ own._coloured(y) @ C_w.to(y).T
        rows, columns = _indices(h, y), _indices(w, y)
        V = torch.stack([_variances_at(v, rows, columns, h, w) for v in own.variances])
        variances = V + s**2
        terms = coefficients**2 / variances + (2 * math.pi * variances).log()
        total: Tensor = terms.sum()
        return total / -2

    def _coloured(self, y: Tensor) -> Tensor:
        centred = y - self.mean[:, None, None]
        return (self.colours @ centred.flatten(1)).reshape(y.shape)


def _indices(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)


def _variances_at(variances: Tensor, k_h: Tensor, k_w: Tensor, h: int, w: int) -> Tensor:
    """Variances (G, G) at k_h / (2 h) and k_w / (2 w) cycles per pixel, (len(k_h), len(k_w))."""
    grid = len(variances)
    # A frequency above one half is that below it: the mirror's.
    below = [
        torch.minimum(k, 2 * size - k).to(variances) / size for k, size in ((k_h, h), (k_w, w))
    ]
    rows, columns = ((share * grid).clamp_max(grid - 1) for share in below)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    where = torch.stack([x, y], dim=-1)[None] * (2 / max(grid - 1, 1)) - 1
    found: Tensor = F.grid_sample(variances.log()[None, None], where, align_corners=True)
    return found[0, 0].exp()


Model = Stationary


def fit(arrays: Tensor, options: FitOptions) -> Stationary:  # noqa: ARG001 - it has none
    """To arrays (L, c, G, G), in their dtype."""
    L, c, G, _ = arrays.shape
    pixels = arrays.permute(1, 0, 2, 3).reshape(c, -1)
    mean = pixels.mean(dim=1)
    centred = pixels - mean[:, None]
    _, axes = torch.linalg.eigh(centred @ centred.T)
    colours = axes.T.contiguous()
    coloured = (colours @ centred).reshape(c, L, G, G).transpose(0, 1)
    C, _ = basis(G, "reflect", arrays.device)
    variances = (C.to(arrays) @ coloured @ C.to(arrays).T).square().mean(dim=0)
    return Stationary(mean, colours, variances.clamp_min(torch.finfo(arrays.dtype).eps ** 2))
