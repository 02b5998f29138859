"""The noise of an image as the arguments sigma, noise and strength give it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from score_embedding.restoration import noise_estimation
from score_embedding.restoration.noise import Noise

Kind = Literal["auto", "white", "camera", "poisson"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_SIGMA = 2.0  # white being 1: an image is unrecognisable at much lower levels


def noise_of(
    x: Tensor, sigma: ArrayLike | None = None, kind: Kind | Noise = "auto", strength: float = 1.0
) -> Noise:
    """The noise of an image x (c, h, w), white being 1.

    Parameters
    ----------
    sigma : the standard deviation: a number, one a channel (c,), or a map (h, w). None or "auto":
        estimated.
    kind : "auto": what the estimate finds, or white where sigma is given; "white"; "camera",
        correlated between neighbours; "poisson", of a variance that grows with brightness; or a
        Noise. Where sigma is given, "camera" and "poisson" estimate the noise and scale it to that
        level.
    strength : factor of all standard deviations.

    Raises
    ------
    ValueError : an argument that is not valid.
    DataError : an image too small to estimate from.
    """
    if isinstance(kind, Noise):
        found = _checked_noise(kind, x)
        if not is_auto(sigma):
            raise ValueError("sigma: of a Noise it is part; give noise alone, or sigma alone")
    elif is_auto(sigma):
        found = noise_estimation.estimated(x, checked_kind(kind))
    else:
        found = _of_level(x, checked_sigma(sigma, x.shape), checked_kind(kind))
    return found.times(checked_strength(strength))


def check(shape: Sequence[int], sigma: float | None, kind: Kind) -> None:
    """Raise what `noise_of` would for an image of this shape (c, h, w), without estimating."""
    if sigma is not None:
        checked_sigma(sigma)
    if sigma is None or kind in ("camera", "poisson"):
        noise_estimation.check_size(shape)


def checked_kind(kind: Any) -> Kind:
    """One of KINDS. ValueError for anything else."""
    if kind not in KINDS:
        raise ValueError(f"noise: {kind!r}: {', '.join(KINDS)} are there, or a Noise")
    return cast(Kind, kind)


def is_auto(sigma: Any) -> bool:
    """Whether sigma asks for an estimate."""
    return sigma is None or (isinstance(sigma, str) and sigma == "auto")


def checked_strength(strength: Any) -> float:
    """A factor from 0 on. ValueError for anything else."""
    try:
        value = float(strength)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(
            f"strength: {strength}: a number from 0 (the image unchanged) on is needed; 1 "
            f"removes the noise that is estimated or given"
        )
    return value


def checked_sigma(sigma: Any, shape: tuple[int, ...] | None = None) -> float | np.ndarray:
    """`sigma` as a number; as one number a channel (c,) or a map (h, w) for an image of `shape`
    (c, h, w).

    Raises
    ------
    ValueError : not real numbers, of another shape, or not in 0 to MAX_SIGMA.
    """
    try:
        if np.asarray(sigma).dtype == bool:
            raise TypeError
        values = np.asarray(sigma, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f'sigma: a number or "auto" is needed, got {sigma!r}') from None
    wrong = values[~((values >= 0) & (values <= MAX_SIGMA))]
    if wrong.size:
        raise ValueError(
            f"sigma: {wrong.flat[0]:g}: a standard deviation from 0 to {MAX_SIGMA:g} is needed, "
            f"white being 1 (25 grey levels of 255 are 0.098)"
        )
    if values.size == 1:
        return float(values.flat[0])
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if shape is None or values.shape not in ((shape[0],), shape[1:]):
        needed = "" if shape is None else f", ({shape[0]},) or {tuple(shape[1:])}"
        raise ValueError(
            f"sigma: an array of shape {values.shape}; a number, one a channel or a map of the "
            f"image's height and width is needed{needed}"
        )
    return values


def _of_level(x: Tensor, sigma: float | np.ndarray, kind: Kind) -> Noise:
    c = len(x)
    if isinstance(sigma, np.ndarray) and sigma.ndim == 2:
        return _mapped(_of_level(x, 1.0, kind), sigma)
    if kind in ("auto", "white"):
        return Noise.white(sigma, c)
    shape = noise_estimation.estimated(x, kind)
    if shape.level == 0:
        return Noise.white(sigma, c)
    if np.ndim(sigma) == 0:
        return shape.times(float(sigma) / shape.level)
    own = np.sqrt(np.mean(shape.deviations**2, axis=1))
    return replace(shape, deviations=shape.deviations * (np.asarray(sigma) / own)[:, None])


def _mapped(noise: Noise, sigma: np.ndarray) -> Noise:
    level = float(np.sqrt(np.mean(sigma**2)))
    if level == 0:
        return noise.times(0.0)
    return replace(noise.times(level), scale=(sigma / level).astype(np.float32))


def _checked_noise(noise: Noise, x: Tensor) -> Noise:
    if noise.channels != len(x):
        raise ValueError(f"noise: of {noise.channels} channels, the image has {len(x)}")
    if noise.scale is not None and noise.scale.shape != tuple(x.shape[1:]):
        raise ValueError(
            f"noise: its map is {noise.scale.shape}, the image {tuple(x.shape[1:])} (h, w)"
        )
    return noise
