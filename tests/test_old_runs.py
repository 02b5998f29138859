"""Run folders that version 0.1.0 wrote still open, sample, report and resume: see data/README.md.

Weights and samples are compared with those of 0.1.0 up to round-off: the versions of the libraries
may differ from those that it ran with.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from damaged_files import damage
from score_embedding import atomic_files
from score_embedding.cli import runs
from score_embedding.comparison import spec
from score_embedding.config import loading, old_runs
from score_embedding.errors import CheckpointError, RunFolderError
from score_embedding.runs import folder as run_folder

DATA = Path(__file__).parent / "data" / "runs_0_1_0"
FINISHED = ["finished", "residual"]
INTERRUPTED = ["interrupted", "interrupted_ddpm"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the drawing of reports
    pytest.mark.usefixtures("undrawn"),
]


@pytest.fixture
def old(tmp_path):
    """Copies a folder under the name that its config gives it."""

    def copy(name):
        _, config = run_folder.open_existing(DATA / name)
        return Path(shutil.copytree(DATA / name, tmp_path / config.name))

    return copy


@pytest.fixture
def threads_of_old_runs():
    """The number of threads is that of the old runs, as the order of sums depends on it."""
    before = torch.get_num_threads()
    environment = json.loads((DATA / "interrupted" / "environment.json").read_text())
    torch.set_num_threads(environment["threads"])
    yield
    torch.set_num_threads(before)


def distance(weights, others):
    return sum((weights[key] - others[key]).square().sum() for key in others).sqrt()


@pytest.mark.parametrize("name", [*FINISHED, *INTERRUPTED])
def test_an_old_config_keeps_its_network_however_it_is_read(name):
    path = DATA / name / "config.yml"
    assert "network" not in loading.read_document(path)["model"]
    _, opened = run_folder.open_existing(DATA / name)
    given = loading.load(str(path))
    assert opened == given
    assert given.model.network == "unet"


def test_a_key_that_an_old_config_has_keeps_its_value():
    values = loading.load("quickstart", ["model.network=published"]).model_dump(mode="json")
    assert old_runs.completed(values) == values


def test_an_old_config_only_gets_keys_that_its_kind_has(monkeypatch):
    meaning = {"diffusion.scheme": "krylov", "diffusion.beta_min": 0.5, "misc.eps": 0.25}
    monkeypatch.setattr(old_runs, "MEANING_IN_0_1_0", meaning)
    empty = {"diffusion": {}, "misc": {"eps": 0.5}}
    kept = {"misc": {"eps": 0.5}}
    assert old_runs.completed(empty) == {"diffusion": {"scheme": "krylov"}, **kept}
    baseline = {"sample_method": "ddpm", **empty}
    expected = {"sample_method": "ddpm", "diffusion": {"beta_min": 0.5}, **kept}
    assert old_runs.completed(baseline) == expected
    assert empty == {"diffusion": {}, "misc": {"eps": 0.5}}
    for damaged in ({"diffusion": None}, {"sample_method": []}, {"misc": 3}, {}):
        assert old_runs.completed(damaged) == damaged


def test_the_configs_of_an_old_comparison_keep_their_network(tmp_path):
    methods = ["score_embedding", "ddpm_plain"]
    spec.write(spec.build("cifar1", methods, [0], None, []), tmp_path)
    values = loading.read_document(tmp_path / spec.SPEC)
    for config in values["methods"].values():
        assert config["model"].pop("network") == "published"
    loading.write_document(tmp_path / spec.SPEC, yaml.safe_dump(values))
    read = spec.read(tmp_path)
    assert [read.configs[method].model.network for method in methods] == ["unet", "unet"]


def resume(folder):
    runs.run(config=str(folder / "config.yml"), out=folder.parent, device="cpu", resume=True)


def arrays_of(folder):
    name = "denoised.npz" if (folder / "denoised.npz").exists() else "samples.npz"
    return atomic_files.read_arrays(folder / name)


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_is_reported_on(name, old):
    folder = old(name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    runs.report(folder)
    page = (folder / "report.html").read_text()
    steps = json.loads((folder / "state.json").read_text())["step"]
    assert f"{steps} steps" in page
    for path, content in before.items():
        assert path == "report.pdf" or (folder / path).read_bytes() == content


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_draws_the_same_samples_again(name, old):
    folder = old(name)
    runs.sample(folder, device="cpu", overwrite=True)
    before, after = arrays_of(DATA / name), arrays_of(folder)
    assert before.keys() == after.keys()
    for key in before.keys() - {"description"}:
        np.testing.assert_allclose(after[key], before[key], rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", INTERRUPTED)
@pytest.mark.usefixtures("threads_of_old_runs")
def test_an_interrupted_run_ends_with_the_weights_of_the_whole_one(name, old):
    folder = old(name)
    (values,) = folder.glob("checkpoint_*.json")
    (tensors,) = folder.glob("checkpoint_*.safetensors")
    checkpoint = load_file(tensors)
    part = "average/module." if "average/n_averaged" in checkpoint else "network/"
    start = {key.removeprefix(part): tensor for key, tensor in checkpoint.items()}
    steps_before = json.loads(values.read_text())["history"]["rows"]
    resume(folder)
    weights = load_file(folder / "model.safetensors")
    expected = load_file(DATA / f"{name}_whole_model.safetensors")
    assert weights.keys() == expected.keys()
    # Adam amplifies the round-off of another processor or torch where a gradient is nearly 0.
    assert distance(weights, expected) < 0.4 * distance(start, expected)
    rows = atomic_files.read_rows(folder / "metrics.csv")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == json.loads((folder / "state.json").read_text())["step"]
    assert rows[: len(steps_before)] == steps_before
    assert not list(folder.glob("checkpoint_*"))
    assert (folder / "report.html").exists()
    runs.sample(folder, device="cpu", overwrite=True)


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_run_has_no_report_and_no_samples(name, old):
    folder = old(name)
    for command in (runs.report, runs.sample):
        with pytest.raises(RunFolderError, match="--resume"):
            command(folder)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_old_checkpoint_is_named_and_nothing_is_loaded(suffix, how, old, caplog):
    folder = old("interrupted_ddpm")
    (path,) = folder.glob(f"checkpoint_*{suffix}")
    damage(path, how)
    with pytest.raises(CheckpointError, match="no checkpoint can be read; --overwrite"):
        resume(folder)
    assert path.stem in caplog.text
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["cut", "changed"])
def test_a_damaged_old_model_is_named_and_nothing_is_replaced(file, how, old):
    folder = old("finished")
    damage(folder / file, how)
    before = (folder / "samples.npz").read_bytes()
    with pytest.raises((CheckpointError, RunFolderError), match=file):
        runs.sample(folder, device="cpu", overwrite=True)
    assert (folder / "samples.npz").read_bytes() == before


def test_the_end_of_a_yaml_document_does_not_make_a_config_an_old_one(tmp_path):
    text = loading.find("cifar3_ddpm").read_text(encoding="utf-8")
    (tmp_path / "mine.yml").write_text(text + "...\n", encoding="utf-8")
    assert loading.load(str(tmp_path / "mine.yml")) == loading.load("cifar3_ddpm")


@pytest.mark.parametrize("name", ["finished", "residual", "interrupted", "interrupted_ddpm"])
def test_a_resolved_config_of_an_earlier_version_keeps_its_meaning_without_its_last_line(
    name, tmp_path
):
    text = (DATA / name / "config.yml").read_text(encoding="utf-8")
    (tmp_path / "mine.yml").write_text(text.removesuffix("...\n"), encoding="utf-8")
    assert loading.load(str(tmp_path / "mine.yml")).model.network == "unet"
