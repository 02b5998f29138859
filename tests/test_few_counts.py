"""Images of few counts, which are averaged with an estimate of them and denoised again."""

import numpy as np
import pytest
import torch
from skimage import data

import score_embedding as se
from score_embedding.evaluation.metrics import clipped
from score_embedding.restoration import few_counts
from score_embedding.restoration.noise import Noise


def counts_of(x: torch.Tensor, peak: float) -> torch.Tensor:
    return torch.poisson(peak * x, torch.Generator().manual_seed(0)) / peak


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    return torch.from_numpy(data.camera()[100:260, 160:320] / np.float32(255))[None]


def test_the_fewer_counts_the_smaller_the_last_share_of_the_image():
    def last(mean: float, peak: float) -> float:
        found = few_counts.shares(torch.full((1, 4, 4), mean), Noise.poisson(1 / peak, 0.0, 1))
        assert found[0] == 1
        assert max(-np.diff(found), default=0) <= few_counts.STEP + 1e-9
        return found[-1]

    assert last(0.5, 21) == last(0.5, 200) == 1  # 10 counts and more
    assert last(0.5, 5) == pytest.approx(0.5, rel=1e-3)
    assert last(0.4, 1) == pytest.approx(0.2, rel=1e-3)
    assert last(0.001, 1) == few_counts.LEAST
    assert last(0.0, 1) == few_counts.LEAST


def test_gaussian_noise_counts_as_so_many_counts_more():
    x = torch.full((1, 4, 4), 0.4)
    assert few_counts.shares(x, Noise.poisson(1.0, 2.1, 1))[-1] == pytest.approx(0.5, rel=1e-3)
    assert few_counts.shares(x, Noise.poisson(1.0, 20.0, 1)) == [1.0]
    assert few_counts.shares(x, Noise.poisson(0.0, 0.1, 1)) == [1.0]


def test_each_average_has_the_noise_that_its_step_is_told(photograph):
    """With estimates that are the truth: the variance of each average over the brightness."""
    x, told = photograph, []

    def exact(average: torch.Tensor, noise: Noise) -> torch.Tensor:
        expected = np.mean(noise.at(x.double().numpy()) ** 2)
        told.append(float((average - x).square().mean()) / expected)
        return x

    few_counts.restored(counts_of(x, 1.0), Noise.poisson(1.0, 0.0, 1), exact, exact)
    assert len(told) >= 4
    assert told == pytest.approx([1.0] * len(told), abs=0.05)


@pytest.mark.parametrize("model", ["fast", "fit"])
@pytest.mark.parametrize("strength", ["given", "estimated"])
def test_a_photograph_of_one_count_a_pixel(photograph, model, strength):
    """Better than denoised once, as where any number of counts is enough."""
    noisy = counts_of(photograph, 1.0)
    given = Noise.poisson(1.0, 0.0, 1) if strength == "given" else "poisson"
    found = se.denoise(noisy[0].numpy(), noise=given, model=model, data_range=(0.0, 1.0))
    once = denoised_once(noisy, model)
    psnr = [clipped(torch.from_numpy(of)[None], photograph)[0] for of in (found, once)]
    assert psnr[0] > psnr[1] + 0.4, psnr


def denoised_once(noisy: torch.Tensor, model: str) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_counts, "ENOUGH", 1e-9)
        noise = Noise.poisson(1.0, 0.0, 1)
        return se.denoise(noisy[0].numpy(), noise=noise, model=model, data_range=(0.0, 1.0))


def test_many_counts_are_denoised_once(photograph):
    noisy = counts_of(photograph, 60.0)
    found = few_counts.restored(
        noisy, Noise.poisson(1 / 60, 0.0, 1), lambda *_: pytest.fail("a draft"), lambda x, _: x
    )
    torch.testing.assert_close(found, noisy)
