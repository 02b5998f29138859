"""What is measured on photographs held out: the noise, and the answers of every method."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from score_embedding.config import loading
from score_embedding.errors import DivergenceError
from score_embedding.evaluation import held_out
from score_embedding.methods.base import Known, method_of
from score_embedding.methods.model import TrainedModel
from score_embedding.sde import VarianceExploding
from test_residual import config_of

# Measuring

LEVELS = (0.05, 0.5)


@pytest.fixture
def truths(photographs):
    return dict(zip("abc", photographs(40, 32, 3).float(), strict=True))


def test_the_noise_is_that_of_the_photograph_and_the_level_alone(truths):
    def other(x, s):
        torch.manual_seed(1)
        return torch.rand_like(x) * s

    first = held_out.measure(lambda x, _: x, truths, LEVELS)
    torch.manual_seed(9)
    second = held_out.measure(other, truths, (*LEVELS[::-1], 1.0))
    whitened = []
    for i, truth in enumerate(truths.values()):
        for level, noisy, again in zip(LEVELS, first.noisy[i], second.noisy[i][1::-1], strict=True):
            assert torch.equal(noisy, again)
            whitened.append(((noisy - truth) / level).numpy().ravel())
            assert stats.kstest(whitened[-1], "norm").pvalue > 1e-3
    correlations = np.corrcoef(whitened) - np.eye(6)
    assert np.abs(correlations).max() < 5 / 3840**0.5


def test_psnr_and_ssim_are_scikit_images_of_the_clipped_answer(truths):
    asked = []

    def denoise(x, s):
        asked.append((tuple(x.shape), float(s)))
        return 1.3 * x - 0.1

    measured = held_out.measure(denoise, truths, LEVELS)
    assert asked == [((1, 3, 40, 32), pytest.approx(level)) for _ in truths for level in LEVELS]
    assert measured.names == ["a", "b", "c"]
    for i, truth in enumerate(x.double().numpy() for x in truths.values()):
        for j in range(2):
            x = (1.3 * measured.noisy[i][j].double().numpy() - 0.1).clip(0, 1)
            psnr = peak_signal_noise_ratio(truth, x, data_range=1)
            ssim = structural_similarity(truth, x, data_range=1, channel_axis=0)
            assert (measured.psnr[i][j], measured.ssim[i][j]) == pytest.approx((psnr, ssim), 1e-5)
    means = measured.means()
    assert list(means) == [*held_out.columns(LEVELS), "mse_0.05", "mse_0.5"]
    assert means["psnr_0.05"] == pytest.approx(np.mean([row[0] for row in measured.psnr]))
    assert means["ssim_0.5"] == pytest.approx(np.mean([row[1] for row in measured.ssim]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_is_a_divergence(truths, bad):
    def denoise(x, s):
        x = x.clone()
        x[0, 0, 3, 3] = bad if s > 0.1 else 0.5
        return x

    held_out.measure(denoise, truths, LEVELS[:1])
    with pytest.raises(DivergenceError, match="not finite"):
        held_out.measure(denoise, truths, LEVELS)


# Denoising by the other methods


class Exact(torch.nn.Module):
    """What a perfect network of one image answers, the image continued as numpy mirrors."""

    def __init__(self, image, answer):
        super().__init__()
        self.image, self.answer, self.seen = image, answer, []

    def forward(self, x, t, index):
        assert torch.equal(index, torch.zeros(len(x), dtype=torch.long))
        (h, w), (H, W) = self.image.shape[1:], x.shape[2:]
        self.seen.append((x, t))
        padded = np.pad(self.image.numpy(), ((0, 0), (0, H - h), (0, W - w)), mode="symmetric")
        return self.answer(x, t.double()[:, None, None, None], torch.from_numpy(padded)).float()


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 3)])
@pytest.mark.parametrize("method", ["score_embedding", "ddpm", "ddim"])
def test_a_perfect_network_takes_all_of_the_noise_out(method, size, photographs, generator):
    config = config_of(diffusion={"embedding": "input", "sigma": 7}, model={"ch_mult": [1, 1, 1]})
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

    def score(x, t, image):
        return (image - x) / ((7 ** (2 * t) - 1) / (2 * math.log(7)))

    def noise(x, t, image):
        share = torch.from_numpy(abar)[t.long()]
        return (x - share.sqrt() * (2 * image - 1)) / (1 - share).sqrt()

    if method != "score_embedding":
        values = {**config.model_dump(), "sample_method": method, "diffusion": {}, "sample": {}}
        del values["image_density"]
        config = loading.validate(values, "test")
    image = photographs(*size, 1)[0].float()
    network = Exact(image, score if method == "score_embedding" else noise)
    s = torch.tensor([0.02, 0.1, 0.5, 1.3])
    x = image + s[:, None, None, None] * torch.randn((4, *image.shape), generator=generator)
    answer = TrainedModel(method_of(config), network, Known({})).denoise(x, s)
    torch.testing.assert_close(answer, image.expand_as(x), rtol=0, atol=2e-4)
    assert {tuple(seen.shape[2:]) for seen, _ in network.seen} == {
        tuple(-(-side // 4) * 4 for side in size)
    }
    t = torch.cat([times for _, times in network.seen]).double().numpy()
    if method == "score_embedding":
        np.testing.assert_allclose((49**t - 1) / (2 * math.log(7)), s.numpy() ** 2, rtol=1e-4)
    else:  # in [-1, 1] the noise is twice as large
        steps = t.astype(int)
        found = np.sqrt((1 - abar) / abar)
        between = [abs(np.log(found / (2 * level))).argmin() for level in s.tolist()]
        assert steps.tolist() == between
        assert np.abs(found[steps] / (2 * s.numpy()) - 1).max() < 0.03


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 25.0])
def test_the_time_of_a_noise_level_is_the_inverse_of_it(sigma):
    sde = VarianceExploding(sigma)
    t = torch.logspace(-6, 0, 50, dtype=torch.float64)
    std = [integrate.quad(lambda t: sigma ** (2 * t), 0, end)[0] ** 0.5 for end in t.tolist()]
    np.testing.assert_allclose(sde.time_of(torch.tensor(std)).numpy(), t.numpy(), rtol=1e-6)
    np.testing.assert_allclose(sde.std(sde.time_of(0.3)), 0.3, rtol=1e-12)
