import math

import pytest
import torch
from scipy.integrate import quad

from score_embedding.sde import VarianceExploding, VariancePreserving

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


# --- variance preserving -----------------------------------------------------------------------

BETAS = [(0.1, 20.0), (3.0, 0.2), (1.4, 1.4)]


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (1e-3, 1.0), (0.4, 0.4001), (0.9, 0.2)])
def test_integral_of_beta_is_the_quadrature_of_g2(betas, a, b):
    sde = VariancePreserving(*betas)
    expected = quad(lambda t: float(sde.g(t)) ** 2, a, b, epsabs=0, epsrel=1e-12)[0]
    assert float(sde.integral_g2(a, b)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_beta_is_linear_and_rules_drift_and_diffusion(betas, t, generator):
    sde, beta = VariancePreserving(*betas), (1 - t) * betas[0] + t * betas[1]
    assert float(sde.beta(t)) == pytest.approx(beta, rel=1e-14)
    assert float(sde.rate(t)) == pytest.approx(beta / 2, rel=1e-14)
    assert float(sde.g(t)) == pytest.approx(math.sqrt(beta), rel=1e-14)
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(sde.f(x, t), -beta / 2 * x, rtol=1e-14, atol=0)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("t", [1e-9, 1e-3, 0.3, 1.0])
def test_std_of_variance_preserving_grows_to_one_as_its_quadrature_does(betas, t):
    exponent = quad(lambda s: (1 - s) * betas[0] + s * betas[1], 0, t, epsrel=1e-13)[0]
    std = VariancePreserving(*betas).std(t)
    assert float(std) == pytest.approx(math.sqrt(-math.expm1(-exponent)), rel=1e-12)
    assert float(VariancePreserving(*betas).std(0.0)) == 0


def test_a_constant_beta_is_an_ornstein_uhlenbeck_process():
    theta, t = 0.7, 0.6
    sde = VariancePreserving(2 * theta, 2 * theta)
    assert float(sde.rate(t)) == theta
    assert float(sde.integral_g2(0.1, t)) == pytest.approx(2 * theta * (t - 0.1), rel=1e-14)
    assert float(sde.std(t)) == pytest.approx(math.sqrt(1 - math.exp(-2 * theta * t)), rel=1e-14)


def test_euler_maruyama_paths_keep_the_mean_and_variance_of_variance_preserving(generator):
    sde, steps = VariancePreserving(0.5, 4.0), 200
    point = torch.full((20_000,), 2.0, dtype=torch.float64)
    normal = torch.randn(20_000, generator=generator, dtype=torch.float64)
    for i in range(steps):
        t = (i + 0.5) / steps
        noise = torch.randn(2, 20_000, generator=generator, dtype=torch.float64) / math.sqrt(steps)
        point = point + sde.f(point, t) / steps + sde.g(t) * noise[0]
        normal = normal + sde.f(normal, t) / steps + sde.g(t) * noise[1]
    mean = 2 * math.exp(-float(sde.integral_g2(0, 1)) / 2)
    assert float(point.mean()) == pytest.approx(mean, abs=0.02)
    assert float(point.std()) == pytest.approx(float(sde.std(1.0)), rel=0.02)
    assert float(normal.std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (4,), (2, 1, 3)])
def test_tensor_times_of_variance_preserving_keep_shape_and_dtype(dtype, shape):
    sde, t = VariancePreserving(), torch.full(shape, 0.5, dtype=dtype)
    results = (sde.beta(t), sde.rate(t), sde.g(t), sde.std(t), sde.integral_g2(0 * t, t))
    for result in results:
        assert (result.shape, result.dtype) == (t.shape, t.dtype)
    for result in (sde.g(0.5), sde.std(0.5), sde.integral_g2(0.1, 0.5)):
        assert (result.shape, result.dtype) == ((), torch.float64)


def test_the_drift_of_variance_preserving_has_the_form_of_x_and_a_time_for_each_image():
    x, t = torch.ones(2, 3, 4, 5), torch.tensor([0.0, 1.0], dtype=torch.float64)
    drift = VariancePreserving(0.5, 4.0).f(x, t[:, None, None, None])
    assert (drift.shape, drift.dtype) == (x.shape, x.dtype)
    assert drift[0].unique().tolist() == [-0.25]
    assert drift[1].unique().tolist() == [-2]


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_is_not_positive_and_finite_is_refused(beta):
    for betas in ((beta, 1.0), (1.0, beta)):
        with pytest.raises(ValueError, match=r"beta_(min|max) must be a positive finite number"):
            VariancePreserving(*betas)
