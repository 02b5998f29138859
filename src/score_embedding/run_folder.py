"""What lies in a run folder, under which name, and how it gets there.

A folder describes itself: every later command finds all it needs in it. Files are written beside
their place and renamed into it, so that none is ever half there.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from score_embedding import configuration
from score_embedding.config import AnyConfig
from score_embedding.errors import ConfigError, RunFolderError

CONFIG = "config.yml"
WEIGHTS = "model.safetensors"
STATE = "state.json"
SCORES = "scores.npz"
ALL_SCORES = "scores.npy"  # of more images than fit into memory
DIAGNOSTICS = "diagnostics.json"
SAMPLES = "samples.npz"
SAMPLE_PICTURE = "sample.png"
SCORES_PICTURE = "scores.png"
METRICS = "metrics.csv"
TIMING = "timing.json"
ENVIRONMENT = "environment.json"
PDF = "report.pdf"
HTML = "report.html"
DUMP = "divergence.npz"
LOCK = ".lock"  # while a run is under way
CHECKPOINTS = "checkpoint_*.*"  # of a run under way

FILES = (
    CONFIG,
    WEIGHTS,
    STATE,
    SCORES,
    SAMPLES,
    SAMPLE_PICTURE,
    SCORES_PICTURE,
    METRICS,
    TIMING,
    ENVIRONMENT,
    PDF,
    HTML,
    DUMP,
)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder on disk."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()


def name_of(config: AnyConfig, seed_given: bool, extension: str | None) -> str:
    """`<name>[_seedS][_extension]`."""
    if extension and not re.fullmatch(r"[A-Za-z0-9_.-]+", extension):
        raise ConfigError(
            f"--folder-ext {extension!r}: letters, digits, '_', '-' and '.' are allowed"
        )
    seed = f"_seed{config.training.seed}" if seed_given else ""
    return config.name + seed + (f"_{extension}" if extension else "")


def check_free(path: Path, config: AnyConfig, overwrite: bool) -> None:
    """Raise RunFolderError where a new run of `config` must not write; touch nothing."""
    check_place(path)
    if not path.exists():
        return
    content = [p.name for p in path.iterdir() if p.name != LOCK]
    if content and CONFIG not in content:
        raise RunFolderError(
            f"{path}: holds files but no run; give another place with --out or --folder-ext"
        )
    if content and not overwrite:
        same = holds(path, config)
        whose = "this config" if same else "another config"
        hints = ["--overwrite replaces it", "--folder-ext X starts a folder of its own"]
        if same and not is_finished(path):
            whose += " that did not finish"
            hints.insert(0, "--resume goes on with it")
        if same and WEIGHTS in content:
            hints.append("--no-train samples from its model")
        raise RunFolderError(f"{path}: already holds a run of {whose}; {', '.join(hints)}")


def holds(path: Path, config: AnyConfig) -> bool:
    """Whether the folder is of a run of exactly this config."""
    return _config_text(path) == configuration.dump(config)


def check_place(path: Path) -> None:
    """Raise RunFolderError where a file stands in the way of the folder `path`."""
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise RunFolderError(f"{place}: a file is in the way of the folder {path}")


def check_own(path: Path, mark: str) -> None:
    """Raise RunFolderError where the folder holds files, and not the one that marks it as ours."""
    if path.exists() and not (path / mark).exists() and any(path.iterdir()):
        raise RunFolderError(
            f"{path}: holds other files (no {mark}); give another place with --out"
        )


def check_same(path: Path, config: AnyConfig) -> None:
    """Raise RunFolderError where the folder's model was trained with other keys than `config`'s;
    those of the sample section may differ."""
    _, trained = open_existing(path)
    theirs, ours = trained.model_dump(), config.model_dump()
    differing = []
    for section in sorted((ours.keys() | theirs.keys()) - {"name", "sample"}):
        one, other = ours.get(section), theirs.get(section)
        if isinstance(one, dict) and isinstance(other, dict):
            keys = sorted(one.keys() | other.keys())
            differing += [f"{section}.{key}" for key in keys if one.get(key) != other.get(key)]
        elif one != other:
            differing.append(section)
    if differing:
        raise RunFolderError(
            f"{path}: its model was trained with other values of {', '.join(differing)}; give the "
            f"same ones, or use `score-embedding sample {path}`, which takes all from the folder"
        )


def create(path: Path, config: AnyConfig) -> RunFolder:
    """An empty run folder with its config. The files of an earlier run are removed, others stay."""
    path.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name != CONFIG:  # a folder without it is taken for somebody else's
            (path / name).unlink(missing_ok=True)
    remove_checkpoints(path)
    write_text(path / CONFIG, configuration.dump(config))
    return RunFolder(path)


def remove_checkpoints(path: Path) -> None:
    """What a finished run, or one that starts anew, has no use for."""
    for checkpoint in path.glob(CHECKPOINTS):
        checkpoint.unlink()


def is_finished(path: Path) -> bool:
    """Whether the folder's run has come to its end."""
    return (path / PDF).is_file()  # the last file that a run writes


def check_resumable(path: Path, config: AnyConfig) -> None:
    """Raise RunFolderError where there is no interrupted run of `config` to go on with."""
    open_existing(path)
    if not holds(path, config):
        raise RunFolderError(
            f"{path}: holds a run of another config, which cannot be gone on with; --overwrite "
            f"replaces it, --folder-ext X starts a folder of its own"
        )
    if is_finished(path):
        raise RunFolderError(
            f"{path}: its run is finished; --overwrite runs it again, --no-train samples from its "
            f"model"
        )


def open_existing(path: Path, needs: tuple[str, ...] = ()) -> tuple[RunFolder, AnyConfig]:
    """A run folder and its config.

    Raises
    ------
    RunFolderError : no run folder, or it lacks one of the files in `needs`.
    """
    if not (path / CONFIG).is_file():
        raise RunFolderError(f"{path}: not a run folder (no {CONFIG} in it)")
    check_has(path, needs)
    return RunFolder(path), configuration.load(str(path / CONFIG))


def check_has(path: Path, needs: tuple[str, ...]) -> None:
    """Raise RunFolderError where a run folder lacks one of the files in `needs`."""
    missing = [name for name in needs if not (path / name).is_file()]
    if missing:
        raise RunFolderError(
            f"{path}: lacks {', '.join(missing)}; the run did not finish: start it again with "
            f"--overwrite"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The folder, made where it is missing, for this process alone; the lock goes with the process,
    however that ends. Raises RunFolderError where another one has it."""
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunFolderError(f"{path}: another process is writing to it") from None
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success it is flushed to disk and takes its place."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """The object of a JSON file. Raises RunFolderError when it is damaged or lacks a key."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise RunFolderError(f"{path}: not a JSON object")
    _require(path, values, needed)
    return values


def _require(path: Path, values: dict[str, Any], needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in values]
    if missing:
        raise RunFolderError(f"{path}: damaged, it lacks {', '.join(missing)}")


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """An .npz file."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path, *needed: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; no pickle in it is ever opened. Raises RunFolderError when it is
    damaged or lacks an array."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except Exception as error:  # a damaged zip can raise nearly anything
        raise RunFolderError(f"{path}: truncated or damaged ({error})") from error
    _require(path, arrays, needed)
    return arrays


def write_rows(path: Path, names: list[str], rows: list[dict[str, Any]]) -> None:
    """A CSV file; keys that a row lacks are left empty."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV file of numbers; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        except (ValueError, TypeError, csv.Error) as error:
            raise RunFolderError(f"{path}: not a table of numbers ({error})") from error


def _config_text(path: Path) -> str | None:
    """The folder's config as `dump` writes it today; None when it cannot be read."""
    try:
        values = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        return configuration.dump(configuration.validate(values, source=str(path)))
    except (ConfigError, yaml.YAMLError, OSError, UnicodeDecodeError):
        return None
