import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from scipy.integrate import solve_ivp

from score_embedding.fokker_planck.operators import kernels
from score_embedding.fokker_planck.operators.kernels import (
    affine_kernel,
    basis,
    heat_kernel,
    precise_heat_kernel,
)
from score_embedding.fokker_planck.solve import AffineDrift
from score_embedding.sde import VarianceExploding, VariancePreserving

CPU = torch.device("cpu")
BOUNDARIES = ["reflect", "zero"]
TIMES = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
VP = VariancePreserving(0.5, 4.0)


def second_difference(size, dh, boundary):
    """The matrix of one axis by loops: the edge's own value beyond the edge, or 0."""
    matrix = np.zeros((size, size))
    for i in range(size):
        for neighbour in (i - 1, i + 1):
            matrix[i, i] -= 1 / dh**2
            if 0 <= neighbour < size:
                matrix[i, neighbour] += 1 / dh**2
            elif boundary == "reflect":
                matrix[i, i] += 1 / dh**2
    return matrix


def taylor_exponential(generator):
    """exp of a generator as the sum of its non-negative series, in extended precision."""
    shift = -generator.diagonal().min()
    P = generator.astype(np.longdouble) + shift * np.eye(len(generator), dtype=np.longdouble)
    term = total = np.eye(len(generator), dtype=np.longdouble)
    for k in range(1, 200):
        term = term @ P / k
        total = total + term
    return total * np.exp(-np.longdouble(shift))


# --- the basis and the heat kernel -------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [1, 2, 5, 32, 100])
def test_the_basis_is_orthonormal_and_diagonalises_the_second_difference(boundary, size):
    C, Lambda = basis(size, boundary, CPU)
    identity = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(C @ C.T, identity, rtol=0, atol=3e-14)
    matrix = torch.from_numpy(second_difference(size, 1.0, boundary))
    torch.testing.assert_close(C @ matrix @ C.T, -torch.diag(Lambda), rtol=0, atol=3e-13)
    assert (Lambda.diff() > 0).all()
    assert (float(Lambda[0]) == 0) == (boundary == "reflect")


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [1, 2, 9, 40])
@pytest.mark.parametrize("dh", [1.0, 0.4])
def test_the_heat_kernel_is_the_matrix_exponential(boundary, size, dh):
    tau = torch.tensor([0.0, 0.01, 1.0, 30.0], dtype=torch.float64)
    matrix = second_difference(size, dh, boundary)
    expected = [torch.from_numpy(scipy.linalg.expm(float(t) / 2 * matrix)) for t in tau]
    kernel = heat_kernel(size, tau, dh, boundary)
    torch.testing.assert_close(kernel, torch.stack(expected), rtol=0, atol=2e-14)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_the_precise_heat_kernel_is_the_same_with_the_inflow_over_either_edge(boundary, size):
    dh, tau = 0.4, torch.tensor([0.0, 0.01, 1.0, 30.0], dtype=torch.float64)
    matrix = second_difference(size, dh, boundary)
    if boundary == "zero":  # what a row lacks of a sum of 0 comes from beyond the edge
        matrix = np.pad(np.column_stack([matrix, -matrix.sum(axis=1)]), ((0, 1), (0, 0)))
    expected = [torch.from_numpy(scipy.linalg.expm(float(t) / 2 * matrix)) for t in tau]
    kernel = precise_heat_kernel(size, tau, dh, boundary)
    torch.testing.assert_close(kernel, torch.stack(expected), rtol=0, atol=3e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [1, 6, 64])
def test_heat_kernels_compose(boundary, size):
    a, b = 0.3, 1.9
    first, second, both = heat_kernel(size, TIMES.new_tensor([a, b, a + b]), 0.8, boundary)
    torch.testing.assert_close(first @ second, both, rtol=0, atol=1e-14)
    torch.testing.assert_close(second @ first, both, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [1, 6, 64, 200])
@pytest.mark.parametrize("tau", [1e-9, 0.5, 100.0, 1e6])
def test_a_heat_kernel_averages_between_walls_and_loses_where_zero_lies_beyond(size, tau):
    reflect, zero = (
        heat_kernel(size, TIMES.new_tensor([tau]), 1.0, boundary)[0] for boundary in BOUNDARIES
    )
    assert (reflect >= 0).all()
    assert (zero >= 0).all()
    torch.testing.assert_close(reflect.sum(dim=1), torch.ones(size).double(), rtol=0, atol=3e-13)
    torch.testing.assert_close(reflect, reflect.T, rtol=0, atol=1e-15)
    assert (zero.sum(dim=1) < 1 + 3e-13).all()
    edges = zero.sum(dim=1)[[0, -1]]
    lost = 1 - edges
    assert (lost > min(0.4 * tau, 0.1)).all()  # tau/2 at first
    assert (zero <= reflect + 3e-13).all()


# --- the exponential of a generator ------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 15, 40])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.3, 1.0, 50.0])
def test_the_positive_exponential_is_that_of_scipy(size, scale, generator):
    rates = scale * torch.rand(size, size, generator=generator, dtype=torch.float64)
    rates.fill_diagonal_(0)
    Q = rates - torch.diag(rates.sum(dim=0))
    expected = torch.from_numpy(scipy.linalg.expm(Q.numpy()))
    exponential = kernels._positive_exponential(Q)
    torch.testing.assert_close(exponential, expected, rtol=1e-11, atol=1e-13)
    assert (exponential >= 0).all()


@pytest.mark.parametrize("size", [5, 15, 40])
@pytest.mark.parametrize("rate", [1e-3, 0.9, 3.0, 25.0])
def test_the_tiny_entries_of_a_birth_process_are_relatively_accurate(size, rate):
    Q = torch.diag(torch.full((size - 1,), rate, dtype=torch.float64), -1)
    Q -= torch.diag(Q.sum(dim=0))
    column = kernels._positive_exponential(Q)[:-1, 0].numpy()  # the last state absorbs
    births = np.arange(size - 1)
    poisson = np.exp(births * math.log(rate) - rate - scipy.special.gammaln(births + 1))
    normal = poisson > 1e-300
    np.testing.assert_allclose(column[normal], poisson[normal], rtol=1e-12, atol=0)


@pytest.mark.parametrize("outflow", [0.5, 8.0, 40.0])
def test_every_entry_of_a_birth_and_death_process_is_relatively_accurate(outflow, generator):
    up, down = torch.rand(2, 11, generator=generator, dtype=torch.float64) + 0.01
    Q = torch.diag(up, -1) + torch.diag(down, 1)
    Q -= torch.diag(Q.sum(dim=0))
    Q *= outflow / -Q.diagonal().min()
    exponential = kernels._positive_exponential(Q).numpy()
    expected = taylor_exponential(Q.numpy())
    np.testing.assert_allclose(exponential, expected.astype(float), rtol=1e-12, atol=0)


def test_the_bernoulli_function_holds_its_digits_at_any_argument():
    z = np.concatenate([[0.0], np.logspace(-300, np.log10(600), 60)])
    z = np.concatenate([-z, z])
    expected = 1 / scipy.special.exprel(z)
    values = kernels._bernoulli(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-14, atol=0)
    assert kernels._bernoulli(torch.tensor([1e4, -1e4], dtype=torch.float64)).tolist() == [0, 1e4]


# --- affine drift ------------------------------------------------------------------------------


def fitted_generator(size, half_g2, rate, dh):
    """d/dt of p under f = -rate x and half_g2 p_xx by loops over the faces: the flux of exponential
    fitting, with the potential rate x^2 / (2 half_g2) at the pixel centres."""
    Q = np.zeros((size, size))
    x = (np.arange(size) - (size - 1) / 2) * dh
    for i in range(size - 1):
        rise = rate * (x[i + 1] ** 2 - x[i] ** 2) / (2 * half_g2)
        up, down = half_g2 / dh**2 / scipy.special.exprel([rise, -rise])
        Q[i + 1, i] += up
        Q[i, i] -= up
        Q[i, i + 1] += down
        Q[i + 1, i + 1] -= down
    return Q


@pytest.mark.parametrize(
    ("sde", "rate", "tolerance"),
    [
        (VP, VP.rate, 1e-10),
        (VarianceExploding(1.0), lambda _: 0.8, 1e-10),
        (VarianceExploding(1.0), lambda _: -0.4, 1e-10),
        (VarianceExploding(1.0), lambda t: 1 + t**3, 1e-4),  # second order in the substep
        (VarianceExploding(3.0), lambda _: 0.8, 1e-4),
    ],
    ids=["VP", "OU", "away", "rising", "VE"],
)
def test_the_affine_kernel_is_the_flow_of_its_generator(sde, rate, tolerance):
    size, dh = 7, 0.5
    flow = solve_ivp(
        lambda t, p: (
            fitted_generator(size, float(sde.g(t)) ** 2 / 2, float(rate(t)), dh)
            @ p.reshape(size, size)
        ).ravel(),
        (0, 1),
        np.eye(size).ravel(),
        t_eval=TIMES.numpy(),
        method="DOP853",
        rtol=1e-11,
        atol=1e-12,
    )
    expected = torch.from_numpy(flow.y.T.reshape(3, size, size).copy())
    kernel = affine_kernel(size, sde, TIMES, AffineDrift(rate), dh, substeps=32)
    torch.testing.assert_close(kernel, expected, rtol=0, atol=tolerance)
    assert torch.equal(kernel[0], torch.eye(size, dtype=torch.float64))


class Cubic:
    """g(t)^2 = 1 + t^3."""

    def g(self, t):
        return torch.sqrt(1 + torch.as_tensor(t) ** 3)

    def integral_g2(self, a, b):
        return torch.as_tensor(b - a + (b**4 - a**4) / 4)


def test_a_rate_up_to_cubic_in_time_is_integrated_exactly_in_one_substep():
    rising = AffineDrift(lambda t: 0.8 * (1 + t**3))
    kernel = affine_kernel(9, Cubic(), TIMES.new_tensor([0, 1]), rising, 0.5, substeps=1)
    constant = (VarianceExploding(1.0), TIMES.new_tensor([0, 1.25]), AffineDrift(0.8))
    torch.testing.assert_close(
        kernel, affine_kernel(9, *constant, 0.5, substeps=1), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(
    "size", [1, 2, 9, 24, *(pytest.param(n, marks=pytest.mark.slow) for n in (64, 128))]
)
@pytest.mark.parametrize("dh", [1.0, 0.1])
@pytest.mark.parametrize(
    ("sde", "rate"),
    [
        (VariancePreserving(), VariancePreserving().rate),
        (VarianceExploding(5.0), 0.8),
        (VarianceExploding(1.0), -3.0),
        (VarianceExploding(1.0), 40.0),
    ],
    ids=["VP", "VE", "away", "strong"],
)
def test_the_columns_of_an_affine_kernel_sum_to_one(size, dh, sde, rate):
    kernel = affine_kernel(size, sde, TIMES, AffineDrift(rate), dh)
    assert (kernel >= 0).all()
    assert float((kernel.sum(dim=1) - 1).abs().max()) < 4e-12  # round-off of SUBSTEPS products


@pytest.mark.parametrize("rate", [0.7, -0.3])
def test_the_affine_generator_is_in_detailed_balance_with_its_stationary_density(rate):
    tau, dh, size = 1.3, 0.6, 12
    Q = kernels._generator(size, tau, rate, dh)
    x = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) * dh
    flow = Q * torch.exp(-rate * x**2 / tau)  # from column to row
    torch.testing.assert_close(flow, flow.T, rtol=1e-13, atol=0)


def test_affine_kernels_compose_over_time():
    drift, sde = AffineDrift(VP.rate), VP
    whole = affine_kernel(9, sde, TIMES, drift, 0.5)
    first = affine_kernel(9, sde, TIMES[:2], drift, 0.5)[1]
    second = affine_kernel(9, sde, TIMES[1:], drift, 0.5)[1]
    torch.testing.assert_close(whole[2], second @ first, rtol=0, atol=5e-14)
