"""The examples of docs/extending.md, installed as the page says and run."""

from __future__ import annotations

import importlib
import math
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import score_embedding as se
from command_line import sets
from score_embedding import atomic_files, densities, kinds
from score_embedding.config import sections
from score_embedding.data import datasets
from score_embedding.errors import DataError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Example:
    """A section of the page: the new file, its code, its line and the table that the line is in."""

    file: Path
    code: str
    line: str
    table: str


def example(heading: str) -> Example:
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    (path,) = re.findall(r"^`(src/\S+\.py)`$", section, re.MULTILINE)
    code, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (table,) = re.findall(r"^The line in `([A-Z_]+)`", section, re.MULTILINE)
    return Example(Path(path), code, line, table)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts the file of an example into a folder that its package also looks in, and its line into
    the table; returns the name that it adds."""
    modules = []

    def installed(heading: str) -> str:
        new = example(heading)
        package = importlib.import_module(".".join(new.file.parts[1:-1]))
        assert not (ROOT / new.file).exists()
        (tmp_path / new.file.name).write_text(new.code, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        ((name, kind),) = eval(f"{{{new.line}}}", vars(kinds)).items()
        monkeypatch.setitem(getattr(kinds, new.table), name, kind)
        modules.append((package, new.file.stem, kind.module))
        assert kind.load().__file__ == str(tmp_path / new.file.name)
        return name

    yield installed
    for package, attribute, module in modules:
        delattr(package, attribute)
        del sys.modules[module]


@pytest.fixture
def run(call, tmp_path):
    """Makes a tiny run of 8 x 8 pixels by the command line; returns its folder."""

    def made(name, **changes):
        done = call("run", "--config", "quickstart", *sets(name=name, model__ch=4, **changes))
        assert done.returncode == 0, done.stderr
        return tmp_path / "saves" / name

    return made


def test_a_scheme(install, call, pictures, tmp_path):
    name = install("A scheme")
    x, y = (torch.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (8, 9))
    m0 = (1 + 0.9 * x.cos()[:, None] * y.cos()).log().expand(2, 3, 8, 9)
    times, sde = torch.linspace(1e-3, 1, 4, dtype=torch.float64), se.VarianceExploding(2.0)
    found = se.solve(m0, sde, times, scheme=name)
    exact = se.solve(m0, sde, times, scheme="spectral")
    torch.testing.assert_close(found.log_density, exact.log_density, atol=0.01, rtol=0)
    assert (m0[:, None] - exact.log_density).abs().max() > 0.9
    assert found.score().shape == (2, 4, 3, 8, 9)
    with pytest.raises(ValueError, match="only the boundary reflect"):
        se.solve(m0, sde, times, scheme=name, boundary="zero")
    done = call("solve", pictures[0], "--scheme", name, "--size", 8, "-N", 3, "--out", "solved")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "solved" / "scores.npz").exists()


def test_a_pixel_density(install, run):
    name = install("A pixel density")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 2, 6, 7, generator=generator, dtype=torch.float64)
    m0 = se.log_density(images, method=name)
    pairs = [*zip(images[0, 1].T.flatten().tolist(), images[0, 1].flatten().tolist(), strict=True)]
    radius = 42 ** (-1 / 6) * statistics.stdev(sum(pairs, ()))
    near = [sum(math.dist(p, q) <= radius for q in pairs) for p in pairs]
    expected = [math.log(n / (42 * math.pi * radius**2)) for n in near]
    assert m0[0, 1].flatten().tolist() == pytest.approx(expected, abs=1e-12)
    assert len(set(near)) > 5
    folder = run("top_hat", diffusion__density=name)
    with np.load(folder / "scores.npz") as scores:
        image = torch.from_numpy(scores["images"])
        expected = se.log_density(image, method=name)
        np.testing.assert_allclose(scores["log_density"][:, 0], expected, atol=1e-5)


def test_a_sampler(install, run):
    name = install("A sampler")
    folder = run("euler", sample__solver=name, sample__steps=3)
    with np.load(folder / "samples.npz") as samples:
        assert np.isfinite(samples["samples"]).all()
    assert "Euler, 3 steps" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_density(install, run):
    name = install("A density")
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.2 * torch.randn(500, 1, 8, 8, generator=generator, dtype=torch.float64)
    density = se.fit(name, images)
    noisy = images + 0.1 * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    error = (density.denoise(noisy, 0.1) - images).square().mean()
    assert error == pytest.approx(1 / (1 / 0.2**2 + 1 / 0.1**2), rel=0.03)  # of a Wiener filter
    x = noisy[:3].requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_density(x, 0.1).sum(), x)
    torch.testing.assert_close(density.score(x, 0.1), gradient)
    with_a_line = np.tile(np.eye(8), (2, 2))
    assert se.denoise(with_a_line, sigma=0.1, model=density).shape == (16, 16)

    changes = {"diffusion__embedding": "residual", "image_density__side": 4}
    folder = run("density", image_density__kind=name, **changes)
    loaded = densities.load(folder / "density.safetensors")
    assert loaded.kind == name
    assert tuple(loaded.model.means.shape) == (3 * 4 * 4,)


def test_a_network(install, run, call):
    name = install("A network")
    folder = run("plain", model__network=name)
    assert set(load_file(folder / "model.safetensors")) >= {"first.weight", "time.bias"}
    again = call("sample", folder, "--overwrite")  # from the weights of the file
    assert again.returncode == 0, again.stderr
    changes = {"diffusion__embedding": "residual", "image_density__kind": "white"}
    run("residual", model__network=name, **changes)  # from an output of 0


def test_a_method(install, run, call, pictures, tmp_path):
    name = install("A method")
    folder = run("clean", sample_method=name, training__epochs=40)
    assert "Prediction of the clean image" in (folder / "report.html").read_text(encoding="utf-8")
    losses = [float(row["loss"]) for row in atomic_files.read_rows(folder / "metrics.csv")[:40]]
    assert np.mean(losses[20:]) < np.mean(losses[:20])
    assert call("sample", folder, "--number", 2, "--out", "more").returncode == 0
    done = call("denoise", pictures[0], "--model", folder, "--sigma", 0.1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a_denoised.png").exists()


def test_a_data_set(install, run):
    name = install("A data set")
    options = {"dataset": name, "num_images": 3, "image_size": 8, "channels": 1, "seed": 4}
    images = datasets.load_dataset(sections.DataLoader(**options))
    assert images.shape == (3, 1, 8, 8)
    digits = load_digits().images / 16
    spans = digits.max(axis=(1, 2), keepdims=True) - digits.min(axis=(1, 2), keepdims=True)
    scaled = (digits - digits.min(axis=(1, 2), keepdims=True)) / spans
    distances = np.abs(images.numpy() - scaled).max(axis=(2, 3))  # (3, 1797)
    assert (distances.min(axis=1) < 1e-6).all()
    with pytest.raises(DataError, match="only 1797 digits"):
        datasets.load_dataset(sections.DataLoader(**options | {"num_images": 1798}))
    grey = dict.fromkeys(("data_loader__channels", "model__in_channels", "model__out_channels"), 1)
    folder = run("digits", data_loader__dataset=name, data_loader__num_images=2, **grey)
    with np.load(folder / "samples.npz") as samples:
        assert samples["samples"].shape == (2, 1, 8, 8)
