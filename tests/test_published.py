import logging
import math

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from scipy.integrate import solve_ivp
from scipy.sparse.linalg import spsolve

from score_embedding.errors import ConvergenceError
from score_embedding.fokker_planck.operators import flattened
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solve import AffineDrift, solve
from score_embedding.sde import VarianceExploding

BROWNIAN = VarianceExploding(1.0)


def config_times(N):
    return torch.linspace(1e-3, 1, N, dtype=torch.float64)


def random_m0(*shape, seed=7):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def neighbours(k, h, D):
    """Index and sign of the four neighbours of pixel k on the flattened grid; on 1 x k pictures
    the offsets 1 and h are the same, and count twice."""
    pairs = ((k + 1, 1), (k - 1, -1), (k + h, 1), (k - h, -1))
    return [(j, sign) for j, sign in pairs if 0 <= j < D]


def coefficients(s, half_g2, dt, dh):
    return -half_g2 * s * dt / (2 * dh), half_g2 * dt / dh**2


def entries(s, half_g2, dt, dh, h):
    """Rows, columns and values; those of the same place are to be added."""
    alpha, beta = coefficients(s, half_g2, dt, dh)
    found = []
    for k in range(len(s)):
        found.append((k, k, 1 + 4 * beta))
        found += [(k, j, alpha[j] + sign * beta) for j, sign in neighbours(k, h, len(s))]
    return [np.array(column) for column in zip(*found, strict=True)]


def dense_system(s, half_g2, dt, dh, h):
    A = np.zeros((len(s), len(s)))
    rows, columns, values = entries(s, half_g2, dt, dh, h)
    np.add.at(A, (rows, columns), values)
    return A


def solve_step(s, half_g2, dt, dh, h, b):
    if len(b) <= 100:
        return np.linalg.solve(dense_system(s, half_g2, dt, dh, h), b)
    rows, columns, values = entries(s, half_g2, dt, dh, h)
    return spsolve(sparse.csc_array((values, (rows, columns))), b)  # adds the same places


def flat_score(m, dh):
    """Of one flattened image, by loops: 0 in place of what lies beyond its two ends."""
    D = len(m)
    ahead = [m[k + 1] if k + 1 < D else 0.0 for k in range(D)]
    behind = [m[k - 1] if k > 0 else 0.0 for k in range(D)]
    return np.array([(a - b) / (2 * dh) for a, b in zip(ahead, behind, strict=True)])


def by_brute_force(m0, sigma, times, dh, tolerance):
    """One (h, w) channel: log-density and score (N, h, w), and the relative change per sweep."""
    h, w = m0.shape
    N = len(times)
    half_g2 = [sigma ** (2 * float(t)) / 2 for t in times]
    m_before, s, history = np.ones((N, h * w)), np.ones((N, h * w)), []
    while not history or history[-1] > tolerance:
        assert len(history) < 200
        m = [np.asarray(m0, dtype=np.float64).ravel()]
        for i in range(1, N):
            m.append(solve_step(s[i], half_g2[i], 1 / N, dh, h, m[-1]))
        s = np.array([flat_score(m_i, dh) for m_i in m])
        history.append(np.linalg.norm(np.array(m) - m_before) / np.linalg.norm(m_before))
        m_before = np.array(m)
    return m_before.reshape(N, h, w), s.reshape(N, h, w), history


def modified_right_side(m, half_g2, dh, h):
    """The semi-discrete equation that the scheme tends to as its step goes to 0."""
    s = flat_score(m, dh)
    rate = 4 * m / dh**2
    for k in range(len(m)):
        for j, sign in neighbours(k, h, len(m)):
            rate[k] += sign * m[j] / dh**2 - s[j] * m[j] / (2 * dh)
    return -half_g2 * rate


def outside_stable_region(s, sigma, times, dh):
    """Whether a column of some step's system with the scores (N, h, w) has, with all its four
    neighbours, no strictly dominant diagonal."""
    N = len(times)
    for i in range(1, N):
        half_g2 = sigma ** (2 * float(times[i])) / 2
        alpha, beta = coefficients(s[i].numpy(), half_g2, 1 / N, dh)
        if (2 * abs(alpha + beta) + 2 * abs(alpha - beta) >= 1 + 4 * beta).any():
            return True
    return False


def assert_as_by_brute_force(m0, sigma, times, dh, tolerance):
    solution = solve(
        m0, VarianceExploding(sigma), times, scheme="published", dh=dh, tolerance=tolerance
    )
    longest = []
    for i, channel in np.ndindex(*m0.shape[:2]):
        m, s, history = by_brute_force(m0[i, channel].numpy(), sigma, times, dh, tolerance)
        # The systems' condition is below 2: 1e-10 of the largest entry is ample.
        for got, expected in ((solution.log_density, m), (solution.score(), s)):
            difference = np.abs(got[i, :, channel].numpy() - expected).max()
            assert difference <= 1e-10 * np.abs(expected).max()
        late = np.abs(m[-1]).max()
        assert np.abs(solution.log_density[i, -1, channel].numpy() - m[-1]).max() <= 1e-10 * late
        longest = max(longest, history, key=len)
    diagnostics = solution.diagnostics
    assert diagnostics.iterations == [len(longest)]
    # A late change is the difference of two equal fields: its round-off is absolute.
    np.testing.assert_allclose(diagnostics.residuals, [longest], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("sigma", [1.0, 5.0])
@pytest.mark.parametrize("dh", [1.0, 0.5, 2.0])
@pytest.mark.parametrize(
    "shape", [(4, 4), (3, 5), (5, 3), (2, 7), (2, 2), (1, 1), (1, 6), (6, 1), (1, 2), (2, 1)]
)
def test_the_fields_are_those_of_the_specification_by_brute_force(sigma, dh, shape):
    assert_as_by_brute_force(random_m0(1, 1, *shape), sigma, config_times(4), dh, 2e-8)


@pytest.mark.parametrize("N", [2, 10, 20])
@pytest.mark.parametrize("tolerance", [10.0, 1e-2, 1e-6, 1e-11])
def test_any_number_of_times_and_tolerance_stops_after_the_same_sweep(N, tolerance):
    assert_as_by_brute_force(random_m0(1, 1, 3, 4), 3.0, config_times(N), 1.0, tolerance)


@pytest.mark.parametrize(("h", "w", "sigma", "N"), [(8, 8, 5.0, 6), (6, 9, 2.0, 10)])
def test_photographs_give_the_fields_of_the_specification(h, w, sigma, N, photographs):
    m0 = log_density(photographs(h, w, n=1))
    assert_as_by_brute_force(m0, sigma, config_times(N), 1.0, 2e-8)


@pytest.mark.parametrize(("size", "N"), [(32, 20), pytest.param(64, 10, marks=pytest.mark.slow)])
def test_a_photograph_of_the_published_size_gives_the_fields_of_the_specification(
    size, N, photographs, monkeypatch
):
    m0 = log_density(photographs(size, n=1)[:, :1])
    factorised = []
    monkeypatch.setattr(flattened, "factorised", lambda *system: factorised.append(system))
    assert_as_by_brute_force(m0, 5.0, config_times(N), 1.0, 2e-8)
    assert factorised == []


def test_unevenly_spaced_times_enter_through_the_diffusion_only():
    m0 = random_m0(1, 1, 4, 5)
    times = torch.tensor([0.01, 0.02, 0.5, 0.51, 0.9], dtype=torch.float64)
    assert_as_by_brute_force(m0, 4.0, times, 1.0, 2e-8)
    uneven, even = (solve(m0, BROWNIAN, t, scheme="published") for t in (times, config_times(5)))
    assert torch.equal(uneven.log_density, even.log_density)


def test_a_batch_is_its_single_channels_and_reports_the_slowest():
    m0 = random_m0(2, 3, 5, 4) * torch.tensor([1.0, 3.0, 0.1])[:, None, None]
    sde, times = VarianceExploding(2.0), config_times(5)
    together = solve(m0, sde, times, scheme="published")
    assert together.log_density.shape == together.score().shape == (2, 5, 3, 5, 4)
    histories = []
    for i, channel in np.ndindex(2, 3):
        alone = solve(m0[i, channel][None, None], sde, times, scheme="published")
        assert torch.equal(together.log_density[i, :, channel], alone.log_density[0, :, 0])
        assert torch.equal(together.score()[i, :, channel], alone.score()[0, :, 0])
        histories += alone.diagnostics.residuals
    assert len({len(history) for history in histories}) > 1
    assert together.diagnostics.residuals == [max(histories, key=len)]


def test_the_first_entry_is_m0_bit_for_bit_and_m0_is_unchanged():
    m0 = random_m0(2, 3, 5, 4)
    for start in (m0, m0.float()):
        before = start.clone()
        m = solve(start, VarianceExploding(2.0), config_times(4), scheme="published").log_density
        assert torch.equal(m[:, 0], before)
        assert torch.equal(start, before)


def test_float32_is_the_rounded_solution_in_float64():
    m0, sde, times = random_m0(1, 2, 4, 4).float(), VarianceExploding(3.0), config_times(5)
    single = solve(m0, sde, times, scheme="published")
    double = solve(m0.double(), sde, times, scheme="published")
    assert double.log_density.dtype == double.score().dtype == torch.float64
    assert torch.equal(single.log_density, double.log_density.float())
    assert torch.equal(single.score(), double.score().float())


def test_numpy_and_tensors_give_the_same():
    m0, sde, times = random_m0(1, 2, 4, 3), VarianceExploding(3.0), config_times(5)
    from_numpy = solve(m0.numpy(), sde, times.numpy(), scheme="published")
    from_tensors = solve(m0, sde, times, scheme="published")
    assert torch.equal(from_numpy.log_density, from_tensors.log_density)
    assert torch.equal(from_numpy.score(), from_tensors.score())


def test_one_time_only_is_m0_and_its_score():
    m0 = random_m0(1, 2, 3, 4)
    solution = solve(m0, VarianceExploding(3.0), config_times(1), scheme="published", dh=0.5)
    assert torch.equal(solution.log_density, m0[:, None])
    for channel in range(2):
        expected = flat_score(m0[0, channel].numpy().ravel(), 0.5)
        assert np.array_equal(solution.score()[0, 0, channel].numpy().ravel(), expected)
    assert solution.diagnostics.warnings == []


def test_the_score_of_every_time_runs_along_the_flattened_rows_only():
    dh = 0.7
    solution = solve(
        random_m0(2, 1, 3, 5), VarianceExploding(2.0), config_times(4), dh=dh, scheme="published"
    )
    for i, n in np.ndindex(2, 4):
        expected = flat_score(solution.log_density[i, n, 0].numpy().ravel(), dh)
        assert np.array_equal(solution.score()[i, n, 0].numpy().ravel(), expected)


def test_the_score_of_a_ramp_wraps_at_row_ends_and_meets_zero_at_the_two_ends():
    m0 = torch.tensor([[[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]]], dtype=torch.float64)
    solution = solve(m0, VarianceExploding(2.0), config_times(5), scheme="published")
    expected = [[2 / 2, 2 / 2, 8 / 2], [17 / 2, 20 / 2, -20 / 2]]
    assert solution.score()[0, 0, 0].tolist() == expected


def test_a_single_pixel_decays_as_its_closed_form_does():
    times, dh = config_times(6), 0.8
    m0 = torch.full((1, 1, 1, 1), -2.5, dtype=torch.float64)
    solution = solve(m0, VarianceExploding(3.0), times, scheme="published", dh=dh)
    expected = [-2.5]
    for t in times[1:].tolist():
        expected.append(expected[-1] / (1 + 4 * 3 ** (2 * t) / 2 / 6 / dh**2))
    assert solution.log_density.flatten().tolist() == pytest.approx(expected, rel=1e-13)
    assert not solution.score().any()


def test_a_constant_image_has_log_density_and_score_zero():
    m0 = log_density(torch.full((1, 2, 4, 4), 0.3, dtype=torch.float64))
    m0[0, 1] = random_m0(4, 4)
    for times in (config_times(5), config_times(1)):
        solution = solve(m0, VarianceExploding(5.0), times, scheme="published")
        assert not solution.log_density[:, :, 0].any()
        assert not solution.score()[:, :, 0].any()
        assert torch.equal(solution.log_density[:, 0], m0)


def test_a_constant_m0_is_not_kept():
    m0 = torch.full((1, 1, 4, 6), 3.0, dtype=torch.float64)
    assert_as_by_brute_force(m0, 5.0, config_times(10), 1.0, 2e-8)
    sde, times = VarianceExploding(5.0), config_times(10)
    m = solve(m0, sde, times, scheme="published").log_density
    assert m[0, -1].abs().max() < 0.1
    shifted = solve(m0 + 3, sde, times, scheme="published").log_density
    assert (shifted - m)[0, -1].abs().max() < 0.1


def test_the_summary_counts_the_sweeps():
    diagnostics = solve(
        random_m0(1, 1, 4, 4), VarianceExploding(5.0), config_times(5), scheme="published"
    ).diagnostics
    assert (diagnostics.scheme, diagnostics.tolerance) == ("published", 2e-8)
    assert len(diagnostics.residuals[0]) > 1
    assert f"{len(diagnostics.residuals[0])} sweeps" in diagnostics.summary()


def test_refinement_does_not_bring_it_to_the_equation_that_the_others_solve():
    sizes, length, amplitude = [4, 8, 16], 4.0, 0.7
    apart = {"published": [], "implicit": []}
    for n in sizes:
        dh = length / n
        x = (torch.arange(n, dtype=torch.float64) + 0.5) * dh
        m0 = torch.log(1 + amplitude * torch.cos(math.pi * x / length))
        m0 = m0[:, None].expand(n, n)[None, None]
        times = torch.linspace(0, 1, n**2 // 4, dtype=torch.float64)
        expected = solve(m0, BROWNIAN, times, dh=dh).log_density[0, -1]
        for scheme, values in apart.items():
            m = solve(m0, BROWNIAN, times, scheme=scheme, dh=dh).log_density[0, -1]
            values.append(float((m - expected).abs().max() / expected.abs().max()))
    orders = {name: -np.polyfit(np.log(sizes), np.log(e), 1)[0] for name, e in apart.items()}
    assert orders["implicit"] > 1.5
    assert orders["published"] < 0.1
    # Refined, 4 m / dh^2 extinguishes m, and what is left is the whole solution.
    assert apart["published"][-1] == pytest.approx(1, abs=0.02)


# At sigma 1 only the number of steps of 1/N counts: N - 1 of them come to time 1 as N grows. At
# times k/N the diffusion is taken at the time that the steps have come to, and any sigma will do.
@pytest.mark.parametrize(
    ("sigma", "times_of", "end", "index", "h", "w", "dh"),
    [
        (1.0, config_times, 1.0, lambda N: N - 1, 3, 4, 1.0),
        (2.0, lambda N: torch.arange(N, dtype=torch.float64) / N, 0.5, lambda N: N // 2, 4, 3, 1.5),
    ],
    ids=["linspace", "multiples"],
)
def test_refined_in_time_it_converges_to_its_modified_equation(
    sigma, times_of, end, index, h, w, dh
):
    m0 = random_m0(1, 1, h, w)
    flow = solve_ivp(
        lambda t, m: modified_right_side(m, sigma ** (2 * t) / 2, dh, h),
        (0, end),
        m0.numpy().ravel(),
        method="DOP853",
        rtol=1e-8,
        atol=1e-10,
    )
    expected = torch.from_numpy(flow.y[:, -1].reshape(h, w))
    counts = [16, 32, 64]
    solutions = [
        solve(m0, VarianceExploding(sigma), times_of(N), scheme="published", dh=dh, tolerance=1e-10)
        for N in counts
    ]
    ends = [s.log_density[0, index(N), 0] for s, N in zip(solutions, counts, strict=True)]
    errors = [float((m - expected).abs().max()) for m in ends]
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-1, abs=0.1)
    # Without its first-order term the error of the finest falls by an order of magnitude.
    extrapolated = 2 * ends[-1] - ends[-2]
    assert (extrapolated - expected).abs().max() < 0.1 * errors[-1]


def column_excess(A):
    """Diagonal less the sum of the other moduli, column by column."""
    return 2 * np.abs(np.diag(A)) - np.abs(A).sum(axis=0)


def amplification(A):
    return np.abs(np.linalg.inv(A)).sum(axis=0).max()


SYSTEMS = [(5, 6, 1.0, 0.5, 0.05), (6, 4, 0.5, 12.5, 0.05), (4, 4, 4.0, 300.0, 0.2)]


@pytest.mark.parametrize(("h", "w", "dh", "half_g2", "dt"), SYSTEMS)
@pytest.mark.parametrize("fraction", [0.3, 0.9, 0.9999])
def test_below_the_bound_the_diagonal_dominates_and_limits_the_amplification(
    h, w, dh, half_g2, dt, fraction
):
    random = np.random.default_rng(3)
    bound = 2 / dh + dh / (2 * half_g2 * dt)
    for signs_only in (True, False):
        for _ in range(10):
            s = random.uniform(-1, 1, h * w)
            s = fraction * bound * (np.sign(s) if signs_only else s)
            alpha, beta = coefficients(s, half_g2, dt, dh)
            A = dense_system(s, half_g2, dt, dh, h)
            assert (column_excess(A) > 0).all()
            limit = 1 / (1 + 4 * beta - 4 * max(np.abs(alpha).max(), beta))
            # The sums' round-off, 1e-14, matters once the limit's denominator is small.
            assert amplification(A) <= limit * (1 + 1e-9)


@pytest.mark.parametrize(("h", "w", "dh", "half_g2", "dt"), SYSTEMS)
def test_just_above_the_bound_the_diagonal_dominates_no_longer(h, w, dh, half_g2, dt):
    s = np.zeros(h * w)
    inner = h * w // 2  # has all four neighbours
    assert len(neighbours(inner, h, h * w)) == 4
    for sign in (1, -1):
        for factor, dominates in ((1 - 1e-6, True), (1 + 1e-6, False)):
            s[inner] = sign * factor * (2 / dh + dh / (2 * half_g2 * dt))
            excess = column_excess(dense_system(s, half_g2, dt, dh, h))
            assert (excess[inner] > 0) == dominates
            assert (np.delete(excess, inner) > 0).all()


@pytest.mark.parametrize(("h", "w", "dh", "half_g2", "dt"), SYSTEMS)
def test_scores_up_to_two_over_dh_amplify_nothing_and_larger_ones_may(h, w, dh, half_g2, dt):
    random = np.random.default_rng(4)
    signs = np.sign(random.uniform(-1, 1, (20, h * w)))
    tame = [amplification(dense_system(2 / dh * s, half_g2, dt, dh, h)) for s in signs]
    assert max(tame) <= 1 + 1e-12
    bound = 2 / dh + dh / (2 * half_g2 * dt)
    wild = [amplification(dense_system(4 * bound * s, half_g2, dt, dh, h)) for s in signs]
    assert max(wild) > 1


@pytest.mark.parametrize(("size", "sigma", "N", "dh"), [(32, 5.0, 20, 1.0), (16, 25.0, 20, 4.0)])
def test_a_photograph_stays_in_the_stable_region_and_its_field_shrinks(
    size, sigma, N, dh, photographs, caplog
):
    m0 = log_density(photographs(size, n=1)[:, :1])
    with caplog.at_level(logging.WARNING):
        solution = solve(m0, VarianceExploding(sigma), config_times(N), scheme="published", dh=dh)
    assert solution.diagnostics.warnings == []
    assert caplog.records == []
    assert solution.score()[:, 1:].abs().max() <= 2 / dh
    one_norm = solution.log_density.abs().sum(dim=(-2, -1))
    assert (one_norm.diff(dim=1) < 0).all()


def test_leaving_the_stable_region_warns_of_image_and_channel_and_logs_it(photographs, caplog):
    sigma, times = 5.0, config_times(10)
    m0 = log_density(photographs(8, n=2)[:, :2])
    m0[0] = m0[0].flip(0)
    m0[0, 1] *= 10
    m0[1, 0] *= 10
    with caplog.at_level(logging.WARNING):
        solution = solve(m0, VarianceExploding(sigma), times, scheme="published")
    outside = [
        f"image {i}, channel {channel}"
        for i, channel in np.ndindex(2, 2)
        if outside_stable_region(solution.score()[i, :, channel], sigma, times, 1.0)
    ]
    assert outside == ["image 0, channel 1", "image 1, channel 0"]
    warnings = solution.diagnostics.warnings
    assert [warning.split(":")[0] for warning in warnings] == outside
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 2
    assert all(w in message for w, message in zip(warnings, logged, strict=True))
    assert torch.isfinite(solution.log_density).all()


@pytest.mark.parametrize(
    ("N", "dh"), [(5, 0.5), (5, 1.0), pytest.param(10, 1.0, marks=pytest.mark.slow), (10, 4.0)]
)
def test_a_warning_is_given_exactly_outside_the_stable_region(N, dh, photographs):
    sigma, times, m0 = 5.0, config_times(N), log_density(photographs(8, n=1)[:, :1])
    seen = set()
    for scale in (1, 4, 8, 10, 14):
        try:
            solution = solve(
                scale * m0,
                VarianceExploding(sigma),
                times,
                scheme="published",
                dh=dh,
                tolerance=1e-6,
                max_iterations=60,
            )
        except ConvergenceError:
            continue
        outside = outside_stable_region(solution.score()[0, :, 0], sigma, times, dh)
        assert len(solution.diagnostics.warnings) == outside
        seen.add(outside)
    assert seen == {False, True}


def test_a_field_far_outside_raises_with_all_its_residuals():
    m0 = random_m0(1, 2, 3, 4)
    m0[0, 1] *= 100
    with pytest.raises(ConvergenceError, match=r"image 0, channel 1, sweep 500") as raised:
        solve(m0, VarianceExploding(5.0), config_times(4), scheme="published")
    residuals = raised.value.residuals
    assert len(residuals) == 500
    assert min(residuals) > 2e-8


@pytest.mark.parametrize("scale", [1e4, pytest.param(1e8, marks=pytest.mark.slow), 1e40, 1e100])
def test_a_log_density_of_any_size_raises_rather_than_end_in_nan(scale):
    for seed in range(5):
        m0 = scale * random_m0(1, 1, 4, 5, seed=seed)
        with pytest.raises(ConvergenceError) as raised:
            solve(
                m0, VarianceExploding(5.0), config_times(4), scheme="published", max_iterations=30
            )
        assert 1 <= len(raised.value.residuals) <= 30


def test_a_singular_system_is_a_convergence_error_too():
    m0 = torch.tensor([[[[1e20, 3e20, -2e20]]]], dtype=torch.float64)
    with pytest.raises(ConvergenceError, match="image 0, channel 0, sweep"):
        solve(m0, VarianceExploding(5.0), config_times(4), scheme="published", max_iterations=30)


@pytest.mark.parametrize(
    ("m0", "changed"),
    [
        (torch.zeros(1, 1, 4, 4), {"drift": AffineDrift(-1.0)}),
        (torch.zeros(1, 1, 4, 4), {"drift": torch.zeros(2, 4, 4)}),
        (torch.zeros(1, 1, 4, 4), {"boundary": "zero"}),
        (torch.zeros(1, 1, 4), {}),
        (torch.zeros(1, 1, 4, 4, 4), {}),
    ],
    ids=["affine", "array", "zero", "1-D", "3-D"],
)
def test_what_the_published_scheme_does_not_know_is_refused(m0, changed):
    with pytest.raises(ValueError, match="the published scheme knows only"):
        solve(m0, VarianceExploding(2.0), config_times(3), scheme="published", **changed)
