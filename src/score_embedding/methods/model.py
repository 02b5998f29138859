"""A model ready for use, whatever its method: it samples, it denoises."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.config.schema import AnyConfig
from score_embedding.data import crops
from score_embedding.methods import network as networks
from score_embedding.methods import samplers, tiles
from score_embedding.methods.base import Known, Method, method_of
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.samplers import Samples


@dataclass(frozen=True)
class TrainedModel:
    """A method, its network (None where it is not trained), and what it knew before training."""

    method: Method
    network: ScoreNetwork | None
    known: Known

    @property
    def config(self) -> AnyConfig:
        return self.method.config

    def with_config(self, config: AnyConfig) -> TrainedModel:
        """The same model with another config, such as other options of sampling."""
        return dataclasses.replace(self, method=method_of(config))

    def sample(self, images: Tensor, count: int | None = None) -> Samples:
        """`count` samples, by default one for each of the training images (n, c, h, w); sample i
        is meant to be image i % n where the method is conditioned on that. Dropout is off.

        They are drawn in batches of a size that depends on the images alone, so that the memory
        does not grow with their number.
        """
        network, n = self._evaluated(), len(images)
        index = torch.arange(n if count is None else count, device=images.device) % n
        h, w = images.shape[-2:]

        def draw(first: int, last: int) -> Samples:
            own = index[first:last]
            return self.method.sample(network, images[own], own, self.known, first)

        return samplers.in_batches(draw, len(index), (h, w))

    @torch.no_grad()
    def denoise(self, x: Tensor, s: Tensor) -> Tensor:
        """The posterior mean of images x (b, c, h, w) of any size, in [0, 1] before the noise, at
        noise levels s (b,). A network is evaluated on large images tile by tile; images whose sides
        it does not take are continued by their mirror image."""
        network = self._evaluated()
        if network is None:
            return self.method.denoise(None, x, s, self.known)
        pairs = zip(x, s, strict=True)
        return torch.stack(
            [self._denoise_one(network, image, level[None]) for image, level in pairs]
        )

    def _denoise_one(self, network: ScoreNetwork, image: Tensor, level: Tensor) -> Tensor:
        divisor = self.config.model.divisor

        def estimate(tile: Tensor) -> Tensor:
            h, w = tile.shape[-2:]
            whole = crops.continued(tile, *(-(-side // divisor) * divisor for side in (h, w)))
            return self.method.denoise(network, whole[None], level, self.known)[0, :, :h, :w]

        return tiles.blended(image, estimate)

    def _evaluated(self) -> ScoreNetwork | None:
        return None if self.network is None else self.network.eval()


def build_network(method: Method, num_images: int, device: torch.device) -> ScoreNetwork:
    """The method's network for N images, with the weights that training starts from."""
    config, model = method.config, method.model()
    network = networks.build(
        model,
        config.data_loader.image_size,
        networks.num_indices(model, num_images),
        config.training.timestep_multiplier,
        config.training.seed,
        device,
    )
    if method.starts_at_zero():
        network.zero_output()
    return network
