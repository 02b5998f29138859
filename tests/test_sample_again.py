"""Sampling from a finished run: more samples than images, elsewhere, never over others unasked."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import score_embedding as se
from command_line import tree, undrawn
from score_embedding import pipeline
from score_embedding.atomic_files import read_arrays
from score_embedding.config import loading
from score_embedding.errors import LimitError, RunFolderError
from score_embedding.methods.base import method_of
from score_embedding.report import content
from score_embedding.runs import folder as run_folder
from score_embedding.runs import loading as loading_of_runs
from score_embedding.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("undrawn")
CPU = torch.device("cpu")
TINY = """
name: tiny
data_loader:
  {dataset: sample, image: [astronaut, coffee], num_images: 2, image_size: 8, batch_size: 2}
training: {epochs: 1}
model: {ch: 4, ch_mult: [1], num_res_blocks: 1, attention_resolutions: [], dropout: 0.0}
"""
METHODS = {
    "score_embedding": "diffusion: {num_timesteps: 3}\nsample: {solver: heun, steps: 2}\n",
    "closed_form": "sample_method: closed_form\nsample: {solver: heun, steps: 2}\n",
    "residual": "diffusion: {embedding: residual}\nimage_density: {kind: gaussian, side: 4}\n"
    "sample: {solver: heun, steps: 2}\n",
    "ddpm": "sample_method: ddpm\ndiffusion: {num_timesteps: 4}\n",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each method, by its name."""
    made = {}
    for name, own in METHODS.items():
        config = loading.validate(loading.mapping(TINY + own, name), name)
        path = tmp_path_factory.mktemp(name) / "run"
        with undrawn():
            pipeline.run(config, path, CPU, profile=False)
        made[name] = (config, path)
    return made


@pytest.mark.parametrize("name", METHODS)
def test_more_samples_than_images_are_drawn_elsewhere(name, runs, tmp_path):
    config, path = runs[name]
    before = (path / "samples.npz").read_bytes()
    out = tmp_path / "more"
    pipeline.sample_again(path, CPU, config.sample, config.training.seed, count=5, out=out)
    arrays, own = read_arrays(out / "samples.npz"), read_arrays(path / "samples.npz")
    assert arrays["samples"].shape == (5, 3, 8, 8)
    assert arrays["images"].shape == (2, 3, 8, 8)
    np.testing.assert_allclose(arrays["samples"][:2], own["samples"], rtol=1e-4, atol=1e-4)
    assert len({sample.tobytes() for sample in arrays["samples"]}) == 5
    if method_of(config).uses_index:
        assert arrays["truth"].tolist() == [0, 1, 0, 1, 0]
    assert (out / "sample.png").is_file()
    assert (path / "samples.npz").read_bytes() == before


@pytest.mark.parametrize("elsewhere", [False, True])
def test_samples_are_replaced_only_where_that_is_asked_for(elsewhere, runs, tmp_path):
    config, path = runs["closed_form"]
    path = shutil.copytree(path, tmp_path / "run")
    out = tmp_path / "out" if elsewhere else None
    target = out or path
    if out:
        pipeline.sample_again(path, CPU, config.sample, seed=0, out=out)
    before = (target / "samples.npz").read_bytes()
    with pytest.raises(RunFolderError, match="--overwrite"):
        pipeline.sample_again(path, CPU, config.sample, seed=1, out=out)
    assert (target / "samples.npz").read_bytes() == before
    pipeline.sample_again(path, CPU, config.sample, seed=1, out=out, overwrite=True)
    assert (target / "samples.npz").read_bytes() != before


def test_the_folder_of_another_run_takes_no_samples(runs, tmp_path):
    config, path = runs["closed_form"]
    other = shutil.copytree(runs["ddpm"][1], tmp_path / "other")
    before = tree(other)
    with pytest.raises(RunFolderError, match=r"other: a run folder; .*--out"):
        pipeline.sample_again(path, CPU, config.sample, seed=1, out=other, overwrite=True)
    assert tree(other) == before


def test_the_run_folder_under_another_name_gets_its_report_anew(runs, tmp_path):
    config, path = runs["closed_form"]
    copied = shutil.copytree(path, tmp_path / "run")
    (tmp_path / "link").symlink_to(copied)
    before = tree(copied)
    pipeline.sample_again(copied, CPU, config.sample, 1, out=tmp_path / "link", overwrite=True)
    after = tree(copied)
    assert after["samples.npz"] != before["samples.npz"]
    assert after["report.html"] != before["report.html"]


@pytest.mark.parametrize("name", ["sample.png", ".lock"])
def test_files_of_the_user_beside_samples_are_not_replaced_unasked(name, runs, tmp_path):
    config, path = runs["closed_form"]
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunFolderError, match=name.replace(".", r"\.")):
        pipeline.sample_again(path, CPU, config.sample, seed=1, out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_only_files_of_a_killed_process_are_cleared_away(runs, tmp_path):
    config, path = runs["closed_form"]
    foreign = (".thesis.partial", "checkpoint_notes.txt", "checkpoint_1.txt")
    own = (".samples.npz.partial", ".checkpoint_00000012.safetensors.partial")
    for name in (*foreign, *own):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".model.safetensors.partial").mkdir()
    pipeline.sample_again(path, CPU, config.sample, seed=1, out=tmp_path)
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept == {*foreign, ".model.safetensors.partial", "samples.npz", "sample.png"}
    own = ("checkpoint_00000012.safetensors", "checkpoint_00000012.json", "checkpoint_rows.jsonl")
    for name in own:
        (tmp_path / name).touch()
    run_folder.remove_checkpoints(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == kept


def test_samples_that_appear_between_check_and_lock_are_not_replaced(runs, tmp_path, monkeypatch):
    config, path = runs["closed_form"]
    out, load_model = tmp_path / "out", loading_of_runs.load_model

    def loaded_while_others_sample(*arguments):
        out.mkdir()
        (out / "samples.npz").write_bytes(b"another's")
        return load_model(*arguments)

    monkeypatch.setattr(loading_of_runs, "load_model", loaded_while_others_sample)
    with pytest.raises(RunFolderError, match="--overwrite"):
        pipeline.sample_again(path, CPU, config.sample, seed=1, out=out)
    assert (out / "samples.npz").read_bytes() == b"another's"


def test_the_clock_of_the_report_names_every_stage_before_training(runs):
    config, path = runs["residual"]
    report = content.collect(RunFolder(path), config)
    notes = [table.note for table in report.tables if table.title == "Seconds by stage"]
    assert notes == ["The training clock of all figures is density + preconditioning + training."]
    timing = json.loads((path / "timing.json").read_text())
    before = timing["density"] + timing["preconditioning"]
    last = float((path / "metrics.csv").read_text().splitlines()[-1].split(",")[1])
    assert last == pytest.approx(before + timing["training"], abs=1e-6)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu"), (torch.float32, "meta")])
@pytest.mark.parametrize("name", METHODS)
def test_torch_defaults_of_the_caller_change_no_run_and_come_back(
    name, dtype, device, runs, tmp_path
):
    config, path = runs[name]
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        pipeline.run(config, tmp_path / "run", CPU, profile=False)
        again = tmp_path / "again"
        pipeline.sample_again(tmp_path / "run", CPU, config.sample, seed=0, out=again)
        if name == "residual":
            image = np.random.default_rng(0).random((16, 16, 3))
            cleaned = [se.denoise(image, sigma=0.1, model=p) for p in (path, tmp_path / "run")]
            np.testing.assert_array_equal(*cleaned)
        assert torch.get_default_dtype() == dtype
        assert torch.get_default_device() == torch.device(device)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for file in ("samples.npz", "scores.npz"):
        if (path / file).exists():
            usual, found = read_arrays(path / file), read_arrays(tmp_path / "run" / file)
            assert len(usual) > 2
            for key, array in usual.items():
                if array.dtype.kind == "U":  # what describes them has seconds
                    continue
                assert found[key].dtype == array.dtype
                np.testing.assert_array_equal(found[key], array)
    found = read_arrays(again / "samples.npz")["samples"]
    usual = read_arrays(path / "samples.npz")["samples"]
    np.testing.assert_allclose(found, usual, rtol=1e-4, atol=1e-4)


def test_more_samples_than_fit_are_refused_before_anything_is_made(runs, tmp_path):
    config, path = runs["score_embedding"]
    out = tmp_path / "many"
    with pytest.raises(LimitError, match=r"10{15} samples: needs about .*fewer samples need less"):
        pipeline.sample_again(path, CPU, config.sample, 0, count=10**15, out=out)
    assert not out.exists()


def test_a_report_of_samples_that_were_drawn_otherwise_says_how_the_course_was(runs, tmp_path):
    config, path = runs["score_embedding"]
    copied = shutil.copytree(path, tmp_path / "run")
    assert "drawn later" not in str(content.collect(RunFolder(copied), config).tables)
    options = config.sample.model_copy(update={"prior": "matched"})
    pipeline.sample_again(copied, CPU, options, 0, overwrite=True)
    found = content.collect(RunFolder(copied), config)
    notes = {table.title: table.note for table in found.tables}
    captions = {picture.title: picture.caption for picture in found.pictures}
    for text in (notes["Time to quality"], captions["Training"]):
        assert "samples from prior unit with Heun, 2 steps; the samples shown" in text
    assert "prior matched" in notes["Quality of the samples"]


def test_scores_that_are_there_are_kept_whoever_has_made_them_since(tmp_path, monkeypatch):
    """Those of another process, made after the first check and before the lock."""
    config = loading.for_images([str(picture(tmp_path))], 8, ["diffusion.num_timesteps=2"])
    load, path = pipeline.load_dataset, tmp_path / "solved"

    def other_first(options):
        monkeypatch.setattr(pipeline, "load_dataset", load)
        pipeline.solve(config, path, CPU)
        return load(options)

    monkeypatch.setattr(pipeline, "load_dataset", other_first)
    with pytest.raises(RunFolderError, match=r"scores\.npz: already there; --overwrite"):
        pipeline.solve(config, path, CPU)
    before = (path / "scores.npz").stat().st_mtime_ns
    pipeline.solve(config, path, CPU, overwrite=True)
    assert (path / "scores.npz").stat().st_mtime_ns > before


@pytest.mark.parametrize("name", ["scores.png", "diagnostics.json", "scores.npy"])
def test_a_solve_replaces_no_file_beside_its_scores_unasked(name, tmp_path):
    config = loading.for_images([str(picture(tmp_path))], 8, ["diffusion.num_timesteps=2"])
    (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(RunFolderError, match=rf"{name}: already there; --overwrite"):
        pipeline.solve(config, tmp_path, CPU)
    assert tree(tmp_path) == before
    pipeline.solve(config, tmp_path, CPU, overwrite=True)
    assert {"scores.npz", "scores.png", "diagnostics.json"} < set(tree(tmp_path))
    assert not (tmp_path / "scores.npy").exists()  # all scores are in scores.npz


def picture(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder / "photo.png"
