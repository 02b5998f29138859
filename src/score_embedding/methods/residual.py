"""Residual embedding: the network learns only the residual of a closed-form denoiser.

With a density whose posterior mean D_pre(x, s) is known in closed form (densities/), s = std(t),

    D(x, s) = D_pre(x, s) + DCT^-1[ c_out(s, f) DCT F(c_in(s) (x - mean), D_pre(x, s), ln(s) / 4) ],
    score(x, t) = (D(x, s) - x) / s^2,

c_in = 1 / sqrt(s^2 + sigma_data^2), and c_out(s, f) is the standard deviation of x_0 - D_pre at
spatial frequency f, measured on the training data: the target of F then has unit variance at every
noise level and frequency. F starts at zero: an untrained model already denoises as well as the
density.
With the isotropic Gaussian for the density (kind white), D_pre is c_skip x of Karras et al. (2022,
table 1) on centred data, c_out is theirs, the same for all frequencies, and the method is theirs; F
is then not given D_pre, a function of x alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from score_embedding import kinds
from score_embedding.arrays import normal, uniform
from score_embedding.config.schema import Config
from score_embedding.config.sections import Model
from score_embedding.data.crops import Crops
from score_embedding.data.datasets import load_photographs
from score_embedding.methods import preconditioning
from score_embedding.methods.base import Batch, Known, Network
from score_embedding.methods.classes import Labels
from score_embedding.methods.continuous import ContinuousMethod
from score_embedding.methods.loss_weights import LOSS_WEIGHTS
from score_embedding.methods.preconditioning import Precomputed
from score_embedding.methods.samplers import GaussianFlow, Score
from score_embedding.sde import VarianceExploding

_LOG_NORMAL = (-1.9, 1.2)  # mean and width of ln(s): Karras et al.'s, for images in [0, 1]


@dataclass(frozen=True)
class ResidualMatching:
    """Denoising of crops drawn from photographs, or of whole images (n, c, h, w), which may have
    labels."""

    source: Crops | Tensor
    precomputed: Precomputed
    config: Config
    num_images: int
    labels: Labels | None = None

    @property
    def device(self) -> torch.device:
        source = self.source if isinstance(self.source, Tensor) else self.source.images[0]
        return source.device

    def __len__(self) -> int:
        return self.num_images

    def draw_batch(self, index: int, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """Crops or images with noise of random levels, whichever image's turn it is. Conditions are
        noise levels, targets the crops without noise."""
        count = self.config.data_loader.batch_size
        classes = torch.zeros(count, dtype=torch.long)
        if isinstance(self.source, Tensor):
            places = torch.randint(len(self.source), (count,), generator=generator)
            x_0 = self.source[places.to(self.device)]
            classes = self.labels.of(places, generator) if self.labels else classes
        else:
            x_0 = self.source.draw(count, generator, self.config.data_loader.crops)
        s = draw_levels(self.precomputed, self.config.training.noise_levels, count, generator)
        z = normal(x_0.shape, generator)
        s, z = s.to(self.device), z.to(self.device)
        x = x_0 + s[:, None, None, None] * z
        return Batch(x, s, classes.to(self.device), x_0)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The mean of |DCT (D(x, s) - x_0)|^2 / c_out(s, f)^2 over batch and frequencies, or
        another weight of training.loss_weight. For the isotropic Gaussian 1 / c_out^2 is Karras et
        al.'s weight (s^2 + sigma_data^2) / (s sigma_data)^2."""
        denoised = self.precomputed.denoise(network, batch.x, batch.condition, batch.index)
        weight = LOSS_WEIGHTS[self.config.training.loss_weight]
        error = denoised - batch.target
        return weight.image(error, batch.condition, self.precomputed).square().mean()


def objective(
    photographs: list[Tensor] | Tensor,
    precomputed: Precomputed,
    config: Config,
    num_images: int,
    labels: Labels | None = None,
) -> ResidualMatching:
    """Of photographs (c, h, w), or of images (n, c, h, w); an epoch is `num_images` steps."""
    size = config.data_loader.image_size
    source = photographs if isinstance(photographs, Tensor) else Crops.of(photographs, size)
    return ResidualMatching(source, precomputed, config, num_images, labels)


def draw_levels(
    precomputed: Precomputed, how: str, count: int, generator: torch.Generator
) -> Tensor:
    """Noise levels (count,) between those of the diffusion's ends."""
    low, high = precomputed.levels[0].log(), precomputed.levels[-1].log()
    if how == "log_uniform":
        return (low + (high - low) * uniform((count,), generator)).exp()
    mean, width = _LOG_NORMAL
    return (mean + width * normal((count,), generator)).clamp(low, high).exp()


def score_of(
    network: Network | None,
    known: Precomputed,
    sde: VarianceExploding,
    index: Tensor | None = None,
) -> Score:
    """score(x, t) of the denoiser, of images of index (b,); without a network that of the
    density."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        s = sde.std(t).to(x)
        return (known.denoise(network, x, s, index) - x) / s[:, None, None, None] ** 2

    return score


@dataclass(frozen=True)
class KnownDensity(Known):
    """The density with its residual, and the photographs that crops are drawn from; none of them
    where it was loaded."""

    precomputed: Precomputed
    photographs: list[Tensor]


@dataclass(frozen=True)
class Residual(ContinuousMethod):
    """A residual model with a config."""

    @property
    def label(self) -> str:
        return f"Residual of a closed-form denoiser ({self.config.image_density.kind})"

    def check(self, images: Tensor) -> None:
        if not self.config.data_loader.crops:  # of which there are as many windows as asked for
            preconditioning.check(images, self.config.image_density)

    def precompute(self, images: Tensor, device: torch.device) -> KnownDensity:
        data = self.config.data_loader
        photographs = load_photographs(data) if data.crops else list(images)
        photographs = [photograph.to(device) for photograph in photographs]
        precomputed, seconds = preconditioning.precompute(photographs, self.config)
        return KnownDensity(seconds, precomputed, photographs)

    def save(self, folder: Path, images: Tensor, known: Known) -> None:
        del images
        assert isinstance(known, KnownDensity)
        preconditioning.save(folder, known.precomputed)

    def load(self, folder: Path, device: torch.device) -> KnownDensity:
        return KnownDensity({}, preconditioning.load(folder, device), [])

    def model(self) -> Model:
        """Conditioned on no index but that of a class; with D_pre beside the image as input,
        unless that adds nothing to it."""
        model = self.config.model
        if not model.conditioned_on_class:
            model = model.model_copy(update={"image_conditioning": "none"})
        if kinds.DENSITIES[self.config.image_density.kind].pointwise:
            return model
        return model.model_copy(update={"in_channels": 2 * model.in_channels})

    def starts_at_zero(self) -> bool:
        return True

    def objective(
        self, images: Tensor, known: Known, labels: Tensor | None = None
    ) -> ResidualMatching:
        assert isinstance(known, KnownDensity)
        drawn_from = known.photographs if self.config.data_loader.crops else images
        classes = self.labels(labels)
        return objective(drawn_from, known.precomputed, self.config, len(images), classes)

    def score(self, network: Network | None, known: Known, images: Tensor, index: Tensor) -> Score:
        del images
        assert isinstance(known, KnownDensity)
        classes = index if self.knows_classes else None
        return score_of(network, known.precomputed, self.sde, classes)

    def gaussian_flow(self, known: Known) -> GaussianFlow:
        assert isinstance(known, KnownDensity)
        # Also here: the sample section of a finished run can be another.
        preconditioning.check_gaussian(known.precomputed.density, self.config)
        return known.precomputed.density.gaussian_flow

    def denoise(self, network: Network | None, x: Tensor, s: Tensor, known: Known) -> Tensor:
        assert isinstance(known, KnownDensity)
        return known.precomputed.denoise(network, x, s, self.no_index(x))


def create(config: Config) -> Residual:
    """A residual model with a config."""
    return Residual(config)
