"""The best linear combination of two densities' posterior means at each noise level.

A mixture of Gaussians of whole images (D_1) is best at much noise, a mixture of patches (D_2) at
little. In each ring of spatial frequency f,

    D(x, s) = mean + DCT^-1 [ sum over k of a_k(s, f) DCT (D_k(x, s) - mean) ],

with the a_k of least squared error on images to which neither was fitted. They are known at LEVELS
noise levels and linear in ln s between them, and in the radius of f. D is the posterior mean of no
density in closed form, like the average of windows in D_2: there is no log-density.

Beyond the levels the a_k stay constant. At the lowest level a_1 + a_2 = 1, and D tends to x as s
tends to 0. At the highest a_1 = 1 and a_2 = 0, and D tends to the mean as s grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from score_embedding import frequencies
from score_embedding.arrays import normal
from score_embedding.data import crops
from score_embedding.dct import dct, inverse_dct
from score_embedding.densities import image_mixture, patch_mixture, windows
from score_embedding.densities.image_mixture import ImageMixture
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import ArrayModel, FitOptions, shape_of
from score_embedding.densities.splitting import LEAST, split

LEVELS = 13
RANGE = (0.02, 60.0)  # of the levels, in standard deviations of the pixels
HELD_OUT = 128  # images on which the a_k are fitted, at most: more change nothing
PATCH = 8  # side of the windows
PATCHES = 20_000  # windows that their mixture is fitted to
PRIOR = 2.0  # images
_PATCH_STRIDE = 2  # of the windows when the a_k are fitted


@dataclass(frozen=True)
class Combined(ArrayModel):
    """Both parts, the noise levels (N,), and the a_k there, (N, 2, R) in R rings."""

    images: ImageMixture
    patches: GaussianMixture
    levels: Tensor
    weights: Tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "levels": (len(self.levels),),
            "weights": (len(self.levels), 2, self.weights.shape[-1]),
        }

    def check(self, stride: int) -> None:
        super().check(stride)
        increasing = len(self.levels) > 1 and bool((self.levels.diff() > 0).all())
        if not (increasing and self.levels[0] > 0):
            raise ValueError("noise levels that do not increase from above 0")
        if self.images.shape != self.shape or self.patches.channels != self.channels:
            raise ValueError("parts that are of other images")
        if max(self.patches.shape[1:]) > min(self.shape[1:]):
            raise ValueError("windows that are larger than the images")

    def denoise_images(self, x: Tensor, s: float, stride: int) -> Tensor:
        """As `Model.denoise_images`: the patch mixture through windows every `stride` pixels. Of
        images larger than its own, the other part is seen through windows that overlap as much."""
        return self.denoise_each(x, [s] * len(x), stride)

    def denoise_each(self, x: Tensor, levels: list[float], stride: int) -> Tensor:
        """As `Model.denoise_each`."""
        parts, mean = self._denoised(x, levels, stride)
        h, w = x.shape[-2:]
        a = torch.stack([self._weights_at(s) for s in levels], dim=1).to(x)  # (2, n, R)
        a = frequencies.at_frequencies(a.flatten(0, 1), h, w).view(2, len(x), 1, h, w)
        return mean + inverse_dct((a * dct(parts - mean)).sum(dim=0))

    def denoise(self, y: Tensor, s: float) -> Tensor:
        """As `ArrayModel.denoise`."""
        return self.denoise_images(y.view(-1, *self.shape), s, _PATCH_STRIDE).flatten(1)

    def log_density_images(self, x: Tensor, s: float) -> Tensor:  # noqa: ARG002 - there is none
        raise ValueError(
            "combined has no log-density: it combines denoisers of several densities; use "
            "image_mixture"
        )

    def log_density(self, y: Tensor, s: float) -> Tensor:
        return self.log_density_images(y, s)

    def flow(self, y: Tensor, s_from: float, s_to: float) -> Tensor:
        """As `ArrayModel.flow`, of the images."""
        return self.images.flow(y, s_from, s_to)

    def _denoised(self, x: Tensor, levels: list[float], stride: int) -> tuple[Tensor, Tensor]:
        """D_k of images x (n, c, h, w), (2, n, c, h, w), and the mean (1, c, h, w)."""
        side, small = self.shape[1], self.patches.shape[1]
        stride = min(stride, small)
        wide = stride * (side // small)
        of_images = self.images.denoise_each(x, levels, wide)
        of_patches = self.patches.denoise_each(x, levels, stride)
        mean = windows.average(
            x[:1], self.shape[1:], wide, lambda y: self.images.mean.to(y).expand_as(y)
        )
        return torch.stack([of_images, of_patches]), mean

    def _weights_at(self, s: float) -> Tensor:
        """a_k at noise level s, (2, R)."""
        known = self.levels.double().log()
        at = known.new_tensor(s).log().clamp(known[0], known[-1])
        i = int(torch.searchsorted(known, at).clamp(1, len(known) - 1))
        share = (at - known[i - 1]) / (known[i] - known[i - 1])
        return torch.lerp(self.weights[i - 1], self.weights[i], share.to(self.weights))


Model = Combined


def fit(arrays: Tensor, options: FitOptions) -> Combined:
    """To arrays (L, c, h, w), of which a tenth, at most HELD_OUT, is held out from both parts and
    used for the a_k. `options.components` are the patch mixture's, and at most the other's.

    Of 60,000 images of 32 x 32 in grey, image_mixture is fitted to 32,768 and patch_mixture to
    PATCHES windows: more add little. Windows of few photographs overlap, those held out too.

    Raises
    ------
    ValueError : fewer than LEAST arrays.
    """
    if len(arrays) < LEAST:
        raise ValueError(
            f"combined: at least {LEAST} arrays are needed, because some are held out, got "
            f"{len(arrays)}; use patch_mixture"
        )
    fitted, held_out = (
        arrays[i.to(arrays.device)] for i in split(len(arrays), options.seed, HELD_OUT)
    )
    generator = torch.Generator(device="cpu").manual_seed(options.seed)
    _, h, w = shape_of(arrays)
    side = min(PATCH, h, w)
    patches = fitted
    if (h, w) != (side, side):
        patches = crops.draw(list(fitted), (side, side), PATCHES, generator)
    of_images, of_patches = image_mixture.fit(fitted, options), patch_mixture.fit(patches, options)
    return combine(of_images, of_patches, held_out, frequencies.count(h, w), generator)


def combine(
    images: ImageMixture,
    patches: GaussianMixture,
    held_out: Tensor,
    rings: int,
    generator: torch.Generator,
) -> Combined:
    """Two densities with the a_k of least squared error on images (n, c, h, w) that neither was
    fitted to, in `rings` rings of spatial frequency."""
    std = max(float(held_out.std(correction=0)), 1e-3)
    low, high = (math.log(std * end) for end in RANGE)
    levels = torch.linspace(low, high, LEVELS, dtype=torch.float64, device="cpu").exp().to(held_out)
    unknown = Combined(images.shape, images, patches, levels, levels.new_zeros(LEVELS, 2, rings))
    return replace(unknown, weights=_fitted_weights(unknown, held_out, generator).to(held_out))


def _fitted_weights(model: Combined, x_0: Tensor, generator: torch.Generator) -> Tensor:
    """The a_k at each level, (N, 2, R), of images x_0 (n, c, h, w)."""
    found = []
    for i, s in enumerate(model.levels.tolist()):
        x = x_0 + s * normal(x_0.shape, generator).to(x_0)
        parts, mean = model._denoised(x, [s] * len(x), _PATCH_STRIDE)
        # D = D_1 + b_1 (D_1 - mean) + b_2 (D_2 - D_1)
        directions = dct(torch.stack([parts[0] - mean, parts[1] - parts[0]]).double())
        error = dct((x_0 - parts[0]).double())
        b = error.new_zeros(2, model.weights.shape[-1])
        if i == 0:
            b[1:] = least_squares(directions[1:], error, b.shape[1])
        elif i < LEVELS - 1:
            b = least_squares(directions, error, b.shape[1])
        found.append(torch.stack([1 + b[0] - b[1], b[1]]))
    return torch.stack(found)


def least_squares(directions: Tensor, target: Tensor, rings: int) -> Tensor:
    """The b (P, R) for which the sum over k of b_k(f) directions_k is nearest to `target`, for DCTs
    of directions (P, n, c, h, w) and target (n, c, h, w). A b_k of 1 in a ring costs as much as the
    error of PRIOR images there: what the images do not determine stays 0."""
    h, w = target.shape[-2:]
    one = torch.eye(rings, dtype=target.dtype, device=target.device)
    hat = frequencies.at_frequencies(one, h, w)  # (R, h, w): b(f) = sum over r of b_r hat_r(f)
    products = torch.einsum("pncij,qncij->pqij", directions, directions)
    G = torch.einsum("rij,pqij,tij->prqt", hat, products, hat).flatten(2).flatten(0, 1)
    price = PRIOR / len(target) * torch.einsum("rij,ncij->r", hat, target.square())
    wanted = torch.einsum("rij,pncij,ncij->pr", hat, directions, target).flatten()
    G = G + price.repeat(len(directions)).diag()
    b: Tensor = torch.linalg.pinv(G, hermitian=True, rtol=1e-12) @ wanted
    return b.view(len(directions), rings)
