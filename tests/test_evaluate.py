"""The command evaluate: quality of a run on a data set, from its folder."""

import json

import numpy as np
import pytest
import torch

import idx_files
from command_line import assert_mistake, sets
from score_embedding.data.datasets import load_labelled
from score_embedding.evaluation import denoiser_error, features, quality
from score_embedding.runs import artifacts, loading
from score_embedding.runs import folder as run_folder

CPU = torch.device("cpu")
OF_DATASET = {
    "data_loader__dataset": "fashion_mnist",
    "data_loader__classes": "all",
    "data_loader__image": "null",
    "data_loader__num_images": 6,
    "data_loader__channels": 1,
    "model__in_channels": 1,
    "model__out_channels": 1,
    "diffusion__embedding": "residual",
    "image_density__kind": "white",
}


@pytest.fixture
def run(call, tmp_path):
    """The folder of a tiny run on six images, with two in the test part."""
    path = idx_files.write(tmp_path / "idx")
    done = call("run", "--config", "quickstart", *sets(**OF_DATASET, data_loader__path=str(path)))
    assert done.returncode == 0, done.stderr
    return tmp_path / "saves" / "quickstart"


def test_the_result_is_that_of_the_library(run, call):
    done = call("evaluate", run)
    assert done.returncode == 0, done.stderr
    values = json.loads((run / run_folder.QUALITY).read_text(encoding="utf-8"))
    samples, images = artifacts.read_samples(run)
    folder, config = run_folder.open_existing(run)
    tests = load_labelled(config.data_loader, "test").images
    network = features.load(features.BUNDLED["fashion_mnist"], CPU)
    expected = quality.measure(samples, quality.reference(images, network, tests))
    assert {key: values[key] for key in vars(expected)} == pytest.approx(vars(expected))
    assert (values["samples"], values["images"], values["floor_images"]) == (6, 6, 2)
    model = loading.load_model(folder, config, len(images), CPU)
    errors = denoiser_error.errors(model.denoise, tests)
    assert values["held_out"] == 2
    assert values["errors"] == {f"{s:g}": pytest.approx(e) for s, e in errors.items()}
    assert "Fréchet distance of 6 samples" in done.stdout
    assert "SHA-256" in done.stdout  # which features
    (line,) = [line for line in done.stdout.splitlines() if "noise 0.5," in line]
    assert line.split()[-1] == f"{1000 * errors[0.5]:.2f}"


def test_new_samples_remove_what_was_measured_of_the_old_ones(run, call):
    assert call("evaluate", run).returncode == 0
    assert call("sample", run, "--overwrite", "--seed", 3).returncode == 0
    assert not (run / run_folder.QUALITY).exists()


def test_a_run_of_another_data_set_needs_features(copied, call):
    assert_mistake(call("evaluate", copied), "--features is needed")
    done = call("evaluate", copied, "--features", features.BUNDLED["fashion_mnist"])
    assert_mistake(done, "takes images of 1 channel(s), these have 3")


def test_a_run_without_samples_or_with_too_few_is_refused(run, call):
    arrays = dict(np.load(run / run_folder.SAMPLES))
    arrays["samples"] = arrays["samples"][:3]
    np.savez(run / run_folder.SAMPLES, **arrays)
    assert_mistake(call("evaluate", run), "more than 3 of both are needed")
    (run / run_folder.SAMPLES).unlink()
    assert_mistake(call("evaluate", run), "no samples to evaluate")
    assert not (run / run_folder.QUALITY).exists()
