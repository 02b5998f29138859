"""Locality from data statistics (Lukoianov et al. 2025, arXiv 2509.09672).

Which pixels matter for pixel q is read off the Wiener filter of the training images,

    W = C (C + s^2 I)^-1,    C their covariance:

a pixel p belongs to Omega_q if |W[q, p]| is at least `threshold` times the largest of the row. The
answer at q is then the posterior mean of that pixel over all training images, with weights from
Omega_q alone (pixelwise.py). Unlike the windows of Kamb and Ganguli, Omega_q follows the data: it
is as large, and of the shape, that correlations have at the noise level.
Channels share one Omega_q: |W| is summed over them. q itself is always in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.evaluation.rivals.pixelwise import posterior_mean

_BLOCK = 4096  # images at a time


@dataclass(frozen=True)
class Locality:
    """Training images (n, c, h, w), and their covariance as variances (d,) along its orthonormal
    axes, the columns of (d, d); d = c h w."""

    images: Tensor
    variances: Tensor
    axes: Tensor

    def denoise(self, x: Tensor, s: float, threshold: float) -> Tensor:
        """The answer for noisy images x (b, c, h, w) at noise level s > 0. Shape, dtype and device
        of x."""
        mask = self.mask(s, threshold).to(x)
        return posterior_mean(x, self.images, s, lambda squares: mask @ squares.flatten(0, 1))

    def mask(self, s: float, threshold: float) -> Tensor:
        """Whether pixel p is in Omega_q, as 0 or 1: (h w, h w), a row for each q."""
        _, c, h, w = self.images.shape
        gains = self.variances / (self.variances + s**2)
        wiener = (self.axes * gains) @ self.axes.T
        sizes = wiener.abs().reshape(c, h * w, c, h * w).sum(dim=(0, 2))
        near = sizes >= threshold * sizes.amax(dim=1, keepdim=True)
        return (near | torch.eye(h * w, dtype=torch.bool, device=near.device)).to(sizes)


def fit(images: Tensor) -> Locality:
    """Of training images (n, c, h, w), in their dtype and on their device."""
    rows = images.flatten(1)
    mean = rows.mean(dim=0)
    covariance = rows.new_zeros(rows.shape[1], rows.shape[1])
    for block in torch.split(rows, _BLOCK):
        covariance.addmm_((block - mean).T, block - mean)
    variances, axes = torch.linalg.eigh(covariance / len(rows))
    return Locality(images, variances.clamp_min(0), axes)
