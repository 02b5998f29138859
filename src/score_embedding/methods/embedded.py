"""The paper's method: its batches of embedded images, its sliced score-matching loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.config.schema import Config
from score_embedding.errors import ConfigError, DataError
from score_embedding.methods import exact, precomputation, samplers
from score_embedding.methods.base import Batch, Network
from score_embedding.methods.precomputation import EmbeddedImages
from score_embedding.methods.samplers import Samples
from score_embedding.sde import VarianceExploding


@dataclass(frozen=True)
class ScoreMatching:
    """Denoising score matching on embedded images (n, N, c, h, w).

    target "noise": the network learns from the noise that was drawn. "exact": from the noise's mean
    given the noisy image, by the closed form of the score of all n images at that state; the loss
    then has the same minimum without the scatter of the noise.
    """

    embedded: Tensor | EmbeddedImages
    sde: VarianceExploding
    batch_size: int
    eps: float
    target: str = "noise"

    @property
    def device(self) -> torch.device:
        return self.embedded.device

    def __len__(self) -> int:
        return len(self.embedded)

    def draw_batch(self, index: int, generator: torch.Generator) -> Batch:
        """A batch from the N states of image `index`, each at a time drawn near its own."""
        states = self.embedded[index]
        k, t = draw_times(len(states), self.batch_size, self.eps, generator)
        z = torch.randn((self.batch_size, *states.shape[1:]), generator=generator)
        k, t, z = k.to(self.device), t.to(self.device), z.to(self.device)
        std = self.sde.std(t)
        x = states[k] + std[:, None, None, None] * z
        if self.target == "exact":
            assert isinstance(self.embedded, Tensor)  # see check
            of_all_images = self.embedded[:, k].transpose(0, 1)  # (b, n, c, h, w)
            mean = exact.posterior_mean(x, of_all_images, std)
            z = (x - mean) / std[:, None, None, None]
        return Batch(x, t, torch.full_like(k, index), z)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """With lambda = std(t) and x = x^n + lambda z,

        mean over the batch of 1 / (2 g(t)^2) * sum over pixels of (s(x, t) lambda + z)^2.
        """
        std = self.sde.std(batch.t)[:, None, None, None]
        residual = network(batch.x, batch.t, batch.index) * std + batch.z
        weight = 1 / (2 * self.sde.g(batch.t) ** 2)
        return (weight * residual.square().sum(dim=(1, 2, 3))).mean()


def check(images: Tensor, config: Config) -> None:
    """Raise DataError or ConfigError where the images cannot be trained on as asked."""
    precomputation.check(images, config.diffusion)
    if config.training.target == "exact":
        if config.model.image_index and len(images) > 1:
            raise ConfigError(
                "training.target exact is the score of all images together, which does not depend "
                "on which one is meant: set model.image_index: False too"
            )
        if not precomputation.fits_in_memory(images, config.diffusion):
            raise DataError(
                f"training.target exact needs the embedded states of all images in memory, which "
                f"{len(images)} images are too many for; take target noise, or fewer images"
            )


def objective(embedded: Tensor | EmbeddedImages, config: Config) -> ScoreMatching:
    """As the config asks for."""
    return ScoreMatching(
        embedded,
        VarianceExploding(config.diffusion.sigma),
        config.data_loader.batch_size,
        config.misc.eps,
        config.training.target,
    )


def draw_times(
    N: int, batch_size: int, eps: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The states k (b,) of a batch and a time t (b,) for each: the official sampling of times.

    A set is all N states with t = linspace(eps, 1 - dt/2, N, endpoint excluded) + (U - eps) dt/2,
    U uniform on [0, 1), dt = 1/N. ceil(batch_size / N) sets are drawn and batch_size entries kept
    at random, in order.
    """
    dt = 1 / N
    sets = -(-batch_size // N)
    grid = eps + (1 - dt / 2 - eps) / N * torch.arange(N)
    U = torch.rand(sets, N, generator=generator)
    t = (grid + (U - eps) * dt / 2).reshape(-1)
    kept = torch.randperm(sets * N, generator=generator)[:batch_size].sort().values
    return kept % N, t[kept]


def sample(network: Network, images: Tensor, config: Config) -> Samples:
    """One sample for each image by the probability flow of the network's score."""
    index = torch.arange(len(images), device=images.device)
    return samplers.draw(
        lambda x, t: network(x, t, index),
        images,
        VarianceExploding(config.diffusion.sigma),
        config.sample,
        config.misc.eps,
        config.training.seed,
    )


def denoise(network: Network, x: Tensor, s: Tensor, config: Config) -> Tensor:
    """The posterior mean x + s^2 score(x, t) at noise levels s (b,), std(t) = s (Tweedie)."""
    t = VarianceExploding(config.diffusion.sigma).time_of(s)
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return x + s[:, None, None, None] ** 2 * network(x, t, index)
