"""Finding, loading, overriding, validating and dumping configs, with errors a user can act on."""

from __future__ import annotations

import contextlib
import difflib
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from score_embedding.config import Config
from score_embedding.errors import ConfigError


def load(name_or_path: str, overrides: list[str] | None = None) -> Config:
    """The validated config of a bundled name or a YAML file, with `section.key=value` overrides.

    Raises
    ------
    ConfigError : no such config, no YAML, or keys and values that are not allowed; all of them are
        named at once.
    """
    path = find(name_or_path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:  # ValueError: no UTF-8, no such date
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, such as data_loader:")
    for override in overrides or []:
        _override(values, override)
    return validate(values, source=str(path))


def for_images(paths: list[str], size: int, overrides: list[str]) -> Config:
    """The default config over image files, for commands that need no more. Raises ConfigError."""
    values: dict[Any, Any] = {
        "name": "images",
        "data_loader": {"dataset": "files", "path": paths, "image_size": size},
        "model": {"ch_mult": [1]},  # no network is built: any size will do
    }
    for override in overrides:
        _override(values, override)
    return validate(values, source="command line")


def validate(values: dict[Any, Any], source: str) -> Config:
    """The config of a mapping; `source` names it in errors. Raises ConfigError."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(e)}" for e in error.errors())
        raise ConfigError(f"{source}:\n{problems}") from None


def dump(config: Config) -> str:
    """The resolved config as YAML, every key with its value; `load` reads it back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def bundled() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = Path(str(resources.files("score_embedding") / "configs"))
    return {path.stem: path for path in sorted(folder.glob("*.yml"))}


def find(name_or_path: str) -> Path:
    """An existing file, else the bundled config of that name (with or without .yml)."""
    path = Path(name_or_path)
    with contextlib.suppress(OSError):  # a name too long for the file system, for one
        if path.is_file():
            return path
    names = bundled()
    stem = name_or_path.removesuffix(".yml").removesuffix(".yaml")
    if stem in names:
        return names[stem]
    raise ConfigError(
        f"config {name_or_path!r}: no such file and no bundled config of that name; "
        f"bundled: {', '.join(names)}{_nearest(Path(stem).name, names)}"
    )


def _override(values: dict[Any, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: expected section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {section} is not a section")
    try:
        values[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value") from None


def _explain(error: Any) -> str:
    """One line for one of pydantic's errors: path, what was given, what is allowed."""
    location = [str(part) for part in error["loc"]]
    path, given = ".".join(location), error["input"]
    match error["type"]:
        case "extra_forbidden":
            allowed = _keys_at(location[:-1])
            return (
                f"{path}: unknown key; allowed: {', '.join(allowed)}"
                f"{_nearest(location[-1], allowed)}"
            )
        case "missing":
            return f"{path}: missing, and has no default"
        case "literal_error":
            expected = error["ctx"]["expected"]
            allowed = [part.strip("' ") for part in expected.replace(" or ", ",").split(",")]
            return (
                f"{path}: {given!r} is not allowed; allowed: {expected}{_nearest(given, allowed)}"
            )
        case "value_error":
            reason = str(error["ctx"]["error"])
            return f"{path}: {reason}" if path else reason
        case "string_pattern_mismatch":
            return f"{path}: {given!r} is not allowed; letters, digits, '_', '-' and '.' are"
        case _:
            return f"{path}: {given!r} is not allowed: {error['msg']}"


def _keys_at(location: list[str]) -> list[str]:
    section: Any = Config
    for part in location:
        section = section.model_fields[part].annotation
    return list(section.model_fields)


def _nearest(given: Any, allowed: Any) -> str:
    matches = difflib.get_close_matches(str(given), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""
