"""DDPM (Ho et al. 2020) and DDIM (Song et al. 2021): the baselines, on diffusers' own schedulers.

Both train the same way, on the noise in x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) z with t uniform
over the T steps, and differ in the reverse chain. Images are scaled to [-1, 1]; the network is
conditioned on the step's number. In the published chain the predicted image is not clipped, and
DDPM's variance is beta; in the clipped one, diffusers' default, it is clipped to [-1, 1], and the
variance is the posterior's. DDIM is deterministic. A chain of fewer than T steps takes every
(T / steps)-th one, the last included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from score_embedding import progress
from score_embedding.arrays import normal
from score_embedding.config.schema import BaselineConfig
from score_embedding.config.sections import NoiseSchedule
from score_embedding.errors import DivergenceError
from score_embedding.methods import samplers
from score_embedding.methods.base import Batch, Known, Method, Network
from score_embedding.methods.classes import Labels
from score_embedding.methods.loss_weights import LOSS_WEIGHTS
from score_embedding.methods.samplers import Samples

Scheduler: TypeAlias = DDPMScheduler | DDIMScheduler
SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}


@dataclass(frozen=True)
class NoisePrediction:
    """Prediction of the noise in images (n, c, h, w) in [-1, 1] (Ho et al. 2020, eq. 14)."""

    images: Tensor
    scheduler: Scheduler
    batch_size: int
    loss_weight: str
    labels: Labels | None = None  # where the network is conditioned on classes

    @property
    def device(self) -> torch.device:
        return self.images.device

    def __len__(self) -> int:
        return len(self.images)

    def draw_batch(self, index: int, generator: torch.Generator) -> Batch:  # noqa: ARG002
        """A batch of images drawn with replacement, whichever image's turn it is."""
        index_of = torch.randint(len(self.images), (self.batch_size,), generator=generator)
        t = torch.randint(len(self.scheduler.betas), (self.batch_size,), generator=generator)
        z = normal((self.batch_size, *self.images.shape[1:]), generator)
        condition = self.labels.of(index_of, generator) if self.labels else index_of
        index_of, t, z = index_of.to(self.device), t.to(self.device), z.to(self.device)
        x_t = self.scheduler.add_noise(self.images[index_of], z, t)
        return Batch(x_t, t, condition.to(self.device), z)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The mean of (network(x_t, t) - z)^2 over batch and pixels, weighted as
        training.loss_weight has it."""
        error = network(batch.x, batch.condition, batch.index) - batch.target
        abar = self.scheduler.alphas_cumprod.to(error)[batch.condition]
        snr = abar / (1 - abar)
        return LOSS_WEIGHTS[self.loss_weight].noise(error, snr).square().mean()


def objective(
    images: Tensor, config: BaselineConfig, labels: Labels | None = None
) -> NoisePrediction:
    """Of images (n, c, h, w) in [0, 1]."""
    return NoisePrediction(
        to_symmetric(images),
        scheduler_of(config),
        config.data_loader.batch_size,
        config.training.loss_weight,
        labels,
    )


def sample(
    network: Network,
    images: Tensor,
    config: BaselineConfig,
    index: Tensor | None = None,
    first: int = 0,
) -> Samples:
    """One sample for each of the images (n, c, h, w) in [0, 1], by the reverse chain; the path's
    times are (t + 1) / T. index (n,): their numbers among the training images; sample i draws from
    the seed and first + i. Raises DivergenceError when a prediction is not finite."""
    scheduler, steps = scheduler_of(config), steps_of(config)
    scheduler.set_timesteps(steps)
    options, seed = config.sample, config.training.seed
    x = samplers.start(to_symmetric(images), start_std(config), seed, options.image_weight, first)
    generators = [samplers.generator_of(seed, first + i, stream=1) for i in range(len(images))]
    if index is None:
        index = torch.arange(len(images), device=images.device)
    snapshots = samplers.Snapshots(steps)
    snapshots.add(0, x)
    with torch.no_grad(), progress.stage(f"sampling ({config.method.upper()})", steps) as stage:
        for k, t in enumerate(scheduler.timesteps.tolist(), start=1):
            z = network(x, torch.full_like(index, t), index)
            if not torch.isfinite(z).all():
                raise DivergenceError(f"the predicted noise is not finite at step {t} of the chain")
            step = scheduler.step(z, t, x, generator=generators)
            # The last step adds no noise, also in a chain that skips t = 0.
            x = step.prev_sample if k < steps else step.pred_original_sample
            snapshots.add(k, x)
            stage.update()
    ahead = [*(scheduler.timesteps + 1).tolist(), 0]
    times = torch.tensor(ahead, dtype=torch.float32, device="cpu") / config.diffusion.num_timesteps
    path = from_symmetric(snapshots.path())
    return Samples(path[-1], path, times[snapshots.numbers].double(), steps)


def denoise(
    network: Network, x: Tensor, s: Tensor, config: BaselineConfig, index: Tensor | None = None
) -> Tensor:
    """The posterior mean of images x (b, c, h, w) in [0, 1] with noise of levels s (b,): x is
    scaled to the state x_t of the chain whose noise level is nearest, in the logarithm, and the
    predicted noise is subtracted. index (b,): what the network is conditioned on, by default 0."""
    abar = scheduler_of(config).alphas_cumprod.to(x)
    levels = (1 / abar - 1).sqrt() / 2  # noise over image, in [0, 1]
    t = (levels.log()[None] - s.log()[:, None]).abs().argmin(dim=1)
    signal = abar[t].sqrt()[:, None, None, None]
    if index is None:
        index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    z = network(signal * to_symmetric(x), t, index)
    return from_symmetric(to_symmetric(x) - 2 * levels[t][:, None, None, None] * z)


def scheduler_of(config: BaselineConfig) -> Scheduler:
    schedule: NoiseSchedule = config.diffusion
    clipped = config.sample.chain == "clipped"
    variance = {"variance_type": "fixed_small" if clipped else "fixed_large"}
    return SCHEDULERS[config.sample_method](
        clip_sample=clipped,
        **(variance if config.sample_method == "ddpm" else {}),
        num_train_timesteps=schedule.num_timesteps,
        beta_start=schedule.beta_min,
        beta_end=schedule.beta_max,
        timestep_spacing="trailing",  # a chain of fewer steps, too, starts at T
    )


def steps_of(config: BaselineConfig) -> int:
    """Steps of the reverse chain, each one evaluation of the network."""
    return config.sample.steps or config.diffusion.num_timesteps


def start_std(config: BaselineConfig) -> float:
    """The width of the noise at the start: 1, or with prior "matched" what the forward chain really
    ends with, sqrt(1 - abar_T), where beta_max is too small to erase the image."""
    if config.sample.type == "conditional" or config.sample.prior == "unit":
        return 1.0
    return float((1 - scheduler_of(config).alphas_cumprod[-1]).sqrt())


def to_symmetric(images: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * images - 1


def from_symmetric(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (x + 1) / 2


@dataclass(frozen=True)
class Baseline(Method):
    """DDPM or DDIM with a config."""

    config: BaselineConfig

    baseline: ClassVar[bool] = True

    @property
    def sampler(self) -> str:
        return f"{self.label}, {self.config.sample.chain} chain of {steps_of(self.config)} steps"

    @property
    def start_std(self) -> float:
        return start_std(self.config)

    def objective(
        self, images: Tensor, known: Known, labels: Tensor | None = None
    ) -> NoisePrediction:
        del known
        return objective(images, self.config, self.labels(labels))

    def sample(
        self,
        network: Network | None,
        images: Tensor,
        index: Tensor,
        known: Known,
        first: int = 0,
    ) -> Samples:
        del known
        assert network is not None
        return sample(network, images, self.config, index, first)

    def denoise(self, network: Network | None, x: Tensor, s: Tensor, known: Known) -> Tensor:
        del known
        assert network is not None
        return denoise(network, x, s, self.config, self.no_index(x))


def create(config: BaselineConfig) -> Baseline:
    """DDPM or DDIM with a config."""
    return Baseline(config)
