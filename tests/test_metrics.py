import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from score_embedding import metrics


def test_the_metrics_are_those_of_scikit_image(photographs, generator):
    images = photographs(32, 32, 2)
    samples = images + 0.1 * torch.randn(images.shape, generator=generator, dtype=images.dtype)
    values = metrics.evaluate(samples, images)
    for how in ("minmax", "clipped"):
        ssim, mse = [], []
        for x, truth in zip(samples.numpy(), images.numpy(), strict=True):
            shown = (x - x.min()) / (x.max() - x.min()) if how == "minmax" else x.clip(0, 1)
            ssim.append(structural_similarity(shown, truth, data_range=1.0, channel_axis=0))
            mse.append(((shown - truth) ** 2).mean())
        assert values[f"ssim_{how}"] == pytest.approx(np.mean(ssim), rel=1e-12)
        assert values[f"mse_{how}"] == pytest.approx(np.mean(mse), rel=1e-12)
        assert values[f"psnr_{how}"] == pytest.approx(-10 * math.log10(np.mean(mse)), rel=1e-12)
    assert set(values) == set(metrics.NAMES)


def test_psnr_of_one_image_is_scikit_images(photographs):
    truth = photographs(32, 32, 1)
    x = (truth * 0.9).clamp(0, 1)
    expected = peak_signal_noise_ratio(truth[0].numpy(), x[0].numpy(), data_range=1.0)
    assert metrics.evaluate(x, truth)["psnr_clipped"] == pytest.approx(expected)


def test_min_max_scaling_forgives_brightness_and_contrast_and_clipping_does_not(photographs):
    truth = metrics.minmax(photographs(32, 32, 1))
    values = metrics.evaluate(3 * truth - 1, truth)
    assert values["ssim_minmax"] == pytest.approx(1, abs=1e-12)
    assert values["ssim_clipped"] < 0.9


def test_a_perfect_sample_has_infinite_psnr_and_a_constant_one_stays_finite(photographs):
    truth = metrics.minmax(photographs(32, 32, 1))
    assert metrics.evaluate(truth, truth)["psnr_clipped"] == math.inf
    constant = metrics.evaluate(torch.full_like(truth, 0.5), truth)
    assert all(math.isfinite(value) for value in constant.values())


@pytest.mark.parametrize(("side", "window"), [(8, 7), (6, 5), (4, 3)])
def test_the_window_shrinks_with_the_image(side, window, generator):
    truth = torch.rand(1, 3, side, 9, generator=generator, dtype=torch.float64)
    x = torch.rand(1, 3, side, 9, generator=generator, dtype=torch.float64)
    expected = structural_similarity(
        x[0].numpy(), truth[0].numpy(), win_size=window, data_range=1.0, channel_axis=0
    )
    assert metrics.evaluate(x, truth)["ssim_clipped"] == pytest.approx(expected)
