"""One interface to all densities: fit, denoise, score, log-density."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from score_embedding import kinds
from score_embedding._deprecated import positional_options
from score_embedding.arrays import (
    ArrayLike,
    finite,
    real_array,
    refuse_gradient,
    result_dtype,
    to_tensor,
    whole,
)
from score_embedding.data import crops
from score_embedding.densities.model import FitOptions, Model, by_level

ENOUGH_NUMBERS = 2**24  # in all windows together: more of them add nothing

_REMEDY = "use images on the scale of those that were fitted, float64 images"


@dataclass(frozen=True)
class Density:
    """A fitted density of images with independent Gaussian noise of any level.

    Attributes
    ----------
    kind : its name in kinds.DENSITIES.
    model : its parameters.
    stride : steps of the windows where the model is of arrays smaller than an image (windows.py).
    """

    kind: str
    model: Model
    stride: int = 2

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.model.channels

    def denoise(self, x: ArrayLike, sigma: float | Tensor) -> Tensor:
        """The posterior mean D(x, sigma) of images x (n, c, h, w).

        Shape and device of x, and its dtype if that is float16, bfloat16 or float32 (computed in
        float32 at least), float64 otherwise. Differentiable in x.

        sigma : noise level >= 0, or one for each image (n,). Beside a few copies of the images,
        and of `stationary` some 18 channels of one, memory does not grow with their size.

        Raises
        ------
        ValueError : other channels than the density's, empty images, a sigma that is negative, not
            finite, too large for its square in the dtype, or that requires a gradient.
        DivergenceError : the result is not finite.
        """
        tensor = self._images(x)
        denoised = self._denoised(tensor, _levels(sigma, tensor)).to(result_dtype(x))
        return finite(denoised, "the posterior mean", _REMEDY)

    def score(self, x: ArrayLike, sigma: float | Tensor) -> Tensor:
        """(D(x, sigma) - x) / sigma^2, as `denoise`; sigma must be positive."""
        tensor = self._images(x)
        levels = _positive(_levels(sigma, tensor), "score")
        s = torch.tensor(levels, dtype=tensor.dtype, device=tensor.device)[:, None, None, None]
        # Divided twice: s^2 may be too small for the dtype.
        score = ((self._denoised(tensor, levels) - tensor) / s / s).to(result_dtype(x))
        return finite(score, "the score", f"{_REMEDY} or a larger sigma")

    def log_density(self, x: ArrayLike, sigma: float | Tensor) -> Tensor:
        """log p_t(x) of images x (n, c, h, w) with noise of level sigma > 0: (n,), device, dtype
        and gradients as of `denoise`.

        Raises
        ------
        ValueError : as `score`, or the images are larger than the density's arrays, where these
            are windows: their average has no density in closed form.
        """
        tensor = self._images(x)
        levels = _positive(_levels(sigma, tensor), "log-density")
        found = tensor.new_empty(len(tensor))
        for s, same in by_level(levels):
            found[same] = self.model.log_density_images(tensor[same], s)
        return finite(found.to(result_dtype(x)), "the log-density", _REMEDY)

    def gaussian_flow(self, x: ArrayLike, sigma_from: float, sigma_to: float) -> Tensor:
        """Images x (n, c, h, w) at noise level sigma_from, moved to sigma_to by the probability
        flow of the Gaussian of the same mean and covariance, in closed form: each principal axis of
        variance v is scaled by the root of (v + sigma_to^2) / (v + sigma_from^2). At much noise
        that is nearly the flow of the density itself. Shape, device and dtype as of `denoise`.

        Raises
        ------
        ValueError : levels out of range, or images larger than the density's arrays, where these
            are windows.
        """
        tensor = self._images(x)
        (s_from,), (s_to,) = (_levels(s, tensor[:1]) for s in (sigma_from, sigma_to))
        moved = self.model.gaussian_flow(tensor, _positive([s_from], "flow")[0], s_to)
        return finite(moved.to(result_dtype(x)), "the flow", _REMEDY)

    def to(self, like: Tensor) -> Density:
        """On the device and in the dtype of `like`."""
        return replace(self, model=self.model.to(like))

    def _images(self, x: ArrayLike) -> Tensor:
        """x as a tensor. ValueError where it does not hold images of this density's channels."""
        images = to_tensor(x, ndim=4, name="images")
        if 0 in images.shape[1:]:
            raise ValueError(f"images must not be empty, got shape {tuple(images.shape)}")
        if images.shape[1] != self.channels:
            raise ValueError(
                f"a density of {self.channels} channel(s), images of {images.shape[1]}"
            )
        return images

    def _denoised(self, x: Tensor, levels: list[float]) -> Tensor:
        """Images x (n, c, h, w) with noise of one level each."""
        noisy = [i for i, s in enumerate(levels) if s > 0]
        if noisy and len(noisy) == len(x):
            return self.model.denoise_each(x, levels, self.stride)
        denoised = x.clone()
        if not noisy:
            return denoised
        denoised[noisy] = self.model.denoise_each(x[noisy], [levels[i] for i in noisy], self.stride)
        return denoised


@positional_options
def fit(
    kind: str,
    images: ArrayLike | Sequence[Tensor],
    *,
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
    kind : "white", "empirical", "gaussian", "low_rank", "stationary", "patch_mixture",
        "image_mixture" or "combined": see score_embedding.densities.
    images : (n, c, h, w), or a list of (c, h, w) of any sizes; floating point. Fitted in float64
        where they are float64, else in float32.
    side : of the square arrays that the density is of; by kind if None. Images of exactly that size
        are taken unchanged, from others windows are drawn.
    stride : of the windows when larger images are denoised; at most `side`.
    components : of patch_mixture and combined, and at most those of image_mixture; more are slower
        and a little better. em_steps : of patch_mixture and combined, the same.
    rank : of low_rank.
    arrays : number of windows drawn, all places equally likely; of large windows, as many as hold
        2^24 numbers.
    seed : of the windows and of the mixture.

    Raises
    ------
    ValueError : an unknown kind, images without common channels, images that require a gradient, a
        number out of range.
    """
    about = kinds.named(kinds.DENSITIES, kind, "kind")
    if not isinstance(images, Iterable):
        raise ValueError(f"images must be an array (n, c, h, w) or a list, got {images!r:.100}")
    listed = [_image(image) for image in images]
    if not listed or len({image.shape[0] for image in listed}) > 1:
        raise ValueError("images of the same number of channels are needed, one or more")
    shortest = min(min(image.shape[1:]) for image in listed)
    side = whole(about.side_of(side, shortest), "side", 1, about.largest)
    stride = whole(stride, "stride", 1)
    if stride > side and not about.fixed_side:
        raise ValueError(f"stride: from 1 to the side of the arrays, {side}, got {stride}")
    arrays = whole(arrays, "arrays", 1)
    options = FitOptions(
        whole(components, "components", 1),
        whole(rank, "rank", 0),
        whole(em_steps, "em_steps", 1),
        whole(seed, "seed", 0, 2**32 - 1),
    )
    if _are_arrays(listed, side):
        drawn = torch.stack(listed)
    else:
        generator = torch.Generator(device="cpu").manual_seed(options.seed)
        enough = number_of_arrays(listed, side, arrays)
        drawn = crops.draw(listed, (side, side), enough, generator)
    # The squares of its squares are then finite.
    largest, limit = float(drawn.abs().max()), torch.finfo(drawn.dtype).max ** 0.25
    if largest > limit:
        raise ValueError(
            f"images: values of up to {largest:.2g}, at most {limit:.2g} can be fitted in "
            f"{drawn.dtype}; scale them, such as to [0, 1]"
        )
    model: Model = about.load().fit(drawn, options)
    return Density(kind, model, min(stride, side))


def number_of_arrays(images: Sequence[Tensor], side: int, arrays: int) -> int:
    """How many arrays of this side a density of images (c, h, w) is fitted to, where `arrays` are
    asked for."""
    if _are_arrays(images, side):
        return len(images)
    return max(1, min(arrays, ENOUGH_NUMBERS // (images[0].shape[0] * side**2)))


def _are_arrays(images: Sequence[Tensor], side: int) -> bool:
    return all(tuple(image.shape[1:]) == (side, side) for image in images)


def _image(image: ArrayLike) -> Tensor:
    """An image (c, h, w) to fit to, as a tensor."""
    refuse_gradient(image, "image", "which fitting does not have")
    tensor = to_tensor(image, ndim=3, name="image")
    if tensor.numel() == 0:
        raise ValueError(f"an image must not be empty, got shape {tuple(tensor.shape)}")
    return tensor


def _levels(sigma: float | Tensor, images: Tensor) -> list[float]:
    """One noise level for each of the images (n, c, h, w)."""
    n, largest = len(images), torch.finfo(images.dtype).max ** 0.5  # its square is finite
    refuse_gradient(sigma, "sigma", "which densities do not have")
    given = real_array(sigma, "sigma")
    levels = given.astype(np.float64)
    allowed = given.dtype != bool and ((levels >= 0) & (levels < largest)).all()
    if levels.shape not in ((), (n,)) or not allowed:
        raise ValueError(
            f"sigma: one finite number >= 0, or {n} of them, below {largest:.2g}, got {sigma}"
        )
    return [float(s) for s in np.broadcast_to(levels, n)]


def _positive(levels: list[float], what: str) -> list[float]:
    if not all(s > 0 for s in levels):
        raise ValueError(f"the {what} without noise may not exist: sigma is 0")
    return levels
