"""The sections of a run's YAML config: their keys, values and defaults.

The keys below a line `additions` are not in the official layout.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    model_validator,
)

from score_embedding import kinds
from score_embedding.config.data_sections import DataLoader, HeldOut, Section
from score_embedding.config.values import (
    OFFICIAL_DENSITIES,
    Count,
    CountOrOff,
    DecayOrOff,
    Int,
    KdeMethod,
    Names,
    Positive,
    PositiveOrOff,
    Prior,
    Rate,
    Share,
    ShareOrOff,
    one_of,
)

__all__ = [
    "DataLoader",
    "Diffusion",
    "DiscreteSample",
    "HeldOut",
    "ImageDensity",
    "Misc",
    "Model",
    "NoiseSchedule",
    "Sample",
    "Section",
    "Start",
    "Training",
]


class Diffusion(Section):
    """The SDE and its Fokker-Planck solve."""

    sigma: Annotated[Positive, Field(ge=1e-3, le=1e4)] = 5.0
    dh: Annotated[Positive, Field(ge=1e-6, le=1e6)] = 1.0
    num_timesteps: Count = 20
    solve_tolerance: Positive = 2e-8
    # additions
    scheme: Annotated[str, one_of(kinds.SCHEMES)] = "spectral"
    density: Annotated[str, one_of(kinds.PIXEL_DENSITIES)] = "exact"
    kde_method: KdeMethod = None  # the official name of the density: read into `density`
    boundary: Literal["reflect", "zero"] = "reflect"  # of the solve and of the score
    # f = -drift x on the grid, x in units of dh from its middle
    drift: Annotated[Rate, Field(le=1e3)] = 0.0
    # input: the paper's. Controls, all else equal: none embeds nothing, shuffled another's score.
    # residual: the denoiser of image_density is the network's skip path.
    embedding: Literal["input", "none", "shuffled", "residual"] = "input"

    @model_validator(mode="before")
    @classmethod
    def _official_density(cls, values: Any) -> Any:
        """kde_method of an official file is the density. Both may be given if they agree."""
        method = values.get("kde_method") if isinstance(values, dict) else None
        if not (isinstance(method, str) and method in OFFICIAL_DENSITIES):
            return values
        same = OFFICIAL_DENSITIES[method]
        density = values.get("density", same)
        other = kinds.PIXEL_DENSITIES.get(density) if isinstance(density, str) else None
        if other and other != kinds.PIXEL_DENSITIES[same]:
            raise ValueError(
                f"density: {density} contradicts kde_method: {method}, which is density: {same}; "
                "remove one of the two keys"
            )
        return {**values, "density": density}

    @model_validator(mode="after")
    def _scheme_knows_it(self) -> Diffusion:
        scheme = kinds.SCHEMES[self.scheme]
        allowed = scheme.drift_boundaries if self.drift else scheme.boundaries
        if self.boundary not in allowed:
            unknown = [] if scheme.drift_boundaries else ["no drift"]
            unknown += ["no boundary but its own"] if len(scheme.boundaries) == 1 else []
            if unknown:
                raise ValueError(f"scheme {self.scheme} knows {' and '.join(unknown)}")
            solved = " or ".join(allowed)
            raise ValueError(f"scheme {self.scheme} solves a drift only with boundary {solved}")
        return self


class ImageDensity(Section):
    """The density of images, with its closed form at all times, that is embedded as `residual`."""

    kind: Annotated[str, one_of(kinds.DENSITIES)] = "patch_mixture"
    side: Count | None = None  # of the square arrays it is a density of; None: by kind
    stride: Count = 2  # of the windows through which it sees a larger image
    components: Count = 20  # patch_mixture
    rank: Count = 64  # low_rank
    arrays: Count = 20_000  # windows that it is fitted to; fewer where they are large
    em_steps: Count = 6  # patch_mixture

    @model_validator(mode="after")
    def _side_can_be(self) -> ImageDensity:
        kind = kinds.DENSITIES[self.kind]
        if kind.mixture and self.arrays < max(2, self.components):
            raise ValueError(f"arrays: {self.arrays}: fewer than components: {self.components}")
        if self.side is None:
            return self
        if self.side > kind.largest:
            size = f"{kind.largest} x {kind.largest}"
            raise ValueError(f"side: {self.side}: {self.kind} takes arrays of at most {size}")
        if self.stride > self.side and not kind.fixed_side:
            raise ValueError(f"stride: {self.stride}: more than side: {self.side}")
        return self


class NoiseSchedule(Section):
    """The discrete diffusion of DDPM and DDIM: beta linear from beta_min to beta_max in
    num_timesteps steps."""

    beta_min: Annotated[Positive, Field(lt=1)] = 1e-4
    beta_max: Annotated[Positive, Field(lt=1)] = 0.02
    num_timesteps: Count = 1000


class Training(Section):
    """The optimiser's loop."""

    epochs: Count = 300
    lr: Positive = 8e-5
    grad_clip: PositiveOrOff = None
    timestep_multiplier: Positive = 1.0
    ema: DecayOrOff = None  # decay; at update k at most (1 + k) / (10 + k)
    warmup: CountOrOff = None  # steps over which lr rises linearly
    # additions
    # As many as there are images, or one, as the published baselines have it.
    steps_per_epoch: Literal["images", "one"] = "images"
    # What the network is asked for: the noise that was drawn, or its mean given the noisy image
    # and the whole data set.
    target: Literal["noise", "exact"] = "noise"
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0  # weights, noise and samples
    target_ssim: ShareOrOff = None  # with --profile: stop when the min-max SSIM reaches it
    seconds: PositiveOrOff = None  # of the training clock, after which training ends
    # residual: the logarithm of the noise level is uniform, or normal as Karras et al. have it
    noise_levels: Literal["log_uniform", "log_normal"] = "log_uniform"
    # residual, ddpm and ddim: of each noise level, the method's own or that of Hang et al. 2023
    loss_weight: Literal["standard", "min_snr"] = "standard"
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast
    compile: bool = False
    # At a divergence: stop, or go back to the last good checkpoint with half the lr.
    on_divergence: Literal["stop", "restart"] = "stop"

    def steps(self, num_images: int) -> int:
        """Steps of all epochs with N training images."""
        return self.epochs * (num_images if self.steps_per_epoch == "images" else 1)


class Model(Section):
    """The network: a U-Net."""

    max_positions: Positive = 10000.0
    num_images: Count | None = None  # None: as many as the data has
    in_channels: Count = 3
    out_channels: Count = 3
    ch: Annotated[Count, Field(multiple_of=4)] = 128
    ch_mult: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 2, 2)
    num_res_blocks: Count = 2
    attention_resolutions: tuple[Count, ...] = (16,)
    dropout: Annotated[Share, Field(lt=1)] = 0.1
    resample_with_conv: bool = True
    embedding_method: Literal["linear", "fourier"] = "linear"
    # additions
    # What the network is conditioned on to distinguish several images: an embedding of the index,
    # a time interval of its own for each image (the program of 2024), or nothing.
    # Or on the class of the image, which a share of the batches does without (methods/classes.py).
    image_conditioning: Literal["index", "time_interval", "class", "none"] = "index"
    network: Annotated[str, one_of(kinds.NETWORKS)] = "published"

    @model_validator(mode="before")
    @classmethod
    def _image_index(cls, values: Any) -> Any:
        """The key image_index of 0.1.0: True is index, False is none."""
        if not isinstance(values, dict) or "image_index" not in values:
            return values
        if "image_conditioning" in values:
            raise ValueError("image_index is the old name of image_conditioning; give only one")
        rest = {key: value for key, value in values.items() if key != "image_index"}
        given = values["image_index"]
        if given not in (True, False):
            raise ValueError(f"image_index: {given!r:.100}: True or False is needed")
        return {**rest, "image_conditioning": "index" if given else "none"}

    @property
    def conditioned_on_image(self) -> bool:
        """Whether the network is conditioned on which of several images is meant."""
        return self.image_conditioning in ("index", "time_interval")

    @property
    def conditioned_on_class(self) -> bool:
        """Whether the network is conditioned on the class of an image."""
        return self.image_conditioning == "class"

    @property
    def divisor(self) -> int:
        """The sides of an image must be multiples of it: each level but the first halves them."""
        return int(2 ** (len(self.ch_mult) - 1))


class Start(Section):
    """Where sampling starts."""

    type: Literal["unconditional", "conditional"] = "unconditional"  # conditional with a weight
    conditional_weight: Share | None = None
    # additions
    prior: Prior = "unit"
    # How many samples. None: one for each training image, or with held_out none.
    count: Count | None = None
    # Of a network that is conditioned on classes: those of the samples, in turn; `all` for all of
    # them. None: samples of no given class.
    classes: Names | None = None

    @model_validator(mode="before")
    @classmethod
    def _weight_alone(cls, values: Any) -> Any:
        """A weight without a type means conditional, as in the published baselines."""
        if isinstance(values, dict) and values.get("conditional_weight") is not None:
            return {"type": "conditional", **values}
        return values

    @model_validator(mode="after")
    def _weight_given(self) -> Start:
        if self.type == "conditional" and self.conditional_weight is None:
            raise ValueError("conditional_weight is needed when type is conditional")
        return self

    @property
    def image_weight(self) -> float | None:
        """The weight of the image in a conditional start; None in an unconditional one."""
        return self.conditional_weight if self.type == "conditional" else None


class Sample(Start):
    """Where the probability flow starts and who integrates it."""

    # additions
    solver: Annotated[str, one_of(kinds.SAMPLERS)] = "rk45"
    # rk45: relative and absolute; round-off of float32 prevents less
    tolerance: Annotated[Positive, Field(ge=1e-9)] = 1e-3
    steps: Count = 10  # heun
    # residual: from the start down to this noise level by the flow of the density's Gaussian, in
    # closed form, without evaluations of the network
    gaussian_above: PositiveOrOff = None
    denoise: bool = False  # end with the posterior mean x + std(eps)^2 score


class DiscreteSample(Start):
    """Where the reverse chain of DDPM or DDIM starts, and in how many steps it ends."""

    # additions
    # published: no clipping, variance beta; clipped: to [-1, 1], the posterior's variance
    chain: Literal["published", "clipped"] = "published"
    steps: Count | None = None  # a divisor of diffusion.num_timesteps; None: all of them


class Misc(Section):
    eps: Annotated[Positive, Field(lt=1)] = 1e-3  # first time of the diffusion
    profile_freq: Positive = 10.0  # training seconds between the evaluations of --profile
    # additions
    checkpoint_freq: Positive = 60.0  # training seconds between checkpoints
    profile_priors: tuple[Prior, ...] = ()  # evaluated beside sample.prior
