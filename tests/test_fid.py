"""FID with a small feature network of its own: the distance, the files, and what is refused."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from command_line import assert_mistake
from score_embedding import atomic_files
from score_embedding.errors import DataError
from score_embedding.evaluation import frechet
from score_embedding.runs import artifacts
from score_embedding.runs import folder as run_folder

# Scripting is deprecated in torch; files made with it are what FID networks come as.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
CPU = torch.device("cpu")


class Features(torch.nn.Module):
    """Means of the four quarters of each channel: 12 features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 2).flatten(1)


class AsNvidia(torch.nn.Module):
    """Class probabilities, or features on request."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if return_features:
            return torch.nn.functional.adaptive_avg_pool2d(x.float() / 255, 2).flatten(1)
        return torch.zeros(len(x), 1008)


class Wrong(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean()


@pytest.fixture
def weights(tmp_path):
    def save(module):
        path = tmp_path / f"{type(module).__name__}.pt"
        torch.jit.script(module).save(str(path))
        return path

    return save


@pytest.fixture
def run_of(tmp_path):
    """A run folder with n images and samples that are darker by a tenth."""

    def make(n, channels=3):
        folder = tmp_path / f"run{n}_{channels}"
        folder.mkdir()
        (folder / "config.yml").write_text("name: a\ndata_loader: {dataset: cifar}\n...\n")
        images = np.random.default_rng(0).random((n, channels, 8, 8), dtype=np.float32)
        arrays = {"images": images, "samples": 0.9 * images}
        atomic_files.write_arrays(folder / run_folder.SAMPLES, arrays)
        return folder

    return make


def of_run(folder, file):
    samples, images = artifacts.read_samples(folder)
    return frechet.between(samples, images, file, CPU, str(folder))


def test_the_distance_is_that_of_the_matrix_square_root():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    second = 0.5 + rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6))
    C = [np.cov(x, rowvar=False) for x in (first, second)]
    gap = first.mean(axis=0) - second.mean(axis=0)
    expected = gap @ gap + np.trace(C[0] + C[1] - 2 * sqrtm(C[0] @ C[1]).real)
    assert frechet.distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_distance_of_one_dimensional_gaussians_is_the_closed_form():
    first = np.random.default_rng(2).normal(size=(300, 1))
    second = 3 + 2 * first
    gap, spread = second.mean() - first.mean(), second.std(ddof=1) - first.std(ddof=1)
    assert frechet.distance(first, second) == pytest.approx(gap**2 + spread**2, rel=1e-9)


def test_a_set_has_no_distance_to_itself():
    x = np.random.default_rng(3).normal(size=(100, 5))
    assert frechet.distance(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("module", [Features(), AsNvidia()])
def test_the_distance_of_a_run_is_that_of_the_features_of_its_8_bit_images(module, weights, run_of):
    folder = run_of(frechet.MINIMUM)
    arrays = atomic_files.read_arrays(folder / run_folder.SAMPLES)
    quarters = []
    for name in ("images", "samples"):
        x = np.round(arrays[name].clip(0, 1) * 255) / 255
        quarters.append(x.reshape(-1, 3, 2, 4, 2, 4).mean(axis=(3, 5)).reshape(-1, 12))
    value = of_run(folder, weights(module))
    assert value == pytest.approx(frechet.distance(*quarters), rel=1e-4)
    assert value > 0.01


def test_too_few_images_are_refused_with_the_reason(weights, run_of):
    with pytest.raises(DataError, match="FID of 3 images is refused, 2048 are the least") as caught:
        of_run(run_of(3), weights(Features()))
    assert "singular" in str(caught.value)


def test_one_image_fewer_than_the_least_is_refused(weights, run_of):
    with pytest.raises(DataError, match="2047 images is refused"):
        of_run(run_of(frechet.MINIMUM - 1), weights(Features()))


def test_grey_images_are_refused(weights, run_of):
    with pytest.raises(DataError, match="colour"):
        of_run(run_of(frechet.MINIMUM, channels=1), weights(Features()))


def test_a_file_that_is_missing_or_no_network_is_named(run_of, tmp_path):
    folder = run_of(frechet.MINIMUM)
    with pytest.raises(DataError, match=r"none\.pt: no such file"):
        of_run(folder, tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(DataError, match=r"text\.pt: not a TorchScript network"):
        of_run(folder, tmp_path / "text.pt")


def test_a_network_that_gives_no_features_is_named(weights, run_of):
    with pytest.raises(DataError, match="not \\(b, d\\) features"):
        of_run(run_of(frechet.MINIMUM), weights(Wrong()))


def test_the_command_refuses_a_usual_run_without_a_traceback(run_of, call):
    done = call("fid", run_of(1), "--weights", "inception.pt")
    assert_mistake(done, "FID of 1 image is refused")
