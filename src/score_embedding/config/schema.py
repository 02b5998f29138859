"""The schema of a run's YAML config: its sections, and the constraints between them.

They are checked before any work. A file in the official layout is a valid config without changes.
"""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from score_embedding import kinds
from score_embedding.config.sections import (
    DataLoader,
    Diffusion,
    DiscreteSample,
    HeldOut,
    ImageDensity,
    Misc,
    Model,
    NoiseSchedule,
    Sample,
    Section,
    Start,
    Training,
)
from score_embedding.config.values import Name


class Run(Section):
    """The sections of every run. `name` is also the name of the run folder."""

    name: Name
    data_loader: DataLoader
    training: Training = Training()
    model: Model = Model()
    misc: Misc = Misc()
    sample: Start = Start()
    # An addition: measure denoising of these; samples are then drawn where sample.count is given.
    held_out: HeldOut | None = None

    @property
    def draws_samples(self) -> bool:
        """Whether the run ends with samples."""
        return self.held_out is None or self.sample.count is not None

    @model_validator(mode="after")
    def _held_out_fits(self) -> Run:
        if self.held_out is None or not self.held_out.of_dataset:
            return self
        dataset = self.data_loader.dataset
        labelled = [name for name, kind in kinds.DATASETS.items() if kind.labelled]
        if self.held_out.dataset_part and dataset not in labelled:
            raise ValueError(
                f"held_out.dataset_part: data set {dataset} has no test part (those of "
                f"{', '.join(labelled)} have); held_out.share holds out a share of its images"
            )
        if self.data_loader.crops:
            raise ValueError(
                "held_out.share: of whole images, not of crops; hold out photographs with "
                "held_out.path or held_out.image"
            )
        return self

    @model_validator(mode="after")
    def _classes_fit(self) -> Run:
        dataset = self.data_loader.dataset
        if self.model.conditioned_on_class and not kinds.DATASETS[dataset].labelled:
            raise ValueError(f"model.image_conditioning: class: data set {dataset} has no classes")
        if self.sample.classes and not self.model.conditioned_on_class:
            raise ValueError(
                "sample.classes: the network is not conditioned on classes; one that is is trained "
                "with model.image_conditioning: class"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Run:
        if self.held_out and self.training.target_ssim is not None:
            raise ValueError("training.target_ssim: samples are not measured with held_out")
        channels = self.data_loader.channels
        for key in ("in_channels", "out_channels"):
            if getattr(self.model, key) != channels:
                raise ValueError(
                    f"model.{key}: {getattr(self.model, key)} does not fit "
                    f"data_loader.channels: {channels}; set both to the same number"
                )
        divisor = self.model.divisor
        if any(side % divisor for side in self.data_loader.image_size):
            size = "x".join(map(str, self.data_loader.image_size))
            raise ValueError(
                f"data_loader.image_size: {size} does not fit the network, which halves the image "
                f"{len(self.model.ch_mult) - 1} times (model.ch_mult): "
                f"sides must be multiples of {divisor}, such as {divisor * 2} or {divisor * 4}"
            )
        return self


class Config(Run):
    """Score embedding, or (sample_method closed_form) the exact score of the images, untrained."""

    diffusion: Diffusion = Diffusion()
    sample: Sample = Sample()
    sample_method: str | None = None
    image_density: ImageDensity = ImageDensity()  # an addition, for diffusion.embedding residual

    @model_validator(mode="before")
    @classmethod
    def _matched_prior(cls, values: Any) -> Any:
        """sample.prior defaults to matched for a residual model, which trains on that noise."""
        if not isinstance(values, dict) or not isinstance(values.get("diffusion"), dict):
            return values
        sample = values.get("sample", {})
        if values["diffusion"].get("embedding") == "residual" and isinstance(sample, dict):
            return {**values, "sample": {"prior": "matched", **sample}}
        return values

    @model_validator(mode="after")
    def _images_alone_denoise_only_themselves(self) -> Config:
        if self.held_out and self.sample_method == "closed_form" and not self.residual:
            raise ValueError(
                "held_out: the exact score of the images knows no others; set "
                "diffusion.embedding: residual for that of image_density"
            )
        return self

    @model_validator(mode="after")
    def _knows_classes(self) -> Config:
        # The density alone has no network, and reads none of its keys.
        if self.model.conditioned_on_class and self.method not in ("residual", "density"):
            raise ValueError(
                f"model.image_conditioning: class: method {self.method} knows no classes; residual "
                "models (diffusion.embedding: residual), ddpm and ddim do"
            )
        return self

    @property
    def residual(self) -> bool:
        """Whether a closed-form denoiser is embedded as the network's skip path."""
        return self.diffusion.embedding == "residual"

    @property
    def method(self) -> str:
        """Its name in the table of methods: sample_method, or what diffusion.embedding asks for."""
        if self.sample_method == "closed_form" and self.residual:
            return "density"
        return self.sample_method or ("residual" if self.residual else "score_embedding")


class BaselineConfig(Run):
    """A baseline: DDPM or DDIM."""

    diffusion: NoiseSchedule = NoiseSchedule()
    sample: DiscreteSample = DiscreteSample()
    sample_method: str

    @property
    def method(self) -> str:
        return self.sample_method

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: Any) -> Any:
        """The published baselines: an epoch is one batch, and the network is not conditioned on the
        image's index."""
        if not isinstance(values, dict):
            return values
        training, model = values.get("training", {}), values.get("model", {})
        if isinstance(training, dict):
            values = {**values, "training": {"steps_per_epoch": "one", **training}}
        if isinstance(model, dict) and "image_index" not in model:
            values = {**values, "model": {"image_conditioning": "none", **model}}
        return values

    @model_validator(mode="after")
    def _baseline_knows_it(self) -> BaselineConfig:
        if self.training.target != "noise":
            raise ValueError(f"training.target: {self.sample_method} knows only noise")
        if self.model.image_conditioning == "time_interval":
            raise ValueError(
                f"model.image_conditioning: {self.sample_method} has steps and no time intervals; "
                "it knows index and none"
            )
        steps, T = self.sample.steps, self.diffusion.num_timesteps
        if steps is not None and T % steps:
            raise ValueError(f"sample.steps: {steps} does not divide diffusion.num_timesteps: {T}")
        return self


AnyConfig = Config | BaselineConfig
