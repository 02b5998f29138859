"""What every network is, and how one is built from a config's model section."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from score_embedding import kinds
from score_embedding.config.sections import Model


class ScoreNetwork(nn.Module):
    """s_theta(x, t): images (b, c, h, w), conditions (b,), such as times, and image indices (b,) to
    scores like x. The index, or the class of the image in its place, may be left out where the
    network was built for one image.
    """

    def forward(self, x: Tensor, t: Tensor, index: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def zero_output(self) -> None:
        """Make the output 0 everywhere until the next step of training, which a residual model
        starts from."""
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


class TimeIntervals(ScoreNetwork):
    """A network that distinguishes n images by the time alone: the diffusion of image i takes place
    at the times t + i - n / 2, with t in [0, 1] (the official program of 2024)."""

    def __init__(self, network: ScoreNetwork, num_images: int):
        super().__init__()
        self.network = network
        self.num_images = num_images

    def forward(self, x: Tensor, t: Tensor, index: Tensor | None = None) -> Tensor:
        if index is None:
            raise ValueError(f"the network was built for {self.num_images} images: index is needed")
        out: Tensor = self.network(x, t + (index - self.num_images / 2).to(t.dtype))
        return out

    def zero_output(self) -> None:
        self.network.zero_output()


def create(
    model: Model, size: tuple[int, int], num_indices: int, timestep_multiplier: float
) -> ScoreNetwork:
    """The network that model.network names, for images of a size (h, w), which tells `num_indices`
    images apart; its weights come from torch's default generator."""
    module = kinds.named(kinds.NETWORKS, model.network, "model.network").load()
    by_time = model.image_conditioning == "time_interval"
    embedded = 1 if by_time else num_indices
    network: ScoreNetwork = module.create(model, size, embedded, timestep_multiplier)
    return TimeIntervals(network, num_indices) if by_time and num_indices > 1 else network


def num_indices(model: Model, num_images: int) -> int:
    """How many images the network distinguishes: at least `num_images`, or 1 where it is not
    conditioned on the image."""
    return max(num_images, model.num_images or 1) if model.conditioned_on_image else 1


def build(
    model: Model,
    size: tuple[int, int],
    num_images: int,
    timestep_multiplier: float,
    seed: int,
    device: torch.device,
) -> ScoreNetwork:
    """A network with weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        network = create(model, size, num_images, timestep_multiplier)
    layout = memory_format(model.ch, device)
    on_device: ScoreNetwork = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    return on_device


def memory_format(ch: int, device: torch.device) -> torch.memory_format:
    """Channels-last, in which wide convolutions are fastest; narrow ones on the CPU are not
    (benchmarks/training_step.py)."""
    if device.type == "cpu" and ch < 64:
        return torch.contiguous_format
    return torch.channels_last
