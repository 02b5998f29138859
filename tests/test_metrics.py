import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from score_embedding.evaluation import metrics


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


def test_the_nearest_image_is_the_one_of_least_mean_squared_error(photographs, generator):
    images = photographs(8, 8)
    shades = torch.rand(20, 1, 1, 1, generator=generator, dtype=torch.float64)
    of = torch.arange(20) % 4
    noise = torch.randn(20, 3, 8, 8, generator=generator, dtype=torch.float64)
    samples = images[of] + 0.3 * shades * noise
    expected = []
    for x in samples.numpy():
        shown = (x - x.min()) / (x.max() - x.min())
        expected.append(int(np.argmin([((shown - y) ** 2).mean() for y in images.numpy()])))
    assert metrics.nearest(samples, images).tolist() == expected
    assert len(set(expected)) == 4


def test_the_nearest_image_does_not_depend_on_brightness_and_contrast(photographs):
    images = metrics.minmax(photographs(8, 8, 3)).float()
    order = torch.tensor([2, 0, 1, 2])
    assert metrics.nearest(40 * images[order] - 7, images).tolist() == order.tolist()
    assert metrics.nearest(images[:0], images).tolist() == []


def test_the_nearest_of_many_images_is_found(generator):
    images = torch.rand(300, 1, 4, 4, generator=generator)
    order = torch.randperm(300, generator=generator)
    samples = images[order] + 0.01 * torch.randn(300, 1, 4, 4, generator=generator)
    x = samples.flatten(1).double().numpy()
    x = (x - x.min(1, keepdims=True)) / (x.max(1, keepdims=True) - x.min(1, keepdims=True))
    distance = ((x[:, None] - images.flatten(1).double().numpy()) ** 2).mean(2)
    assert metrics.nearest(samples, images).tolist() == distance.argmin(1).tolist()


ROWS = [
    {"step": 1},
    {"step": 2, "ssim_minmax": 0.5, "ssim_clipped": 0.9},
    {"step": 3},
    {"step": 4, "ssim_minmax": 0.9, "ssim_clipped": 0.2},
    {"step": 5, "ssim_minmax": 0.7, "ssim_clipped": 0.95},
]


@pytest.mark.parametrize(
    ("target", "column", "step"),
    [
        (0.0, "ssim_minmax", 2),
        (0.5, "ssim_minmax", 2),
        (0.51, "ssim_minmax", 4),
        (0.9, "ssim_minmax", 4),
        (0.91, "ssim_minmax", None),
        (0.91, "ssim_clipped", 5),
        (0.0, "matched_ssim_minmax", None),
    ],
)
def test_the_first_row_that_reaches_the_target_is_found(target, column, step):
    row = metrics.first_reaching(ROWS, target, column)
    assert (row and row["step"]) == step


def test_the_target_is_of_the_min_max_ssim_and_a_run_without_rows_never_reaches_it():
    assert metrics.first_reaching(ROWS, 0.9) is ROWS[3]
    assert metrics.first_reaching([], 0.0) is None
    assert metrics.first_reaching([{"step": 1, "ssim_minmax": math.nan}], 0.0) is None


def test_the_nearest_of_many_images_is_told_from_nearly_the_same_ones():
    image = metrics.minmax(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    images = image.repeat(30, 1, 1, 1)
    images[:, 0, 0, 0] += 1e-3 * torch.arange(1, 31)
    assert metrics.nearest(image.repeat(2, 1, 1, 1), images).tolist() == [0, 0]
