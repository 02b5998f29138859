"""The command line as a user meets it: real processes, or `main` itself where many are needed."""

import base64
import csv
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

from command_line import (
    SHIPPED,
    Page,
    assert_mistake,
    cut_in_half,
    empty,
    files_config,
    flip_a_bit,
    fresh,
    null,
    other_arrays,
    other_json,
    process,
    samples_of,
    sets,
    tree,
)
from score_embedding import atomic_files, cli, kinds
from score_embedding.config import loading
from score_embedding.errors import ConvergenceError
from score_embedding.methods import precomputation
from score_embedding.runs import folder as run_folder

# One test of its own is about this warning; the others need not fail with it.
pytestmark = pytest.mark.filterwarnings("ignore:FPDF.preload_image:DeprecationWarning")

METRICS = [f"{name}_{how}" for how in ("minmax", "clipped") for name in ("ssim", "psnr", "mse")]

# The whole command


def test_a_run_leaves_exactly_the_files_of_a_run_folder_and_nothing_else(finished):
    assert sorted(tree(finished.cwd)) == sorted(
        f"saves/quickstart_x_seed5/{name}" for name in SHIPPED
    )
    of_others = {
        *(run_folder.DUMP, kinds.DENSITY, kinds.PRECONDITIONING),
        *(run_folder.DENOISED, run_folder.DENOISED_PICTURE, run_folder.QUALITY),
    }
    assert set(SHIPPED) == set(run_folder.FILES) - of_others


def test_a_run_says_where_its_report_is(finished):
    assert finished.stdout == (
        "report: saves/quickstart_x_seed5/report.html and report.pdf beside it\n"
    )


def test_output_that_is_no_terminal_has_plain_lines(finished):
    for text in (finished.stdout, finished.stderr):
        assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f]", text) == []
    assert "network of" in finished.stderr


def test_lines_in_a_log_have_no_blanks_at_their_end(finished):
    lines = finished.stderr.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []


def test_the_config_is_kept_resolved(finished):
    changes = sets()[1::2]
    expected = loading.load("quickstart", [*changes, "training.seed=5"])
    assert loading.load(str(finished.folder / "config.yml")) == expected
    written = yaml.safe_load((finished.folder / "config.yml").read_text())
    assert written == expected.model_dump(mode="json")  # every key, defaults too


def test_the_fields_are_kept_with_their_shapes(finished):
    arrays = atomic_files.read_arrays(finished.folder / "scores.npz")
    n, times, shape = 1, 4, (3, 8, 8)
    assert arrays["images"].shape == (n, *shape)
    assert arrays["times"].shape == (times,)
    for name in ("log_density", "scores", "embedded"):
        assert arrays[name].shape == (n, times, *shape)
        assert np.isfinite(arrays[name]).all()
    assert np.ptp(arrays["scores"]) > 0
    assert json.loads(str(arrays["diagnostics"]))["scheme"] == "spectral"
    samples = atomic_files.read_arrays(finished.folder / "samples.npz")
    assert samples["samples"].shape == (n, *shape)
    np.testing.assert_array_equal(samples["path"][-1], samples["samples"])
    np.testing.assert_array_equal(samples["images"], arrays["images"])


def test_the_metrics_are_a_row_a_step(finished):
    with (finished.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "training_seconds", "loss", *METRICS, "nfe"]
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    seconds = [float(row["training_seconds"]) for row in rows]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    for row in rows:  # --profile with a tiny profile_freq: evaluated at each
        assert all(np.isfinite(float(row[name])) for name in ("loss", *METRICS))
    assert rows[-1]["nfe"] == "4.0"


def test_the_final_metrics_are_those_of_the_samples(finished):
    from skimage.metrics import structural_similarity

    arrays = atomic_files.read_arrays(finished.folder / "samples.npz")
    x, truth = arrays["samples"][0].astype(np.float64), arrays["images"][0].astype(np.float64)
    last = atomic_files.read_rows(finished.folder / "metrics.csv")[-1]
    clipped, scaled = x.clip(0, 1), (x - x.min()) / (x.max() - x.min())
    for how, shown in (("clipped", clipped), ("minmax", scaled)):
        expected = structural_similarity(shown, truth, data_range=1, channel_axis=0)
        assert last[f"ssim_{how}"] == pytest.approx(expected, abs=1e-6)
        assert last[f"mse_{how}"] == pytest.approx(np.mean((shown - truth) ** 2), rel=1e-5)


def test_the_seconds_are_apart_and_in_total(finished):
    timing = json.loads((finished.folder / "timing.json").read_text())
    stages = ["density", "solve", "embedding", "training", "evaluation", "sampling"]
    assert list(timing) == [*stages, "total"]
    assert all(timing[stage] > 0 for stage in stages)
    assert sum(timing[stage] for stage in stages) <= timing["total"]
    clock = sum(timing[stage] for stage in stages[:4])
    last = atomic_files.read_rows(finished.folder / "metrics.csv")[-1]
    assert last["training_seconds"] == pytest.approx(clock)


def test_the_environment_is_kept_without_naming_the_user(finished):
    text = (finished.folder / "environment.json").read_text()
    environment = json.loads(text)
    assert set(environment) == {
        "python", "packages", "platform", "device", "processor", "threads", "seed", "git_commit",
        "images_sha256",
    }  # fmt: skip
    assert environment["seed"] == 5
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "diffusers", "numpy", "scipy"} <= set(environment["packages"])
    assert str(Path.home()) not in text


def test_the_state_describes_the_weights(finished):
    state = json.loads((finished.folder / "state.json").read_text())
    content = (finished.folder / "model.safetensors").read_bytes()
    weights = load_file(finished.folder / "model.safetensors")
    digest = state["sha256"].encode()  # of the file with zeros in its place
    assert content.count(digest) == 1
    unsigned = content.replace(digest, b"0" * len(digest))
    assert hashlib.sha256(unsigned).hexdigest().encode() == digest
    assert state["step"] == 3
    assert state["parameters"] == sum(w.size for w in weights.values())


@pytest.mark.parametrize("name", ["sample.png", "scores.png"])
def test_the_pictures_open_and_show_something(finished, name):
    with Image.open(finished.folder / name) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
        assert np.asarray(picture.convert("L")).std() > 5


def test_the_pdf_has_pages(finished):
    content = (finished.folder / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type /Page\b(?!s)", content)) >= 2


def test_the_page_is_self_contained(finished):
    page = Page(finished.folder / "report.html")
    assert page.tags.count("img") == len(page.links) == 5
    for link in page.links:
        head, _, data = link.partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.verify()
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)
    assert not re.search(r"url\(|@import|https?://", page.source)


def test_the_page_states_prior_sampler_and_quality(finished):
    text = Page(finished.folder / "report.html").text
    assert "prior unit: N(0, 1² I); Heun, 2 steps; 4 NFE; seed 5" in text
    assert "1 image of 8 x 8 x 3 (sample)" in text
    last = atomic_files.read_rows(finished.folder / "metrics.csv")[-1]
    assert f"{last['ssim_minmax']:.4f}" in text
    assert f"{last['ssim_clipped']:.4f}" in text


def test_the_same_seed_gives_the_same_weights_and_samples_bit_for_bit(finished, call, tmp_path):
    done = call("run", "--config", "quickstart", "--seed", 5, "--out", "elsewhere", *sets())
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "elsewhere" / "quickstart_seed5"  # and without --profile
    assert os.listdir(tmp_path) == ["elsewhere"]
    first, second = tree(finished.folder), tree(folder)
    assert first["model.safetensors"] == second["model.safetensors"]
    arrays = [atomic_files.read_arrays(path / "samples.npz") for path in (finished.folder, folder)]
    np.testing.assert_array_equal(arrays[0]["samples"], arrays[1]["samples"])
    rows = atomic_files.read_rows(folder / "metrics.csv")
    assert ["ssim_minmax" in row for row in rows] == [False, False, True]


# After a run

AGAIN = ("run", "--no-train", "--config", "quickstart", "--seed", 5, "--folder-ext", "x")


def test_no_train_samples_anew_and_leaves_the_model(copied, call):
    before = tree(copied)
    (copied / "report.pdf").unlink()
    done = call(*AGAIN, *sets(sample__prior="matched"))
    assert done.returncode == 0, done.stderr
    after = tree(copied)
    assert set(after) == set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"samples.npz", "sample.png", "report.html", "report.pdf"}
    text = Page(copied / "report.html").text
    assert "prior matched: N(0, 1.47² I); Heun, 2 steps" in text
    assert text.count("samples from prior unit with") == 2  # the course of the training
    assert text.count("prior unit") == 2


def test_the_report_does_not_contradict_itself_after_sampling_anew(copied, call):
    assert call("sample", "--overwrite", copied, "--set", "sample.prior=matched").returncode == 0
    page = re.sub(r"\s*<[^>]+>\s*", "|", Page(copied / "report.html").source)
    assert "prior matched" in page
    assert "sample.prior||unit" not in page


def test_no_train_never_samples_with_another_equation_than_the_model_learned(copied, call):
    expected = atomic_files.read_arrays(copied / "samples.npz")["samples"]
    done = call(*AGAIN, *sets(diffusion__sigma=7))
    if done.returncode == 0:  # refused would be as good
        sampled = atomic_files.read_arrays(copied / "samples.npz")["samples"]
        np.testing.assert_array_equal(sampled, expected)
    else:
        assert_mistake(done, "diffusion.sigma")


def test_no_train_without_a_run_says_so(call, tmp_path):
    done = call("run", "--no-train", "--config", "quickstart", *sets())
    assert_mistake(done, "saves/quickstart", "not a run folder")
    assert tree(tmp_path) == {}


def test_a_seed_repeats_the_samples_and_another_changes_them(copied, call):
    drawn = [atomic_files.read_arrays(copied / "samples.npz")["samples"]]
    for seed in (5, 6):  # the run's own, in another process, and another
        done = call("sample", "--overwrite", copied, "--seed", seed)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"samples: {copied}/samples.npz and sample.png beside it\n"
        drawn.append(atomic_files.read_arrays(copied / "samples.npz")["samples"])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.01
    assert "seed 6" in Page(copied / "report.html").text
    assert sorted(tree(copied)) == sorted(SHIPPED)


def test_a_report_is_made_anew_from_the_folder_alone(copied, call_and_draw):
    html = (copied / "report.html").read_text(encoding="utf-8")
    before = tree(copied)
    for name in ("report.html", "report.pdf"):
        (copied / name).unlink()
    done = call_and_draw("report", copied)
    assert done.returncode == 0, done.stderr
    assert (copied / "report.html").read_text(encoding="utf-8") == html
    assert (copied / "report.pdf").read_bytes().startswith(b"%PDF-")
    after = tree(copied)
    assert {name for name in before if before[name] != after[name]} <= {"report.pdf"}


def test_a_report_is_made_without_warnings(copied, call_and_draw):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = call_and_draw("report", copied)
    assert done.returncode == 0, done.stderr


def change_config(folder, **data_loader):
    values = yaml.safe_load((folder / "config.yml").read_text())
    values["data_loader"] |= data_loader
    loading.write_document(folder / "config.yml", yaml.safe_dump(values))


@pytest.mark.slow
def test_markup_in_the_names_of_images_is_shown_not_obeyed(copied, call_and_draw):
    name = "<script>alert(1)</script>&amp; [red]x[/red] **b**.png"
    change_config(copied, dataset="files", path=[name])
    assert call_and_draw("report", copied).returncode == 0
    page = Page(copied / "report.html")
    assert "script" not in page.tags
    assert name in page.text


@pytest.mark.slow
def test_a_run_on_many_files_gets_its_report(copied, call_and_draw):
    change_config(copied, dataset="files", path=[f"photographs/IMG_{i:05}.png" for i in range(400)])
    done = call_and_draw("report", copied)
    assert done.returncode == 0, done.stderr


def test_solving_alone_leaves_the_fields_and_their_picture(pictures, call, tmp_path):
    before = set(tree(tmp_path))
    done = call("solve", *pictures[:2], "--size", 8, "--out", "fields")
    assert done.returncode == 0, done.stderr
    names = ("scores.npz", "scores.png", "diagnostics.json")
    assert set(tree(tmp_path)) - before == {f"fields/{name}" for name in names}
    arrays = atomic_files.read_arrays(tmp_path / "fields" / "scores.npz")
    assert arrays["scores"].shape == (2, 20, 3, 8, 8)
    assert np.isfinite(arrays["scores"]).all()
    kept = tree(tmp_path)
    again = call("solve", *pictures[:2], "--size", 8, "--out", "fields")
    assert_mistake(again, "fields/scores.npz", "--overwrite", "--out")
    assert tree(tmp_path) == kept
    options = ("--overwrite", "--set", "diffusion.sigma=2")
    assert call("solve", pictures[0], "--out", "fields", *options).returncode == 0
    replaced = atomic_files.read_arrays(tmp_path / "fields" / "scores.npz")
    assert replaced["scores"].shape == (1, 20, 3, 32, 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "spectral, reflect boundary, drift none: exact in time"),
        (("--boundary", "zero", "--scheme", "implicit"), "implicit, zero boundary, drift none"),
        (("--scheme", "krylov", "--drift", 0.05), "krylov, reflect boundary, drift -0.05 x"),
        (("--scheme", "published"), "published, wrapping boundary, drift none"),
        (("--drift", 0.05), "spectral, reflect boundary, drift -0.05 x: no iteration"),
    ],
)
def test_a_solve_says_and_writes_what_it_did(options, said, pictures, call, tmp_path):
    done = call("solve", *pictures[:3], "--size", 8, "-N", 7, "--out", "fields", *options)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    diagnostics = json.loads((tmp_path / "fields" / "diagnostics.json").read_text())
    assert (diagnostics["images"], diagnostics["num_timesteps"]) == (3, 7)
    iterated = diagnostics["scheme"] != "spectral"
    assert bool(diagnostics["residuals"]) == iterated
    assert diagnostics["iterations"] == [len(step) for step in diagnostics["residuals"]]
    if not iterated:
        assert diagnostics["largest_relative_change_of_mass"] < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        *((), ("--boundary", "zero", "--scheme", "implicit")),
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (("--scheme", "krylov"), ("--scheme", "published"), ("--drift", 0.05))
        ),
    ],
    ids=lambda options: " ".join(map(str, options)) or "default",
)
def test_a_solve_draws_its_fields(options, pictures, call_and_draw, tmp_path):
    done = call_and_draw("solve", *pictures, "--size", 8, "-N", 7, "--out", "fields", *options)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "fields" / "scores.png") as picture:
        assert picture.size[1] > 1000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scheme", "publshed"), ("diffusion.scheme", "did you mean 'published'")),
        (("--boundary", "periodic"), ("diffusion.boundary", "'reflect' or 'zero'")),
        (("--drift", -1), ("diffusion.drift", "greater than or equal to 0")),
        (("--drift", 1, "--boundary", "zero"), ("diffusion", "only with boundary reflect")),
        (("--scheme", "published", "--drift", 1), ("diffusion", "published knows no drift")),
        (("-N", 0), ("diffusion.num_timesteps",)),
    ],
)
def test_a_solve_that_cannot_be_is_refused(options, said, pictures, call, tmp_path):
    before = tree(tmp_path)
    assert_mistake(call("solve", pictures[0], "--out", "fields", *options), *said)
    assert tree(tmp_path) == before


def test_a_solve_that_does_not_converge_leaves_nothing(pictures, call, tmp_path):
    before = tree(tmp_path)
    options = ("--scheme", "implicit", "-N", 3, "--drift", 300)
    done = call("solve", pictures[0], "--out", "fields", *options)
    assert done.returncode == 3
    assert "implicit solve, image 0, channel" in done.stderr
    assert "the spectral scheme" in done.stderr
    assert tree(tmp_path) == before


def test_more_images_than_memory_holds_are_solved_into_a_mapped_file(
    pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(precomputation, "IN_MEMORY", 0)
    monkeypatch.setattr(precomputation, "SHOWN", 2)
    monkeypatch.chdir(tmp_path)
    arguments = ["solve", *pictures[:3], "--size", "8", "--out", "many"]
    monkeypatch.setattr(sys, "argv", ["score-embedding", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    scores = np.load(tmp_path / "many" / "scores.npy", mmap_mode="r")
    first = atomic_files.read_arrays(tmp_path / "many" / "scores.npz")
    assert scores.shape == (3, 20, 3, 8, 8)
    assert (first["scores"].shape, first["images"].shape) == ((2, 20, 3, 8, 8), (3, 3, 8, 8))
    np.testing.assert_allclose(scores[:2], first["scores"], rtol=0, atol=1e-4)
    diagnostics = json.loads((tmp_path / "many" / "diagnostics.json").read_text())
    assert diagnostics["images"] == 3
    assert "scores.npy" in capsys.readouterr().out


def test_a_run_that_cannot_be_precomputed_as_asked_creates_nothing(call, tmp_path):
    before = tree(tmp_path)
    done = call("run", "--config", "quickstart", "--set", "diffusion.embedding=shuffled")
    assert_mistake(done, "diffusion.embedding shuffled", "two images or more")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"data_loader__image_size": "[2,64]"}, ["2x64", "SSIM needs sides of 3"]),
        (
            {"data_loader__image_size": 4, "model__ch_mult": "[1,1,1]"},
            ["4x4 is too small for the network", "model.ch_mult"],
        ),
    ],
)
def test_images_that_are_too_small_are_refused_before_anything_is_made(
    call, tmp_path, changes, parts
):
    done = call("run", "--config", "quickstart", *sets(**changes))
    assert_mistake(done, "data_loader.image_size: ", *parts)
    assert tree(tmp_path) == {}


def test_solving_into_a_run_folder_is_refused(copied, pictures, call):
    before = tree(copied)
    done = call("solve", pictures[0], "--out", copied, "--overwrite")
    assert_mistake(done, str(copied), "--out")
    assert tree(copied) == before


# Other data


def test_three_images_are_distinguished_by_an_index(pictures, call, tmp_path):
    conditional = {"sample__type": "conditional", "sample__conditional_weight": 0.5}
    done = call("run", "--config", "quickstart", *files_config(pictures, **conditional))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saves" / "quickstart"
    assert load_file(folder / "model.safetensors")["unet.class_embedding.weight"].shape[0] == 3
    assert len(atomic_files.read_rows(folder / "metrics.csv")) == 9
    arrays = atomic_files.read_arrays(folder / "samples.npz")
    assert arrays["samples"].shape == (3, 3, 8, 8)
    text = Page(folder / "report.html").text
    assert "3 images of 8 x 8 x 3" in text
    assert "start 0.5 image + 0.5 N(0, 2² I)" in text
    for path in pictures:
        (tmp_path / path).unlink()  # the folder has its own copy
    again = call("sample", "--overwrite", folder)
    assert again.returncode == 0, again.stderr
    repeated = atomic_files.read_arrays(folder / "samples.npz")
    np.testing.assert_array_equal(repeated["samples"], arrays["samples"])


GREY = {"data_loader__channels": 1, "model__in_channels": 1, "model__out_channels": 1}


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        (GREY | {"data_loader__image_size": "[8,16]"}, (1, 8, 16)),
        ({"diffusion__num_timesteps": 1, "training__epochs": 1}, (3, 8, 8)),
    ],
    ids=["grey and not square", "one time and one step"],
)
def test_unusual_shapes_run_through(call, tmp_path, changes, shape):
    done = call("run", "--config", "quickstart", "--profile", *sets(**changes))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saves" / "quickstart"
    assert sorted(tree(folder)) == sorted(SHIPPED)
    samples = atomic_files.read_arrays(folder / "samples.npz")["samples"]
    assert samples.shape == (1, *shape)
    assert np.isfinite(samples).all()


def test_a_constant_image_runs_through_with_a_score_of_zero(call, tmp_path):
    Image.new("RGB", (8, 8), (90, 90, 90)).save(tmp_path / "grey.png")
    done = call("run", "--config", "quickstart", *files_config(["grey.png"]))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saves" / "quickstart"
    scores = atomic_files.read_arrays(folder / "scores.npz")["scores"]
    assert np.abs(scores).max() < 1e-12
    assert sorted(tree(folder)) == sorted(SHIPPED)


# Other methods

BASELINE_FILES = sorted(set(SHIPPED) - {"scores.npz", "scores.png"})


def test_a_baseline_leaves_a_run_folder_without_a_solve(finished_baseline):
    folder = finished_baseline / "saves" / "base"
    assert sorted(tree(folder)) == BASELINE_FILES
    timing = json.loads((folder / "timing.json").read_text())
    assert list(timing) == ["training", "evaluation", "sampling", "total"]
    arrays = samples_of(folder)
    assert arrays["samples"].shape == arrays["images"].shape == (1, 3, 8, 8)
    assert arrays["truth"].tolist() == [0]
    described = json.loads(str(arrays["description"]))
    assert (described["method"], described["prior"], described["prior_std"]) == ("ddpm", "unit", 1)
    assert loading.load(str(folder / "config.yml")).method == "ddpm"


def test_the_report_of_a_baseline_names_method_prior_and_evaluations(finished_baseline):
    folder = finished_baseline / "saves" / "base"
    page = Page(folder / "report.html")
    assert "DDPM, 1 image of 8 x 8 x 3 (sample)" in page.text
    assert "prior unit: N(0, 1² I); DDPM, published chain of 10 steps; 10 NFE; seed 0" in page.text
    assert "Fokker-Planck" not in page.text
    assert page.tags.count("img") == 3
    last = atomic_files.read_rows(folder / "metrics.csv")[-1]
    assert f"{last['ssim_minmax']:.4f}" in page.text
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_every_prior_that_is_profiled_has_its_metrics_and_samples(finished_baseline):
    folder = finished_baseline / "saves" / "base"
    rows = atomic_files.read_rows(folder / "metrics.csv")
    matched = [f"matched_{name}" for name in (*METRICS, "nfe")]
    assert list(rows[0]) == ["step", "training_seconds", "loss", *METRICS, "nfe", *matched]
    assert all(np.isfinite(row[name]) for row in rows for name in matched)
    assert len(rows) == 3
    arrays = samples_of(folder)
    difference = np.abs(arrays["samples"] - arrays["samples_matched"]).max()
    assert 0.001 < difference < 2
    assert "samples_unit" not in arrays
    x, truth = (arrays[name][0].astype(np.float64) for name in ("samples_matched", "images"))
    expected = np.mean((x.clip(0, 1) - truth) ** 2)
    assert rows[-1]["matched_mse_clipped"] == pytest.approx(expected, rel=1e-5)


def test_a_baseline_is_sampled_anew_without_training(baseline, call):
    before = tree(baseline)
    overrides = ("--set", "sample.prior=matched", "--set", "sample.steps=5")
    done = call("run", "--no-train", "--config", "base.yml", *overrides)
    assert done.returncode == 0, done.stderr
    after = tree(baseline)
    assert set(after) == set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"samples.npz", "sample.png", "report.html", "report.pdf"}
    width = json.loads(str(samples_of(baseline)["description"]))["prior_std"]
    text = Page(baseline / "report.html").text
    assert 0.8 < width < 1
    assert f"prior matched: N(0, {width:.3g}² I); DDPM, published chain of 5 steps; 5 NFE" in text


def test_no_train_with_another_method_than_the_model_learned_is_refused(baseline, call):
    before = tree(baseline)
    other = ("--set", "sample_method=ddim", "--set", "training.warmup=3")
    done = call("run", "--no-train", "--config", "base.yml", *other)
    assert_mistake(done, "sample_method", "training.warmup")
    assert tree(baseline) == before


def test_a_seed_repeats_the_samples_of_a_baseline_and_another_changes_them(baseline, call):
    drawn = [samples_of(baseline)["samples"]]
    for seed in (0, 6):
        done = call("sample", "--overwrite", baseline, "--seed", seed)
        assert done.returncode == 0, done.stderr
        drawn.append(samples_of(baseline)["samples"])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.01
    assert "seed 6" in Page(baseline / "report.html").text


@pytest.mark.slow
def test_the_report_of_a_baseline_is_made_anew(baseline, call_and_draw):
    html = (baseline / "report.html").read_text(encoding="utf-8")
    for name in ("report.html", "report.pdf"):
        (baseline / name).unlink()
    done = call_and_draw("report", baseline)
    assert done.returncode == 0, done.stderr
    assert (baseline / "report.html").read_text(encoding="utf-8") == html
    assert sorted(tree(baseline)) == BASELINE_FILES


@pytest.mark.parametrize("name", ["model.safetensors", "samples.npz", "config.yml"])
def test_damage_to_a_baseline_is_named(baseline, call, name):
    cut_in_half(baseline / name)
    before = tree(baseline)
    assert_mistake(call("sample", "--overwrite", baseline), name)
    assert tree(baseline) == before


def test_a_baseline_whose_loss_is_not_finite_leaves_what_reproduces_it(baseline, call):
    options = ("--overwrite", "--set", "training.lr=1e30", "--set", "training.warmup=off")
    done = call("run", "--config", "base.yml", *options)
    assert_mistake(done, "the loss is", "training.lr", "divergence.npz", code=3)
    dump = atomic_files.read_arrays(baseline / "divergence.npz")
    assert dump["x"].shape == dump["target"].shape == (4, 3, 8, 8)
    assert dump["condition"].max() < 10
    assert "model.safetensors" not in tree(baseline)


CLOSED_FILES = [
    *("config.yml", "environment.json", "metrics.csv", "report.html", "report.pdf"),
    *("sample.png", "samples.npz", "timing.json"),
]


def closed_form(*arguments, **changes):
    changed = sets(sample_method="closed_form", **changes)
    return ("run", "--config", "quickstart", *changed, *arguments)


def test_the_closed_form_runs_without_a_model(call, tmp_path):
    done = call(*closed_form(sample__denoise=True))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saves" / "quickstart"
    assert sorted(tree(folder)) == CLOSED_FILES
    (row,) = atomic_files.read_rows(folder / "metrics.csv")
    assert (row["step"], row["training_seconds"], row["nfe"]) == (0, 0, 5)
    arrays = samples_of(folder)
    np.testing.assert_allclose(arrays["samples"], arrays["images"], rtol=0, atol=1e-5)
    page = Page(folder / "report.html")
    assert "Exact score of the images, no training" in page.text
    assert "Heun, 2 steps, denoised at the end; 5 NFE; seed 0" in page.text
    assert "M parameters" not in page.text
    assert page.tags.count("img") == 2


def test_the_closed_form_is_sampled_and_reported_anew(call, tmp_path):
    assert call(*closed_form()).returncode == 0
    folder = tmp_path / "saves" / "quickstart"
    first = samples_of(folder)["samples"]
    assert call("sample", "--overwrite", folder, "--seed", 4).returncode == 0
    assert np.abs(samples_of(folder)["samples"] - first).max() > 0.01
    assert call(*closed_form("--no-train")).returncode == 0
    np.testing.assert_array_equal(samples_of(folder)["samples"], first)
    assert call("report", folder).returncode == 0
    assert sorted(tree(folder)) == CLOSED_FILES


def test_the_samples_of_the_closed_form_are_compared_with_the_image_they_are_nearest_to(
    pictures, call, tmp_path
):
    shown = files_config(pictures, sample__solver="rk45", sample__denoise=True)
    options = ("--set", "sample_method=closed_form", "--set", "sample.prior=matched")
    done = call("run", "--config", "quickstart", *shown, *options)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saves" / "quickstart"
    arrays = samples_of(folder)
    distance = np.abs(arrays["samples"][:, None] - arrays["images"][None]).max(axis=(2, 3, 4))
    assert arrays["truth"].tolist() == distance.argmin(axis=1).tolist()
    expected = np.mean((arrays["samples"].clip(0, 1) - arrays["images"][arrays["truth"]]) ** 2)
    (row,) = atomic_files.read_rows(folder / "metrics.csv")
    assert row["mse_clipped"] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_a_network_without_an_index_is_trained_on_the_exact_target(pictures, call, tmp_path):
    options = ("--set", "training.target=exact")
    asked = files_config(pictures, training__epochs=1)
    refused = call("run", "--config", "quickstart", *asked, *options)
    assert_mistake(refused, "training.target", "model.image_conditioning: none")
    assert not (tmp_path / "saves").exists()
    done = call(
        *("run", "--config", "quickstart", *asked, *options, "--set", "model.image_index=false")
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saves" / "quickstart"
    assert sorted(tree(folder)) == sorted(SHIPPED)
    weights = load_file(folder / "model.safetensors")
    assert [name for name in weights if "class_embedding" in name] == []


# Help and lists


def test_help_is_quick_and_lists_the_commands(tmp_path):
    started = time.perf_counter()
    done = fresh(tmp_path, "--help")
    assert time.perf_counter() - started < 2
    assert done.returncode == 0
    for command in ("run", "solve", "sample", "report", "evaluate", "configs"):
        assert re.search(rf"^  {command} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", ["--help", "run --help", "configs", "run --config nope"])
def test_light_commands_load_no_torch(tmp_path, command):
    script = (
        "import sys\nfrom score_embedding.cli import main\n"
        f"sys.argv[1:] = {shlex.split(command)!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'matplotlib', 'scipy', 'skimage'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_configs_are_listed_one_a_line(tmp_path):
    done = fresh(tmp_path, "configs")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*loading.bundled(), *loading.bundled_sweeps()]
    assert all(len(line.split()) > 2 for line in lines)  # a title beside each name


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path):
    command = f"{shlex.quote(sys.executable)} -m score_embedding configs | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_the_version_is_shown(tmp_path):
    from score_embedding import __version__

    assert fresh(tmp_path, "--version").stdout == f"score-embedding {__version__}\n"


@pytest.mark.parametrize("arguments", ["--debug run --config nope", "run --config nope --debug"])
def test_debug_shows_the_traceback_and_keeps_the_status(arguments, tmp_path):
    done = process(tmp_path, *arguments.split())
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("run --config quikstart", ["'quikstart'", "did you mean 'quickstart'", "cifar1"]),
        (
            "run --config quickstart --set training.epoch=3",
            ["training.epoch", "unknown key", "did you mean 'epochs'"],
        ),
        ("run --config quickstart --set epochs", ["--set 'epochs'", "section.key=value"]),
        ("run --config quickstart --set training.epochs=0", ["training.epochs", "0"]),
        ("run --config quickstart --folder-ext a/b", ["--folder-ext 'a/b'", "letters"]),
        ("run --config quickstart --seed -1", ["training.seed", "-1"]),
        ("run --config quickstart --set data_loader.image_size=9", ["image_size: 9x9", "8 or 16"]),
        ("sample nowhere", ["nowhere", "not a run folder", "config.yml"]),
        ("sample nowhere --set training.epochs=3", ["training.epochs=3", "sample section"]),
        ("solve photo.png --size 0", ["data_loader.image_size", "0"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy_and_nothing_is_created(tmp_path, arguments, parts):
    assert_mistake(process(tmp_path, *arguments.split()), *parts)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("run --config quickstart --device gpu", ["--device gpu", "auto", "cpu"]),
        ("report nowhere", ["nowhere", "not a run folder"]),
        ("solve photo.png other.png", ["photo.png: no such file", "other.png: no such file"]),
        (
            "run --config quickstart --set data_loader.image=astronot",
            ["data_loader.image", "astronot", "astronaut"],
        ),
        (
            "run --config quickstart --set data_loader.dataset=files "
            "--set data_loader.path=[a.png,b.png] --set data_loader.num_images=2",
            ["a.png: no such file", "b.png: no such file"],
        ),
    ],
)
def test_a_mistake_found_late_leaves_nothing_either(call, tmp_path, arguments, parts):
    assert_mistake(call(*arguments.split()), *parts)
    assert os.listdir(tmp_path) == []


def test_a_run_is_never_replaced_unasked(finished):
    before = tree(finished.cwd)
    command = ("run", "--config", "quickstart", "--seed", 5, "--folder-ext", "x")
    same = process(finished.cwd, *command, *sets())
    assert_mistake(same, "run of this config", "--overwrite", "--folder-ext", "--no-train")
    other = process(finished.cwd, *command, *sets(training__epochs=1))
    assert_mistake(other, "run of another config", "--overwrite", "--folder-ext")
    assert tree(finished.cwd) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_of_other_files_is_never_a_run_folder(tmp_path, overwrite):
    folder = tmp_path / "saves" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    before = tree(tmp_path)
    done = process(tmp_path, "run", "--config", "quickstart", *overwrite)
    assert_mistake(done, "saves/quickstart", "--out", "--folder-ext")
    assert tree(tmp_path) == before


RERUN = ("run", "--config", "quickstart", "--seed", 5, "--folder-ext", "x", "--overwrite")


def test_overwriting_replaces_a_run_and_leaves_foreign_files(copied, call):
    (copied / "notes.txt").write_text("mine")
    (copied / "divergence.npz").write_bytes(b"of the earlier run")
    before = tree(copied)
    done = call(*RERUN, *sets(training__epochs=1))
    assert done.returncode == 0, done.stderr
    after = tree(copied)
    assert sorted(after) == sorted([*SHIPPED, "notes.txt"])
    assert after["notes.txt"] == before["notes.txt"]
    assert after["model.safetensors"] != before["model.safetensors"]
    assert len(atomic_files.read_rows(copied / "metrics.csv")) == 1


@pytest.mark.parametrize("mistake", ["empty image", "unknown device"])
def test_overwriting_with_a_mistake_keeps_the_old_run_whole(copied, call, tmp_path, mistake):
    before = tree(copied)
    if mistake == "empty image":
        (tmp_path / "a.png").touch()
        done = call(*RERUN, *files_config(["a.png"]))
        assert_mistake(done, "a.png: an empty file")
    else:
        assert_mistake(call(*RERUN, "--device", "tpu"), "--device tpu")
    assert tree(copied) == before


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"diffusion__embedding": "residual"},
            ["image_density.components: 20 cannot be fitted to 1 window(s) of side 8"],
        ),
        ({"diffusion__dh": 1e300}, ["diffusion.dh", "1000000"]),
        ({"diffusion__dh": 1e-300}, ["diffusion.dh", "0.000001"]),
    ],
)
def test_overwriting_by_a_run_that_cannot_be_precomputed_keeps_the_old_run(
    copied, call, changes, parts
):
    before = tree(copied)
    assert_mistake(call(*RERUN, *sets(**changes)), *parts)
    assert tree(copied) == before


def test_overwriting_by_a_solve_that_does_not_converge_keeps_the_old_run(copied, call, monkeypatch):
    def fails(*_):
        raise ConvergenceError("no end of it", [1.0])

    monkeypatch.setattr(precomputation, "precompute", fails)
    before = tree(copied)
    assert_mistake(call(*RERUN, *sets(training__epochs=1)), "no end of it", code=3)
    assert tree(copied) == before


@pytest.mark.parametrize(
    "command", ["run --config quickstart --out file", "solve a.png --out file"]
)
def test_a_file_where_a_folder_should_go_is_a_mistake_not_a_crash(
    call, pictures, tmp_path, command
):
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    done = call(*command.split(), *(sets() if command.startswith("run") else ["--size", "8"]))
    assert_mistake(done, "file")
    assert pictures
    assert tree(tmp_path) == before


# Damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", flip_a_bit),
        ("model.safetensors", cut_in_half),
        ("model.safetensors", empty),
        ("model.safetensors", Path.unlink),
        ("state.json", cut_in_half),
        ("state.json", null),
        ("state.json", other_json),
        ("state.json", Path.unlink),
        ("scores.npz", flip_a_bit),
        ("scores.npz", cut_in_half),
        ("scores.npz", empty),
        ("scores.npz", other_arrays),
        ("scores.npz", Path.unlink),
        ("config.yml", cut_in_half),
        ("config.yml", empty),
    ],
)
def test_damage_is_named_before_anything_is_sampled(copied, call, name, damage):
    damage(copied / name)
    before = tree(copied)
    assert_mistake(call("sample", "--overwrite", copied), name)
    assert tree(copied) == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.csv", cut_in_half),
        ("metrics.csv", empty),
        ("timing.json", cut_in_half),
        ("timing.json", null),
        ("environment.json", other_json),
        ("samples.npz", cut_in_half),
        ("samples.npz", other_arrays),
        ("samples.npz", Path.unlink),
        ("scores.npz", flip_a_bit),
    ],
)
def test_damage_is_named_before_a_report_is_replaced(copied, call, name, damage):
    damage(copied / name)
    before = tree(copied)
    assert_mistake(call("report", copied), name)
    assert tree(copied) == before


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("truth", np.array([-1]), "truth names other images than the 1"),
        ("truth", np.array([1]), "truth names other images than the 1"),
        ("truth", np.array([0.0]), "truth names other images than the 1"),
        ("truth", np.array([0, 0]), "shapes"),
        ("samples", np.full((1, 3, 8, 8), np.nan, np.float32), "not finite"),
        ("samples", np.zeros((1, 3, 8, 4), np.float32), "shapes"),
        ("images", np.full((1, 3, 8, 8), "x"), "not finite"),
    ],
)
def test_a_report_is_not_made_of_samples_that_no_run_writes(copied, call, name, value, problem):
    arrays = atomic_files.read_arrays(copied / "samples.npz")
    atomic_files.write_arrays(copied / "samples.npz", arrays | {name: value})
    before = tree(copied)
    assert_mistake(call("report", copied), f"{copied / 'samples.npz'}: damaged", problem)
    assert tree(copied) == before


@pytest.mark.parametrize("count", [10**12 + 1, 2**63, 10**400])
def test_a_number_of_samples_that_nothing_holds_is_refused(copied, call, count):
    done = call("sample", copied, "-n", count, "--out", "more")
    assert_mistake(done, "1000000000000")


def test_a_seed_that_is_none_is_refused_before_anything_is_sampled(copied, call):
    before = tree(copied)
    assert_mistake(call("sample", "--overwrite", copied, "--seed", "-1"), "training.seed", "-1")
    assert tree(copied) == before


def test_weights_of_another_network_are_refused(copied, call):
    values = yaml.safe_load((copied / "config.yml").read_text())
    values["model"]["ch"] = 12
    loading.write_document(copied / "config.yml", yaml.safe_dump(values))
    assert_mistake(call("sample", "--overwrite", copied), "model.safetensors", "config.yml")


# Divergence


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_what_reproduces_it(call, tmp_path):
    done = call("run", "--config", "quickstart", *sets(training__lr=1e30))
    assert_mistake(done, "the loss is", "training.lr", "divergence.npz", code=3)
    folder = tmp_path / "saves" / "quickstart"
    left = set(tree(folder))
    assert {"config.yml", "divergence.npz", "scores.npz"} <= left
    assert left.isdisjoint({"model.safetensors", "state.json", "samples.npz", "report.html"})
    dump = atomic_files.read_arrays(folder / "divergence.npz")
    assert dump["x"].shape == dump["target"].shape == (4, 3, 8, 8)
    assert dump["condition"].shape == (4,)
    assert max(float(np.abs(dump[name]).max()) for name in dump if "weights/" in name) > 1e20
    assert_mistake(
        call("sample", "--overwrite", folder),
        "lacks model.safetensors",
        "did not finish",
        "--resume",
    )


def test_a_score_that_is_not_finite_while_evaluating_leaves_what_reproduces_it(call, tmp_path):
    done = call("run", "--config", "quickstart", "--profile", *sets(training__lr=1e30))
    assert_mistake(done, "not finite", code=3)
    left = set(tree(tmp_path / "saves" / "quickstart"))
    assert "divergence.npz" in left
    assert "model.safetensors" not in left


def test_a_path_in_the_log_is_not_broken_over_lines(call, tmp_path):
    out = tmp_path / ("a-long-name-" * 8)
    done = call("run", "--config", "quickstart", "--out", out, *sets(training__lr=1e30))
    assert str(out / "quickstart" / "divergence.npz") in done.stderr


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("diffusion.solve_tolerance=1e-4", "scheme spectral does not read it"),
        ("image_density.kind=white", "score_embedding does not read it"),
        ("diffusion.dh=2", ""),
    ],
)
def test_an_option_without_effect_is_told(call, tmp_path, option, told):
    missing = ("--set", f"data_loader.image={tmp_path.name}")  # ends before any work
    done = call("run", "--config", "quickstart", "--set", option, *missing)
    assert done.returncode == 2
    warned = [line for line in done.stderr.splitlines() if "has no effect" in line]
    assert len(warned) == bool(told)
    assert told in "".join(warned)
