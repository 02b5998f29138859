import io
import re
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from score_embedding import denoise, progress


@pytest.fixture(autouse=True)
def silent_afterwards():
    yield
    progress.show(None)


@pytest.fixture
def plain():
    """A console that is no terminal, and every step worth a line."""
    console = Console(file=io.StringIO(), width=200)
    progress.show(console, line_interval=0)
    return console.file


@pytest.fixture
def terminal():
    """A terminal, as the file that is written to it."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    progress.show(console)
    return console.file


def screen(file):
    """The lines that a terminal shows of what was written to it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", file.getvalue()):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[A":
            row -= 1
        elif not part.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


def shown(file):
    """The lines of the terminal once all bars are drawn anew."""
    with progress.bars_cleared():
        pass
    return screen(file)


def count_to(total, description="training"):
    with progress.stage(description, total=total) as stage:
        for done in range(1, total + 1):
            stage.to(done, note=f"loss {done}")


def test_it_is_silent_until_there_is_a_console(capfd):
    progress.show(None, line_interval=0)
    count_to(3)
    assert capfd.readouterr() == ("", "")


def test_it_is_silent_again_without_one(plain):
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


def test_lines_in_a_file_are_ten_seconds_apart(plain, monkeypatch):
    progress.show(Console(file=plain, width=200))
    clock = iter(range(1000))  # a step is a second
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    count_to(35)
    lines = plain.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"training  loss {step}" for step in (10, 20, 30)
    ]


def test_nothing_done_yet_is_shown_without_a_guess(plain):
    with progress.stage("training", total=4) as stage:
        stage.to(0)
    assert plain.getvalue() == "training: 0% after 0 s\n"


def test_a_terminal_shows_a_bar_and_leaves_none_behind(terminal):
    with progress.stage("training", total=4) as stage:
        for done in range(1, 4):
            time.sleep(0.11)  # tqdm draws ten times a second at the most
            stage.to(done, note=f"loss {done}")
        (line,) = screen(terminal)
    assert re.fullmatch(r"training  loss 3 \S+\s* 75 % 00:00 left 00:00", line)
    assert screen(terminal) == []


def test_nested_stages_are_one_below_the_other_and_the_inner_one_goes_first(terminal):
    with progress.stage("training", total=2) as outer:
        outer.to(1)
        with progress.stage("sampling", total=1):
            assert [line.split()[0] for line in screen(terminal)] == ["training", "sampling"]
        assert [line.split()[0] for line in screen(terminal)] == ["training"]
    assert screen(terminal) == []


def test_a_line_of_the_log_stays_above_the_bars(terminal):
    with progress.stage("training", total=2), progress.stage("sampling", total=2):
        with progress.bars_cleared():
            assert screen(terminal) == []
            terminal.write("step 1: loss 0.5\n")
        starts = [line.split()[0] for line in screen(terminal)]
        assert starts == ["step", "training", "sampling"]
    assert screen(terminal) == ["step 1: loss 0.5"]


def test_lines_can_be_written_without_a_console():
    with progress.bars_cleared():
        pass


@pytest.mark.usefixtures("terminal")
def test_a_bar_starts_no_thread():
    before = threading.active_count()
    with progress.stage("training", total=2):
        assert threading.active_count() == before


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
    assert screen(terminal) == []


@pytest.mark.parametrize("console", ["plain", "terminal", None])
def test_a_download_of_unknown_size_learns_it_on_the_way(console, request):
    file = request.getfixturevalue(console) if console else None
    with progress.stage("download", total=0) as bar:  # what pooch does with a progress bar
        bar.update(10)
        bar.total = 40
        bar.update(20)
        assert (bar.done, bar.total) == (30, 40)
        if console == "terminal":
            time.sleep(0.11)
            bar.update(0)
            assert "75 %" in screen(file)[0]
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
        assert screen(file) == []


def test_stages_within_a_whole_move_its_only_bar(terminal):
    def share():
        (line,) = shown(terminal)
        assert line.startswith("photograph")
        return int(line.partition("%")[0].split()[-1])

    with progress.whole("photograph"):
        first, second = progress.parts([1, 3])
        with first, progress.stage("mixture", total=2) as stage:
            stage.update()
            assert share() == 12
            with progress.stage("inner", total=2) as inner:
                inner.update()  # the bar goes on when its stage does
                assert share() == 12
        assert share() == 25
        with second:
            with progress.part(0, 1 / 3):
                pass
            assert share() == 50
        assert share() == 100
    assert screen(terminal) == []


def test_a_part_of_nothing_is_without_effect(terminal):
    with progress.part(0, 0.5), progress.stage("mixture", total=2):
        (line,) = shown(terminal)
    assert line.startswith("mixture")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noise", ["camera", "poisson", "white"])
@pytest.mark.parametrize("model", ["fast", "fit"])
def test_a_photograph_has_one_bar_that_only_goes_on(channels, noise, model, plain):
    image = np.random.default_rng(0).random((150, 140, channels))
    with progress.whole("photograph"):
        denoise(image, sigma=0.6, noise=noise, model=model)
    lines = [line.partition("%")[0] for line in plain.getvalue().splitlines()]
    shares = [int(line.removeprefix("photograph: ")) for line in lines]
    assert shares == sorted(shares)
    assert shares[0] < 30
    assert shares[-1] == 100


def test_sampling_reports_its_progress(plain):
    denoise(np.random.default_rng(0).random((20, 24)), sigma=0.1, model="bundled", mode="sample")
    lines = [line for line in plain.getvalue().splitlines() if line.startswith("sampling: ")]
    assert [line.split("%")[0] for line in lines] == [f"sampling: {i}0" for i in range(1, 11)]
