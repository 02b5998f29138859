import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock

from command_line import assert_mistake, process, sets, tree
from score_embedding import atomic_files, pipeline
from score_embedding.config import loading
from score_embedding.errors import ConfigError, RunFolderError
from score_embedding.runs import environment
from score_embedding.runs import folder as run_folder


@pytest.fixture
def config():
    return loading.load("quickstart")


def test_a_file_appears_whole_and_only_on_success(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_files.replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_writer_that_raises_leaves_the_old_file_whole_and_no_partial(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RunFolderError, match="disk full"), atomic_files.replacing(path) as partial:  # noqa: PT012
        partial.write_text("ne")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_writer_that_is_killed_leaves_the_old_file_whole_and_the_next_one_succeeds(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"kept": true}')
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from score_embedding import atomic_files\n"
        "with atomic_files.replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('{')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert atomic_files.read_json(path) == {"kept": True}
    atomic_files.write_json(path, {"kept": False})
    assert atomic_files.read_json(path) == {"kept": False}
    assert os.listdir(tmp_path) == ["file.json"]


def test_arrays_come_back_bit_for_bit(tmp_path, photographs):
    images = photographs(8, 6).numpy()
    arrays = {"images": images, "small": images.astype(np.float32), "text": np.array('{"a": 1}')}
    atomic_files.write_arrays(tmp_path / "a.npz", arrays)
    read = atomic_files.read_arrays(tmp_path / "a.npz")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_rows_come_back_bit_for_bit_and_empty_cells_are_left_out(tmp_path):
    rows = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-300, "ssim": 1 / 3}]
    atomic_files.write_rows(tmp_path / "m.csv", ["step", "loss", "ssim"], rows)
    assert (tmp_path / "m.csv").read_text().splitlines()[0] == "step,loss,ssim"
    assert atomic_files.read_rows(tmp_path / "m.csv") == rows


def test_json_comes_back(tmp_path):
    values = {"a": 1, "b": [0.1, None], "c": {"d": "σ²"}}
    atomic_files.write_json(tmp_path / "v.json", values)
    assert atomic_files.read_json(tmp_path / "v.json") == values


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("kind", ["npz", "npy", "pickle"])
def test_no_pickle_is_opened(tmp_path, kind):
    path, sprung = tmp_path / "scores.npz", tmp_path / "sprung"
    trap = np.array([Trap(sprung)], dtype=object)
    with path.open("wb") as file:
        if kind == "npz":
            np.savez(file, images=trap)
        elif kind == "npy":
            np.save(file, trap)
        else:
            pickle.dump(Trap(sprung), file)
    with pytest.raises(RunFolderError, match=r"scores\.npz: truncated or damaged"):
        atomic_files.read_arrays(path)
    assert not sprung.exists()
    if kind == "npz":  # the trap is a working one
        np.load(path, allow_pickle=True)["images"]
        assert sprung.is_dir()


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_truncated_arrays_are_named(tmp_path, keep):
    path = tmp_path / "scores.npz"
    atomic_files.write_arrays(path, {"images": np.arange(100.0)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunFolderError, match=r"scores\.npz: truncated or damaged"):
        atomic_files.read_arrays(path)


def test_a_flipped_bit_in_an_array_is_found(tmp_path):
    path = tmp_path / "scores.npz"
    atomic_files.write_arrays(path, {"images": np.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"scores\.npz"):
        atomic_files.read_arrays(path)


@pytest.mark.parametrize("content", [b"", b'{"step": 3', b"\xff\xfe{}", b"[1, 2]", b"null"])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"state\.json"):
        atomic_files.read_json(tmp_path / "state.json")


def test_missing_json_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"timing\.json"):
        atomic_files.read_json(tmp_path / "timing.json")


@pytest.mark.parametrize(
    "content",
    [
        b"step,loss\n1,nothing\n",
        b"step,loss\n1,2,3\n",
        b"step,loss\n1,\xff\xfe\n",
        b"step,loss\n1," + b"1" * 200_000 + b"\n",
    ],
    ids=["text", "a cell too many", "not UTF-8", "an endless cell"],
)
def test_a_damaged_table_is_named(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"metrics\.csv"):
        atomic_files.read_rows(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    ("seed_given", "extension", "name"),
    [
        (False, None, "quickstart"),
        (True, None, "quickstart_seed0"),
        (False, "a.b-c_d", "quickstart_a.b-c_d"),
        (True, "x", "quickstart_x_seed0"),
    ],
)
def test_the_name_tells_config_seed_and_extension(config, seed_given, extension, name, tmp_path):
    assert run_folder.path_of(tmp_path, config, seed_given, extension) == tmp_path / name


def test_a_folder_that_an_earlier_version_named_is_found(config, tmp_path):
    (old := tmp_path / "quickstart_seed0_x").mkdir()
    assert run_folder.path_of(tmp_path, config, True, "x") == old
    (new := tmp_path / "quickstart_x_seed0").mkdir()
    assert run_folder.path_of(tmp_path, config, True, "x") == new


@pytest.mark.parametrize("extension", ["a/b", "..\\x", "a b", "/", "é", "x\n"])
def test_an_extension_that_is_no_plain_name_is_refused(config, extension, tmp_path):
    with pytest.raises(ConfigError, match="--folder-ext"):
        run_folder.path_of(tmp_path, config, False, extension)


def test_a_new_folder_holds_its_config_and_an_overwritten_one_keeps_only_foreign_files(
    tmp_path, config
):
    path = tmp_path / "saves" / "quickstart"
    folder = run_folder.create(path, config)
    assert os.listdir(path) == [run_folder.CONFIG]
    assert run_folder.open_existing(path) == (folder, config)
    for name in (*run_folder.FILES, "notes.txt"):
        (path / name).write_text("earlier")
    run_folder.create(path, config)
    assert sorted(os.listdir(path)) == [run_folder.CONFIG, "notes.txt"]
    assert loading.load(str(path / run_folder.CONFIG)) == config
    assert (path / "notes.txt").read_text() == "earlier"


def test_a_free_place_is_one_that_is_missing_or_empty(tmp_path, config):
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        run_folder.check_free(tmp_path / name, config, overwrite=False)
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_or_foreign_folder_in_the_way_is_refused(tmp_path, config, overwrite):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="file is in the way"):
        run_folder.check_free(tmp_path / "file", config, overwrite)
    with pytest.raises(RunFolderError, match="holds files but no run"):
        run_folder.check_free(tmp_path / "folder", config, overwrite)


def test_a_run_is_refused_by_whose_it_is_and_overwrite_lets_it_go(tmp_path, config):
    other = loading.load("quickstart", ["training.epochs=1"])
    run_folder.create(tmp_path, config)
    with pytest.raises(
        RunFolderError, match="of this config that did not finish; --resume continues it"
    ):
        run_folder.check_free(tmp_path, config, overwrite=False)
    with pytest.raises(RunFolderError, match="run of another config; --overwrite replaces it"):
        run_folder.check_free(tmp_path, other, overwrite=False)
    run_folder.check_free(tmp_path, other, overwrite=True)


def test_no_training_is_offered_only_where_there_is_a_model(tmp_path, config):
    run_folder.create(tmp_path, config)
    with pytest.raises(RunFolderError) as without:
        run_folder.check_free(tmp_path, config, overwrite=False)
    (tmp_path / run_folder.WEIGHTS).touch()
    with pytest.raises(RunFolderError) as within:
        run_folder.check_free(tmp_path, config, overwrite=False)
    assert "--no-train" not in str(without.value)
    assert "--no-train" in str(within.value)


def test_an_unfinished_run_names_what_it_lacks(tmp_path, config):
    run_folder.create(tmp_path, config)
    with pytest.raises(RunFolderError, match=r"lacks model\.safetensors, scores\.npz.*--resume"):
        run_folder.open_existing(tmp_path, (run_folder.WEIGHTS, run_folder.SCORES))
    with pytest.raises(RunFolderError, match="not a run folder"):
        run_folder.open_existing(tmp_path / "nowhere")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_finishes_before_the_lock_of_another_is_not_overwritten(
    resume, call, tmp_path, monkeypatch
):
    """The other run finishes, in its own process, after the first check of this one's folder."""
    asked = ("run", "--config", "quickstart", *sets())
    folder, load = tmp_path / "saves" / "quickstart", pipeline.load_training
    if resume:
        run_folder.create(folder, loading.load("quickstart", list(sets())[1::2]))
    finished = {}

    def load_while_the_other_finishes(config):
        other = process(tmp_path, *asked, *(["--resume"] if resume else []))
        assert other.returncode == 0, other.stderr
        finished.update(tree(folder))
        return load(config)

    monkeypatch.setattr(pipeline, "load_training", load_while_the_other_finishes)
    done = call(*asked, *(["--resume"] if resume else []))
    assert_mistake(done, "its run is finished" if resume else "already holds a run of this config")
    assert tree(folder) == finished


@pytest.mark.parametrize("while_held", [True, False])
def test_a_released_lock_can_be_taken_again_and_leaves_no_file(while_held, tmp_path):
    lock = FileLock(tmp_path / run_folder.LOCK)
    lock.acquire()
    run_folder._release(lock, tmp_path / run_folder.LOCK, while_held)
    assert os.listdir(tmp_path) == []
    with run_folder.locked(tmp_path):
        assert os.listdir(tmp_path) == [run_folder.LOCK]
    assert os.listdir(tmp_path) == []


def test_equal_weights_are_promised_only_where_they_can_be(tmp_path, call):
    """In the report of a run that makes a number of steps, not of one that stops by the clock."""
    target = ("--set", "training.target_ssim=0.99")
    cases = {
        "steps": target,  # without --profile nothing is evaluated before the end
        "seconds": ("--set", "training.seconds=100"),
        "target": (*target, "--profile"),
    }
    pages = {}
    for name, options in cases.items():
        done = call("run", "--config", "quickstart", "--folder-ext", name, *sets(), *options)
        assert done.returncode == 0, done.stderr
        pages[name] = (tmp_path / "saves" / f"quickstart_{name}" / "report.html").read_text()
    promise = "weights and samples, bit for bit"
    assert {name for name, page in pages.items() if promise in page} == {"steps"}
    assert "not exactly as many" in pages["seconds"]


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("by_clock", [False, True])
def test_only_the_cpu_without_a_clock_promises_equal_bits(device, by_clock):
    promised = "the same weights" in environment.determinism(device, by_clock)
    assert promised == (device == "cpu" and not by_clock)
