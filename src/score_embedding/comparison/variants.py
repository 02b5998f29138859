"""The methods of a comparison: what each one changes in the config that all are made from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from score_embedding import kinds
from score_embedding.config import loading
from score_embedding.errors import ConfigError

# With a pointwise density the residual method is `plain`.
DENSITIES = tuple(name for name, kind in kinds.DENSITIES.items() if not kind.pointwise)
_ARRAYS = {"empirical": ("image_density.arrays=2000",)}  # every window is compared with each

# Steps of a baseline's chain, so that evaluation does not take far longer than training; its effect
# is measured in docs/comparison.md.
_CHAIN_STEPS = 50
_OWN_TRAINING = ("lr", "grad_clip", "ema", "warmup")
_START = ("type", "conditional_weight", "prior", "count", "classes")
_SHARED_TRAINING = ("epochs", "seconds", "precision", "compile")


@dataclass(frozen=True)
class Variant:
    """A method of a comparison.

    Attributes
    ----------
    summary : one line for --list-methods.
    overrides : section.key=value, what changes in the config.
    baseline : sample_method of a rival, whose diffusion and training come from the bundled config
        of this case (cifar3_ddpm for cifar3_conditional), or from that of cifar1.
    own_training : whether a baseline is trained as the config trains, not as published.
    """

    summary: str
    overrides: tuple[str, ...] = ()
    baseline: str | None = None
    own_training: bool = False

    def values(self, base: dict[Any, Any]) -> dict[Any, Any]:
        """Its config, made from the values of `base`; not validated."""
        if self.baseline:
            return _baseline(self.baseline, base, self.own_training)
        values = copy.deepcopy(base)
        for override in self.overrides:
            loading.change(values, override)
        return values


def _of_density(kind: str) -> tuple[str, ...]:
    choice = ("diffusion.embedding=residual", f"image_density.kind={kind}")
    return (*choice, *_ARRAYS.get(kind, ()))


VARIANTS: dict[str, Variant] = {
    "score_embedding": Variant("the config itself"),
    "none": Variant("nothing embedded, all else equal", ("diffusion.embedding=none",)),
    "shuffled": Variant(
        "each image is given another's score (two images or more)",
        ("diffusion.embedding=shuffled",),
    ),
    "no_index": Variant(
        "the network is not conditioned on the index of the image",
        ("model.image_conditioning=none",),
    ),
    "exact": Variant(
        "no_index, trained on the exact score instead of the noise",
        ("model.image_conditioning=none", "training.target=exact"),
    ),
    "closed_form": Variant(
        "the exact score of the images, no training", ("sample_method=closed_form",)
    ),
    "closed_form_denoised": Variant(
        "closed_form, ending with the posterior mean",
        ("sample_method=closed_form", "sample.denoise=True"),
    ),
    # For a config with held_out:
    "plain": Variant(
        "the U-Net with Karras et al.'s preconditioning, no density (held_out)",
        _of_density("white"),
    ),
    "input": Variant(
        "the paper's embedding, of crops (held_out)",
        (
            *("diffusion.embedding=input", "training.timestep_multiplier=1000"),
            *("model.image_conditioning=none", "sample.classes=null"),  # it knows no classes
        ),
    ),
    **{
        f"{kind}_residual": Variant(f"the residual of density {kind} (held_out)", _of_density(kind))
        for kind in DENSITIES
    },
    **{
        f"{kind}_alone": Variant(
            f"density {kind} without training (held_out)",
            (*_of_density(kind), "sample_method=closed_form"),
        )
        for kind in DENSITIES
    },
    **{
        kind: Variant(
            f"{kind.upper()} with the published lr, warm-up, EMA and clipping", baseline=kind
        )
        for kind in ("ddpm", "ddim")
    },
    **{
        f"{kind}_plain": Variant(
            f"{kind.upper()} with the config's own lr, warm-up, EMA and clipping",
            baseline=kind,
            own_training=True,
        )
        for kind in ("ddpm", "ddim")
    },
}
DEFAULT = ("score_embedding", "none", "closed_form", "ddpm", "ddim", "ddpm_plain")
# Densities of whole images are for data sets, not for crops of photographs.
_OF_WINDOWS = tuple(kind for kind in DENSITIES if not kinds.DENSITIES[kind].of_images)
DEFAULT_OF_DENOISING = (
    *("plain", "ddpm_plain", "input"),
    *(f"{kind}_residual" for kind in _OF_WINDOWS),
    *(f"{kind}_alone" for kind in _OF_WINDOWS),
)


def values_of(method: str, base: dict[Any, Any]) -> dict[Any, Any]:
    """The config of a method made from the values of `base`, or read from a config of its own; not
    validated. Raises ConfigError where `method` is neither."""
    if method in VARIANTS:
        return VARIANTS[method].values(base)
    try:
        return loading.read(loading.find(method))
    except ConfigError as error:
        raise ConfigError(f"--methods: {', '.join(VARIANTS)}, or a config: {error}") from None


def _baseline(kind: str, base: dict[Any, Any], own_training: bool) -> dict[Any, Any]:
    """A rival on the images and with the network of `base`."""
    bundled = loading.bundled()
    case = str(base.get("name")).partition("_")[0]
    published = loading.read(bundled.get(f"{case}_{kind}", bundled[f"cifar1_{kind}"]))
    training = base.get("training", {})
    own = training if own_training else published["training"]
    return {
        "name": f"{base.get('name')}_{kind}",
        "sample_method": kind,
        "data_loader": copy.deepcopy(base.get("data_loader")),
        "diffusion": published["diffusion"],
        "training": {
            **_part(training, _SHARED_TRAINING),
            **_part(own, _OWN_TRAINING),
            "steps_per_epoch": training.get("steps_per_epoch", "images"),
        },
        "model": {**_conditioned(base.get("model", {})), "embedding_method": "fourier"},
        "sample": {
            **_part(base.get("sample", {}), _START),
            "steps": _CHAIN_STEPS,
            "chain": "clipped",
        },
        "misc": copy.deepcopy(base.get("misc", {})),
        "held_out": copy.deepcopy(base.get("held_out")),
    }


def _conditioned(model: dict[Any, Any]) -> dict[Any, Any]:
    """The model section of a baseline, conditioned on the image's index unless nothing is, or the
    class is."""
    if "image_index" in model or model.get("image_conditioning") in ("none", "class"):
        return model
    return {**model, "image_conditioning": "index"}


def _part(section: dict[Any, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: section[key] for key in keys if key in section}
