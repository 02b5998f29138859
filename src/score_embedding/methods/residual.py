"""Residual embedding: the network learns only what a closed-form denoiser leaves.

With a density whose posterior mean D_pre(x, s) is known in closed form (scores/), s = std(t),

    D(x, s) = D_pre(x, s) + DCT^-1[ c_out(s, f) DCT F(c_in(s) (x - mean), D_pre(x, s), ln(s) / 4) ],
    score(x, t) = (D(x, s) - x) / s^2,

c_in = 1 / sqrt(s^2 + sigma_data^2), and c_out(s, f) is the standard deviation of x_0 - D_pre at
spatial frequency f, measured on the training data: what is asked of F is then as strong at every
noise level and frequency. F starts at zero: an untrained model already denoises as well as the
density.
With the isotropic Gaussian for the density (kind white), D_pre is c_skip x of Karras et al. (2022,
table 1) on centred data, c_out is theirs, the same for all frequencies, and the method is theirs; F
is then not given D_pre, which tells it nothing that x does not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.config.schema import Config
from score_embedding.data import crops
from score_embedding.dct import dct, inverse_dct
from score_embedding.densities import Density, fit
from score_embedding.densities.fitting import FLOOR
from score_embedding.methods import frequencies, samplers
from score_embedding.methods.base import Batch, Network
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.samplers import Samples
from score_embedding.sde import VarianceExploding

_LEVELS = 9  # noise levels at which c_out is measured, even in their logarithm
_MEASURED = 32  # crops at each of them
_LEAST_SPREAD = 1e-3  # of what a density leaves, over the noise: one may leave nothing at all
_LOG_NORMAL = (-1.9, 1.2)  # mean and width of ln(s): Karras et al.'s, for images in [0, 1]


@dataclass(frozen=True)
class Precomputed:
    """All that is known before training: the density, mean and standard deviation of the data, and
    the standard deviation of what the density leaves, `spread` (L, R), at noise levels `levels`
    (L,) from the lowest to the highest of the diffusion and in rings of spatial frequency."""

    density: Density
    mean: float
    sigma_data: float
    levels: Tensor
    spread: Tensor

    @property
    def sees_density(self) -> bool:
        """Whether the network is given D_pre beside x."""
        return self.density.kind != "white"

    def c_out(self, s: Tensor, h: int = 1, w: int = 1) -> Tensor:
        """(b, 1, h, w) at noise levels s (b,) and the frequencies of an h x w DCT; one ring is all
        of them, (b, 1, 1, 1). Linear between the measured ones, noise and c_out in the logarithm;
        beyond them it is that of the nearest."""
        known, values = self.levels.log().to(s), self.spread.log().to(s)
        x = s.log().clamp(known[0], known[-1])
        i = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
        share = (x - known[i - 1]) / (known[i] - known[i - 1])
        rings = torch.lerp(values[i - 1], values[i], share[:, None])
        if rings.shape[1] == 1:
            h = w = 1
        return frequencies.at_frequencies(rings, h, w).exp()[:, None]

    def scaled(self, x: Tensor, s: Tensor, power: int = 1) -> Tensor:
        """Images x (b, c, h, w) times c_out(s, f)^power at each frequency f; s (b,)."""
        c_out = self.c_out(s, *x.shape[-2:])
        if c_out.shape[-2:] == (1, 1):
            return c_out**power * x
        return inverse_dct(c_out**power * dct(x))

    def denoise(self, network: Network | None, x: Tensor, s: Tensor) -> Tensor:
        """D(x, s) of images x (b, c, h, w) at noise levels s (b,); without a network D_pre."""
        prior = self.density.denoise(x, s)
        if network is None:
            return prior
        c_in = (s**2 + self.sigma_data**2).rsqrt()[:, None, None, None]
        inputs = c_in * (x - self.mean)
        if self.sees_density:
            inputs = torch.cat([inputs, (prior - self.mean) / self.sigma_data], dim=1)
        index = torch.zeros(len(x), dtype=torch.long, device=x.device)
        residual = network(inputs, s.log() / 4, index).to(prior.dtype)
        return prior + self.scaled(residual, s)


@dataclass(frozen=True)
class ResidualMatching:
    """Denoising of crops drawn from photographs, or of whole images where they are of `size`."""

    photographs: list[Tensor]
    size: tuple[int, int]
    precomputed: Precomputed
    config: Config
    num_images: int

    @property
    def device(self) -> torch.device:
        return self.photographs[0].device

    def __len__(self) -> int:
        return self.num_images

    def draw_batch(self, index: int, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Crops with noise of random levels; no image's turn is its own. The batch's `t` are noise
        levels, its `z` the crops without noise."""
        count = self.config.data_loader.batch_size
        flip = self.config.data_loader.crops
        x_0 = crops.draw(self.photographs, self.size, count, generator, flip)
        s = draw_levels(self.precomputed, self.config.training.noise_levels, count, generator)
        z = torch.randn(x_0.shape, generator=generator)
        s, z = s.to(self.device), z.to(self.device)
        x = x_0 + s[:, None, None, None] * z
        return Batch(x, s, torch.zeros(count, dtype=torch.long, device=self.device), x_0)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The mean of |DCT (D(x, s) - x_0)|^2 / c_out(s, f)^2 over batch and frequencies. For the
        isotropic Gaussian 1 / c_out^2 is Karras et al.'s weight (s^2 + sigma_data^2) / (s
        sigma_data)^2."""
        error = self.precomputed.denoise(network, batch.x, batch.t) - batch.z
        return self.precomputed.scaled(error, batch.t, -1).square().mean()


def precompute(photographs: list[Tensor], config: Config) -> tuple[Precomputed, dict[str, float]]:
    """The density of photographs (c, h, w), what it leaves at each noise level, and the seconds
    that both took."""
    clock = [time.perf_counter()]
    options, seed = config.image_density, config.training.seed
    # On the CPU, wherever the images are: not every device knows float64 and eigenvectors.
    here = [photograph.cpu() for photograph in photographs]
    density = fit(images=here, seed=seed, **options.model_dump()).to(photographs[0])
    clock.append(time.perf_counter())
    sde = VarianceExploding(config.diffusion.sigma)
    ends = sde.std(torch.tensor([config.misc.eps, 1.0], dtype=torch.float64)).log()
    levels = torch.linspace(float(ends[0]), float(ends[1]), _LEVELS).exp()
    size = config.data_loader.image_size
    rings = 1 if options.kind == "white" else frequencies.count(*size)
    spread = left_by(density, photographs, levels, size, rings, seed)
    clock.append(time.perf_counter())
    pixels = torch.cat([photograph.flatten() for photograph in photographs])
    sigma_data = max(float(pixels.std(correction=0)), FLOOR**0.5)  # 0 of a constant image
    precomputed = Precomputed(density, float(pixels.mean()), sigma_data, levels, spread)
    return precomputed, {"density": clock[1] - clock[0], "preconditioning": clock[2] - clock[1]}


def left_by(
    density: Density,
    photographs: list[Tensor],
    levels: Tensor,
    size: tuple[int, int],
    rings: int,
    seed: int,
) -> Tensor:
    """The standard deviation of x_0 - D_pre at noise levels (L,) in so many rings of spatial
    frequency, on crops of this size: (L, rings)."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = crops.draw(photographs, size, _MEASURED, generator)
    spread = []
    for s in levels.tolist():
        z = torch.randn(x_0.shape, generator=generator).to(x_0)
        left = frequencies.power(density.denoise(x_0 + s * z, s) - x_0, rings).sqrt()
        spread.append(left.clamp_min(_LEAST_SPREAD * s))
    return torch.stack(spread).cpu()


def objective(
    photographs: list[Tensor], precomputed: Precomputed, config: Config, num_images: int
) -> ResidualMatching:
    """Of photographs (c, h, w); an epoch is `num_images` steps."""
    size = config.data_loader.image_size
    return ResidualMatching(photographs, size, precomputed, config, num_images)


def draw_levels(
    precomputed: Precomputed, how: str, count: int, generator: torch.Generator
) -> Tensor:
    """Noise levels (count,) between those of the diffusion's ends."""
    low, high = precomputed.levels[0].log(), precomputed.levels[-1].log()
    if how == "log_uniform":
        return (low + (high - low) * torch.rand(count, generator=generator)).exp()
    mean, width = _LOG_NORMAL
    return (mean + width * torch.randn(count, generator=generator)).clamp(low, high).exp()


def start_at_zero(network: ScoreNetwork) -> None:
    """F = 0: the untrained model is the density's denoiser."""
    torch.nn.init.zeros_(network.unet.conv_out.weight)
    torch.nn.init.zeros_(network.unet.conv_out.bias)


def sample(
    network: Network | None, images: Tensor, precomputed: Precomputed, config: Config
) -> Samples:
    """One sample for each image's start, by the probability flow of the denoiser's score."""
    sde = VarianceExploding(config.diffusion.sigma)

    def score(x: Tensor, t: Tensor) -> Tensor:
        s = sde.std(t).to(x)
        return (precomputed.denoise(network, x, s) - x) / s[:, None, None, None] ** 2

    return samplers.draw(score, images, sde, config.sample, config.misc.eps, config.training.seed)
