"""A trained method, whichever it is: it samples, and it denoises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from score_embedding import crops
from score_embedding.config import AnyConfig, BaselineConfig, Config
from score_embedding.methods import closed_form, ddpm, residual, score_embedding
from score_embedding.network import ScoreNetwork
from score_embedding.sampling import Samples


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
            return closed_form.sample(images, config)
        return score_embedding.sample(network, images, config)

    @torch.no_grad()
    def denoise(self, x: Tensor, s: Tensor) -> Tensor:
        """The posterior mean of images x (b, c, h, w) of any size, in [0, 1] before the noise, at
        noise levels s (b,). Images that the network cannot halve are continued by their mirror
        image."""
        h, w = x.shape[-2:]
        divisor = 1 if self.network is None else 2 ** (len(self.config.model.ch_mult) - 1)
        up = [-(-side // divisor) * divisor for side in (h, w)]
        whole = torch.stack([crops.continued(image, up[0], up[1]) for image in x])
        return self._denoise(whole, s)[..., :h, :w]

    def _denoise(self, x: Tensor, s: Tensor) -> Tensor:
        config, network = self.config, self._at_rest()
        if self.precomputed is not None:
            return self.precomputed.denoise(network, x, s)
        assert network is not None  # see config.py: the images' own closed form is not of a task
        if isinstance(config, Config):
            return score_embedding.denoise(network, x, s, config)
        return ddpm.denoise(network, x, s, config)

    def _at_rest(self) -> ScoreNetwork | None:
        return None if self.network is None else self.network.eval()
