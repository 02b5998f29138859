"""Inputs of denoising and inpainting that are unusual and valid, or must be refused clearly."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from score_embedding import densities, pipeline
from score_embedding.config import loading
from score_embedding.errors import DataError
from score_embedding.methods.base import method_of
from score_embedding.restoration import files
from score_embedding.restoration.denoising import denoise
from score_embedding.restoration.inpainting import inpaint
from score_embedding.runs import folder as run_folder

RNG = np.random.default_rng(3)
GREY, COLOUR = 0.5 + 0.1 * RNG.normal(size=(12, 15)), 0.5 + 0.1 * RNG.normal(size=(12, 15, 3))
MASK = np.zeros((12, 15), bool)
MASK[4:6, 5:8] = True
WHITE = {
    c: densities.fit(
        "white", [torch.rand(c, 9, 9, generator=torch.Generator().manual_seed(1))], arrays=100
    )
    for c in (1, 3)
}


def test_sigma_in_every_form():
    expected = denoise(COLOUR, sigma=0.1, model=WHITE[3])
    for sigma in (np.float32(0.1), np.array(0.1), np.full(3, 0.1), [0.1] * 3, torch.tensor(0.1)):
        found = denoise(COLOUR, sigma=sigma, model=WHITE[3])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    estimated = denoise(COLOUR, model=WHITE[3])
    np.testing.assert_array_equal(denoise(COLOUR, sigma="auto", model=WHITE[3]), estimated)
    for sigma, message in [
        ([0.1, 0.2], "an array of shape .2,.; a number, one a channel or a map"),
        ([], "an array of shape .0,."),
        (np.full((12, 14), 0.1), "a map of the image's height and width is needed"),
        (np.full((12, 15), -0.1), "-0.1: a standard deviation from 0 to 2 is needed"),
        ("automatic", "a number or \"auto\" is needed, got 'automatic'"),
        ({}, 'a number or "auto" is needed'),
        (True, 'a number or "auto" is needed, got True'),
        ([0.1, 0.1, np.nan], "nan: a standard deviation from 0 to 2 is needed"),
    ]:
        with pytest.raises(ValueError, match=f"sigma: .*{message}"):
            denoise(COLOUR, sigma=sigma, model=WHITE[3])


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("device: 'nope' cannot be used here", {"device": "nope"}),
        ("device: 'cuda:99' cannot be used here", {"device": "cuda:99"}),
        ("device: None cannot be used here", {"device": None}),
        ("model must be fit, bundled, a folder or a Density, got 3", {"model": 3}),
        ("model must be fit, bundled, a folder or a Density, got 0", {"model": 0}),
    ],
)
def test_a_device_or_model_that_cannot_be_used_is_named(message, options):
    for function in (
        lambda **given: denoise(GREY, sigma=0.1, **given),
        lambda **given: inpaint(GREY, MASK, **given),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            function(**options)


@pytest.mark.parametrize("model", ["fit", "bundled"])
def test_the_defaults_of_torch_change_nothing(model):
    """The device `meta` computes nothing, so that a tensor made on it by default cannot stay
    unnoticed."""

    def results():
        if model == "fit":
            return [
                *(denoise(x, sigma=s, model=model) for x, s in ((GREY, 0.005), (COLOUR, 0.1))),
                inpaint(COLOUR, MASK, model=model),
            ]
        return [denoise(GREY, sigma=0.1, model=model, mode="sample"), inpaint(GREY, MASK)]

    expected = results()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_options_by_position_are_deprecated():
    expected = denoise(GREY, sigma=0.1, model=WHITE[1])
    with pytest.warns(DeprecationWarning, match=r"write sigma=\.\.\., model="):
        np.testing.assert_array_equal(denoise(GREY, 0.1, WHITE[1]), expected)
    with pytest.warns(DeprecationWarning, match=r"write model=") as caught:
        inpaint(GREY, MASK, WHITE[1])
    assert caught[0].filename == __file__


# Models of one image


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A run of the paper's embedding on N images, with any data_loader.num_images in its config."""
    made = {}

    def make(n, stated):
        if (n, stated) not in made:
            tiny = ["model.ch=8", "model.ch_mult=[1,2]", "training.epochs=1", "sample.steps=2"]
            tiny += ["data_loader.image_size=8", f"data_loader.num_images={stated}"]
            tiny += [
                "diffusion.num_timesteps=4",
                "sample.solver=heun",
                "data_loader.image=[astronaut]",
            ]
            config = loading.load("quickstart", tiny)
            path = tmp_path_factory.mktemp("run") / f"{n}_{stated}"
            images = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
            folder, method, cpu = (
                run_folder.create(path, config),
                method_of(config),
                torch.device("cpu"),
            )
            known = method.precompute(images, cpu)
            method.save(path, images, known)
            pipeline.train_model(folder, images, method, known, cpu, profile=False)
            made[n, stated] = path
        return made[n, stated]

    return make


@pytest.mark.parametrize("stated", [1, "null"])
@pytest.mark.usefixtures("undrawn")
def test_a_model_of_one_image_warns(run_of, tmp_path, monkeypatch, caplog, stated):
    run = run_of(1, stated)
    for function in (
        lambda: denoise(COLOUR, sigma=0.1, model=run),
        lambda: inpaint(COLOUR, MASK, model=run),
    ):
        with pytest.warns(UserWarning, match="trained on one image.* fit and bundled") as caught:
            assert np.isfinite(function()).all()
        assert caught[0].filename == __file__
    monkeypatch.chdir(tmp_path)
    paths = [photograph(name) for name in ("a.png", "b.png")]
    assert len(list(files.denoise(paths, options(str(run))))) == 2
    assert caplog.text.count(f"warning: {run}: trained on one image") == 1


@pytest.mark.parametrize("stated", [2, "null"])
def test_a_model_that_tells_its_images_apart_is_refused(run_of, stated):
    with pytest.raises(DataError, match=r"a model of its own images only"):
        denoise(COLOUR, sigma=0.1, model=run_of(2, stated))


# Names of files, and pictures that cannot be drawn


def photograph(name):
    """A file of this name, str or bytes, in the working folder."""
    values = (COLOUR * 255).astype(np.uint8)
    with open(name, "wb") as file:
        Image.fromarray(values).save(file, format="PNG")
    return Path(os.fsdecode(name))


def options(model="bundled"):
    return files.Options(files.FileNoise(0.1), model, "mean", torch.device("cpu"))


@pytest.mark.slow
def test_any_names_of_files_and_any_backend_of_matplotlib(tmp_path, monkeypatch):
    """As a process, since standard output has to have the exact bytes of the names."""
    monkeypatch.chdir(tmp_path)
    names = [b"$x^$ {a} 50 % \\alpha_$.png", b"caf\xe9 $\xff.png"]
    try:
        for name in names:
            photograph(name)
    except OSError:
        pytest.skip("the file system does not accept these names")
    command = [sys.executable, "-m", "score_embedding", "denoise", *names]
    done = subprocess.run(
        [*command, "--sigma", "0.1", "--model", "bundled"],
        env={**os.environ, "MPLBACKEND": "nonsense"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, b"warning" in done.stderr) == (0, False), done.stderr
    stems = [name.removesuffix(b".png") for name in names]
    expected = [b"denoised: " + stem + b"_denoised.png" for stem in stems]
    assert done.stdout.splitlines() == expected
    for stem in stems:
        assert os.path.isfile(stem + b"_denoised_before_after.png")


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_cannot_be_drawn_costs_no_result(tmp_path, monkeypatch, caplog):
    """Where the before/after picture of the first of two photographs should go lies a folder."""
    monkeypatch.chdir(tmp_path)
    paths = [photograph(name) for name in ("a.png", "b.png")]
    Path("a_denoised_before_after.png").mkdir()
    written = list(files.denoise(paths, options(), overwrite=True))
    assert written == [Path("a_denoised.png"), Path("b_denoised.png")]
    assert all(path.is_file() for path in written)
    assert "warning: a_denoised_before_after.png: the before/after picture" in caplog.text
    assert Path("b_denoised_before_after.png").is_file()


def test_ordinary_input_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoise(GREY, sigma=0.1)
        inpaint(GREY, MASK)
