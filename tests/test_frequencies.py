"""Rings of spatial frequency against SciPy's DCT and loops."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from score_embedding import frequencies
from score_embedding.dct import dct, inverse_dct

SIZES = [(1, 1), (1, 9), (2, 2), (4, 100), (5, 7), (8, 8), (32, 32), (128, 97)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_transform_is_scipys(size, dtype, generator):
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    accuracy = 1e-5 if dtype == torch.float32 else 1e-11
    found = dct(x.to(dtype))
    assert found.dtype == dtype
    expected = dctn(x.numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=accuracy)
    back = idctn(x.numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(inverse_dct(x).numpy(), back, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", SIZES)
def test_power_is_the_mean_square_in_each_ring_and_none_is_empty(size, generator):
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    rings = frequencies.count(*size)
    squares = dctn(x.numpy(), axes=(2, 3), norm="ortho") ** 2
    members = [[] for _ in range(rings)]
    for i, j in np.ndindex(size):
        radius = math.sqrt(((i / size[0]) ** 2 + (j / size[1]) ** 2) / 2)
        members[math.floor(radius * rings)].extend(squares[:, :, i, j].ravel())
    assert all(members)
    found = frequencies.power(x, rings)
    np.testing.assert_allclose(found.numpy(), [np.mean(m) for m in members], rtol=1e-9)
    assert float(frequencies.power(x, 1)) == pytest.approx(float(x.square().mean()))


def test_the_value_at_a_frequency_does_not_depend_on_the_size_of_the_image(generator):
    values = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    small, large = (frequencies.at_frequencies(values, n, n) for n in (16, 64))
    assert torch.equal(small, large[:, ::4, ::4])
    middles = [frequencies.at_frequencies(values, 16, 1)[:, i, 0] for i in range(16)]
    radii = np.arange(16) / 16 / math.sqrt(2)
    for b in range(2):
        expected = np.interp(radii, (np.arange(8) + 0.5) / 8, values[b].numpy())
        np.testing.assert_allclose([float(m[b]) for m in middles], expected, rtol=0, atol=1e-12)


def test_what_was_first_asked_for_without_gradients_can_be_trained_through():
    with torch.inference_mode():
        dct(torch.ones(1, 1, 13, 11))
    x = torch.ones(1, 1, 13, 11, requires_grad=True)
    dct(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * torch.ones(1, 1, 13, 11))
