"""What test modules share: photographs, finished runs, and ways to call the command line."""

import contextlib
import functools
import gc
import http.server
import importlib
import logging
import os
import shutil
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace

import filelock
import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
import typer.main
from PIL import Image

import command_line
import comparison_helpers
from command_line import sets
from score_embedding import cli, progress

torch.set_num_threads(1)


def pytest_collection_finish():
    """What is imported is never garbage: collections need not look through it in each test."""
    gc.collect()
    gc.freeze()


PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photograph(name, h, w):
    pixels = torch.from_numpy(getattr(skimage.data, name)().copy()).to(torch.float64) / 255
    resized = F.interpolate(
        pixels.permute(2, 0, 1)[None], size=(h, w), mode="bicubic", antialias=True
    )
    return resized.clamp(0, 1)


@pytest.fixture(scope="session")
def photographs():
    """Real photographs, float64 (n, 3, h, w) in [0, 1], by size and number."""
    cache = {}

    def load(h, w=None, n=4):
        size = (h, w or h)
        for name in PHOTOGRAPHS[:n]:
            if (name, size) not in cache:
                cache[name, size] = photograph(name, *size)
        return torch.cat([cache[name, size] for name in PHOTOGRAPHS[:n]])

    return load


@pytest.fixture
def benchmark_named(monkeypatch):
    """A script of benchmarks/ as a module, by its name; removed again after the test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    imported = ["_common"]

    def load(name):
        imported.append(name)
        return importlib.import_module(name)

    yield load
    for name in imported:
        sys.modules.pop(name, None)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(20240410)


@pytest.fixture
def pictures(tmp_path, photographs):
    """Three photographs as files."""
    paths = []
    for name, image in zip("abc", photographs(24, 20, 3), strict=True):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        paths.append(f"{name}.png")
    return paths


# The command line

# Typer builds the commands anew for each call; in one process they stay the same.
COMMAND = functools.cache(typer.main.get_command)


@pytest.fixture
def undrawn():
    """Reports have their text alone: most of a tiny run is drawing."""
    with command_line.undrawn():
        yield


@pytest.fixture
def call_and_draw(tmp_path, monkeypatch, capsys):
    """The entry point in this process, in an empty folder; an escaped error is a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("MPLBACKEND", "agg")  # which main sets; taken back after the test
    monkeypatch.setattr(typer.main, "get_command", COMMAND)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["score-embedding", *map(str, arguments)])
        capsys.readouterr()
        escaped = ""
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            code, escaped = 1, traceback.format_exc(limit=-1)
        output = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=output.out, stderr=output.err + escaped)

    logger = logging.getLogger("score_embedding")
    before = logger.handlers, logger.level
    yield run
    logger.handlers, logger.level = before
    progress.show(None)


@pytest.fixture
def call(call_and_draw, undrawn):  # noqa: ARG001
    """The same without drawing reports, where a test looks at none."""
    return call_and_draw


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Calls `make(folder)` once in the whole test run, whichever worker comes first; returns the
    folder, which must only be read."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent  # of all workers

    def once(name, make):
        folder, done = base / f"once_{name}", base / f"once_{name}.done"
        with filelock.FileLock(base / f"once_{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def finished(once):
    """One tiny run as a user makes it: where it ran, its run folder, and what it printed."""

    def make(cwd):
        (cwd / "user").mkdir()
        arguments = ("--profile", "--seed", 5, "--folder-ext", "x", *sets())
        done = command_line.fresh(cwd / "user", "run", "--config", "quickstart", *arguments)
        assert done.returncode == 0, done.stderr
        (cwd / "stdout").write_text(done.stdout, "utf-8")
        (cwd / "stderr").write_text(done.stderr, "utf-8")

    made = once("finished", make)
    return SimpleNamespace(
        cwd=made / "user",
        folder=made / "user" / "saves" / "quickstart_x_seed5",
        stdout=(made / "stdout").read_text("utf-8"),
        stderr=(made / "stderr").read_text("utf-8"),
    )


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished.folder, tmp_path / "saves" / finished.folder.name))


BASELINE = """\
name: base
sample_method: ddpm
data_loader: {dataset: sample, image: astronaut, image_size: 8, batch_size: 4}
diffusion: {beta_max: 0.3, num_timesteps: 10}
training: {epochs: 3, ema: 0.99, warmup: 2}
model: {ch: 8, ch_mult: [1, 2], num_res_blocks: 1, attention_resolutions: []}
misc: {profile_freq: 1e-6, profile_priors: [unit, matched]}
"""


@pytest.fixture(scope="session")
def finished_baseline(once):
    """The folder with a tiny run of DDPM, in saves/base, and its config, base.yml."""

    def make(cwd):
        (cwd / "base.yml").write_text(BASELINE, encoding="utf-8")
        done = command_line.process(cwd, "run", "--config", "base.yml", "--profile", drawn=True)
        assert done.returncode == 0, done.stderr

    return once("baseline", make)


@pytest.fixture
def baseline(finished_baseline, tmp_path):
    """A copy of a finished run of a baseline, and its config beside it, as in `call`'s folder."""
    shutil.copytree(finished_baseline, tmp_path, dirs_exist_ok=True)
    return tmp_path / "saves" / "base"


# Comparisons


@pytest.fixture(scope="session")
def compared(once):
    """One comparison of samples: where it ran, its folder, what it printed; to be read only."""
    return compared_by(once, "compared", comparison_helpers.command(comparison_helpers.METHODS))


@pytest.fixture
def folder(compared, tmp_path):
    """A copy of it, in the place where `call` looks for it."""
    return Path(shutil.copytree(compared.folder, tmp_path / "c"))


@pytest.fixture(scope="session")
def compared_denoising(once):
    """One comparison of denoising."""
    methods = comparison_helpers.DENOISING_METHODS
    return compared_by(once, "denoising", comparison_helpers.denoising_command(methods))


@pytest.fixture
def denoising_folder(compared_denoising, tmp_path):
    return Path(shutil.copytree(compared_denoising.folder, tmp_path / "c"))


def compared_by(once, name, command):
    def make(cwd):
        (cwd / "user").mkdir()
        done = command_line.process(cwd / "user", *command)
        assert done.returncode == 0, done.stderr
        (cwd / "stdout").write_text(done.stdout, "utf-8")
        # The finished runs are kept; only the pictures of the comparison itself are drawn.
        again = command_line.process(cwd / "user", *command, drawn=True)
        assert again.returncode == 0, again.stderr

    made = once(name, make)
    cwd = made / "user"
    return SimpleNamespace(cwd=cwd, folder=cwd / "c", stdout=(made / "stdout").read_text("utf-8"))


@pytest.fixture
def serve():
    """Starts a web server over a folder: gives its address, and the paths asked for so far."""
    with contextlib.ExitStack() as until_end:

        def start(folder):
            asked = []

            class Handler(http.server.SimpleHTTPRequestHandler):
                def __init__(self, *args):
                    super().__init__(*args, directory=folder)

                def log_message(self, *_):
                    asked.append(self.path)

            httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            until_end.enter_context(httpd)
            thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
            thread.start()
            until_end.callback(thread.join)
            until_end.callback(httpd.shutdown)
            return f"http://127.0.0.1:{httpd.server_port}", asked

        yield start
