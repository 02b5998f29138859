"""The parts of benchmarks/image_sets.py on which the fairness of its tables rests."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import poisson
from skimage import data

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def image_sets(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import image_sets

    yield image_sets
    for name in ("image_sets", "_rivals", "_common"):
        sys.modules.pop(name, None)


def test_the_inverse_of_anscombes_root_is_unbiased(image_sets):
    counts = np.arange(400)
    for mean in (0.5, 1.0, 5.0, 30.0):
        root = float(poisson.pmf(counts, mean) @ (2 * np.sqrt(counts + 3 / 8)))
        found = float(image_sets._rivals.unbiased_inverse(torch.tensor(root)))
        assert found == pytest.approx(mean, rel=5e-3)


def test_a_rival_that_changes_nothing_gives_the_counts_back_but_for_the_bias(image_sets):
    noisy = torch.poisson(torch.full((1, 8, 8), 30.0)) / 30
    found = image_sets._rivals.with_anscombe(lambda y, _: y, noisy, 30)
    torch.testing.assert_close(found.float(), noisy, atol=0.25 / 30 + 1e-3, rtol=0)


def test_a_camera_table_of_a_part_of_a_set(image_sets, tmp_path, monkeypatch, capsys):
    truth = data.chelsea()[100:140, 100:148]
    noise = np.random.default_rng(0).normal(size=truth.shape)
    for name in ("a", "b"):
        Image.fromarray(truth).save(tmp_path / f"{name}_mean.png")
        noisy = (truth + 20 * noise).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"{name}_real.png")
    rivals = {"half": lambda y, _: y / 2}
    monkeypatch.setattr(image_sets._rivals, "tuned_rivals", lambda: rivals)
    monkeypatch.setattr(image_sets, "own", lambda _: lambda pair: pair.truth)
    image_sets.camera([tmp_path], image_sets.Options(step=2, crop=True))
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 3 + 3  # header; noisy, fit, fast; one rival at three levels
    assert "| `fit` | estimated | inf / 1.000 |" in shown
    assert "mean over 1 images" in shown
    made_worse = [row.split("|")[5].strip() for row in rows if "half" in row]
    assert made_worse == ["1", "1", "1"]


def test_a_folder_without_images_is_named(image_sets, tmp_path):
    with pytest.raises(SystemExit, match="no images"):
        image_sets.white([tmp_path], image_sets.Options(step=1, crop=False))
