"""Score embedding (Na, Gao, Wan 2024): embedded images and the sliced score-matching loss."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from score_embedding import kinds
from score_embedding.arrays import normal, uniform, with_float64
from score_embedding.config.schema import Config
from score_embedding.errors import ConfigError, DataError
from score_embedding.methods import exact, precomputation
from score_embedding.methods.base import Batch, Known, Network
from score_embedding.methods.continuous import ContinuousMethod
from score_embedding.methods.precomputation import EmbeddedImages, Precomputed
from score_embedding.methods.samplers import Score
from score_embedding.sde import VarianceExploding

log = logging.getLogger(__name__)


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
        z = normal((self.batch_size, *states.shape[1:]), generator)
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
        t = batch.condition
        std = self.sde.std(t)[:, None, None, None]
        residual = network(batch.x, t, batch.index) * std + batch.target
        weight = 1 / (2 * self.sde.g(t) ** 2)
        return (weight * residual.square().sum(dim=(1, 2, 3))).mean()


def check(images: Tensor, config: Config) -> None:
    """Raise DataError or ConfigError where the images cannot be trained on as asked."""
    precomputation.check(images, config.diffusion)
    if config.training.target == "exact":
        if config.model.conditioned_on_image and len(images) > 1:
            raise ConfigError(
                "training.target exact is the score of all images together, which does not depend "
                "on which one is meant: set model.image_conditioning: none too"
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
    k = torch.arange(N, dtype=torch.float32, device=generator.device)
    grid = eps + (1 - dt / 2 - eps) / N * k
    U = uniform((sets, N), generator)
    t = (grid + (U - eps) * dt / 2).reshape(-1)
    kept = (
        torch.randperm(sets * N, generator=generator, device=generator.device)[:batch_size]
        .sort()
        .values
    )
    return kept % N, t[kept]


def denoise(network: Network, x: Tensor, s: Tensor, sde: VarianceExploding) -> Tensor:
    """The posterior mean x + s^2 score(x, t) at noise levels s (b,), std(t) = s (Tweedie)."""
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return x + s[:, None, None, None] ** 2 * network(x, sde.time_of(s), index)


@dataclass(frozen=True)
class KnownScores(Known):
    """The embedded images that training draws from, and all fields of them or of the first."""

    embedded: Tensor | EmbeddedImages
    shown: Precomputed


@dataclass(frozen=True)
class ScoreEmbedding(ContinuousMethod):
    """Score embedding with a config."""

    @property
    def label(self) -> str:
        return "Score embedding"

    def check(self, images: Tensor) -> None:
        check(images, self.config)

    def precompute(self, images: Tensor, device: torch.device) -> KnownScores:
        """Of more images than fit into memory only the log-densities are kept; all fields are
        those of the first SHOWN images."""
        diffusion, misc = self.config.diffusion, self.config.misc
        images = images.to(with_float64(device))
        if precomputation.fits_in_memory(images, diffusion):
            shown = precomputation.precompute(images, diffusion, misc)
            log.info("%s", shown.diagnostics.summary())
            return KnownScores(shown.seconds, shown.embedded.to(device), shown)
        started = time.perf_counter()
        embedded = EmbeddedImages(images, diffusion, misc, device)
        seconds = {"density": time.perf_counter() - started, "solve": 0.0, "embedding": 0.0}
        shown = embedded.fields(precomputation.SHOWN)
        log.info("log-density of %d images; their scores are computed in training", len(images))
        return KnownScores(seconds, embedded, shown)

    def save(self, folder: Path, images: Tensor, known: Known) -> None:
        assert isinstance(known, KnownScores)
        # With held_out nothing is compared with the images, of which there may be very many.
        kept = images if self.config.held_out is None else images[: len(known.shown.scores)]
        precomputation.save(folder / kinds.SCORES, kept, known.shown)

    def field_bytes(self, num_images: int) -> tuple[int, int]:
        data = self.config.data_loader
        shape = (data.channels, *data.image_size)
        N = self.config.diffusion.num_timesteps
        return precomputation.field_bytes(shape, N, num_images)

    def objective(
        self, images: Tensor, known: Known, labels: Tensor | None = None
    ) -> ScoreMatching:
        del images, labels  # the embedded images hold the images
        assert isinstance(known, KnownScores)
        return objective(known.embedded, self.config)

    def score(self, network: Network | None, known: Known, images: Tensor, index: Tensor) -> Score:
        del known, images
        assert network is not None
        return lambda x, t: network(x, t, index)

    def denoise(self, network: Network | None, x: Tensor, s: Tensor, known: Known) -> Tensor:
        del known
        assert network is not None
        return denoise(network, x, s, self.sde)


def create(config: Config) -> ScoreEmbedding:
    """Score embedding with a config."""
    return ScoreEmbedding(config)
