"""Gaussian kernels with the full 2x2 covariance of the pairs and Scott's factor: exact.

The pairs are whitened, so that the kernel becomes a unit Gaussian, and gauss_transform.py sums it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from score_embedding.fokker_planck.gauss_transform import kernel_sums
from score_embedding.fokker_planck.pixel_densities import pairs_of

# Ratio of the variances along the principal axes below which pairs are on a line: at 1e-15 the
# round-off of the pixels is an error of 1e-8 in the logarithm.
LINE = 1e-15


def estimate(channels: Tensor) -> Tensor:
    """The log-density at each pixel, (B, h, w). Pairs on a line get the density along it."""
    # In units of the channel's own range, so that no scale or offset costs digits.
    values = channels.detach()
    lowest = values.amin(dim=(1, 2), keepdim=True)
    highest = values.amax(dim=(1, 2), keepdim=True)
    scale = highest / 2 - lowest / 2
    x = (channels - (highest / 2 + lowest / 2)) / scale
    return (_of_squares if x.shape[1] == x.shape[2] else _of_any)(x, scale[:, 0, 0])


def _of_squares(channels: Tensor, scale: Tensor) -> Tensor:
    """The pairs of pixels (i, j) and (j, i) mirror each other, so the principal axes are (1, 1) and
    (1, -1), and half of the pairs stands for all."""
    _, h, _ = channels.shape
    i, j = torch.triu_indices(h, h, device=channels.device)
    weight = torch.where(i == j, 1.0, 2.0).to(channels)
    u, v = channels[:, i, j], channels[:, j, i]
    centre = 2 * channels.mean(dim=(1, 2))[:, None]
    coordinates = torch.stack([u + v - centre, u - v]) / math.sqrt(2)
    half = _log_density(coordinates, weight, scale, mirrored=True)
    place = torch.empty(h, h, dtype=torch.int64, device=channels.device)
    place[i, j] = place[j, i] = torch.arange(len(i), device=channels.device)
    return half[:, place]


def _of_any(channels: Tensor, scale: Tensor) -> Tensor:
    pairs = pairs_of(channels)
    centred = pairs - pairs.mean(dim=1, keepdim=True)
    # A shear makes the coordinates along the axes uncorrelated. It is 0 but for its gradient: that
    # of the axes themselves does not exist where both variances are equal.
    axes = torch.linalg.eigh((centred.mT @ centred).detach()).eigenvectors
    minor, major = (centred @ axes).unbind(dim=-1)  # variances in ascending order
    minor = minor - major * ((minor * major).sum(dim=1) / major.square().sum(dim=1))[:, None]
    weight = torch.ones_like(channels[0]).flatten()
    return _log_density(torch.stack([minor, major]), weight, scale).view_as(channels)


def _log_density(
    coordinates: Tensor, weight: Tensor, scale: Tensor, mirrored: bool = False
) -> Tensor:
    """(B, K), from centred, uncorrelated coordinates (2, B, K) in units of scale (B,)."""
    D = float(weight.sum())
    variance = (weight * coordinates.square()).sum(dim=-1) / (D - 1)
    varies = variance > LINE * variance.amax(dim=0)
    width = torch.where(varies, variance, 1.0).sqrt() * D ** (-1 / 6)
    z = torch.where(varies[:, :, None], coordinates / width[:, :, None], 0.0)
    log_norm = 0.5 * math.log(2 * math.pi) + width.log() + scale.log()
    log_scale = torch.where(varies, log_norm, 0.0).sum(dim=0)
    return torch.log(kernel_sums(z[0], z[1], weight, mirrored) / D) - log_scale[:, None]
