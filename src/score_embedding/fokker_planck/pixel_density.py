"""Initial log-density m0 of an image on its own pixel grid.

Per image and channel with D = h*w pixels, the k-th pixel of the column-major order is paired with
the k-th of the row-major order, (u_k, v_k). m0 at pixel k is the logarithm of a density that is
estimated from the D pairs, evaluated at (u_k, v_k) (Na, Gao, Wan 2024, section 3). The estimates
are the modules of pixel_densities/, which kinds.PIXEL_DENSITIES names.

A constant channel has no density: its m0 is 0, and so is its score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from score_embedding import kinds, progress
from score_embedding._deprecated import positional_options
from score_embedding.arrays import ArrayLike, refuse_gradient, to_tensor

# Of the range of a constant channel, relative to its largest pixel: a few units in the last place.
ROUNDOFF = {torch.float32: 5e-7, torch.float64: 1e-15}
CHUNK = 2**18  # pixels of the channels that are computed at once: bounds the memory


@positional_options
def log_density(images: ArrayLike, *, method: str = "exact") -> Tensor:
    """Log-density of each channel's pixel pairs at its own pixels.

    Parameters
    ----------
    images : (n, c, h, w), any scale.
    method : the estimate.
        "exact" is scipy.stats.gaussian_kde: Gaussian kernels, the pairs' 2x2 covariance, Scott's
            factor D^(-1/6). A fast Gauss transform sums the D^2 kernels in nearly linear time,
            with an error below 1e-8 in the logarithm. It is invariant to the scale of the images,
            up to a constant per channel, and differentiable. A channel equal to its own transpose
            (any 1 x k picture) gets the density along the line on which its pairs are.
        "binned" is another name of "exact". It was an approximation.
        "histogram" is the official program's of 2026: a smoothed histogram.
        "sklearn" is the manuscript's: linear kernels, by scikit-learn.
        The last two are for reproduction. Their bandwidth is in units of the pixel values, so that
        they depend on the scale of the images, which the method has in [0, 1].

    Returns
    -------
    m0 : float64 (n, c, h, w) for images of every dtype, on the device of the input.

    Raises
    ------
    ValueError : not four dimensions, no pixels, a value that is NaN or infinite, an unknown method,
        or a gradient wanted of a method that has none.
    """
    kind = kinds.named(kinds.PIXEL_DENSITIES, method, "method")
    if not kind.differentiable:
        refuse_gradient(images, "images", f'which method "{method}" does not have ("exact" does)')
    x = to_tensor(images, ndim=4, name="images")
    n, c, h, w = x.shape
    if not h * w:
        raise ValueError(f"images must have pixels, got shape {tuple(x.shape)}")
    channels, estimate = x.reshape(n * c, h, w), kind.load().estimate
    parts = [torch.zeros(0, h, w, dtype=torch.float64, device=x.device)]
    with progress.stage("log-density", total=n * c) as stage:
        for chunk in torch.split(channels, max(1, CHUNK // max(h * w, 1))):
            parts.append(_of_varying(chunk.to(torch.float64), estimate, ROUNDOFF[x.dtype]))
            stage.update(len(chunk))
    return torch.cat(parts).reshape(n, c, h, w)


def _of_varying(channels: Tensor, estimate: Callable[[Tensor], Tensor], roundoff: float) -> Tensor:
    """The estimate of channels (B, h, w), and 0 for those that are constant."""
    if not channels.numel():
        return channels
    lowest, highest = torch.aminmax(channels.detach().flatten(1), dim=1)
    varies = highest / 2 - lowest / 2 > roundoff / 2 * torch.maximum(highest.abs(), lowest.abs())
    if bool(varies.all()):
        return estimate(channels)
    m0 = channels * 0.0  # with a gradient, which is 0
    return m0.index_put((varies,), estimate(channels[varies])) if bool(varies.any()) else m0
