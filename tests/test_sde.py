import math

import pytest
import torch
from scipy.integrate import quad

from score_embedding.sde import VarianceExploding

SIGMAS = [0.3, 1.0, 1 + 1e-13, 1 - 1e-9, 1.001, 2.0, 5.0, 25.0]


def integral_by_quadrature(sigma, a, b):
    return quad(lambda t: sigma ** (2 * t), a, b, epsabs=0, epsrel=1e-12)[0]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1e-3, 1.0), (0.4, 0.4001), (0.9, 0.2)])
def test_integral_of_g2_is_the_quadrature_of_g2(sigma, a, b):
    expected = integral_by_quadrature(sigma, a, b)
    assert float(VarianceExploding(sigma).integral_g2(a, b)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("t", [1e-3, 0.3, 1.0])
def test_std_is_the_root_of_the_integral_from_zero(sigma, t):
    expected = math.sqrt(integral_by_quadrature(sigma, 0, t))
    assert float(VarianceExploding(sigma).std(t)) == pytest.approx(expected, rel=1e-10)


def test_std_of_the_paper_in_closed_form():
    sde = VarianceExploding(5.0)
    expected = math.sqrt((5.0 ** (2 * 0.7) - 1) / (2 * math.log(5.0)))
    assert float(sde.std(0.7)) == pytest.approx(expected, rel=1e-13)
    assert sde.prior_std == pytest.approx(math.sqrt(24 / (2 * math.log(5))), rel=1e-13)
    assert float(sde.std(0.0)) == 0


def test_euler_maruyama_paths_have_the_std(generator):
    sde = VarianceExploding(3.0)
    x, steps = torch.zeros(20_000, dtype=torch.float64), 200
    for i in range(steps):
        dW = torch.randn(len(x), generator=generator, dtype=x.dtype) / math.sqrt(steps)
        x += 3.0 ** ((i + 0.5) / steps) * dW
    assert float(x.std()) == pytest.approx(float(sde.std(1.0)), rel=0.02)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_g_is_sigma_to_the_power_t(sigma):
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    expected = torch.tensor([1.0, sigma**0.25, sigma], dtype=torch.float64)
    torch.testing.assert_close(VarianceExploding(sigma).g(t), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("sigma", [1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (4,), (2, 1, 3)])
def test_tensor_times_keep_shape_and_dtype(sigma, dtype, shape):
    sde, t = VarianceExploding(sigma), torch.full(shape, 0.5, dtype=dtype)
    for result in (sde.g(t), sde.std(t), sde.integral_g2(torch.zeros_like(t), t)):
        assert (result.shape, result.dtype) == (t.shape, t.dtype)


def test_float_times_give_float64_scalars():
    sde = VarianceExploding(5.0)
    for result in (sde.g(0.5), sde.std(0.5), sde.integral_g2(0.1, 0.5)):
        assert (result.shape, result.dtype) == ((), torch.float64)


def test_the_drift_is_zero_in_the_form_of_x():
    x = torch.ones(2, 3, 4, 5)
    drift = VarianceExploding(5.0).f(x, 0.5)
    assert (drift.shape, drift.dtype) == (x.shape, x.dtype)
    assert not drift.any()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_a_sigma_that_is_not_positive_and_finite_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be a positive finite number"):
        VarianceExploding(sigma)
