"""Methods whose diffusion is the variance-exploding SDE and that are sampled by its probability
flow: all but the discrete chains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from score_embedding.config.schema import Config
from score_embedding.methods import samplers
from score_embedding.methods.base import Known, Method, Network
from score_embedding.methods.samplers import GaussianFlow, Samples, Score
from score_embedding.sde import VarianceExploding


@dataclass(frozen=True)
class ContinuousMethod(Method):
    """A method of which a subclass gives the score."""

    config: Config

    @property
    def sde(self) -> VarianceExploding:
        return VarianceExploding(self.config.diffusion.sigma)

    @property
    def sampler(self) -> str:
        return samplers.describe(self.config.sample)

    @property
    def start_std(self) -> float:
        return samplers.start_std(self.sde, self.config.sample)

    def score(self, network: Network | None, known: Known, images: Tensor, index: Tensor) -> Score:
        """score(x, t) of states x (b, c, h, w) at times t (b,), which start from images
        (b, c, h, w), numbered index (b,) among the training images."""
        raise NotImplementedError

    def gaussian_flow(self, known: Known) -> GaussianFlow | None:
        """The flow of the data's Gaussian in closed form, where it is known."""
        del known
        return None

    def sample(
        self,
        network: Network | None,
        images: Tensor,
        index: Tensor,
        known: Known,
        first: int = 0,
    ) -> Samples:
        score, options = self.score(network, known, images, index), self.config.sample
        eps, seed = self.config.misc.eps, self.config.training.seed
        flow = self.gaussian_flow(known)
        return samplers.draw(score, images, self.sde, options, eps, seed, first, flow)
