"""Folders of photographs, several at once, and what stops or spoils some of them."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import assert_mistake, start
from score_embedding.report import figures
from score_embedding.restoration import before_after, denoising_files, files

H, W = 12, 15
PIXELS = np.random.default_rng(0).integers(90, 160, (H, W)).astype(np.uint8)
BUNDLED = ("--model", "bundled")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DPI", 20)
    monkeypatch.chdir(tmp_path)


def photographs(*names):
    for name in names:
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(path, format="TIFF" if "tif" in path.suffix.lower() else "PNG")


def lines(done):
    return [line.removeprefix("denoised: ") for line in done.stdout.splitlines()]


def test_all_pictures_of_a_folder(call):
    photographs("in/b.png", "in/A.TIF", "in/c.JPG", "in/.hidden.png", "in/inner/d.png")
    photographs("in/b_denoised.png", "in/b_inpainted.tif", "in/b_denoised_before_after.png")
    Path("in/notes.txt").write_text("no picture")
    Path("in/folder.png").mkdir()
    done = call("denoise", "in", "--out", "new/out", *BUNDLED)
    assert done.returncode == 0, done.stderr
    assert lines(done) == [
        f"new/out/{x}" for x in ("A_denoised.TIF", "b_denoised.png", "c_denoised.JPG")
    ]
    assert len(os.listdir("new/out")) == 6
    assert "(3 of 3)" in done.stderr


def test_a_second_call_takes_the_same_pictures(call):
    photographs("in/a.png", "in/b.png")
    first = call("denoise", "in/", *BUNDLED)
    assert (first.returncode, lines(first)) == (0, ["in/a_denoised.png", "in/b_denoised.png"])
    assert_mistake(call("denoise", "in", *BUNDLED), "in/a_denoised.png, in/b_denoised.png")
    again = call("denoise", "in", "--overwrite", *BUNDLED)
    assert (again.returncode, lines(again)) == (0, lines(first))


@pytest.mark.parametrize("content", [(), ("in/a_denoised.png", "in/x_before_after.png")])
def test_a_folder_without_pictures(call, content):
    Path("in").mkdir()
    photographs("one.png", *content)
    assert_mistake(call("denoise", "one.png", "in"), "in: a folder without pictures")
    assert not Path("one_denoised.png").exists()


def test_what_cannot_be_read_in_a_folder_is_skipped(call):
    photographs("in/a.png", "in/z.png")
    Path("in/empty.png").touch()
    Path("in/text.jpg").write_text("text")
    Path("in/cut.png").write_bytes(Path("in/a.png").read_bytes()[:60])
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/nowhere.tif").symlink_to("missing")
    bad = ["cut.png", "empty.png", "loop.png", "nowhere.tif", "text.jpg"]
    done = call("denoise", "in", *BUNDLED)
    assert (done.returncode, lines(done)) == (1, ["in/a_denoised.png", "in/z_denoised.png"])
    assert "error: skipped 5 of 7 photographs; 2 denoised:" in done.stderr
    assert all(f"in/{name}: " in done.stderr for name in bad)
    assert "Traceback" not in done.stderr
    # One that is named is checked before anything is written.
    done = call("denoise", "in", "in/empty.png", "--overwrite", *BUNDLED)
    assert_mistake(done, "in/empty.png: an empty file")
    for name in ("in/a.png", "in/z.png"):
        os.unlink(name)
    assert_mistake(call("denoise", "in", *BUNDLED), *(f"in/{name}: " for name in bad))


def test_one_that_fails_on_the_way_costs_no_other(call, monkeypatch):
    photographs("in/a.png", "in/b.png", "in/c.png")
    whole, denoised = denoising_files._denoised, []

    def failing(x, *rest):
        denoised.append(x)
        return x * float("nan") if len(denoised) == 2 else whole(x, *rest)

    monkeypatch.setattr(denoising_files, "_denoised", failing)
    done = call("denoise", "in", *BUNDLED)
    assert (done.returncode, lines(done)) == (1, ["in/a_denoised.png", "in/c_denoised.png"])
    assert "in/b.png: not written, the result holds pixels that are NaN" in done.stderr


def test_names_that_differ_in_their_ending_only(call):
    photographs("in/a.png", "in/a.tif", "in/b.png")
    done = call("denoise", "in", *BUNDLED)
    expected = ["in/a.png_denoised.png", "in/a.tif_denoised.tif", "in/b_denoised.png"]
    assert (done.returncode, lines(done)) == (0, expected)
    assert len(list(Path("in").glob("*_before_after.png"))) == 3


def test_a_folder_and_what_is_in_it(call):
    photographs("in/a.png", "in/b.png")
    done = call("denoise", "in", "in/b.png", str(Path("in/../in").resolve()), *BUNDLED)
    assert (done.returncode, lines(done)) == (0, ["in/a_denoised.png", "in/b_denoised.png"])


def test_the_same_name_in_two_folders(call):
    photographs("one/a.png", "two/a.png")
    done = call("denoise", "one", "two", "--out", "out", *BUNDLED)
    assert_mistake(done, "a_denoised.png", "of two photographs", "another --out")
    assert not Path("out").exists()
    assert len(lines(call("denoise", "one", "two", *BUNDLED))) == 2


def test_folders_that_cannot_be(call):
    photographs("a.png")
    Path("loop").symlink_to("loop")
    assert_mistake(call("denoise", "loop", *BUNDLED), "loop: too many levels of symbolic links")
    assert_mistake(call("inpaint", ".", "a.png"), ".: no regular file")
    if os.getuid() == 0:
        pytest.skip("nothing is forbidden to root")
    Path("closed").mkdir()
    shutil.copy("a.png", "closed")
    for mode, message in [(0o000, "closed: not readable"), (0o500, "no permission to write")]:
        os.chmod("closed", mode)
        assert_mistake(call("denoise", "closed", *BUNDLED), message)
    os.chmod("closed", 0o700)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_finished(call, monkeypatch, number):
    photographs("a.png", "b.png", "c.png")
    draw = before_after.draw

    def stop_at_b(before, after, target, labels):
        draw(before, after, target, labels)
        if target.name.startswith("b"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(before_after, "draw", stop_at_b)
    done = call("denoise", "a.png", "b.png", "c.png", *BUNDLED)
    assert (done.returncode, lines(done)) == (128 + number, ["a_denoised.png", "b_denoised.png"])
    said = f"stopped by {number.name}: denoised 2 of 3 photographs; the same command with"
    assert f"{said} --skip-existing does the rest" in done.stderr
    assert sorted(os.listdir()) == [
        *("a.png", "a_denoised.png", "a_denoised_before_after.png"),
        *("b.png", "b_denoised.png", "b_denoised_before_after.png", "c.png"),
    ]


def test_a_process_that_is_interrupted_says_what_is_finished(tmp_path):
    """A signal to a process of its own, while the second of three photographs is denoised."""
    photographs("a.png")
    large = np.random.default_rng(1).integers(90, 160, (400, 400)).astype(np.uint8)
    for name in ("b.png", "c.png"):
        Image.fromarray(large).save(name)
    names = ("a.png", "b.png", "c.png")
    with start(tmp_path, "denoise", *names, "--sigma", "0.1") as started:
        limit = time.monotonic() + 60
        while not Path("a_denoised_before_after.png").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        started.send_signal(signal.SIGINT)
        stdout, stderr = started.communicate(60)
    assert (started.returncode, stdout) == (130, "denoised: a_denoised.png\n"), stderr
    assert "stopped by SIGINT: denoised 1 of 3 photographs" in stderr
    written = {"a_denoised.png", "a_denoised_before_after.png"}
    assert set(os.listdir()) == {*names, *written}


def test_each_is_reported_when_it_is_written(monkeypatch):
    """Of two, the first line is there before the second file is begun."""
    photographs("a.png", "b.png")
    whole, reported = denoising_files._denoise_file, []

    def denoise_file(job, *rest):
        reported.append(Path("a_denoised.png").exists())
        return whole(job, *rest)

    monkeypatch.setattr(denoising_files, "_denoise_file", denoise_file)
    options = files.Options(files.FileNoise(0.1), "bundled", "mean", torch.device("cpu"))
    written = denoising_files.denoise([Path("a.png"), Path("b.png")], options)
    assert next(written) == Path("a_denoised.png")
    assert reported == [False]
    assert list(written) == [Path("b_denoised.png")]
    assert reported == [False, True]
