"""Full disks, signals at any stage, forged checkpoints, images that change: nothing is lost."""

import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file

from command_line import ENV, assert_mistake, process, sets, start, tree
from score_embedding import atomic_files
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder
from score_embedding.training.checkpoints import Checkpoints

LONG = {"training__epochs": 100_000, "misc__checkpoint_freq": 1e-6}
ROOM = 6 * 2**10  # bytes that are left for what is written


def wait_for(run, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interrupt(cwd, folder, *arguments):
    """A run stopped by SIGTERM once it has a checkpoint."""
    run = start(cwd, "run", *arguments)
    wait_for(run, lambda: list(folder.glob("checkpoint_*.safetensors")))
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 143


def can_mount():
    probe = "mount -t tmpfs -o size=1m none /mnt"
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "sh", "-c", probe], check=False).returncode == 0


def on_a_disk_that_fills_up(cwd, *command, folder, full_when):
    """The command with `folder` on a small file system, which something else fills up at a moment:
    when the shell's condition `full_when` holds."""
    script = f"""
        mkdir disk && mount -t tmpfs -o size=24m none disk
        cp -a {folder}/. disk && rm -rf {folder} && mkdir {folder} && mount --bind disk {folder}
        {shlex.join(command)} & run=$!
        until {full_when}; do sleep 0.01; done
        cat /dev/zero > disk/fill 2>/dev/null
        wait $run; code=$?
        rm disk/fill; umount {folder}; cp -a disk/. {folder}; umount disk; rmdir disk; exit $code
    """
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=cwd,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


MOUNT = pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
PYTHON = (sys.executable, "-m", "score_embedding")


SHORT = ("run", "--config", "quickstart", *sets(training__epochs=40, misc__checkpoint_freq=1e-6))


@pytest.fixture(scope="module")
def uninterrupted(once):
    """The folder of the run SHORT that nothing has stopped; to be read only."""

    def make(cwd):
        done = process(cwd, *SHORT)
        assert done.returncode == 0, done.stderr

    return once("uninterrupted", make) / "saves" / "quickstart"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["long files", pytest.param("full disk", marks=MOUNT)])
def test_a_checkpoint_that_cannot_be_written_leaves_those_before_whole(
    how, uninterrupted, call, tmp_path
):
    folder = tmp_path / "saves" / "quickstart"
    interrupt(tmp_path, folder, *SHORT[1:])
    kept = {name for name in tree(folder) if name.startswith("checkpoint")}
    if how == "long files":
        done = process(tmp_path, *SHORT, "--resume", longest_file=ROOM)
        assert kept <= tree(folder).keys()
    else:
        newest = max(name for name in kept if name.endswith(".safetensors"))
        done = on_a_disk_that_fills_up(
            tmp_path,
            *(*PYTHON, *map(str, SHORT), "--resume"),
            folder="saves/quickstart",
            full_when=f"[ ! -e disk/{newest} ]",  # two more checkpoints were written
        )
    assert_mistake(done, "cannot be written", "what was whole before still is")
    assert not list(folder.glob(f".*{atomic_files.PARTIAL}"))
    checkpoints = Checkpoints(RunFolder(folder), 1.0)
    assert 1 <= len(checkpoints.steps()) <= 2
    for step in checkpoints.steps():  # each of them is whole
        checkpoints.read(step)
    assert call(*SHORT, "--resume").returncode == 0
    weights, others = (load_file(path / "model.safetensors") for path in (folder, uninterrupted))
    assert all(torch.equal(weights[name], others[name]) for name in others)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("report",), ("sample", "--overwrite")])
def test_a_report_that_cannot_be_written_leaves_all_as_it_was(command, copied):
    before = tree(copied)
    done = process(copied.parent, *command, copied, longest_file=ROOM)
    assert_mistake(done, str(copied), "cannot be written")
    assert tree(copied) == before


@pytest.mark.slow
@MOUNT
def test_a_disk_that_is_full_leaves_the_report_as_it_was(copied):
    before = tree(copied)
    done = on_a_disk_that_fills_up(
        copied.parent, *PYTHON, "report", copied.name, folder=copied.name, full_when="true"
    )
    assert_mistake(done, copied.name, "cannot be written (No space left on device)")
    assert tree(copied) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_says_how_to_resume_and_leaves_no_trace(number, tmp_path):
    slow = sets(diffusion__scheme="published", diffusion__num_timesteps=3000)
    asked = ("run", "--config", "quickstart", *slow)
    folder = tmp_path / "saves" / "quickstart"
    run = start(tmp_path, *asked)
    wait_for(run, (folder / "environment.json").is_file)
    time.sleep(0.3)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert f"stopped by {number.name}: what was done is kept, --resume continues" in said
    assert "Traceback" not in said
    assert sorted(os.listdir(folder)) == ["config.yml", "environment.json"]


def comparison_under_way(tmp_path, methods, forked):
    """A comparison whose runs have written checkpoints: its process, the processes below it, and
    the folder of its runs."""
    asked = ("compare", "--config", "quickstart", "--methods", ",".join(methods))
    asked += ("--seeds", 0, "--processes", 2, "--out", "c", *sets(**LONG))
    run = start(tmp_path, *asked, forked=forked)
    runs = tmp_path / "c" / "runs"
    found = "*/checkpoint_*.safetensors"
    wait_for(run, lambda: len({path.parent for path in runs.glob(found)}) == len(methods))
    return run, psutil.Process(run.pid).children(recursive=True), runs


@pytest.mark.slow
def test_a_signal_to_a_comparison_stops_its_runs_too(tmp_path):
    methods = ("none", "score_embedding")
    run, workers, runs = comparison_under_way(tmp_path, methods, forked=True)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143
    assert "stopped by SIGTERM: the same command continues it" in said
    assert "Traceback" not in said
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert len(gone) >= 2
    assert not alive
    for folder in runs.iterdir():
        assert Checkpoints(RunFolder(folder), 1.0).latest() is not None


@pytest.mark.slow
def test_the_runs_of_a_comparison_that_is_killed_end_too_and_keep_their_steps(tmp_path):
    """Where nothing but the pipe to their parent tells them: in a new interpreter."""
    run, workers, runs = comparison_under_way(tmp_path, ["none"], forked=False)
    run.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    for folder in runs.iterdir():
        Checkpoints(RunFolder(folder), 1.0).latest()
        with run_folder.locked(folder):  # nobody else writes to it
            pass


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_model_that_would_run_code_is_refused_and_does_not(kind, copied, call, tmp_path):
    harm, saved = tmp_path / "harm", tmp_path / "saved"
    if kind == "pickle":
        saved.write_bytes(pickle.dumps(Harm(harm)))
    else:
        torch.save({"weights": Harm(harm)}, saved)
    shutil.copy(saved, copied / "model.safetensors")
    before = tree(copied)
    assert_mistake(call("sample", "--overwrite", copied), "no readable checkpoint")
    assert tree(copied) == before
    assert not harm.exists()
    if kind == "pickle":  # the attack is one
        pickle.loads(saved.read_bytes()).close()
        assert harm.exists()


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(call, tmp_path):
    asked = ("--config", "quickstart", *sets(**LONG))
    folder, harm = tmp_path / "saves" / "quickstart", tmp_path / "harm"
    interrupt(tmp_path, folder, *asked)
    for path in folder.glob("checkpoint_*.safetensors"):
        path.write_bytes(pickle.dumps(Harm(harm)))
    assert_mistake(call("run", *asked, "--resume"), "no checkpoint can be read")
    assert not harm.exists()


def test_a_run_is_not_resumed_with_other_images(call, tmp_path):
    pixels = skimage.data.astronaut()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = {"data_loader__dataset": "files", "data_loader__path": "a.png"}
    asked = ("--config", "quickstart", *sets(**LONG, **source, data_loader__image=None))
    folder = tmp_path / "saves" / "quickstart"
    interrupt(tmp_path, folder, *asked)
    before = tree(folder)
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "a.png")
    assert_mistake(call("run", *asked, "--resume"), "other images", "--overwrite")
    assert tree(folder) == before


@pytest.mark.slow
def test_a_run_that_is_resumed_elsewhere_says_so(call, tmp_path):
    asked = ("--config", "quickstart", *sets(training__epochs=60, misc__checkpoint_freq=1e-6))
    folder = tmp_path / "saves" / "quickstart"
    interrupt(tmp_path, folder, *asked)
    path = folder / "environment.json"
    values = json.loads(path.read_text())
    atomic_files.write_json(path, {**values, "threads": values["threads"] + 1})
    done = call("run", *asked, "--resume")
    assert done.returncode == 0
    assert "changed since the run began: threads" in done.stderr


@pytest.mark.slow
def test_the_same_run_twice_is_equal_bit_for_bit(tmp_path):
    asked = ("run", "--config", "quickstart", *sets(model__dropout=0.2, training__ema=0.9))
    for name in ("one", "two"):
        assert process(tmp_path, *asked, "--folder-ext", name).returncode == 0
    one, two = (tmp_path / "saves" / f"quickstart_{name}" for name in ("one", "two"))
    for name in ("model.safetensors", "config.yml", "environment.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    samples = [atomic_files.read_arrays(folder / "samples.npz")["samples"] for folder in (one, two)]
    assert samples[0].tobytes() == samples[1].tobytes()


def test_partial_files_of_a_killed_process_go_with_the_next_run(copied, call):
    left = copied / f".checkpoint_00000013.safetensors{atomic_files.PARTIAL}"
    left.write_bytes(b"x")
    assert (
        call(
            "run",
            "--config",
            "quickstart",
            "--seed",
            5,
            "--folder-ext",
            "x",
            "--overwrite",
            *sets(),
        ).returncode
        == 0
    )
    assert not left.exists()


@pytest.mark.parametrize("name", ["timing.json", "metrics.csv", "environment.json", "scores.npz"])
@pytest.mark.parametrize("content", [b"", b"x", None])
def test_samples_are_not_replaced_where_no_report_can_be_made(name, content, copied, call):
    if content is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content)
    before = tree(copied)
    assert_mistake(call("sample", "--overwrite", copied, "--seed", 3), name)
    assert tree(copied) == before


@pytest.mark.parametrize("lines", [3, 20])
def test_a_config_cut_at_the_end_of_a_line_is_not_taken_for_a_shorter_one(lines, copied, call):
    path = copied / "config.yml"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    before = tree(copied)
    assert_mistake(call("report", copied), "config.yml: cut short")
    assert tree(copied) == before


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_removed(copied, call):
    (copied / "timing.json").unlink()
    (copied / "timing.json").mkdir()
    before = tree(copied)
    asked = ("--config", "quickstart", "--seed", 5, "--folder-ext", "x", *sets())
    assert_mistake(call("run", *asked, "--overwrite"), "timing.json: a folder is in the way")
    assert tree(copied) == before


@pytest.mark.parametrize("place", ["dangling", "loop", "x" * 300, "/proc/x", "/dev/full"])
def test_a_place_where_nothing_can_be_made_is_refused(place, call, tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = call("run", "--config", "quickstart", "--out", place, *sets())
    assert_mistake(done, place)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "loop"]


@pytest.mark.parametrize("place", ["dangling", "folder", "/dev/zero", "/dev/full", "y" * 300])
def test_what_is_no_regular_file_is_no_picture(place, call, tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    source = {"data_loader__dataset": "files", "data_loader__path": place}
    done = call("run", "--config", "quickstart", *sets(**source, data_loader__image=None))
    assert_mistake(done, place)
    assert not (tmp_path / "saves").exists()


def test_an_answer_that_cannot_be_written_is_an_error(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "score_embedding", "configs"]
        done = subprocess.run(
            command, cwd=tmp_path, env=ENV, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_run_that_diverged_is_said_to_have(call):
    asked = ("run", "--config", "quickstart", *sets(training__lr=1e30, training__grad_clip=False))
    assert_mistake(call(*asked), "the loss is", code=3)
    assert_mistake(call(*asked), "did not finish but diverged; a smaller training.lr may help")


def test_one_process_at_a_time_samples_into_a_folder(copied):
    before = tree(copied)
    with run_folder.locked(copied):
        done = process(copied.parent, "sample", "--overwrite", copied)
    assert_mistake(done, "another process is writing")
    assert tree(copied) == before
