"""Embedding the score into the image through the transport equation."""

from __future__ import annotations

import torch
from torch import Tensor

from score_embedding._deprecated import positional_options
from score_embedding.arrays import ArrayLike, ascending, finite, number, result_dtype, to_tensor
from score_embedding.sde import VarianceExploding, require


@positional_options
def embed(
    images: ArrayLike,
    scores: ArrayLike,
    sde: VarianceExploding,
    times: ArrayLike,
    *,
    dt: float | None = None,
) -> Tensor:
    """Carry each image along the probability flow of its own score, by forward Euler steps

        x^0 = image,    x^n = x^(n-1) + (f - g(t_n)^2 / 2 * score^n) (t_n - t_(n-1))

    (Na, Gao, Wan 2024, section 3). First order in time.

    Parameters
    ----------
    images : (n, c, h, w).
    scores : (n, N, c, h, w), the score at the N times; the first is not used.
    sde : the forward SDE.
    times : (N,), ascending.
    dt : length of every step, > 0, such as solution.dt; None for the times' own spacing.

    Returns
    -------
    embedded : (n, N, c, h, w) on the device of `scores` and in their dtype if that is float16,
        bfloat16 or float32 (computed in float32 at least), else float64; entry 0 is the image.

    Raises
    ------
    ValueError : shapes that do not belong together, times that do not ascend, an sde or a dt that
        cannot be used, or values that are not finite.
    DivergenceError : the result is not finite.
    """
    require(sde, "f", "g")
    dt = None if dt is None else number(dt, "dt", above=0)
    x0 = to_tensor(images, ndim=4, name="images")
    s = to_tensor(scores, ndim=5, name="scores")
    t = ascending(times).to(s.device)
    n, c, h, w = x0.shape
    if s.shape != (n, len(t), c, h, w):
        raise ValueError(
            f"scores must be (n, N, c, h, w) = {(n, len(t), c, h, w)}, got {tuple(s.shape)}"
        )
    x = x0.to(s)
    embedded = [x]
    for i in range(1, len(t)):
        velocity = sde.f(x, t[i]) - sde.g(t[i]) ** 2 / 2 * s[:, i]
        x = x + velocity * (t[i] - t[i - 1] if dt is None else dt)
        embedded.append(x)
    result = torch.stack(embedded, dim=1).to(result_dtype(scores))
    return finite(result, "embedded", "use smaller scores, times or sigma")
