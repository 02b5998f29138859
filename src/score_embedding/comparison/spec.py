"""What is compared: a config for each method, seeds, targets; as a file, and as a folder of runs.

The methods of one comparison share images, network, number of steps, batch size, seeds and
evaluation with the config that they are made from (variants.py says what each one changes).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import StrictFloat, StrictInt, ValidationError

from score_embedding.comparison import variants
from score_embedding.comparison.variants import VARIANTS
from score_embedding.config import loading
from score_embedding.config.schema import AnyConfig
from score_embedding.config.sections import DataLoader, HeldOut, Section
from score_embedding.errors import ConfigError, RunFolderError
from score_embedding.methods.base import method_of

SPEC = "comparison.yml"
RUNS = "runs"
TARGETS = (0.90, 0.95, 0.98, 0.99)
PRIORS = ("unit", "matched")
NOT_RUN = "not run"  # the reason of a run that was not begun
TASKS = ("samples", "denoising")
DENOISING_CONFIG = "photographs"


@dataclass(frozen=True)
class Sweep:
    """What makes a comparison a sweep (sweeps/settings.py): for each key that is varied, the names
    of its settings, in the order of its values. In a grid these are all settings."""

    series: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Comparison:
    """Configs by the method's name, each to be run with every seed; targets of the min-max SSIM,
    which have no meaning where the configs have held_out. In a sweep a method is a setting.

    Raises
    ------
    ConfigError : no method, no seed or no target, a duplicate, or a value out of range; methods
        that are not measured on the same photographs; a sweep of other methods.
    """

    name: str
    configs: dict[str, AnyConfig]
    seeds: tuple[int, ...]
    targets: tuple[float, ...] = TARGETS
    sweep: Sweep | None = None

    def __post_init__(self) -> None:
        for given, what in ((self.seeds, "seeds"), (self.targets, "targets")):
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"{what}: {list(given)}: one or more are needed, none twice")
        if not self.configs:
            raise ConfigError("methods: one or more are needed")
        if not all(0 < target <= 1 for target in self.targets):
            raise ConfigError(f"targets: {list(self.targets)}: must be above 0 and at most 1")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ConfigError(f"seeds: {list(self.seeds)}: must be from 0 to 2^32 - 1")
        if self.sweep and {*itertools.chain(*self.sweep.series.values())} != {*self.configs}:
            raise ConfigError(f"sweep: its settings are not {', '.join(self.configs)}")
        first = next(iter(self.configs))
        for method, config in self.configs.items():
            if config.held_out != self.held_out:
                raise ConfigError(f"method {method}: its held_out is not that of {first}")

    @property
    def held_out(self) -> HeldOut | None:
        """The photographs that all methods denoise; None where samples are measured."""
        return next(iter(self.configs.values())).held_out


class _File(Section):
    """comparison.yml."""

    name: str
    seeds: list[StrictInt]
    targets: list[StrictFloat]
    methods: dict[str, dict[str, Any]]
    sweep: dict[str, list[str]] | None = None


@dataclass(frozen=True)
class Job:
    """One run of a comparison: its method, its config with the seed, its folder."""

    method: str
    config: AnyConfig
    path: Path


def jobs(comparison: Comparison, folder: Path) -> list[Job]:
    """All runs of the comparison, seed by seed, so that an interrupted one already compares all
    methods."""
    listed = []
    for seed in comparison.seeds:
        for method, config in comparison.configs.items():
            name = run_name(method, seed)
            values = config.model_dump()
            values["name"] = name
            values["training"] |= {"seed": seed, "target_ssim": None}
            values["misc"]["profile_priors"] = PRIORS
            with_seed = loading.validate(values, source=f"method {method}")
            listed.append(Job(method, with_seed, folder / RUNS / name))
    return listed


def run_name(method: str, seed: int) -> str:
    """The name of a run, and of its folder."""
    return f"{method}_seed{seed}"


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

    A method is a name of VARIANTS, or a config of its own for the same images, which is taken
    unchanged. An override `section.key=value` changes the config that the named methods are made
    from, `method.section.key=value` one method.

    Raises
    ------
    ConfigError : an unknown method, a config of other images, seeds or targets out of range; the
        task denoising for a config without held_out; targets for one with it.
    """
    if methods is None:
        methods = default_methods(config, overrides)
    labels = [_label(method) for method in methods]
    if len(set(labels)) < len(labels) or set(labels) & (set(VARIANTS) - set(methods)):
        raise ConfigError(f"--methods: {', '.join(methods)}: every name is needed only once")
    if sections := [label for label in labels if label in loading.ORDER]:
        raise ConfigError(
            f"--methods: {sections[0]}: the name of a section of a config; give the file another"
        )
    own = {override: _method_of(override, methods) for override in overrides}
    base = loading.read(loading.find(config))
    for override in overrides:
        if own[override] is None:
            loading.change(base, override)
    images = loading.validate(base, source=config)
    if method_of(images).baseline and set(methods) & set(VARIANTS):
        raise ConfigError(
            f"--config {config}: a config of {method_of(images).label}; the methods of a "
            f"comparison are made from one of score embedding, and this one can be named in "
            f"--methods beside it"
        )
    if task == "denoising" and images.held_out is None:
        raise ConfigError(
            f"{config}: --task denoising needs a section held_out, photographs that are not "
            f"trained on, such as `held_out: {{image: [china, flower], shrink: 2, crop: 128}}`; "
            f"the bundled config {DENOISING_CONFIG} has it"
        )
    if images.held_out and targets is not None:
        raise ConfigError(f"--targets: of SSIM of samples; {config} has held_out and no samples")
    configs = {}
    for method, label in zip(methods, labels, strict=True):
        values = variants.values_of(method, base)
        for override in overrides:
            if own[override] == method:
                loading.change(values, override.removeprefix(f"{label}."))
        configs[label] = loading.validate(values, source=f"method {method}")
        if pictures_of(configs[label].data_loader) != pictures_of(images.data_loader):
            raise ConfigError(f"method {method}: its images are not those of {config}")
    sought = TARGETS if targets is None else tuple(sorted(targets))
    return Comparison(images.name, configs, tuple(seeds), sought)


def default_methods(config: str, overrides: list[str]) -> list[str]:
    """The methods that are compared where none are given: those of denoising where the config,
    with its overrides, has held_out."""
    base = loading.read(loading.find(config))
    for override in overrides:
        if _method_of(override, list(VARIANTS)) is None:
            loading.change(base, override)
    return list(variants.DEFAULT_OF_DENOISING if base.get("held_out") else variants.DEFAULT)


def write(comparison: Comparison, folder: Path) -> None:
    """comparison.yml: all that is needed to run the comparison again."""
    values: dict[str, Any] = {
        "name": comparison.name,
        "seeds": list(comparison.seeds),
        "targets": list(comparison.targets),
        "methods": {
            method: config.model_dump(mode="json") for method, config in comparison.configs.items()
        },
    }
    if comparison.sweep:
        values["sweep"] = {key: list(names) for key, names in comparison.sweep.series.items()}
    loading.write_document(folder / SPEC, yaml.safe_dump(values, sort_keys=False))


def read(folder: Path) -> Comparison:
    """The comparison of a folder. Raises RunFolderError where there is none or it is damaged."""
    if not (folder / SPEC).is_file():
        raise RunFolderError(f"{folder}: no comparison (no {SPEC} in it)")
    try:
        values = _File.model_validate(loading.read_document(folder / SPEC))
        configs = {
            method: loading.validate_resolved(config, source=method)
            for method, config in values.methods.items()
        }
        sweep = values.sweep and Sweep({key: tuple(of) for key, of in values.sweep.items()})
        seeds, targets = tuple(values.seeds), tuple(values.targets)
        return Comparison(values.name, configs, seeds, targets, sweep or None)
    except (ConfigError, ValidationError) as error:
        raise RunFolderError(f"{folder / SPEC}: damaged ({error})") from None


def check_extends(comparison: Comparison, folder: Path) -> None:
    """Raise RunFolderError where the folder has a comparison of more methods or seeds, which its
    tables would lose."""
    try:
        there = read(folder)
    except RunFolderError:  # none, or a damaged one: nothing to lose
        return
    lost = [name for name in there.configs if name not in comparison.configs]
    lost += [f"seed {seed}" for seed in there.seeds if seed not in comparison.seeds]
    if lost:
        raise RunFolderError(
            f"{folder}: its tables compare {', '.join(lost)} too; name them as well, or give "
            f"another place with --out; --overwrite makes the tables without them"
        )


def _method_of(override: str, methods: list[str]) -> str | None:
    found = (method for method in methods if override.startswith(f"{_label(method)}."))
    return next(found, None)


def _label(method: str) -> str:
    """The name of a method in tables and folders: a config's file without its extension."""
    return method if method in VARIANTS else Path(method).stem


def pictures_of(options: DataLoader) -> dict[str, Any]:
    """All that decides which images a config has: equal for the same images."""
    return options.model_dump(exclude={"batch_size"})
