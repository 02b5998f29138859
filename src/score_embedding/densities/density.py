"""One interface to all densities: fit, denoise, score, log-density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from score_embedding.arrays import ArrayLike, to_tensor
from score_embedding.config.sections import DensityKind
from score_embedding.data import crops
from score_embedding.densities import fitting, stationary, windows
from score_embedding.densities.empirical import Empirical
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.stationary import Stationary

SIDE: dict[DensityKind, int] = {  # of the arrays that each kind is fitted to
    "white": 1,
    "empirical": 8,
    "gaussian": 16,
    "low_rank": 16,
    "stationary": 32,
    "patch_mixture": 8,
}
_ENOUGH = 2**24  # numbers in all windows together: more of them add nothing


@dataclass(frozen=True)
class Density:
    """A fitted density. `model` holds its parameters; one of arrays smaller than an image speaks
    for it through windows every `stride` pixels (scores/windows.py)."""

    kind: DensityKind
    model: GaussianMixture | Empirical | Stationary
    stride: int = 2

    @property
    def channels(self) -> int:
        return self.model.channels

    def denoise(self, x: ArrayLike, sigma: float | Tensor) -> Tensor:
        """The posterior mean D(x, sigma) of images x (n, c, h, w): shape, dtype and device of x.

        sigma : noise level >= 0, or one for each image (n,). Beside a few copies of the images,
        and of `stationary` some 18 channels of one, memory does not grow with their size.

        Raises
        ------
        ValueError : other channels than the density's, a sigma that is negative or not finite.
        """
        x = to_tensor(x, ndim=4, name="images")
        levels = _levels(sigma, len(x))
        self._check_channels(x)
        denoised = torch.empty_like(x)
        for s in dict.fromkeys(levels):
            alike = [i for i, level in enumerate(levels) if level == s]
            denoised[alike] = self._denoise_alike(x[alike], s)
        return denoised

    def score(self, x: ArrayLike, sigma: float | Tensor) -> Tensor:
        """(D(x, sigma) - x) / sigma^2, as `denoise`; sigma must be positive."""
        x = to_tensor(x, ndim=4, name="images")
        levels = _positive(_levels(sigma, len(x)), "score")
        s = torch.tensor(levels, dtype=x.dtype, device=x.device)[:, None, None, None]
        return (self.denoise(x, sigma) - x) / s / s  # s^2 may be too small for the dtype

    def log_density(self, x: ArrayLike, sigma: float | Tensor) -> Tensor:
        """log p_t(x) of images x (n, c, h, w) with noise of level sigma > 0, (n,).

        Raises
        ------
        ValueError : as `score`, or the images are larger than the density's arrays, where these
            are windows: their average has no density in closed form.
        """
        x = to_tensor(x, ndim=4, name="images")
        levels, model = _positive(_levels(sigma, len(x)), "log-density"), self.model
        self._check_channels(x)
        if isinstance(model, Stationary):
            return torch.stack([model.log_density(y, s) for y, s in zip(x, levels, strict=True)])
        if model.shape[1:] == (1, 1):  # pixels are independent
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # (n, h w, c)
            return torch.stack(
                [model.log_density(y, s).sum() for y, s in zip(pixels, levels, strict=True)]
            )
        if tuple(x.shape[1:]) != model.shape:
            raise ValueError(
                f"images of shape {tuple(x.shape[1:])}: this density is one of arrays of shape "
                f"{model.shape}, and its windows have no joint density in closed form"
            )
        flat = x.flatten(1)
        rows = [model.log_density(y[None], s) for y, s in zip(flat, levels, strict=True)]
        return torch.cat(rows)

    def to(self, like: Tensor) -> Density:
        """On the device and in the dtype of `like`."""
        return replace(self, model=self.model.to(like))

    def _check_channels(self, x: Tensor) -> None:
        if x.shape[1] != self.channels:
            raise ValueError(f"a density of {self.channels} channel(s), images of {x.shape[1]}")

    def _denoise_alike(self, x: Tensor, s: float) -> Tensor:
        """Images x (n, c, h, w), all with noise of level s."""
        model = self.model
        if s == 0:
            return x
        if isinstance(model, Stationary):
            return torch.stack([model.denoise(y, s) for y in x])
        return windows.average(x, model.shape[1:], self.stride, lambda w: model.denoise(w, s))


def fit(
    kind: DensityKind,
    images: ArrayLike | Sequence[Tensor],
    side: int | None = None,
    stride: int = 2,
    components: int = 20,
    rank: int = 64,
    arrays: int = 20_000,
    em_steps: int = 6,
    seed: int = 0,
) -> Density:
    """A density of a kind, fitted to images.

    Parameters
    ----------
    kind : see score_embedding.scores.
    images : (n, c, h, w), or a list of (c, h, w) of any sizes; floating point.
    side : of the square arrays that it is a density of; SIDE has the default of each kind. Images
        of exactly that size are taken as they are, from others windows are drawn.
    stride : of the windows when it is asked about larger images; at most `side`.
    components, em_steps : of patch_mixture; more of both are slower and a little better.
    rank : of low_rank.
    arrays : how many windows are drawn, all places equally likely; where they are large, as many as
        hold 2^24 numbers.
    seed : of the windows and of the mixture.

    Raises
    ------
    ValueError : an unknown kind, images without common channels, a number out of range.
    """
    if kind not in SIDE:
        raise ValueError(f"kind must be one of {', '.join(SIDE)}, got {kind!r}")
    listed = [to_tensor(image, ndim=3, name="image") for image in images]
    if not listed or len({image.shape[0] for image in listed}) > 1:
        raise ValueError("images of the same number of channels are needed, one or more")
    side = 1 if kind == "white" else SIDE[kind] if side is None else side
    numbers = {
        "side": side,
        "stride": stride,
        "components": components,
        "arrays": arrays,
        "em_steps": em_steps,
    }
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name}: at least 1 is needed, got {value}")
    if stride > side and kind != "white":
        raise ValueError(f"stride: from 1 to the side of the arrays, {side}, got {stride}")
    if rank < 0:
        raise ValueError(f"rank: at least 0 is needed, got {rank}")
    if all(tuple(image.shape[1:]) == (side, side) for image in listed):
        drawn = torch.stack(listed)
    else:
        generator = torch.Generator().manual_seed(seed)
        enough = max(1, min(arrays, _ENOUGH // (listed[0].shape[0] * side**2)))
        drawn = crops.draw(listed, (side, side), enough, generator)
    if kind == "patch_mixture" and len(drawn) < max(2, components):
        raise ValueError(
            f"components: {components} cannot be fitted to {len(drawn)} array(s) of side {side}"
        )
    return Density(kind, _model(kind, drawn, components, em_steps, rank, seed), min(stride, side))


def _model(
    kind: DensityKind, drawn: Tensor, components: int, em_steps: int, rank: int, seed: int
) -> GaussianMixture | Empirical | Stationary:
    if kind == "white":
        return fitting.white(drawn)
    if kind == "empirical":
        return Empirical((drawn.shape[1], drawn.shape[2], drawn.shape[3]), drawn.flatten(1))
    if kind == "gaussian":
        return fitting.gaussian(drawn)
    if kind == "low_rank":
        return fitting.gaussian(drawn, rank)
    if kind == "stationary":
        return stationary.fit(drawn)
    return fitting.patch_mixture(drawn, components, em_steps, seed)


def _levels(sigma: float | Tensor, n: int) -> list[float]:
    """One noise level for each of n images."""
    levels = np.asarray(sigma.tolist() if isinstance(sigma, Tensor) else sigma, dtype=np.float64)
    if levels.shape not in ((), (n,)) or not (np.isfinite(levels) & (levels >= 0)).all():
        raise ValueError(f"sigma: one finite number >= 0, or {n} of them, got {sigma}")
    return [float(s) for s in np.broadcast_to(levels, n)]


def _positive(levels: list[float], what: str) -> list[float]:
    if not all(s > 0 for s in levels):
        raise ValueError(f"the {what} without noise may not exist: sigma is 0")
    return levels
