import io
import re

import numpy as np
import pytest
from rich.console import Console

from score_embedding import denoise, progress


@pytest.fixture(autouse=True)
def silent_afterwards():
    yield
    progress.show(None)


@pytest.fixture
def plain(monkeypatch):
    """A console that is no terminal, and every step worth a line."""
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0)
    console = Console(file=io.StringIO(), width=200)
    progress.show(console)
    return console.file


@pytest.fixture
def terminal():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    progress.show(console)
    return console.file


def shown(file):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


def count_to(total, description="training"):
    with progress.stage(description, total=total) as stage:
        for done in range(1, total + 1):
            stage.to(done, note=f"loss {done}")


def test_it_is_silent_until_told_where_to_show(monkeypatch, capfd):
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0)
    count_to(3)
    assert capfd.readouterr() == ("", "")


def test_it_is_silent_again_when_told_so(plain):
    progress.show(None)
    count_to(3)
    assert plain.getvalue() == ""


def test_lines_in_a_file_show_the_percentage_and_the_time_left(plain):
    count_to(4)
    lines = plain.getvalue().splitlines()
    assert len(lines) == 4
    for line, percent, note in zip(lines, (25, 50, 75, 100), range(1, 5), strict=True):
        pattern = rf"training  loss {note}: {percent}% after \d+ s, about \d+ s left"
        assert re.fullmatch(pattern, line)
    assert "\x1b" not in plain.getvalue()
    assert "\r" not in plain.getvalue()


def test_the_time_left_is_the_rest_at_the_pace_so_far(plain, monkeypatch):
    clock = iter([100.0, 130.0, 130.0])  # the start, is a line due, the line
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock, 130.0))
    with progress.stage("training", total=4) as stage:
        stage.to(1)
    assert plain.getvalue() == "training: 25% after 30 s, about 90 s left\n"


def test_lines_in_a_file_are_seconds_apart(plain, monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 10.0)
    count_to(100)
    assert plain.getvalue() == ""


def test_nothing_done_yet_is_shown_without_a_guess(plain):
    with progress.stage("training", total=4) as stage:
        stage.to(0)
    assert plain.getvalue() == "training: 0% after 0 s\n"


def test_a_terminal_shows_a_bar_and_leaves_none_behind(terminal):
    count_to(4)
    text = shown(terminal)
    assert "training" in text
    assert re.search(r"[━╸╺]{5}", text)
    assert re.search(r"\d+ %", text)
    assert "left" in text
    assert terminal.getvalue().endswith("\r\x1b[2K\x1b[?25h\r")  # cleared, cursor back


def test_nested_stages_share_a_display_and_the_inner_one_goes_first(terminal):
    with progress.stage("training", total=2) as outer:
        outer.to(1)
        with progress.stage("sampling", total=1) as inner:
            inner.to(1)
            descriptions = [task.description for task in progress._bars.tasks]
            assert descriptions == ["training", "sampling"]
        assert [task.description for task in progress._bars.tasks] == ["training"]
        outer.to(2)
    assert progress._bars is None
    assert "sampling" in shown(terminal)


def test_nested_stages_in_a_file_are_lines_of_each(plain):
    with progress.stage("training", total=2) as outer:
        outer.to(1)
        with progress.stage("sampling", total=4) as inner:
            inner.to(1)
        outer.to(2)
    starts = [line.partition(" after")[0] for line in plain.getvalue().splitlines()]
    assert starts == ["training: 50%", "sampling: 25%", "training: 100%"]


def test_a_stage_that_fails_clears_its_bar(terminal):
    with (
        pytest.raises(RuntimeError),
        progress.stage("training", total=2),
        progress.stage("sampling", total=2),
    ):
        raise RuntimeError
    assert progress._bars is None
    count_to(2, "another")
    assert "another" in shown(terminal)


@pytest.mark.parametrize("console", ["plain", "terminal", None])
def test_a_download_of_unknown_size_learns_it_on_the_way(console, request):
    file = request.getfixturevalue(console) if console else None
    with progress.stage("download", total=0) as bar:  # what pooch does with a progress bar
        bar.update(10)
        bar.total = 40
        bar.update(20)
        assert (bar.done, bar.total) == (30, 40)
        if console == "terminal":
            (task,) = progress._bars.tasks
            assert (task.completed, task.total) == (30, 40)
        bar.reset()
        bar.update(40)
        assert bar.done == 40
        bar.close()
    if console == "plain":
        assert [line.partition(" after")[0] for line in file.getvalue().splitlines()] == [
            "download: 0%",
            "download: 75%",
            "download: 100%",
        ]
    elif console == "terminal":
        assert "download" in shown(file)


def test_a_sample_tells_how_far_it_is(plain):
    denoise(np.random.default_rng(0).random((20, 24)), 0.1, "bundled", "sample")
    lines = [line for line in plain.getvalue().splitlines() if line.startswith("sampling: ")]
    assert [line.split("%")[0] for line in lines] == [f"sampling: {i}0" for i in range(1, 11)]
