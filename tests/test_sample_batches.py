"""Many samples: drawn in batches that are kept, so that what is killed continues bit for bit."""

import shutil
import signal
import time

import numpy as np
import pytest
import torch

from command_line import assert_mistake, start, tree, undrawn
from score_embedding import pipeline
from score_embedding.atomic_files import read_arrays
from score_embedding.config import loading
from score_embedding.errors import LimitError
from score_embedding.runs import folder as run_folder
from score_embedding.runs import resources, sample_batches

CPU = torch.device("cpu")
TINY = """
name: tiny
data_loader: {dataset: sample, image: [coffee], image_size: 64, batch_size: 2}
diffusion: {embedding: residual}
image_density: {kind: white}
training: {epochs: 1}
model: {ch: 4, ch_mult: [1], num_res_blocks: 1, attention_resolutions: [], dropout: 0.0}
sample: {solver: heun, steps: 2, count: 3}
held_out: {share: 0.5, levels: [0.5]}
"""
BATCH = 16  # images of 64 x 64


@pytest.fixture(scope="module")
def run(once):
    """A finished run; to be read only."""

    def make(cwd):
        values = loading.mapping(TINY, "tiny")
        values["data_loader"]["image"] = ["coffee", "chelsea"]
        with undrawn():
            pipeline.run(loading.validate(values, "tiny"), cwd / "run", CPU, profile=False)

    return once("samples in batches", make) / "run"


@pytest.fixture
def mine(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def numbers(out):
    return sorted(int(p.stem.split("_")[1]) for p in (out / "samples_batches").glob("s*.npz"))


def same(first, second):
    one, other = (read_arrays(path / "samples.npz") for path in (first, second))
    assert one.keys() == other.keys()
    for name in one.keys() - {"description"}:  # which has seconds
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_what_was_killed_continues_as_if_it_had_not_been(mine, call, tmp_path):
    assert call("sample", mine, "-n", 100, "--out", "whole").returncode == 0
    killed = tmp_path / "killed"
    child = start(tmp_path, "sample", mine, "-n", 100, "--out", "killed")
    while not (killed / "samples_batches" / "samples_32.npz").exists():
        assert child.poll() is None
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    if (killed / "samples.npz").exists():
        pytest.skip("it had finished before it was killed")
    before = {path.name: path.stat().st_mtime_ns for path in killed.glob("samples_batches/s*.npz")}
    assert 3 <= len(before) < 7
    done = call("sample", mine, "-n", 100, "--out", "killed")
    assert done.returncode == 0, done.stderr
    assert "sampling continues with the batches that are there" in done.stderr
    same(killed, tmp_path / "whole")
    assert read_arrays(killed / "samples.npz")["path"].shape[:2] == (9, BATCH)
    assert sorted(tree(killed)) == ["sample.png", "samples.npz"]


def interrupted(mine, out, count, monkeypatch, **options):
    """Sampling stops while batch 2 is drawn."""
    write = sample_batches.SampleBatches.write

    def stop(self, first, part):
        if first >= 2 * BATCH:
            raise KeyboardInterrupt
        write(self, first, part)

    config = loading.load(str(mine / "config.yml"))
    with monkeypatch.context() as patched, undrawn():
        patched.setattr(sample_batches.SampleBatches, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline.sample_again(mine, CPU, config.sample, 0, count, out, **options)
    assert numbers(out) == [0, BATCH]


def test_the_number_may_change_and_whole_batches_are_kept(mine, tmp_path, monkeypatch, call):
    out = tmp_path / "out"
    interrupted(mine, out, 40, monkeypatch)
    first = out / "samples_batches" / "samples_0.npz"
    kept = read_arrays(first)
    kept["x"] += 1  # to see that it is read, and not drawn again
    np.savez(first, **kept)
    assert call("sample", mine, "-n", 24, "--out", "out").returncode == 0
    assert call("sample", mine, "-n", 24, "--out", "fresh").returncode == 0
    found, fresh = (
        read_arrays(tmp_path / name / "samples.npz")["samples"] for name in ("out", "fresh")
    )
    assert len(found) == 24
    np.testing.assert_array_equal(found[:BATCH], fresh[:BATCH] + 1)
    np.testing.assert_array_equal(found[BATCH:], fresh[BATCH:])


@pytest.mark.slow
@pytest.mark.parametrize("change", ["seed", "steps", "weights"])
def test_batches_of_other_samples_are_not_taken(change, mine, tmp_path, monkeypatch, call):
    out = tmp_path / "out"
    interrupted(mine, out, 40, monkeypatch)
    options = {"seed": ["--seed", 3], "steps": ["--set", "sample.steps=3"], "weights": []}[change]
    if change == "weights":
        source = shutil.copytree(mine, tmp_path / "other")
        config = loading.load(str(source / "config.yml"), ["training.seed=8"])
        with undrawn():
            pipeline.run(config, source, CPU, profile=False, overwrite=True)
        mine = source
    refused = call("sample", mine, "-n", 40, "--out", "out", *options)
    assert refused.returncode == 2
    assert "batches of other samples" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert list((out / "samples_batches").glob("*.npz"))
    done = call("sample", mine, "-n", 40, "--out", "out", "--overwrite", *options)
    assert done.returncode == 0, done.stderr
    assert "batches of other samples, removed" in done.stderr
    assert call("sample", mine, "-n", 40, "--out", "fresh", *options).returncode == 0
    same(out, tmp_path / "fresh")


@pytest.mark.slow
def test_a_damaged_batch_is_drawn_again(mine, tmp_path, monkeypatch, call):
    out = tmp_path / "out"
    interrupted(mine, out, 40, monkeypatch)
    batch = out / "samples_batches" / f"samples_{BATCH}.npz"
    batch.write_bytes(batch.read_bytes()[:100])
    assert call("sample", mine, "-n", 40, "--out", "out").returncode == 0
    assert call("sample", mine, "-n", 40, "--out", "fresh").returncode == 0
    same(out, tmp_path / "fresh")


def test_files_of_others_in_the_folder_of_batches_are_kept(mine, tmp_path, monkeypatch, call):
    out = tmp_path / "out"
    interrupted(mine, out, 40, monkeypatch)
    (out / "samples_batches" / "notes.txt").write_text("mine")
    assert call("sample", mine, "-n", 40, "--out", "out").returncode == 0
    assert [path.name for path in (out / "samples_batches").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_samples_is_resumed(tmp_path, monkeypatch, run):
    values = loading.mapping(TINY, "tiny")
    values["data_loader"]["image"] = ["coffee", "chelsea"]
    values["sample"]["count"] = 40
    config, path = loading.validate(values, "tiny"), tmp_path / "run"
    write = sample_batches.SampleBatches.write

    def stop(self, first, part):
        if first >= BATCH:
            raise KeyboardInterrupt
        write(self, first, part)

    with undrawn():
        with monkeypatch.context() as patched:
            patched.setattr(sample_batches.SampleBatches, "write", stop)
            with pytest.raises(KeyboardInterrupt):
                pipeline.run(config, path, CPU, profile=False)
        assert numbers(path) == [0]
        pipeline.run(config, path, CPU, profile=False, resume=True)
    assert run_folder.is_finished(path)
    assert not (path / "samples_batches").exists()
    found = read_arrays(path / "samples.npz")["samples"]
    assert found.shape == (40, 3, 64, 64)
    np.testing.assert_array_equal(found[:3], read_arrays(run / "samples.npz")["samples"])


def test_more_samples_than_the_disk_holds_are_refused_with_the_figures(mine, call, tmp_path):
    free = resources.free_disk(tmp_path)
    number = free // (2 * 3 * 3 * 64 * 64 * 4) + 2**16  # two copies
    before = tree(tmp_path)
    done = call("sample", mine, "-n", number, "--out", "many")
    assert_mistake(done, f"{number} samples: needs about", "are free; fewer samples need less")
    assert tree(tmp_path) == before


def test_the_disk_is_counted_by_itself(mine, tmp_path, monkeypatch):
    config = loading.load(str(mine / "config.yml"))
    monkeypatch.setattr(resources, "free_memory", lambda _: 2**62)
    monkeypatch.setattr(resources, "free_disk", lambda _: 10**9)
    resources.check_sampling(config, 1, 2000, CPU, tmp_path)
    with pytest.raises(LimitError, match=r"GiB of disk .*finished batches .* MiB are free"):
        resources.check_sampling(config, 1, 20_000, CPU, tmp_path)
