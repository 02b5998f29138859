"""Runs measured on photographs held out, by the real command line."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from command_line import Page, assert_mistake, process, start, tree
from score_embedding import atomic_files, densities
from score_embedding.comparison import spec
from score_embedding.config import loading

pytestmark = pytest.mark.filterwarnings("ignore:FPDF.preload_image:DeprecationWarning")

TINY = [
    *("data_loader.image=[chelsea]", "data_loader.num_images=4", "data_loader.batch_size=2"),
    *("data_loader.image_size=16", "model.ch=8", "model.ch_mult=[1,2]", "misc.profile_freq=1e-6"),
    *("image_density.arrays=300", "image_density.components=2", "sample.solver=heun"),
    *("held_out.image=[flower,china]", "held_out.crop=15", "held_out.levels=[0.1,0.5]"),
]
ALWAYS = [
    "config.yml",
    "environment.json",
    "metrics.csv",
    "report.html",
    "report.pdf",
    "timing.json",
]
DENSITY = ["density.safetensors", "preconditioning.json"]
DENOISED = ["denoised.npz", "denoised.png"]
WEIGHTS = ["model.safetensors", "state.json"]
COLUMNS = ["psnr_0.1", "psnr_0.5", "ssim_0.1", "ssim_0.5"]


def asked(*changes):
    sets = [part for change in (*TINY, *changes) for part in ("--set", change)]
    return ["run", "--config", "photographs", *sets]


def results(folder):
    """What a run has denoised, without the seconds."""
    arrays = atomic_files.read_arrays(folder / "denoised.npz")
    description = json.loads(str(arrays.pop("description")))
    del description["seconds"]
    return description, arrays


@pytest.fixture(scope="module")
def ran(once):
    """A run by a process of its own; to be read only."""

    def make(cwd):
        done = process(cwd, *asked(), "--profile")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr

    return once("photographs", make) / "saves" / "photographs"


@pytest.fixture
def mine(ran, tmp_path):
    """A copy of it, in the folder of `call`."""
    return Path(shutil.copytree(ran, tmp_path / "saves" / "photographs"))


def test_a_run_leaves_its_files_and_a_report_of_denoising(ran):
    assert sorted(tree(ran)) == sorted(ALWAYS + DENSITY + DENOISED + WEIGHTS)
    description, arrays = results(ran)
    assert (description["names"], description["method"]) == (["flower", "china"], "residual")
    text = Page(ran / "report.html").text
    assert "PSNR in dB / SSIM" in text
    for i, name in enumerate(description["names"]):
        assert name in text
        truth = arrays[f"photograph_{i}"].astype(float)
        assert truth.shape == (3, 15, 15)  # a side that the network cannot halve
        for j in range(2):
            x = arrays[f"denoised_{i}"][j].astype(float).clip(0, 1)
            psnr = peak_signal_noise_ratio(truth, x, data_range=1)
            ssim = structural_similarity(truth, x, data_range=1, channel_axis=0)
            stored = description["psnr"][i][j], description["ssim"][i][j]
            assert stored == pytest.approx((psnr, ssim), rel=1e-5)
            assert f"{psnr:.2f} / {ssim:.3f}" in text
    rows = atomic_files.read_rows(ran / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(set(COLUMNS) < set(row) for row in rows)  # --profile: after each step
    assert rows[-1]["psnr_0.5"] == pytest.approx(np.mean([p[1] for p in description["psnr"]]))


@pytest.mark.slow
def test_the_photographs_can_be_denoised_again(mine, call_and_draw):
    before, (expected, arrays) = tree(mine), results(mine)
    for again in ([*asked(), "--no-train"], ["sample", "--overwrite", mine]):
        (mine / "denoised.png").write_bytes(b"")
        done = call_and_draw(*again)
        assert done.returncode == 0, done.stderr
        description, others = results(mine)
        assert description["psnr"][1] == pytest.approx(expected["psnr"][1], rel=1e-6)
        for name in arrays:  # what is read from a file lies elsewhere in memory: rounding differs
            np.testing.assert_allclose(others[name], arrays[name], rtol=0, atol=1e-6)
        assert (mine / "denoised.png").stat().st_size > 1000
    after = tree(mine)
    changed = {name for name in before if before[name] != after[name]}
    assert set(before) == set(after)
    assert changed <= {*DENOISED, "report.html", "report.pdf"}


def test_sampling_anew_names_the_files_that_it_wrote(mine, call):
    done = call("sample", "--overwrite", mine)
    named = re.findall(r"[\w.]+\.(?:npz|png)", done.stdout)
    assert named
    assert all((mine / name).is_file() for name in named)


def test_the_density_alone_needs_no_weights_and_meets_the_same_noise(ran, call, tmp_path):
    alone = tmp_path / "a" / "photographs_seed7"
    done = call(*asked("sample_method=closed_form"), "--seed", 7, "--out", "a")
    assert done.returncode == 0, done.stderr
    assert sorted(tree(alone)) == sorted(ALWAYS + DENSITY + DENOISED)
    assert call("sample", "--overwrite", alone).returncode == 0
    description, arrays = results(ran)
    of_alone, others = results(alone)
    assert of_alone["psnr"] != description["psnr"]
    for name in ("photograph_0", "photograph_1", "noisy_0", "noisy_1"):
        assert np.array_equal(arrays[name], others[name])
    density = densities.load(alone / "density.safetensors")
    for i in range(2):
        expected = density.denoise(others[f"noisy_{i}"], torch.tensor([0.1, 0.5]))
        np.testing.assert_allclose(others[f"denoised_{i}"], expected, rtol=0, atol=1e-5)


def test_a_run_out_of_time_before_its_first_step_answers_as_the_density(call, tmp_path):
    done = call(*asked("training.seconds=1e-9", "held_out.crop=16"))
    folder = tmp_path / "saves" / "photographs"
    assert json.loads((folder / "state.json").read_text())["step"] == 0
    _, arrays = results(folder)
    density = densities.load(folder / "density.safetensors")
    expected = density.denoise(arrays["noisy_1"], torch.tensor([0.1, 0.5]))
    np.testing.assert_allclose(arrays["denoised_1"], expected, rtol=0, atol=1e-5)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", [[], ["sample_method=closed_form"]])
def test_without_held_out_a_residual_run_samples(change, call, tmp_path):
    steps = ("held_out=null", "sample.steps=2", *change)
    done = call(*asked(*steps))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "saves" / "photographs"
    weights = [] if change else WEIGHTS
    assert sorted(tree(folder)) == sorted(
        [*ALWAYS, *DENSITY, *weights, "samples.npz", "sample.png"]
    )
    samples = atomic_files.read_arrays(folder / "samples.npz")
    assert samples["samples"].shape == samples["images"].shape == (4, 3, 16, 16)
    assert atomic_files.read_rows(folder / "metrics.csv")[-1]["nfe"] == 4
    assert "prior matched" in Page(folder / "report.html").text
    assert call("sample", "--overwrite", folder, "--set", "sample.steps=3").returncode == 0
    again = atomic_files.read_arrays(folder / "samples.npz")
    assert np.array_equal(again["images"], samples["images"])
    assert not np.array_equal(again["samples"], samples["samples"])


@pytest.mark.parametrize(("method", "kind"), [("ddpm_plain", "ddpm"), ("input", "score_embedding")])
def test_other_methods_denoise_the_same(method, kind, ran, call, tmp_path):
    comparison = spec.build("photographs", [method], [0], None, TINY)
    (tmp_path / "own.yml").write_text(loading.dump(comparison.configs[method]))
    done = call("run", "--config", "own.yml", "--folder-ext", "x")
    assert done.returncode == 0, done.stderr
    description, arrays = results(next((tmp_path / "saves").iterdir()))
    assert description["method"] == kind
    assert np.array_equal(arrays["noisy_1"], results(ran)[1]["noisy_1"])
    assert np.isfinite(description["psnr"]).all()


@pytest.mark.slow
def test_a_run_killed_and_gone_on_with_ends_as_if_it_had_not_been(call, tmp_path):
    run = asked("training.epochs=8", "misc.checkpoint_freq=1e-6", "training.ema=0.9")
    assert call(*run, "--folder-ext", "whole").returncode == 0
    killed, whole = (tmp_path / "saves" / f"photographs{name}" for name in ("", "_whole"))
    child = start(tmp_path, *run)
    while not list(killed.glob("checkpoint_*3.safetensors")):
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (killed / "model.safetensors").exists()
    done = call(*run, "--resume")
    assert done.returncode == 0, done.stderr
    first, second = tree(killed), tree(whole)
    assert set(first) == set(second)
    for name in ("config.yml", "model.safetensors", *DENSITY):
        assert first[name] == second[name]
    losses = [
        [row["loss"] for row in atomic_files.read_rows(path / "metrics.csv")]
        for path in (killed, whole)
    ]
    assert len(losses[0]) == 32
    assert losses[0] == losses[1]
    for one, other in zip(results(killed), results(whole), strict=True):
        np.testing.assert_equal(one, other)


def changed(**values):
    return lambda content: json.dumps(json.loads(content) | values).encode()


def flipped(content):
    place = len(content) * 3 // 4
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("density.safetensors", lambda content: content[:-7]),
        ("density.safetensors", lambda _: b""),
        ("preconditioning.json", lambda content: content[:-9]),
        ("preconditioning.json", changed(spread=[0.1])),
        ("preconditioning.json", changed(mean="half")),
        ("density.safetensors", flipped),
        ("preconditioning.json", changed(mean=0.9)),
        ("preconditioning.json", changed(spread=9 * [-1.0])),
    ],
)
def test_what_is_damaged_is_named_and_nothing_replaced(name, damage, mine, call):
    (mine / name).write_bytes(damage((mine / name).read_bytes()))
    before = tree(mine)
    assert_mistake(call("sample", "--overwrite", mine), f"photographs/{name}")
    assert tree(mine) == before


@pytest.mark.parametrize(
    "change",
    [
        ["held_out.image=[flwer]"],
        ["image_density.side=1"],
        ["image_density.arrays=5", "image_density.components=6"],
    ],
)
def test_what_cannot_be_run_creates_nothing(change, call, tmp_path):
    done = call(*asked(*change))
    assert_mistake(done, change[0].split("=")[0].split(".")[1])
    assert tree(tmp_path) == {}


def test_what_is_trained_on_is_not_held_out(call, tmp_path):
    done = call(*asked("held_out.image=[flower,chelsea]"))
    assert_mistake(done, "held_out: chelsea: trained on, too")
    assert tree(tmp_path) == {}
