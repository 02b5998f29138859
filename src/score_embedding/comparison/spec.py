"""What is compared: a config for each method, seeds, targets; as a file, and as a folder of runs.

The methods of one comparison share images, network, number of steps, batch size, seeds and
evaluation with the config that they are made from; a method is what it changes in it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import StrictFloat, StrictInt, ValidationError

from score_embedding.config import loading
from score_embedding.config.schema import BASELINES, AnyConfig
from score_embedding.config.sections import DataLoader, DensityKind, HeldOut, Section
from score_embedding.errors import ConfigError, RunFolderError

SPEC = "comparison.yml"
RUNS = "runs"
TARGETS = (0.90, 0.95, 0.98, 0.99)
PRIORS = ("unit", "matched")

DENSITIES = tuple(kind for kind in get_args(DensityKind) if kind != "white")
_DENSITY_OF = {"empirical": ["image_density.arrays=2000"]}  # each is looked at by every window

# What each method changes in the config.
CONTROLS: dict[str, list[str]] = {
    "score_embedding": [],
    "none": ["diffusion.embedding=none"],
    "shuffled": ["diffusion.embedding=shuffled"],
    "no_index": ["model.image_index=False"],
    "exact": ["model.image_index=False", "training.target=exact"],
    "closed_form": ["sample_method=closed_form"],
    "closed_form_denoised": ["sample_method=closed_form", "sample.denoise=True"],
    # For a config with held_out:
    "plain": ["diffusion.embedding=residual", "image_density.kind=white"],
    "input": [
        "diffusion.embedding=input",
        "diffusion.density=binned",
        "training.timestep_multiplier=1000",
    ],
    **{
        f"{kind}_residual": [
            "diffusion.embedding=residual",
            f"image_density.kind={kind}",
            *_DENSITY_OF.get(kind, []),
        ]
        for kind in DENSITIES
    },
    **{
        f"{kind}_alone": [
            "diffusion.embedding=residual",
            f"image_density.kind={kind}",
            *_DENSITY_OF.get(kind, []),
            "sample_method=closed_form",
        ]
        for kind in DENSITIES
    },
}
PLAIN = "_plain"  # a baseline that is trained as the config trains, not as published
METHODS = {
    "score_embedding": "the config itself",
    "none": "nothing embedded, all else equal",
    "shuffled": "each image is given another's score (two images or more)",
    "no_index": "the network is not told which image is meant",
    "exact": "no_index, trained on the exact score instead of the noise",
    "closed_form": "the exact score of the images, no training",
    "closed_form_denoised": "closed_form, ending with the posterior mean",
    "plain": "the U-Net with Karras et al.'s preconditioning, no density (held_out)",
    "input": "the paper's embedding, of crops (held_out)",
    **{f"{kind}_residual": f"the residual of density {kind} (held_out)" for kind in DENSITIES},
    **{f"{kind}_alone": f"density {kind} without training (held_out)" for kind in DENSITIES},
    "ddpm": "DDPM with the published lr, warm-up, EMA and clipping",
    "ddim": "DDIM with the published lr, warm-up, EMA and clipping",
    "ddpm_plain": "DDPM with the config's own lr, warm-up, EMA and clipping",
    "ddim_plain": "DDIM with the config's own lr, warm-up, EMA and clipping",
}
DENOISING_METHODS = (
    *("plain", "ddpm_plain", "input"),
    *(f"{kind}_residual" for kind in DENSITIES),
    *(f"{kind}_alone" for kind in DENSITIES),
)
DENOISING_CONFIG = "photographs"
TASKS = ("samples", "denoising")
DEFAULT_METHODS = ("score_embedding", "none", "closed_form", "ddpm", "ddim", "ddpm_plain")
# Steps of a baseline's chain, so that evaluating does not take far longer than training; what that
# changes is in docs/comparison.md.
_CHAIN = 50
_OWN_TRAINING = ("lr", "grad_clip", "ema", "warmup")
_SHARED_TRAINING = ("epochs", "seconds", "precision", "compile")


@dataclass(frozen=True)
class Comparison:
    """Configs by the method's name, each to be run with every seed; targets of the min-max SSIM,
    without a meaning where the configs have held_out.

    Raises
    ------
    ConfigError : no method, no seed or no target, one of them twice, or one that cannot be; methods
        that are not measured on the same photographs.
    """

    name: str
    configs: dict[str, AnyConfig]
    seeds: tuple[int, ...]
    targets: tuple[float, ...] = TARGETS

    def __post_init__(self) -> None:
        for given, what in ((self.seeds, "seeds"), (self.targets, "targets")):
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"{what}: {list(given)}: one or more are needed, no one twice")
        if not self.configs:
            raise ConfigError("methods: one or more are needed")
        if not all(0 < target <= 1 for target in self.targets):
            raise ConfigError(f"targets: {list(self.targets)}: above 0 and at most 1 is needed")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ConfigError(f"seeds: {list(self.seeds)}: from 0 to 2^32 - 1 is needed")
        first = next(iter(self.configs))
        for method, config in self.configs.items():
            if config.held_out != self.held_out:
                raise ConfigError(f"method {method}: its held_out is not that of {first}")

    @property
    def held_out(self) -> HeldOut | None:
        """What all methods take noise out of; None where samples are measured."""
        return next(iter(self.configs.values())).held_out


class _File(Section):
    """comparison.yml."""

    name: str
    seeds: list[StrictInt]
    targets: list[StrictFloat]
    methods: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One run of a comparison: its method, its config with the seed, its folder."""

    method: str
    config: AnyConfig
    path: Path


def jobs(comparison: Comparison, folder: Path) -> list[Job]:
    """All runs of the comparison, seed by seed, so that an interrupted one can be read already."""
    listed = []
    for seed in comparison.seeds:
        for method, config in comparison.configs.items():
            name = f"{method}_seed{seed}"
            values = config.model_dump()
            values["name"] = name
            values["training"] |= {"seed": seed, "target_ssim": None}
            values["misc"]["profile_priors"] = PRIORS
            with_seed = loading.validate(values, source=f"method {method}")
            listed.append(Job(method, with_seed, folder / RUNS / name))
    return listed


def build(
    config: str,
    methods: list[str] | None,
    seeds: list[int],
    targets: list[float] | None,
    overrides: list[str],
    task: str = "samples",
) -> Comparison:
    """The comparison of these methods on the images of `config` (a bundled name or a file), or of
    the default ones. A config with held_out is one of denoising, whatever the task.

    A method is a name of METHODS, or a config of its own for the same images, which is taken as it
    is. An override `section.key=value` changes the config that the named methods are made from,
    `method.section.key=value` one method.

    Raises
    ------
    ConfigError : an unknown method, a config of other images, seeds or targets that cannot be; the
        task denoising for a config without held_out; targets for one with it.
    """
    if methods is None:
        methods = _default_methods(config, overrides)
    labels = [_label(method) for method in methods]
    if len(set(labels)) < len(labels) or set(labels) & (set(METHODS) - set(methods)):
        raise ConfigError(f"--methods: {', '.join(methods)}: every name is needed only once")
    own = {override: _method_of(override, methods) for override in overrides}
    shared = [override for override in overrides if own[override] is None]
    base = loading.read(loading.find(config))
    for override in shared:
        loading.change(base, override)
    images = loading.validate(base, source=config)
    if task == "denoising" and images.held_out is None:
        raise ConfigError(
            f"{config}: --task denoising needs a section held_out, photographs that are not "
            f"trained on: `held_out: {{image: [china, flower], shrink: 2, crop: 128}}` for one; "
            f"the bundled config {DENOISING_CONFIG} has it"
        )
    if images.held_out and targets is not None:
        raise ConfigError(f"--targets: of SSIM of samples; {config} has held_out and no samples")
    configs = {}
    for method in methods:
        values = _values(method, base)
        for override in overrides:
            if own[override] == method:
                loading.change(values, override.removeprefix(f"{_label(method)}."))
        configs[_label(method)] = loading.validate(values, source=f"method {method}")
        if _pictures(configs[_label(method)].data_loader) != _pictures(images.data_loader):
            raise ConfigError(f"method {method}: its images are not those of {config}")
    sought = TARGETS if targets is None else tuple(sorted(targets))
    return Comparison(images.name, configs, tuple(seeds), sought)


def write(comparison: Comparison, folder: Path) -> None:
    """comparison.yml: all that is needed to run the comparison again."""
    values = {
        "name": comparison.name,
        "seeds": list(comparison.seeds),
        "targets": list(comparison.targets),
        "methods": {
            method: config.model_dump(mode="json") for method, config in comparison.configs.items()
        },
    }
    loading.write_document(folder / SPEC, yaml.safe_dump(values, sort_keys=False))


def read(folder: Path) -> Comparison:
    """The comparison of a folder. Raises RunFolderError or ConfigError."""
    if not (folder / SPEC).is_file():
        raise RunFolderError(f"{folder}: no comparison (no {SPEC} in it)")
    try:
        values = _File.model_validate(loading.read_document(folder / SPEC))
        configs = {
            method: loading.validate(config, source=method)
            for method, config in values.methods.items()
        }
        return Comparison(values.name, configs, tuple(values.seeds), tuple(values.targets))
    except (ConfigError, ValidationError) as error:
        raise RunFolderError(f"{folder / SPEC}: damaged ({error})") from None


def _values(method: str, base: dict[Any, Any]) -> dict[Any, Any]:
    """The config of a method, not validated."""
    if method in CONTROLS:
        values = copy.deepcopy(base)
        for override in CONTROLS[method]:
            loading.change(values, override)
        return values
    kind = method.removesuffix(PLAIN)
    if kind in BASELINES:
        return _baseline(kind, base, plain=method.endswith(PLAIN))
    try:
        return loading.read(loading.find(method))
    except ConfigError as error:
        raise ConfigError(f"--methods: {', '.join(METHODS)}, or a config: {error}") from None


def _baseline(kind: str, base: dict[Any, Any], plain: bool) -> dict[Any, Any]:
    """A baseline on the config's images and network: diffusion as published for this config, or
    for cifar1, training as published or (plain) as the config trains."""
    bundled = loading.bundled()
    case = str(base.get("name")).partition("_")[0]  # cifar3 of cifar3_conditional
    published = loading.read(bundled.get(f"{case}_{kind}", bundled[f"cifar1_{kind}"]))
    training = base.get("training", {})
    own = training if plain else published["training"]
    return {
        "name": f"{base.get('name')}_{kind}",
        "sample_method": kind,
        "data_loader": copy.deepcopy(base.get("data_loader")),
        "diffusion": published["diffusion"],
        "training": {**_part(training, _SHARED_TRAINING), **_part(own, _OWN_TRAINING)},
        "model": {**base.get("model", {}), "embedding_method": "fourier"},
        "sample": {
            **_part(base.get("sample", {}), ("type", "conditional_weight", "prior")),
            "steps": _CHAIN,
        },
        "misc": copy.deepcopy(base.get("misc", {})),
        "held_out": copy.deepcopy(base.get("held_out")),
    }


def _part(section: dict[Any, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: section[key] for key in keys if key in section}


def _default_methods(config: str, overrides: list[str]) -> list[str]:
    """Those for denoising where the config, with its overrides, has held_out."""
    base = loading.read(loading.find(config))
    for override in overrides:
        if _method_of(override, list(METHODS)) is None:
            loading.change(base, override)
    return list(DENOISING_METHODS if base.get("held_out") else DEFAULT_METHODS)


def _method_of(override: str, methods: list[str]) -> str | None:
    found = (method for method in methods if override.startswith(f"{_label(method)}."))
    return next(found, None)


def _label(method: str) -> str:
    """The name of a method in tables and folders: a config's file without its ending."""
    return method if method in METHODS else Path(method).stem


def _pictures(options: DataLoader) -> dict[str, Any]:
    return options.model_dump(exclude={"batch_size"})
