"""What every method is: the protocol that the pipeline, the training loop and the report rely on.

A method is resolved once from the config (`method_of`); nothing outside methods/ asks which one it
is. A new one is a file with a class that extends `Method`, a function `create(config)`, and a line
in kinds.METHODS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from score_embedding import kinds
from score_embedding.config.schema import AnyConfig
from score_embedding.config.sections import Model
from score_embedding.data.datasets import class_names, class_numbers
from score_embedding.kinds import MethodKind
from score_embedding.methods import network as networks
from score_embedding.methods.classes import Labels
from score_embedding.methods.samplers import Samples

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (b, c, h, w), (b,), (b,) -> (b, c, h, w)


@dataclass(frozen=True)
class Batch:
    """Training data of one step.

    Attributes
    ----------
    x : noisy images (b, c, h, w).
    condition : (b,), what the network is conditioned on: the time of the diffusion, the number of
        the step in a chain, or the noise level.
    index : (b,), which of the training images each entry comes from, or its class where the network
        is conditioned on that; 0 where nothing depends on it.
    target : like x, what the loss compares with: the noise, its mean given x, or the clean images.
    """

    x: Tensor
    condition: Tensor
    index: Tensor
    target: Tensor


class Objective(Protocol):
    """Batches and loss of one method on one data set."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int:
        """The number of images; those of consecutive steps take turns."""

    def draw_batch(self, index: int, generator: torch.Generator) -> Batch:
        """The batch of a step whose turn is image `index`; all randomness is the generator's."""

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The scalar to be minimised."""


@dataclass(frozen=True)
class Known:
    """What a method has computed before training; `seconds`: how long it took, by stage."""

    seconds: dict[str, float]


@dataclass(frozen=True)
class Method:
    """A method with its config. The defaults are those of a method that computes nothing before
    training."""

    config: AnyConfig

    trained: ClassVar[bool] = True  # whether there is a network
    baseline: ClassVar[bool] = False  # whether the others are measured against it

    @property
    def kind(self) -> MethodKind:
        """Its line in the table of methods."""
        return kinds.METHODS[self.config.method]

    @property
    def label(self) -> str:
        """The name that reports give it."""
        return self.kind.summary

    @property
    def sampler(self) -> str:
        """How samples are drawn, in a few words."""
        raise NotImplementedError

    @property
    def start_std(self) -> float:
        """Standard deviation of the noise that sampling starts from."""
        raise NotImplementedError

    @property
    def uses_index(self) -> bool:
        """Whether the model is conditioned on which of the images a sample is meant to be."""
        return self.trained and self.model().conditioned_on_image

    @property
    def knows_classes(self) -> bool:
        """Whether there is a network that is conditioned on the class of an image."""
        return self.trained and self.config.model.conditioned_on_class

    @property
    def denoises_others(self) -> bool:
        """Whether it has a denoiser of images other than those it was trained on."""
        return True

    @property
    def images_file(self) -> str:
        """The file of a run folder that has the training images."""
        return kinds.SCORES if kinds.SCORES in self.kind.files else kinds.SAMPLES

    def check(self, images: Tensor) -> None:
        """Raise DataError or ConfigError where images (n, c, h, w) cannot be trained on."""

    def labels(self, numbers: Tensor | None) -> Labels | None:
        """The classes (n,) of the training images, where the network is conditioned on them."""
        if not self.knows_classes:
            return None
        if numbers is None:
            raise ValueError("labels are needed: the network is conditioned on classes")
        return Labels(numbers, self.num_indices(1) - 1)

    def precompute(self, images: Tensor, device: torch.device) -> Known:
        """Everything that is known before training on images (n, c, h, w)."""
        del images, device
        return Known({})

    def save(self, folder: Path, images: Tensor, known: Known) -> None:
        """Write the files of `kind.files`."""

    def load(self, folder: Path, device: torch.device) -> Known:
        """What `save` has written, as far as sampling and denoising need it.

        Raises
        ------
        RunFolderError, CheckpointError : a file is missing or damaged.
        """
        del folder, device
        return Known({})

    def field_bytes(self, num_images: int) -> tuple[int, int]:
        """Bytes of memory and of disk that `precompute` and `save` take for N images."""
        del num_images
        return 0, 0

    def model(self) -> Model:
        """The network's options, as the method needs them."""
        model = self.config.model
        if self.config.held_out is None or model.conditioned_on_class:
            return model
        return model.model_copy(update={"image_conditioning": "none"})

    def num_indices(self, num_images: int) -> int:
        """How many indices the network of N images distinguishes: the images, or the classes of the
        data set and no class; 1 where it is conditioned on neither."""
        if self.knows_classes:
            return len(class_names(self.config.data_loader)) + 1
        return networks.num_indices(self.model(), num_images)

    def no_index(self, x: Tensor) -> Tensor:
        """The index (b,) of images x (b, c, h, w) of which neither number nor class is known."""
        number = self.num_indices(1) - 1 if self.knows_classes else 0
        return torch.full((len(x),), number, dtype=torch.long, device=x.device)

    def sampled_index(self, count: int, num_images: int) -> Tensor:
        """The index (count,) of samples of a model of N images: the images in turn, or the classes
        of sample.classes. Raises DataError for a class that there is not."""
        wanted = self.config.sample.classes
        if not self.knows_classes:
            return torch.arange(count) % num_images
        none = [self.num_indices(1) - 1]
        data = self.config.data_loader
        numbers = class_numbers(data, wanted, "sample.classes") if wanted else none
        return torch.tensor(numbers)[torch.arange(count) % len(numbers)]

    def starts_at_zero(self) -> bool:
        """Whether the network's output is 0 before training."""
        return False

    def objective(self, images: Tensor, known: Known, labels: Tensor | None = None) -> Objective:
        """Batches and loss on images (n, c, h, w), whose classes are labels (n,) where the network
        is conditioned on them."""
        raise NotImplementedError

    def sample(
        self,
        network: Network | None,
        images: Tensor,
        index: Tensor,
        known: Known,
        first: int = 0,
    ) -> Samples:
        """One sample for each of images (b, c, h, w), whose numbers among the training images, or
        classes, are index (b,). Sample i draws its noise from the run's seed and first + i."""
        raise NotImplementedError

    def denoise(self, network: Network | None, x: Tensor, s: Tensor, known: Known) -> Tensor:
        """The posterior mean of images x (b, c, h, w), in [0, 1] before the noise, at noise levels
        s (b,)."""
        raise NotImplementedError


def method_of(config: AnyConfig) -> Method:
    """The method that a config asks for."""
    method: Method = kinds.METHODS[config.method].load().create(config)
    return method
