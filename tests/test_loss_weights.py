"""The weights of the loss: those of Hang et al. (2023) from their definition, in each
parametrisation."""

import typing

import numpy as np
import pytest
import torch

from score_embedding.config import loading
from score_embedding.config.sections import Training
from score_embedding.methods.base import Batch, method_of
from score_embedding.methods.loss_weights import LOSS_WEIGHTS
from test_residual import GREY, config_of

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(6, 1, 8, 8, generator=GENERATOR)


def of_clean_image(prediction, x_0, snr):
    """min(SNR, 5) |D - x_0|^2 of images (b, c, h, w) in [-1, 1], the mean over all pixels."""
    squares = np.square(prediction - x_0).mean(axis=(1, 2, 3))
    return np.mean(np.minimum(snr, 5) * squares)


def network(x, condition, index):
    """Anything that depends on all it is given."""
    added = (0.1 * condition + index)[:, None, None, None]
    return torch.sin(3 * x[:, :1]) + added


def test_the_table_has_what_a_config_can_choose():
    choices = typing.get_args(Training.model_fields["loss_weight"].annotation)
    assert set(LOSS_WEIGHTS) == set(choices)


def test_of_a_denoiser_it_is_that_of_the_definition():
    config = config_of(training={"loss_weight": "min_snr"}, **GREY)
    method = method_of(config)
    known = method.precompute(IMAGES, torch.device("cpu"))
    objective = method.objective(IMAGES, known)
    s = torch.tensor([0.03, 0.2, 0.223, 0.224, 0.5, 1.4])  # SNR 5 is at 0.2236
    noise = torch.randn(IMAGES.shape, generator=GENERATOR)
    x = IMAGES + s[:, None, None, None] * noise
    index = torch.zeros(len(s), dtype=torch.long)
    D = known.precomputed.denoise(network, x, s)
    # x_t / alpha = 2 x - 1: the noise of x_0 in [-1, 1] has the level 2 s
    expected = of_clean_image(
        (2 * D - 1).double().numpy(), (2 * IMAGES - 1).double().numpy(), 1 / (2 * s.numpy()) ** 2
    )
    assert float(objective.loss(network, Batch(x, s, index, IMAGES))) == pytest.approx(
        expected, rel=1e-5
    )


def test_of_a_prediction_of_the_noise_it_is_that_of_the_definition():
    values = {
        "sample_method": "ddpm",
        "diffusion": {"num_timesteps": 1000},
        "training": {"loss_weight": "min_snr"},
    }
    base = config_of(**GREY).model_dump(include={"name", "data_loader", "model"})
    method = method_of(loading.validate({**base, **values}, "test"))
    objective = method.objective(IMAGES, method.precompute(IMAGES, torch.device("cpu")))
    t = torch.tensor([0, 50, 200, 400, 700, 999])
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t.numpy()]
    snr = abar / (1 - abar)
    assert snr.max() > 5 > snr.min()
    x_0 = (2 * IMAGES - 1).double().numpy()
    z = torch.randn(IMAGES.shape, generator=GENERATOR)
    alpha, sigma = (np.sqrt(a)[:, None, None, None] for a in (abar, 1 - abar))
    x_t = torch.from_numpy(alpha * x_0 + sigma * z.numpy()).float()
    index = torch.zeros(len(t), dtype=torch.long)
    predicted = network(x_t, t, index).double().numpy()
    D = (x_t.double().numpy() - sigma * predicted) / alpha
    expected = of_clean_image(D, x_0, snr)
    found = float(objective.loss(network, Batch(x_t, t, index, z)))
    assert found == pytest.approx(expected, rel=1e-3)
