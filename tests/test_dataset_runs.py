"""Runs on a data set: its own test part or a share held out, samples of classes, no images kept."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import idx_files
from command_line import Page, assert_mistake, csv_rows, tree
from idx_files import LABELS, images_of
from score_embedding.atomic_files import read_arrays
from score_embedding.config import loading
from score_embedding.data.datasets import load_dataset, load_held_out_images, load_training
from score_embedding.errors import ConfigError, DataError, RunFolderError
from score_embedding.evaluation import held_out, held_out_set
from score_embedding.methods.base import method_of
from score_embedding.methods.classes import DROPPED, Labels
from score_embedding.methods.model import build_network
from score_embedding.report import sheets
from score_embedding.runs import artifacts
from score_embedding.runs import folder as run_folder
from score_embedding.runs import loading as loading_of_runs
from score_embedding.training.loop import train

CPU = torch.device("cpu")
LEVELS = (0.1, 0.5)
TINY = """
name: digits
data_loader:
  {{dataset: mnist, path: {path}, channels: 1, image_size: 28, batch_size: 4, contrast: own}}
training: {{epochs: 2, lr: 1e-3, ema: 0.9}}
model:
  {{network: unet, in_channels: 1, out_channels: 1, ch: 4, ch_mult: [1, 2], num_res_blocks: 1,
  attention_resolutions: [], dropout: 0.0, image_conditioning: class}}
held_out: {{dataset_part: test, levels: [0.1, 0.5]}}
"""
METHODS = {
    "residual": """
diffusion: {embedding: residual, sigma: 20}
image_density: {kind: gaussian, side: 4, arrays: 100}
sample: {solver: heun, steps: 2, count: 5, classes: [3, 9]}
""",
    "ddpm": """
sample_method: ddpm
diffusion: {num_timesteps: 8}
sample: {count: 5, classes: [3, 9]}
""",
}


@pytest.fixture
def files(tmp_path):
    return idx_files.write(tmp_path / "here")


def config_of(files, method="residual", *changes):
    values = loading.mapping(TINY.format(path=files) + METHODS[method], method)
    for change in changes:
        loading.change(values, change)
    return loading.validate(values, method)


@pytest.fixture(scope="module")
def runs(once):
    """A finished run of each method, by its name; to be read only."""

    def make(cwd):
        from command_line import undrawn
        from score_embedding import pipeline

        files = idx_files.write(cwd / "here")
        for method in METHODS:
            with undrawn():
                pipeline.run(config_of(files, method), cwd / method, CPU, profile=True)

    return once("data set runs", make)


@pytest.fixture
def mine(runs, tmp_path):
    """A copy of the residual run."""
    return shutil.copytree(runs / "residual", tmp_path / "run")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_measures_the_test_part_and_draws_samples_of_classes(method, runs):
    path = runs / method
    arrays, description = read_arrays(path / "samples.npz"), None
    assert arrays["samples"].shape == (5, 1, 28, 28)
    assert arrays["labels"].tolist() == [3, 9, 3, 9, 3]
    assert arrays["images"].shape == (0, 1, 28, 28)
    assert not (path / "scores.npz").exists()
    description = json.loads(str(read_arrays(path / "denoised.npz")["description"]))
    assert description["set"]["count"] == len(LABELS["test"])
    last = csv_rows(path / "metrics.csv")[-1]
    names = ["psnr_0.1", "psnr_0.5", "mse_0.1", "mse_0.5", "nfe"]
    assert [name for name in last if name not in ("step", "training_seconds", "loss")] == names
    text = Page(path / "report.html").text
    assert "Denoising of held-out images" in text
    assert "SSIM (min-max)" not in text
    for level in ("0.1", "0.5"):
        assert f"{1000 * float(last[f'mse_{level}']):.3g}" in text


@pytest.mark.parametrize("method", METHODS)
def test_the_error_in_batches_is_that_of_the_images_one_by_one(method, runs):
    folder, config = run_folder.open_existing(runs / method)
    model = loading_of_runs.load_model(folder, config, 1, CPU)
    measured = held_out_set.measure(model.denoise, load_held_out_images(config), LEVELS)
    truths = images_of("test")[:, None] / 255
    one_by_one = {}
    for level in LEVELS:
        errors = []
        for number, truth in enumerate(load_held_out_images(config)):
            y = held_out.with_noise(truth, level, number)[None]
            answer = model.method.denoise(
                model.network.eval(), y, torch.tensor([level]), model.known
            )
            assert min(np.abs(truth.numpy() - each).max() for each in truths) < 1e-6
            errors.append(float((answer[0] - truth).detach().double().square().mean()))
        one_by_one[f"mse_{level}"] = np.mean(errors)
    found = measured.means()
    for name, expected in one_by_one.items():
        assert found[name] == pytest.approx(expected, rel=1e-4)
    last = csv_rows(runs / method / "metrics.csv")[-1]
    assert float(last["mse_0.5"]) == pytest.approx(found["mse_0.5"], rel=1e-4)


def test_other_samples_are_of_the_classes_asked_for(mine, call, tmp_path):
    done = call("sample", mine, "-n", 3, "--classes", "0,9", "--out", "a")
    assert done.returncode == 0, done.stderr
    assert read_arrays(tmp_path / "a" / "samples.npz")["labels"].tolist() == [0, 9, 0]
    assert call("sample", mine, "-n", 3, "--set", "sample.classes=null", "--out", "b").stdout
    free = read_arrays(tmp_path / "b" / "samples.npz")
    assert free["labels"].tolist() == [10, 10, 10]  # no class
    before = read_arrays(mine / "samples.npz")["samples"]
    done = call("sample", mine, "--overwrite", "--seed", 5)
    assert done.returncode == 0, done.stderr
    again = read_arrays(mine / "samples.npz")
    assert again["samples"].shape == before.shape
    assert not np.array_equal(again["samples"], before)


def test_a_class_that_there_is_not_is_named_and_nothing_replaced(mine, call):
    before = tree(mine)
    done = call("sample", mine, "--classes", "dress", "--overwrite")
    assert_mistake(done, "sample.classes: 'dress' is not one of 0, 1, 2")
    assert tree(mine) == before


def test_classes_are_refused_of_a_model_that_knows_none(mine, call):
    text = (mine / "config.yml").read_text()
    text = re.sub(r"  classes:\n  - '3'\n  - '9'\n", "  classes: null\n", text)
    text = text.replace("image_conditioning: class", "image_conditioning: none")
    (mine / "config.yml").write_text(text)
    done = call("sample", mine, "--classes", "3", "--overwrite")
    assert_mistake(done, "sample.classes: the network is not conditioned on classes")


def test_the_images_are_read_again_and_checked(mine):
    folder, config = run_folder.open_existing(mine)
    samples, images = artifacts.read_samples(mine)
    assert len(samples) == 5
    assert torch.equal(images, load_training(config).images)
    assert len(images) == len(LABELS["train"])
    changed = config.data_loader.model_copy(update={"classes": ["3"]})
    with pytest.raises(RunFolderError, match="trained on other images"):
        artifacts.read_again(folder, config.model_copy(update={"data_loader": changed}))


def test_a_conditional_start_reads_the_images_again(mine, call, tmp_path):
    options = [*("--set", "sample.type=conditional"), *("--set", "sample.conditional_weight=1")]
    done = call("sample", mine, *options, "--out", "a")
    assert done.returncode == 0, done.stderr
    path = read_arrays(tmp_path / "a" / "samples.npz")["path"]
    np.testing.assert_allclose(path[0, :, 0], images_of("train")[:5] / 255, atol=1e-6)


def test_a_share_is_held_out_and_not_trained_on(files):
    part = ("held_out.dataset_part=null", "held_out.share=0.3")
    everything = {image.numpy().tobytes() for image in load_dataset(config_of(files).data_loader)}
    seen = []
    for seed in (0, 1, 2, 3):
        config = config_of(files, "residual", *part, f"held_out.seed={seed}")
        held = {image.numpy().tobytes() for image in load_held_out_images(config)}
        trained = load_training(config)
        kept = {image.numpy().tobytes() for image in trained.images}
        assert (len(held), len(kept)) == (2, 4)
        assert held | kept == everything
        for image, label in zip(trained.images, trained.labels.tolist(), strict=True):
            same = np.abs(images_of("train")[:, None] / 255 - image.numpy()).max(axis=(1, 2, 3))
            assert LABELS["train"][same.argmin()] == label
        seen.append(frozenset(held))
        assert torch.equal(load_training(config).images, trained.images)
    assert len(set(seen)) > 1
    config = config_of(files, "residual", *part, "held_out.num_images=1")
    assert len(load_held_out_images(config)) == 1
    assert len(load_training(config).images) == 4


def test_rotations_of_a_held_out_image_are_not_trained_on(files):
    changes = ("held_out.dataset_part=null", "held_out.share=0.3", "data_loader.rotate_augment=1")
    config = config_of(files, "residual", *changes)
    trained, held = load_training(config), load_held_out_images(config)
    assert (len(trained.images), len(trained.labels), len(held)) == (16, 16, 2)
    assert torch.equal(trained.labels[::4], trained.labels[3::4])
    turned = torch.cat([torch.rot90(held, k, dims=(2, 3)) for k in range(4)])
    assert torch.cdist(turned.flatten(1), trained.images.flatten(1)).min() > 1


REFUSED = {
    "share 0": (["held_out.dataset_part=null", "held_out.share=0"], "held_out.share: 0"),
    "share 1": (["held_out.dataset_part=null", "held_out.share=1"], "held_out.share: 1"),
    "two": (["held_out.share=0.5"], "dataset_part and share: only one source"),
    "photographs": (["held_out.image=[flower]"], "image and dataset_part: only one source"),
    "crop": (["held_out.crop=8"], "crop are of photographs"),
    "no part": (
        ["data_loader.dataset=folder", "model.image_conditioning=none", "sample.classes=null"],
        "held_out.dataset_part: data set folder has no test part",
    ),
    "no classes": (
        ["data_loader.dataset=folder", "held_out=null"],
        "class: data set folder has no classes",
    ),
    "method": (["diffusion.embedding=input"], "method score_embedding knows no classes"),
    "not conditioned": (["model.image_conditioning=none"], "network is not conditioned on classes"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_together_is_refused(changes, message, files):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_of(files, "residual", *changes)


def test_one_image_cannot_be_divided(files):
    changes = ("held_out.dataset_part=null", "held_out.share=0.5", "data_loader.num_images=1")
    with pytest.raises(DataError, match=r"held_out\.share: 1 image cannot be divided"):
        load_training(config_of(files, "residual", *changes))


def test_classes_that_the_test_part_lacks_are_named(files):
    changes = ("data_loader.classes=[0]", "sample.classes=all")
    with pytest.raises(DataError, match="held_out: mnist has no images of these classes"):
        load_held_out_images(config_of(files, "residual", *changes))


def test_classes_that_are_not_trained_on_cannot_be_sampled(files):
    config = config_of(files, "residual", "data_loader.classes=[3, 0]", "sample.classes=all")
    assert method_of(config).sampled_index(5, 1).tolist() == [0, 3, 0, 3, 0]
    other = config_of(files, "residual", "data_loader.classes=[3, 0]")
    with pytest.raises(DataError, match=r"sample\.classes: '9' is not one of 0, 3"):
        method_of(other).sampled_index(1, 1)


def test_a_share_of_the_labels_is_dropped():
    labels = Labels(torch.arange(10).repeat(100), none=10)
    places = torch.arange(1000).repeat(20)
    found = labels.of(places, torch.Generator().manual_seed(3))
    dropped = found == 10
    assert dropped.double().mean().item() == pytest.approx(DROPPED, abs=5 * (0.09 / 20_000) ** 0.5)
    assert torch.equal(found[~dropped], labels.numbers[places][~dropped])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_has_the_classes_of_its_images(method, files):
    config = config_of(files, method, "data_loader.batch_size=64")
    data, chosen = load_training(config), method_of(config)
    known = chosen.precompute(data.images, CPU)
    objective = chosen.objective(data.images, known, data.labels)
    generator = torch.Generator().manual_seed(0)
    batch = objective.draw_batch(0, generator)
    clean = batch.target if method == "residual" else None
    if clean is None:  # DDPM: the noise is the target
        abar = objective.scheduler.alphas_cumprod[batch.condition][:, None, None, None]
        clean = ((batch.x - (1 - abar).sqrt() * batch.target) / abar.sqrt() + 1) / 2
    nearest = torch.cdist(clean.flatten(1), data.images.flatten(1)).argmin(dim=1)
    known_class = batch.index != 10
    assert torch.equal(batch.index[known_class], data.labels[nearest][known_class])
    assert 40 < known_class.sum() < 64


@pytest.mark.parametrize("method", METHODS)
def test_training_makes_the_answer_depend_on_the_class(method, files):
    config = config_of(files, method)
    data, chosen = load_training(config), method_of(config)
    known = chosen.precompute(data.images, CPU)
    network = build_network(chosen, len(data.images), CPU)
    assert network.unet.class_embedding.num_embeddings == 11
    train(network, chosen.objective(data.images, known, data.labels), config)
    images = torch.zeros(2, 1, 28, 28)
    three, nine = (
        chosen.sample(network.eval(), images, torch.full((2,), k), known).x for k in (3, 9)
    )
    assert not torch.allclose(three, nine, atol=1e-6)


def test_a_sheet_has_a_row_for_each_class(runs):
    arrays = read_arrays(runs / "residual" / "samples.npz")
    figure = sheets.samples(arrays)
    assert [axis.get_title() for axis in figure.axes] == ["3", "9"]
    shown = figure.axes[0].images[0].get_array()
    first = np.clip(arrays["samples"][0, 0], 0, 1)
    assert np.array_equal(shown[:, :28], first)
    assert np.array_equal(shown[:, 58:], np.clip(arrays["samples"][4, 0], 0, 1))


def test_the_command_for_a_folder_of_pictures_has_a_config():
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"score-embedding run --config cifar10 (--set .*?)\n```", page, re.S)
    overrides = re.findall(r"--set (\S+)", command)
    config = loading.load("cifar10", overrides)
    assert config.held_out.share == 0.1
    assert (config.data_loader.dataset, config.name) == ("folder", "mine")


@pytest.mark.slow
def test_a_comparison_of_runs_on_a_data_set_has_their_errors(files, call, tmp_path):
    (tmp_path / "own.yml").write_text(loading.dump(config_of(files)))
    methods = "plain,gaussian_residual,gaussian_alone,ddpm_plain,input"
    options = ["--set", "image_density.side=4", "--set", "training.epochs=1"]
    done = call("compare", "--config", "own.yml", "--methods", methods, "--seeds", 0, *options)
    assert done.returncode == 0, done.stderr
    table = next(tmp_path.rglob("table.md")).read_text()
    assert "Held-out images denoised, at the end" in table
    assert "2 images of the test part" in table
    rows = csv_rows(next(tmp_path.rglob("runs.csv")))
    assert sorted(row["method"] for row in rows) == sorted(methods.split(","))
    for row in rows:
        assert f"{1000 * float(row['mse_0.5']):.3g}" in table


def test_a_density_alone_has_no_classes(files):
    method = method_of(config_of(files, "residual", "sample_method=closed_form"))
    assert method.sampled_index(3, 1).tolist() == [0, 0, 0]
    assert not method.knows_classes
