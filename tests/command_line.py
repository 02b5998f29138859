"""Calling the command line in tests, by processes, and looking at what came of it.

`process`, `start` and `start_calling` fork from a server that has imported the heavy libraries
once: real processes with an id, signals and an exit status of their own, without the seconds that
importing torch takes. `fresh` is what a user types; the fixture `call` is the entry point in the
process of the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import csv
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from score_embedding import atomic_files
from score_embedding.report import figures, pictures, render

TINY = {
    "model.ch": 8,
    "model.ch_mult": "[1,2]",
    "model.num_res_blocks": 1,
    "model.attention_resolutions": "[]",
    "training.epochs": 3,
    "data_loader.image_size": 8,
    "data_loader.batch_size": 4,
    "diffusion.num_timesteps": 4,
    "sample.solver": "heun",
    "sample.steps": 2,
    "misc.profile_freq": 1e-6,
}
# Bundled configs that were not published.
OWN_CONFIGS = {
    *("quickstart", "photographs", "fashion_mnist", "fashion_mnist_gpu", "cifar10", "cifar10_gpu")
}
SHIPPED = [
    *("config.yml", "model.safetensors", "state.json", "scores.npz", "samples.npz", "sample.png"),
    *("scores.png", "metrics.csv", "timing.json", "environment.json", "report.pdf", "report.html"),
]
ENV = {
    name: value
    for name, value in os.environ.items()
    if name not in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "TTY_COMPATIBLE")
}
ENV["OMP_NUM_THREADS"] = "1"


def sets(**changes):
    """The tiny run's --set options, with changes: section__key=value."""
    values = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def files_config(paths, **changes):
    """The tiny run's --set options for a run on picture files."""
    return sets(
        data_loader__dataset="files",
        data_loader__path=f"[{','.join(paths)}]",
        data_loader__num_images=len(paths),
        data_loader__image="null",
        **changes,
    )


# Processes

FORKS = multiprocessing.get_context("forkserver")
# Not the command line itself: it looks at the terminal when it is imported. After these the
# collector leaves them alone (`imported_once`), or it would copy their memory into each fork.
FORKS.set_forkserver_preload(
    [
        *("score_embedding.pipeline", "score_embedding.comparison", "score_embedding.restoration"),
        *("score_embedding.comparison.execution", "score_embedding.comparison.reproduction.claims"),
        *("score_embedding.restoration.files", "score_embedding.restoration.rivals"),
        *("score_embedding.densities.fitting", "score_embedding.methods.precomputation"),
        *("matplotlib.backends.backend_agg", "diffusers.models.unets.unet_2d", "skimage.data"),
        *("skimage.restoration", "finufft", "fontTools.ttLib", "pywt", "torch.profiler"),
        *("PIL.GifImagePlugin", "PIL.JpegImagePlugin", "rich.progress", "typer.main"),
        "imported_once",
    ]
)


def fresh(cwd, *arguments, env=ENV):
    """`python -m score_embedding` by a new interpreter; waits for its end."""
    command = [sys.executable, "-m", "score_embedding", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@dataclass
class Started:
    """A process of the command line that may still run; used like subprocess.Popen with pipes."""

    process: multiprocessing.Process
    output: Path  # of the folder with what it writes

    @property
    def pid(self):
        return self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def send_signal(self, number):
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("score-embedding", timeout)
        return self.process.exitcode

    def communicate(self, timeout=None):
        """What it wrote to stdout and to stderr, at its end."""
        self.wait(timeout)
        return tuple((self.output / name).read_text("utf-8") for name in ("out", "err"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.wait()


def start(cwd, *arguments, env=ENV, drawn=False, longest_file=None, forked=False):
    """A process of the command line, forked from the server; does not wait for it. Its reports are
    `undrawn` unless they are to be `drawn`; no file may be longer than `longest_file` bytes. The
    runs of a comparison are new interpreters, which import all again, or `forked` from it."""
    options = (dict(env), drawn, longest_file, forked)
    return start_calling(_main, str(cwd), [*map(str, arguments)], *options)


def start_calling(function, *arguments):
    """A process, forked from the server, that calls a function; does not wait for it."""
    output = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, output, ignore_errors=True)
    process = FORKS.Process(target=_call, args=(str(output), function, arguments))
    process.start()
    return Started(process, output)


def process(cwd, *arguments, **options):
    """A process of the command line, forked from the server, at its end."""
    started = start(cwd, *arguments, **options)
    stdout, stderr = started.communicate()
    return SimpleNamespace(returncode=started.returncode, stdout=stdout, stderr=stderr)


def _call(output, function, arguments):
    """In the forked process: the function, with what it writes in files of a folder."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(output, name), os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the end
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # a forked process skips them


def _main(cwd, arguments, env, drawn, longest_file, forked):
    """In the forked process: what `python -m score_embedding` does."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if longest_file is not None:
        import resource  # not everywhere

        resource.setrlimit(resource.RLIMIT_FSIZE, (longest_file, longest_file))
    if forked:
        context = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda _: context
    sys.argv = ["score-embedding", *arguments]
    from score_embedding.cli import main

    with contextlib.nullcontext() if drawn else undrawn():
        main()


# Most of a tiny run is drawing


def save_small(_, target):
    """In the place of figures.save: the same small picture."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    if isinstance(target, (str, Path)):
        Path(target).write_bytes(buffer.getvalue())
    else:
        target.write(buffer.getvalue())


@contextlib.contextmanager
def small_figures():
    """Figures are built, and saved as the same small picture."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "save", save_small)
        yield


class NoPages:
    """In the place of FPDF: takes every call, and writes a PDF of nothing."""

    epw = eph = 100.0

    def __init__(self, **_):
        pass

    def __getattr__(self, name):
        return lambda *_, **__: self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def output(self, path):
        Path(path).write_bytes(b"%PDF-")


@contextlib.contextmanager
def undrawn():
    """Reports have their text, without figures and without the pages of a PDF."""
    with small_figures(), pytest.MonkeyPatch.context() as patched:
        for name in ("strip", "samples", "curves", "score_fields", "embedded", "denoised"):
            patched.setattr(figures, name, lambda _: Figure())
        nothing = {
            file: (name, lambda _: Figure()) for file, (name, _) in pictures.PICTURES.items()
        }
        patched.setattr(pictures, "PICTURES", nothing)
        patched.setattr(render, "FPDF", NoPages)
        yield


# What came of it


def tree(path):
    """All files below a folder, with a hash of each."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def assert_mistake(done, *parts, code=2):
    """One message with these parts, the exit status, and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code
    assert done.stdout == ""
    for part in parts:
        assert part in done.stderr


class Page(HTMLParser):
    """Text, tags and the places that a page refers to."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.text += data


def samples_of(folder):
    return atomic_files.read_arrays(folder / "samples.npz")


def csv_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Damage


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def null(path):
    path.write_text("null\n")


def other_json(path):
    path.write_text("{}\n")


def other_arrays(path):
    atomic_files.write_arrays(path, {"other": np.zeros(3)})
