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
from score_embedding.methods.samplers import Kept, Samples


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

    def sample(self, images: Tensor, count: int | None = None, kept: Kept | None = None) -> Samples:
        """`count` samples, by default one for each of the training images (n, c, h, w); sample i
        is meant to be image i % n where the method is conditioned on that, or of one of the classes
        of sample.classes. Dropout is off.

        They are drawn in batches of a size that depends on the images alone, so that the memory
        does not grow with their number. Batches that are `kept` are not drawn again.
        """
        network, n = self._evaluated(), len(images)
        number = n if count is None else count
        index = self.method.sampled_index(number, n).to(images.device)
        h, w = images.shape[-2:]

        def draw(first: int, last: int) -> Samples:
            own = images[torch.arange(first, last, device=images.device) % n]
            return self.method.sample(network, own, index[first:last], self.known, first)

        return samplers.in_batches(draw, number, (h, w), kept)

    @torch.no_grad()
    def denoise(self, x: Tensor, s: Tensor) -> Tensor:
        """The posterior mean of images x (b, c, h, w) of any size, in [0, 1] before the noise, at
        noise levels s (b,). A network is evaluated on small images in batches, on large ones tile
        by tile; images whose sides it does not take are continued by their mirror image."""
        network = self._evaluated()
        if network is None:
            return self.method.denoise(None, x, s, self.known)
        h, w = x.shape[-2:]
        if max(h, w) <= tiles.SIDE:
            parts = samplers.batches(len(x), (h, w))
            return torch.cat([self._denoise(network, x[a:b], s[a:b]) for a, b in parts])

        def denoised(image: Tensor, level: Tensor) -> Tensor:
            def estimate(tile: Tensor) -> Tensor:
                return self._denoise(network, tile[None], level[None])[0]

            return tiles.blended(image, estimate)

        return torch.stack([denoised(image, level) for image, level in zip(x, s, strict=True)])

    def _denoise(self, network: ScoreNetwork, x: Tensor, s: Tensor) -> Tensor:
        """The network's answer for images x (b, c, h, w) of at most the size of a tile."""
        divisor = self.config.model.divisor
        h, w = x.shape[-2:]
        whole = crops.continued(x, *(-(-side // divisor) * divisor for side in (h, w)))
        return self.method.denoise(network, whole, s, self.known)[..., :h, :w]

    def _evaluated(self) -> ScoreNetwork | None:
        return None if self.network is None else self.network.eval()


def build_network(method: Method, num_images: int, device: torch.device) -> ScoreNetwork:
    """The method's network for N images, with the weights that training starts from."""
    config, model = method.config, method.model()
    network = networks.build(
        model,
        config.data_loader.image_size,
        method.num_indices(num_images),
        config.training.timestep_multiplier,
        config.training.seed,
        device,
    )
    if method.starts_at_zero():
        network.zero_output()
    return network
