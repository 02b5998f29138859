"""Finding, loading, overriding, validating and dumping configs, with errors a user can act on."""

from __future__ import annotations

import contextlib
import difflib
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from score_embedding import atomic_files, kinds
from score_embedding.config import old_runs
from score_embedding.config.schema import AnyConfig, BaselineConfig, Config
from score_embedding.config.sections import Section
from score_embedding.errors import ConfigError

Kind = TypeVar("Kind", bound=Section)

_FOLDER = Path(str(resources.files("score_embedding") / "config" / "bundled"))
_END = "...\n"  # YAML's mark of the end of a document: a file without it is truncated
# The order of the keys in a file. Those that decide how the rest is read come first.
ORDER = (
    *("name", "sample_method", "data_loader", "diffusion", "image_density"),
    *("training", "model", "sample", "misc", "held_out"),
)


def load(name_or_path: str, overrides: list[str] | None = None) -> AnyConfig:
    """The validated config of a bundled name or a YAML file, with `section.key=value` overrides.

    Raises
    ------
    ConfigError : no such config, not YAML, or keys and values that are not allowed; all of them
        are named at once.
    """
    path = find(name_or_path)
    values = read(path)
    for override in overrides or []:
        change(values, override)
    return validate(values, source=f"{path} with --set" if overrides else str(path))


def read(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file, not validated. The resolved config of version 0.1.0, such as
    config.yml of a run folder, gets the keys that it lacks. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable: {error}") from error
    values = mapping(text, source=str(path))
    return old_runs.completed(values) if old_runs.is_resolved(values) else values


def mapping(text: str, source: str) -> dict[Any, Any]:
    """The mapping in a YAML text, not validated. Raises ConfigError, which names `source`."""
    try:
        values = _parsed(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not readable as YAML: {error!s:.500}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: a config is a mapping of sections, such as data_loader:")
    return values


def for_images(paths: list[str], size: int, overrides: list[str]) -> Config:
    """The default config for image files, as the commands without a config file need it. Raises
    ConfigError."""
    values: dict[Any, Any] = {
        "name": "images",
        "data_loader": {"dataset": "files", "path": paths, "image_size": size},
        "model": {"ch_mult": [1]},  # no network is built, so any image size is allowed
    }
    for override in overrides:
        change(values, override)
    return validated_as(Config, values, source="command line")


def validate(values: dict[Any, Any], source: str) -> AnyConfig:
    """The config of a mapping; `source` names it in errors. Raises ConfigError."""
    method = values.get("sample_method")
    allowed = [name for name, kind in kinds.METHODS.items() if kind.by_name]
    if method is not None and method not in allowed:
        raise ConfigError(
            f"{source}:\n  sample_method: {_shown(method)} is not allowed; allowed: "
            f"{', '.join(allowed)}{nearest(method, allowed)}"
        )
    if old_runs.is_baseline(values):
        return validated_as(BaselineConfig, values, source)
    return validated_as(Config, values, source)


def validated_as(kind: type[Kind], values: dict[Any, Any], source: str) -> Kind:
    """The mapping as a section or a config of this class. Raises ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(e, kind)}" for e in error.errors())
        raise ConfigError(f"{source}:\n{problems}") from None


def validate_resolved(values: dict[Any, Any], source: str) -> AnyConfig:
    """As `validate`, of the mapping of a resolved config, which an earlier version may have
    written."""
    return validate(old_runs.completed(values), source)


def dump(config: AnyConfig) -> str:
    """The resolved config as YAML, every key with its value; `load` reads it back unchanged."""
    values = config.model_dump(mode="json")
    return yaml.safe_dump({key: values[key] for key in ORDER if key in values}, sort_keys=False)


def bundled() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yml"))}


def bundled_sweeps() -> dict[str, Path]:
    """The sweeps that come with the package (comparison/sweeps/), by name."""
    return {path.stem: path for path in sorted((_FOLDER / "sweeps").glob("*.yml"))}


def find(name_or_path: str, sweeps_too: bool = False) -> Path:
    """An existing file, else the bundled config of that name (with or without .yml), or with
    `sweeps_too` the bundled sweep. Raises ConfigError."""
    path = Path(name_or_path)
    with contextlib.suppress(OSError):  # for example, a name too long for the file system
        if path.is_file():
            return path
    names, sweeps = bundled(), bundled_sweeps()
    stem = name_or_path.removesuffix(".yml").removesuffix(".yaml")
    if sweeps_too:
        names |= sweeps
    if stem in names:
        return names[stem]
    if stem in sweeps:
        raise ConfigError(
            f"config {name_or_path!r}: a sweep of many runs; score-embedding compare --config "
            f"{stem} makes them"
        )
    raise ConfigError(
        f"config {name_or_path!r}: no such file and no bundled config of that name; "
        f"bundled: {', '.join(names)}{nearest(Path(stem).name, names)}"
    )


def change(values: dict[Any, Any], override: str, option: str = "--set") -> None:
    """Set one key, `section.key=value`, of a config that is not validated yet. Raises ConfigError;
    `option` is the command-line option that it names."""
    expected = "section.key=value" if option == "--set" else "key=value"
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"{option} {override!r}: expected {expected}")
    put(values, key, value_of(text, f"{option} {override!r}"), f"{option} {override!r}")


def put(values: dict[Any, Any], key: str, value: Any, source: str) -> None:
    """Set `section.key` of a config that is not validated yet. Raises ConfigError, which names
    `source`."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: {section} is not a section")
    values[last] = value


def value_of(text: str, source: str) -> Any:
    """A YAML value. Raises ConfigError, which names `source`."""
    try:
        return _parsed(text)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{source}: {text!r} is not a YAML value: {reason:.200}") from None


def write_document(path: Path, text: str) -> None:
    """Write a YAML document with the mark of its end."""
    atomic_files.write_text(path, text + _END)


def read_document(path: Path) -> dict[Any, Any]:
    """The mapping of a document of `write_document`, not validated. Raises ConfigError if it is
    damaged, for example truncated at the end of a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable: {error}") from None
    if not text.endswith(_END):
        raise ConfigError(f"{path}: cut short, its end is missing")
    return mapping(text, source=str(path))


def _explain(error: Any, kind: type[Section]) -> str:
    """One line for one of pydantic's errors: path of the key, value given, values allowed."""
    location = [str(part) for part in error["loc"]]
    path, given = ".".join(location), error["input"]
    match error["type"]:
        case "extra_forbidden":
            allowed = _keys_at(location[:-1], kind)
            hint = nearest(location[-1], allowed)
            if kind is Config and location[-1] in ("beta_min", "beta_max"):
                hint = "; it belongs to the baselines: sample_method: ddpm or ddim at the top level"
            return f"{path}: unknown key; allowed: {', '.join(allowed)}{hint}"
        case "missing":
            return f"{path}: missing, and has no default"
        case "literal_error":
            expected = error["ctx"]["expected"]
            allowed = [part.strip("' ") for part in expected.replace(" or ", ",").split(",")]
            return (
                f"{path}: {_shown(given)} is not allowed; allowed: {expected}"
                f"{nearest(given, allowed)}"
            )
        case "value_error":
            reason = str(error["ctx"]["error"])
            return f"{path}: {reason}" if path else reason
        case "string_pattern_mismatch":
            return f"{path}: {_shown(given)} is not allowed; letters, digits, '_', '-' and '.' are"
        case _:
            return f"{path}: {_shown(given)} is not allowed: {error['msg']}"


def _shown(value: Any) -> str:
    """The value given, shortened to fit a line."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python converts
        return f"this {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _keys_at(location: list[str], kind: type[Section]) -> list[str]:
    section: Any = kind
    for part in location:
        section = section.model_fields[part].annotation
        sections = [each for each in get_args(section) if hasattr(each, "model_fields")]
        section = sections[0] if sections else section  # of an optional section
    return list(section.model_fields)


def nearest(given: Any, allowed: Any) -> str:
    """`; did you mean 'x'?` with the allowed name that is most like the given one, or ""."""
    matches = difflib.get_close_matches(_shown(given).strip("'"), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _parsed(text: str) -> Any:
    """A YAML document. Raises ValueError."""
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # damaged YAML can raise almost any exception
        raise ValueError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """Plain values only. No aliases: nested aliases can expand a few lines to more values than any
    memory holds. No key twice in a mapping: YAML forbids it, and PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                raise yaml.YAMLError(f"the key {key!r} twice, in lines {lines[key]} and {line}")
            lines[key] = line
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write out the value instead")
        return super().compose_node(parent, index)
