"""Sweeps: one config with several values of some of its keys, each setting a "method" of a
comparison.

With several keys, one is changed at a time while the others keep the base config's values, or all
combinations are made (a grid). A sweep comes from a base config and `section.key=value,value` on
the command line, or from a file:

    base: cifar1                      # a bundled name or a file
    changes:                          # optional, of the base
      diffusion.scheme: published
    sweep:
      diffusion.dh: [0.5, 1, 2, 4]    # a value of the base config is the setting "base"
    grid: False                       # optional
    seeds: [9, 42, 123]               # optional
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import Field, StrictBool, StrictInt

from score_embedding.comparison import spec
from score_embedding.comparison.spec import Comparison, Sweep
from score_embedding.config import loading, unread
from score_embedding.config.schema import AnyConfig, Config
from score_embedding.config.sections import Section
from score_embedding.errors import ConfigError

BASE = "base"  # the setting that is the base config itself
SEEDS = (0, 1, 2)
# Last parts of keys that several sections have.
_SHARED = {
    name
    for name, count in Counter(key.split(".")[-1] for key in unread.keys(Config)).items()
    if count > 1
}
_ELSEWHERE = {
    "name": "it names the run folder",
    "sample_method": "--methods compares methods",
    "training.seed": "--seeds gives the seeds",
    "diffusion.kde_method": "its name here is diffusion.density: exact, histogram, sklearn",
    "sample.prior": "a comparison evaluates both priors",
    "training.target_ssim": "runs of a comparison do not end at a target",
    "misc.profile_priors": "a comparison evaluates both priors",
}


class _File(Section):
    """A sweep's file."""

    base: str
    sweep: dict[str, list[Any]] = Field(min_length=1)
    changes: dict[str, Any] = Field(default_factory=dict)
    grid: StrictBool = False
    seeds: list[StrictInt] | None = None


def is_file(name_or_path: str) -> bool:
    """Whether a bundled name or a file is of a sweep, not of a config. Raises ConfigError."""
    return "sweep" in loading.read(loading.find(name_or_path, sweeps_too=True))


def read(
    name_or_path: str,
    factors: dict[str, list[Any]] | None = None,
    grid: bool = False,
    seeds: list[int] | None = None,
    targets: list[float] | None = None,
    overrides: list[str] | None = None,
) -> Comparison:
    """The sweep of a bundled name or a file, or that of `factors` (the values of each key) on the
    config that the name or file is of. `overrides` (`section.key=value`) change the base config.
    Seeds that are not given are those of the file, else SEEDS.

    Raises
    ------
    ConfigError : no such file, `factors` or `grid` beside a file of a sweep, or as `build`.
    """
    path = loading.find(name_or_path, sweeps_too=True)
    values = loading.read(path)
    if "sweep" not in values:
        file, source = _File(base=str(path), sweep=factors or {}, grid=grid), "--sweep"
    elif factors or grid:
        raise ConfigError(f"{name_or_path}: describes a sweep; --sweep and --grid are of a config")
    else:
        file, source = loading.validated_as(_File, values, source=str(path)), f"{path}: sweep"
    beside = path.parent / file.base
    base = loading.read(beside if beside.is_file() else loading.find(file.base))
    for key, value in file.changes.items():
        loading.put(base, key, _plain(value, f"{path}: changes: {key}"), source=f"{path}: changes")
    for override in overrides or []:
        loading.change(base, override)
    own_seeds = next(given for given in (seeds, file.seeds, list(SEEDS)) if given is not None)
    return build(base, file.sweep, own_seeds, targets, file.grid, source)


def parsed(options: list[str]) -> dict[str, list[Any]]:
    """The values of `section.key=value,value` by key, each value as YAML reads it. Raises
    ConfigError."""
    found: dict[str, list[Any]] = {}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator or not key:
            raise ConfigError(f"--sweep {option!r}: expected section.key=value,value")
        if key in found:
            raise ConfigError(f"--sweep {key}: given twice; list all its values once")
        try:
            found[key] = loading.value_of(f"[{text}]", option)
        except ConfigError:
            raise ConfigError(
                f"--sweep {option!r}: its values are not YAML, separated by commas"
            ) from None
    return found


def build(
    values: dict[Any, Any],
    factors: dict[str, list[Any]],
    seeds: list[int],
    targets: list[float] | None = None,
    grid: bool = False,
    source: str = "--sweep",
) -> Comparison:
    """The comparison of the base config, of these values, with its keys at the values of `factors`,
    one at a time or as a grid.

    Raises
    ------
    ConfigError : an unknown key, or one that the config does not read; no value, a value twice, or
        one that does not fit; seeds or targets out of range; a config that draws no samples.
    """
    base = loading.validate(values, source=f"{source}: base config")
    if base.held_out:
        raise ConfigError(f"{source}: a sweep measures samples, and {base.name} has held_out")
    for key, listed in factors.items():
        _check_key(base, key, source)
        if not listed:
            raise ConfigError(f"{source} {key}: one or more values are needed")
    configs: dict[str, AnyConfig] = {}
    series: dict[str, list[str]] = {key: [] for key in factors}
    for changed in _settings(factors, grid):
        config = _changed(values, changed, source)
        label = _label(base, config, list(changed))
        for key in factors if grid else changed:
            if label in series[key]:
                shown = ", ".join(f"{k} = {value_text(value_at(config, k))}" for k in changed)
                raise ConfigError(f"{source}: {shown} is given twice")
            series[key].append(label)
        configs[label] = config
    names = "_".join(map(short, factors))
    return Comparison(
        f"{base.name}_sweep_{names}{'_grid' if grid else ''}",
        configs,
        tuple(seeds),
        spec.TARGETS if targets is None else tuple(sorted(targets)),
        Sweep({key: tuple(labels) for key, labels in series.items()}),
    )


def value_at(config: AnyConfig, key: str) -> Any:
    """The value of a config's `section.key`, as a config file has it."""
    section, name = key.split(".")
    return getattr(config, section).model_dump(mode="json")[name]


def value_text(value: Any) -> str:
    """A value for tables: 2e-08, [1, 2, 2], off; a list of one text is that text."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        texts = [value_text(each) for each in value]
        is_one_text = len(value) == 1 and isinstance(value[0], str)
        return texts[0] if is_one_text else f"[{', '.join(texts)}]"
    return "off" if value is None else str(value)


def short(key: str) -> str:
    """The last part of a key, where no other section has it too."""
    name = key.split(".")[-1]
    return name if name not in _SHARED else key


def _settings(factors: dict[str, list[Any]], grid: bool) -> Iterator[dict[str, Any]]:
    """What each setting changes."""
    if grid:
        for values in itertools.product(*factors.values()):
            yield dict(zip(factors, values, strict=True))
    else:
        yield from ({key: value} for key, values in factors.items() for value in values)


def _check_key(base: AnyConfig, key: str, source: str) -> None:
    allowed = unread.keys(type(base))
    if key in _ELSEWHERE:
        raise ConfigError(f"{source} {key}: cannot be swept: {_ELSEWHERE[key]}")
    if key not in allowed:
        section, _, last = key.rpartition(".")
        same = [each for each in allowed if each.split(".")[-1] == last]
        hint = f"; did you mean {same[0]!r}?" if same else loading.nearest(key, allowed)
        there = [each for each in allowed if each.split(".")[0] == section]
        listed = f"; allowed: {', '.join(there)}" if there else ""
        raise ConfigError(f"{source} {key}: unknown key of a config of {base.method}{listed}{hint}")


def _plain(value: Any, source: str) -> Any:
    """A value that is no section. Raises ConfigError."""
    if isinstance(value, dict):
        raise ConfigError(f"{source}: {value!r:.200} is not a value; write section.key: value")
    return value


def _changed(base: dict[Any, Any], changed: dict[str, Any], source: str) -> AnyConfig:
    values = copy.deepcopy(base)
    for key, value in changed.items():
        loading.put(values, key, _plain(value, f"{source} {key}"), f"{source} {key}")
    shown = ", ".join(f"{key}={value_text(value)}" for key, value in changed.items())
    config = loading.validate(values, source=f"{source} {shown:.200}")
    for key in changed:
        if why := unread.why_unread(config, key):
            others = (each for each in unread.keys(type(config)) if each not in _ELSEWHERE)
            read = [each for each in others if not unread.why_unread(config, each)]
            raise ConfigError(f"{source} {key}: {why}{loading.nearest(key, read)}")
    return config


def _label(base: AnyConfig, config: AnyConfig, changed: list[str]) -> str:
    """The name of a setting, and of its run folders without the seed. It does not depend on the
    other settings, so that a sweep can be extended."""
    if config == base:
        return BASE
    return "_".join(f"{short(key)}_{_slug(value_at(config, key))}" for key in changed)


def _slug(value: Any) -> str:
    """A value as a part of a file name, with a digest where the name loses something of it."""
    of_integers = isinstance(value, list) and all(isinstance(part, int) for part in value)
    text = "-".join(map(str, value)) if of_integers else value_text(value)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:30].strip("-.") or "value"
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
