"""The run folder: its files by name, which run it belongs to, and which process may write to it.

A folder describes itself: every later command finds all it needs in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from score_embedding import atomic_files, kinds
from score_embedding.atomic_files import RunFolder as RunFolder
from score_embedding.config import loading
from score_embedding.config.schema import AnyConfig
from score_embedding.errors import ConfigError, RunFolderError
from score_embedding.training.names import CHECKPOINT
from score_embedding.training.names import CHECKPOINT_ROWS as CHECKPOINT_ROWS
from score_embedding.training.names import STATE as STATE
from score_embedding.training.names import WEIGHTS as WEIGHTS

SCORES = kinds.SCORES
CONFIG = "config.yml"
ALL_SCORES = "scores.npy"  # of more images than fit into memory
DIAGNOSTICS = "diagnostics.json"
QUALITY = "quality.json"  # of the samples
DENOISED = "denoised.npz"
DENOISED_PICTURE = "denoised.png"
SAMPLES = kinds.SAMPLES
SAMPLE_PICTURE = "sample.png"
SCORES_PICTURE = "scores.png"
METRICS = "metrics.csv"
TIMING = "timing.json"
ENVIRONMENT = "environment.json"
PDF = "report.pdf"
HTML = "report.html"
DUMP = "divergence.npz"
LOCK = ".lock"  # while a run is under way

FILES = (
    CONFIG,
    WEIGHTS,
    STATE,
    *dict.fromkeys(file for kind in kinds.METHODS.values() for file in kind.files),
    *(SAMPLES, SAMPLE_PICTURE, QUALITY),
    *(DENOISED, DENOISED_PICTURE, SCORES_PICTURE),
    METRICS,
    TIMING,
    ENVIRONMENT,
    PDF,
    HTML,
    DUMP,
)
# What each command writes beside the file with its result.
BESIDE = {
    SAMPLES: (SAMPLE_PICTURE,),
    DENOISED: (DENOISED_PICTURE,),
    SCORES: (SCORES_PICTURE, DIAGNOSTICS, ALL_SCORES),
}


def path_of(out: Path, config: AnyConfig, seed_given: bool, extension: str | None) -> Path:
    """The run folder in `out`: `<name>[_extension][_seedS]`, as the official program has it, or
    where that is not there `<name>_seedS_extension`, which version 0.1.0 made."""
    if extension and not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", extension):
        raise ConfigError(
            f"--folder-ext {extension!r}: up to 100 letters, digits, '_', '-' and '.' are allowed"
        )
    seed = f"_seed{config.training.seed}" if seed_given else ""
    extended = f"_{extension}" if extension else ""
    path, old = out / (config.name + extended + seed), out / (config.name + seed + extended)
    return old if old.is_dir() and not path.exists() else path


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
    directories = [name for name in FILES if (path / name).is_dir()]
    if directories:
        raise RunFolderError(f"{path / directories[0]}: a folder is in the way of a file")
    if content and not overwrite:
        same = holds(path, config)
        whose = "this config" if same else "another config"
        hints = ["--overwrite replaces it", "--folder-ext X starts a folder of its own"]
        if same and not is_finished(path):
            hints.insert(0, "--resume continues it")
            whose += " that did not finish"
            if DUMP in content:
                whose += " but diverged"
                hints.insert(0, "a smaller training.lr may help")
        if same and WEIGHTS in content:
            hints.append("--no-train samples from its model")
        raise RunFolderError(f"{path}: already holds a run of {whose}; {', '.join(hints)}")


def holds(path: Path, config: AnyConfig) -> bool:
    """Whether the folder is of a run of exactly this config. Raises RunFolderError where its own
    cannot be read."""
    _, existing = open_existing(path)
    return loading.dump(existing) == loading.dump(config)


def check_place(path: Path) -> None:
    """Raise RunFolderError where the folder `path` cannot be made or written to."""
    for place in (path, *path.parents):
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):  # the latter: a file is above it
            continue
        except OSError as error:
            raise RunFolderError(f"{place}: {error.strerror}") from None
        if place.is_symlink() and not place.exists():
            raise RunFolderError(f"{place}: a link to nowhere")
        if not place.is_dir():
            raise RunFolderError(f"{place}: a file is in the way of the folder {path}")
        if not os.access(place, os.W_OK | os.X_OK):
            raise RunFolderError(f"{place}: no permission to write there; try another --out")
        return


def check_not_there(folder: RunFolder, result: str, overwrite: bool) -> None:
    """Raise RunFolderError where the folder has the file of a result already, or one that is
    written beside it, unless they may be overwritten."""
    for name in (result, *BESIDE[result]):
        if folder.has(name) and not overwrite:
            raise RunFolderError(
                f"{folder / name}: already there; --overwrite replaces it, --out DIR writes "
                f"elsewhere"
            )


def check_no_run(path: Path) -> None:
    """Raise RunFolderError where the folder is that of a run, whose files belong together."""
    if (path / CONFIG).exists():
        raise RunFolderError(f"{path}: a run folder; give another place with --out")


def check_own(path: Path, mark: str) -> None:
    """Raise RunFolderError where the folder holds files, but not `mark`, this program's own."""
    if path.exists() and not (path / mark).exists() and any(path.iterdir()):
        raise RunFolderError(
            f"{path}: holds other files (no {mark}); give another place with --out"
        )


def check_same(path: Path, config: AnyConfig) -> None:
    """Raise RunFolderError where the folder's model was trained with other keys than `config`'s;
    those of the sample section may differ."""
    _, trained = open_existing(path)
    differing = _differing(config, trained, without=("name", "sample"))
    if differing:
        raise RunFolderError(
            f"{path}: its model was trained with other values of {', '.join(differing)}; give the "
            f"same ones, or use `score-embedding sample {path}`, which takes all from the folder"
        )


def _differing(one: AnyConfig, other: AnyConfig, without: tuple[str, ...] = ()) -> list[str]:
    """The keys whose values differ, but for those of the sections `without`."""
    given, stored = one.model_dump(), other.model_dump()
    differing = []
    for section in sorted((given.keys() | stored.keys()) - set(without)):
        mine, theirs = given.get(section), stored.get(section)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            keys = sorted(mine.keys() | theirs.keys())
            differing += [f"{section}.{key}" for key in keys if mine.get(key) != theirs.get(key)]
        elif mine != theirs:
            differing.append(section)
    return differing


def create(path: Path, config: AnyConfig) -> RunFolder:
    """An empty run folder with its config. The files of an earlier run are removed, others stay."""
    path.mkdir(parents=True, exist_ok=True)
    # In reverse: without a report the run is not finished, without a config the folder is foreign.
    for name in reversed(FILES[1:]):
        (path / name).unlink(missing_ok=True)
    remove_checkpoints(path)
    loading.write_document(path / CONFIG, loading.dump(config))
    return RunFolder(path)


def remove_checkpoints(path: Path) -> None:
    """Remove what a finished run, or one that starts again, does not need."""
    for file in path.glob("checkpoint_*"):
        if CHECKPOINT.fullmatch(file.name) and file.is_file():
            file.unlink()


def is_finished(path: Path) -> bool:
    """Whether the folder's run has come to its end."""
    return (path / PDF).is_file()  # the last file that a run writes


def check_resumable(path: Path, config: AnyConfig) -> None:
    """Raise RunFolderError where there is no interrupted run of `config` to resume."""
    _, existing = open_existing(path)
    differing = _differing(config, existing)
    if differing:
        raise RunFolderError(
            f"{path}: holds a run of another config (other values of {', '.join(differing)}), "
            f"which cannot be resumed; --overwrite replaces it, --folder-ext X starts a folder of "
            f"its own"
        )
    if is_finished(path):
        raise RunFolderError(
            f"{path}: its run is finished; --overwrite runs it again, --no-train samples from its "
            f"model"
        )


def is_resumable(path: Path, config: AnyConfig) -> bool:
    """Whether the folder holds an interrupted run of `config`."""
    try:
        check_resumable(path, config)
    except RunFolderError:
        return False
    return True


def open_existing(path: Path, needs: tuple[str, ...] = ()) -> tuple[RunFolder, AnyConfig]:
    """A run folder and its config.

    Raises
    ------
    RunFolderError : no run folder, or it lacks one of the files in `needs`.
    """
    if not (path / CONFIG).is_file():
        raise RunFolderError(f"{path}: not a run folder (no {CONFIG} in it)")
    check_has(path, needs)
    try:
        values = loading.read_document(path / CONFIG)
        return RunFolder(path), loading.validate_resolved(values, source=str(path / CONFIG))
    except ConfigError as error:
        raise RunFolderError(
            f"{error}\nThe folder's config cannot be read; --overwrite replaces the run"
        ) from None


def check_has(path: Path, needs: tuple[str, ...]) -> None:
    """Raise RunFolderError where a run folder lacks one of the files in `needs`."""
    missing = [name for name in needs if not (path / name).is_file()]
    if missing:
        unfinished = "did not finish: --resume continues it"
        remedy = "is damaged: --overwrite makes it again" if is_finished(path) else unfinished
        raise RunFolderError(f"{path}: lacks {', '.join(missing)}; the run {remedy}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The folder, made where it is missing, for this process alone. The lock ends with the process,
    however that ends. Raises RunFolderError where another one has it."""
    path.mkdir(parents=True, exist_ok=True)
    if (path / LOCK).is_file() and (path / LOCK).stat().st_size:
        raise RunFolderError(f"{path / LOCK}: of another program; give another place with --out")
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunFolderError(f"{path}: another process is writing to it") from None
    except OSError as error:
        raise RunFolderError(f"{path / LOCK}: {error.strerror}") from None
    try:
        _remove_partial(path)
        yield
    finally:
        _release(lock, path / LOCK, while_held=os.name == "posix")


def _remove_partial(path: Path) -> None:
    """Remove what a process that was killed has begun to write."""
    own = {*FILES, *(name for names in BESIDE.values() for name in names)}
    for partial in path.glob(f".*{atomic_files.PARTIAL}"):
        name = partial.name.removeprefix(".").removesuffix(atomic_files.PARTIAL)
        if (name in own or CHECKPOINT.fullmatch(name)) and partial.is_file():
            partial.unlink()


def _release(lock: BaseFileLock, path: Path, while_held: bool) -> None:
    """Release the lock and remove its file. POSIX can remove it while it is held, so that no other
    process has it by then; Windows cannot remove an open file, and there another process may have
    opened it since."""
    if while_held:
        path.unlink(missing_ok=True)
    lock.release()
    if not while_held:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def check(path: Path, config: AnyConfig, overwrite: bool, resume: bool) -> None:
    """Raise RunFolderError where a run of `config` must not write to the folder: a new one, or with
    `resume` the rest of an interrupted one. Touches nothing."""
    if resume:
        check_resumable(path, config)
    else:
        check_free(path, config, overwrite)


@contextmanager
def locked_for(path: Path, config: AnyConfig, overwrite: bool, resume: bool) -> Iterator[None]:
    """As `locked`, with `check` repeated under the lock: another process may have written a run to
    the folder since the first check."""
    with locked(path):
        check(path, config, overwrite, resume)
        yield
