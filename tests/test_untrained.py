"""The benchmark of untrained denoisers: each is measured on the images and with the parameters that
its row states."""

import math

import numpy as np
import pytest
import torch

from score_embedding.evaluation.denoiser_error import LEVELS


@pytest.fixture
def untrained(benchmark_named):
    return benchmark_named("untrained")


@pytest.fixture
def images(photographs):
    """60 crops of real photographs (60, 1, 8, 8)."""
    grey = photographs(32).mean(dim=1, keepdim=True).float()
    places = np.random.default_rng(0).integers(0, 24, (60, 2))
    crops = [grey[k % len(grey), :, i : i + 8, j : j + 8] for k, (i, j) in enumerate(places)]
    return torch.stack(crops)


def test_each_rival_is_better_than_no_denoising_and_states_its_parameters(untrained, images):
    known, tried, tests = images[:30], images[30:46], images[46:]
    for make in (untrained.local, untrained.equivariant, untrained.by_statistics):
        contender = make(known, tried)
        row = untrained.measured(contender, tests, None)
        assert row["training images"] == 30
        assert row["test images"] == round(contender.share * 14)
        assert len(row["chosen"].split("/")) == len(LEVELS)
        assert all(row[f"{level:g}"] < 1000 * level**2 for level in LEVELS if level >= 0.2)


def test_a_denoiser_agrees_with_itself_and_less_with_another(untrained, images):
    gaussian = untrained.Contender("one", 30, lambda x, s: x / (1 + s[:, None, None, None] ** 2))
    other = untrained.Contender("other", 30, lambda x, _: x.clamp(0, 1))
    row = untrained.measured(gaussian, images[:6], gaussian.denoise)
    assert [row[f"r^2 at {level:g}"] for level in LEVELS] == [1] * len(LEVELS)
    row = untrained.measured(other, images[:6], gaussian.denoise)
    found = [row[f"r^2 at {level:g}"] for level in LEVELS]
    assert all(value < 1 and math.isfinite(value) for value in found)
    assert found[0] > found[-1]
