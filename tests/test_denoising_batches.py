"""The command denoise: a batch that is continued, what it says of the noise, options that exclude
each other, and names of files in any script."""

import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import assert_mistake
from score_embedding.report import figures
from score_embedding.restoration import before_after

BUNDLED = ("--model", "bundled")
NOISE = np.random.default_rng(0).normal(size=(40, 48))
GREY = (127.5 + 25 * NOISE).clip(0, 255).round().astype(np.uint8)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DPI", 20)
    monkeypatch.chdir(tmp_path)


def saved(*names, pixels=GREY):
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(name)


def lines(done):
    return [line.partition(": ")[2] for line in done.stdout.splitlines()]


def test_an_interrupted_batch_is_continued(call, monkeypatch):
    saved("in/a.png", "in/b.png", "in/c.png")
    with monkeypatch.context() as patched:
        draw = before_after.draw

        def stop_at_b(before, after, target, labels):
            draw(before, after, target, labels)
            if target.name.startswith("b"):
                os.kill(os.getpid(), signal.SIGINT)

        patched.setattr(before_after, "draw", stop_at_b)
        stopped = call("denoise", "in", *BUNDLED)
    assert "denoised 2 of 3 photographs; the same command with --skip-existing" in stopped.stderr
    finished = {path: path.stat().st_mtime_ns for path in Path("in").glob("*_denoised.png")}
    refused = call("denoise", "in", *BUNDLED)
    assert_mistake(refused, "already there", "--skip-existing leaves their photographs out")
    rest = call("denoise", "in", "--skip-existing", *BUNDLED)
    assert (rest.returncode, lines(rest)) == (0, ["in/c_denoised.png"])
    assert "--skip-existing: 2 photographs left out" in rest.stderr
    assert "(1 of " not in rest.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    nothing = call("denoise", "in", "--skip-existing", *BUNDLED)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "3 photographs left out" in nothing.stderr


def test_previews_that_exist_are_left_out_too(call):
    saved("a.png", "b.png")
    assert call("denoise", "a.png", "--preview", *BUNDLED).returncode == 0
    done = call("denoise", "a.png", "b.png", "--preview", "--skip-existing", *BUNDLED)
    assert (done.returncode, lines(done)) == (0, ["b_denoised_preview.png"])
    assert "--skip-existing: 1 photograph left out" in done.stderr


def test_one_that_is_left_out_and_one_that_cannot_be_read(call):
    saved("in/a.png", "in/b.png")
    call("denoise", "in", *BUNDLED)
    Path("in/c.png").touch()
    done = call("denoise", "in", "--skip-existing", *BUNDLED)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: skipped 1 of 3 photographs:\nin/c.png: an empty file" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overwrite", "--skip-existing"), "--overwrite and --skip-existing: leave out one"),
        (("--fast", "--model", "fit"), "--fast and --model fit: --fast has a model of its own"),
        (("--fast", "--model", "bundled"), "--fast and --model bundled: --fast has a model"),
    ],
)
def test_options_that_exclude_each_other(call, options, message):
    saved("a.png")
    assert_mistake(call("denoise", "a.png", *options), message)
    assert os.listdir() == ["a.png"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strength", "0"), "noise 0.0973 (24.8 of 255), estimated; strength 0 changes nothing"),
        (
            ("--strength", "3", "--sigma", "0.05"),
            "noise 0.0500 (12.8 of 255), given; strength 3: as much is removed as of noise 0.15;",
        ),
        (("--sigma", "0.05"), "noise 0.0500 (12.8 of 255), given; model"),
        (("--sigma", "0"), "noise 0, given; model"),
    ],
)
def test_the_estimate_and_the_factor_are_said(call, options, said):
    saved("a.png")
    done = call("denoise", "a.png", *options, *BUNDLED)
    assert said in done.stderr
    same = Path("a.png").read_bytes() == Path("a_denoised.png").read_bytes()
    assert same == (options[-1] == "0")


def test_a_picture_without_noise(call):
    saved("a.png", pixels=np.kron(GREY[:8, :8], np.ones((16, 16), np.uint8)))
    assert "noise none found; model" in call("denoise", "a.png", "--strength", "2").stderr


@pytest.mark.parametrize("options", [(), ("--preview",)])
@pytest.mark.parametrize("name", ["天空.png", "そら.png", "하늘.png", "سماء.png", "\U0001f30c.png"])
def test_names_that_the_font_lacks(call_and_draw, name, options):
    saved(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = call_and_draw("denoise", name, *options, *BUNDLED)
    assert (done.returncode, len(lines(done))) == (0, 1), done.stderr
    assert "warning" not in done.stderr.lower()
    assert [str(one.message) for one in caught if "lyph" in str(one.message)] == []
    assert len(os.listdir()) == (2 if options else 3)
