"""A trained method, whichever it is: it is loaded from its folder, it samples, it denoises."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding.config.schema import AnyConfig, BaselineConfig, Config
from score_embedding.data import crops
from score_embedding.methods import ddpm, embedded, exact, residual, tiles
from score_embedding.methods import network as networks
from score_embedding.methods.network import ScoreNetwork
from score_embedding.methods.samplers import Samples
from score_embedding.runs import artifacts
from score_embedding.runs.folder import RunFolder
from score_embedding.training import checkpoints

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The network of a config, and what a residual method has computed before training. Without a
    network it is the closed form: of the density, or of the images themselves."""

    config: AnyConfig
    network: ScoreNetwork | None
    precomputed: residual.Precomputed | None = None

    def sample(self, images: Tensor) -> Samples:
        """One sample for each of the images (n, c, h, w), dropout off."""
        config, network = self.config, self._at_rest()
        if isinstance(config, BaselineConfig):
            assert network is not None
            return ddpm.sample(network, images, config)
        if self.precomputed is not None:
            return residual.sample(network, images, self.precomputed, config)
        if network is None:
            return exact.sample(images, config)
        return embedded.sample(network, images, config)

    @torch.no_grad()
    def denoise(self, x: Tensor, s: Tensor) -> Tensor:
        """The posterior mean of images x (b, c, h, w) of any size, in [0, 1] before the noise, at
        noise levels s (b,). A network goes over large images tile by tile; images that it cannot
        halve are continued by their mirror image."""
        if self.network is None:
            return self._denoise(x, s)
        return torch.stack(
            [self._one(image, level[None]) for image, level in zip(x, s, strict=True)]
        )

    def _one(self, image: Tensor, level: Tensor) -> Tensor:
        divisor = 2 ** (len(self.config.model.ch_mult) - 1)

        def estimate(tile: Tensor) -> Tensor:
            h, w = tile.shape[-2:]
            whole = crops.continued(tile, *(-(-side // divisor) * divisor for side in (h, w)))
            return self._denoise(whole[None], level)[0, :, :h, :w]

        return tiles.blended(image, estimate)

    def _denoise(self, x: Tensor, s: Tensor) -> Tensor:
        config, network = self.config, self._at_rest()
        if self.precomputed is not None:
            return self.precomputed.denoise(network, x, s)
        assert network is not None  # see config.py: the images' own closed form is not of a task
        if isinstance(config, Config):
            return embedded.denoise(network, x, s, config)
        return ddpm.denoise(network, x, s, config)

    def _at_rest(self) -> ScoreNetwork | None:
        return None if self.network is None else self.network.eval()


def build_network(config: AnyConfig, num_images: int, device: torch.device) -> ScoreNetwork:
    """The config's network for so many images, with the weights that training starts from."""
    model = networks.model_of(config)
    network = networks.build(
        model,
        config.data_loader.image_size,
        networks.num_indices(model, num_images),
        config.training.timestep_multiplier,
        config.training.seed,
        device,
    )
    if isinstance(config, Config) and config.residual:
        residual.start_at_zero(network)
    return network


def load(folder: RunFolder, config: AnyConfig, num_images: int, device: torch.device) -> Trained:
    """The trained model of a run folder, of so many images, on the device.

    Raises
    ------
    CheckpointError, RunFolderError : a file is missing, damaged, or another model's.
    """
    network = precomputed = None
    if config.method != "closed_form":
        network = build_network(config, num_images, device)
        state = checkpoints.load(folder, network)
        log.info("model of %d steps loaded from %s", state["step"], folder.path)
    if isinstance(config, Config) and config.residual:
        precomputed = artifacts.read_density(folder, device)
    return Trained(config, network, precomputed)
