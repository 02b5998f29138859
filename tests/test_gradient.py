import math

import numpy as np
import pytest
import torch

from score_embedding.fokker_planck.operators.differences import gradient, score

BOUNDARIES = ["reflect", "zero"]


def differences_by_loops(m, dh, boundary):
    """Both central differences of one (h, w) field."""
    h, w = m.shape

    def value(i, j):
        if 0 <= i < h and 0 <= j < w:
            return float(m[i, j])
        if boundary == "zero":
            return 0.0
        return float(m[min(max(i, 0), h - 1), min(max(j, 0), w - 1)])

    along_h, along_w = torch.empty(2, h, w, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            along_h[i, j] = (value(i + 1, j) - value(i - 1, j)) / (2 * dh)
            along_w[i, j] = (value(i, j + 1) - value(i, j - 1)) / (2 * dh)
    return along_h, along_w


@pytest.mark.parametrize("dh", [1.0, 0.25])
def test_a_ramp_has_slope_one_inside_and_half_at_reflecting_walls(dh):
    ramp = dh * torch.arange(6, dtype=torch.float64)
    expected = torch.tensor([0.5, 1, 1, 1, 1, 0.5], dtype=torch.float64)
    across = torch.zeros(6, 5, dtype=torch.float64)
    along_h, along_w = gradient(ramp[:, None].expand(6, 5), dh=dh)
    assert torch.equal(along_h, expected[:, None].expand(6, 5))
    assert torch.equal(along_w, across)
    along_h, along_w = gradient(ramp.expand(5, 6), dh=dh)
    assert torch.equal(along_h, across.T)
    assert torch.equal(along_w, expected.expand(5, 6))


def test_zero_padding_takes_zero_beyond_the_edge():
    ramp = torch.arange(6, dtype=torch.float64)[:, None].expand(6, 5)
    along_h, along_w = gradient(ramp, boundary="zero")
    assert along_h[:, 2].tolist() == [0.5, 1, 1, 1, 1, -2]
    assert along_w[3].tolist() == [1.5, 0, 0, 0, -1.5]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dh", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("shape", [(2, 2, 3, 4, 6), (5, 3), (1, 1, 7), (2, 1)])
def test_gradient_and_score_are_the_loops(boundary, dh, shape, generator):
    m = torch.randn(shape, generator=generator, dtype=torch.float64)
    along_h, along_w = gradient(m, dh=dh, boundary=boundary)
    total = score(m, dh, boundary)
    assert along_h.shape == along_w.shape == total.shape == m.shape
    fields = (x.reshape(-1, *shape[-2:]) for x in (m, along_h, along_w, total))
    for field, by_h, by_w, both in zip(*fields, strict=True):
        expected_h, expected_w = differences_by_loops(field, dh, boundary)
        torch.testing.assert_close(by_h, expected_h, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(by_w, expected_w, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(both, expected_h + expected_w, rtol=1e-13, atol=1e-13)


def test_the_gradient_is_second_order():
    errors, sizes = [], [16, 32, 64, 128]
    for n in sizes:
        x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        along_h, _ = gradient(torch.cos(math.pi * x)[:, None], dh=1 / n)
        errors.append(float((along_h[:, 0] + math.pi * torch.sin(math.pi * x)).abs().max()))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize("function", [gradient, score])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_float32_stays_float32_and_numpy_becomes_a_tensor(function, boundary, generator):
    m = torch.randn(2, 4, 5, generator=generator)
    for given, dtype in [(m, torch.float32), (m.double().numpy(), torch.float64)]:
        result = function(given, boundary=boundary)
        for part in result if isinstance(result, tuple) else (result,):
            assert part.dtype == dtype


@pytest.mark.parametrize("function", [gradient, score])
@pytest.mark.parametrize(
    ("m", "boundary", "message"),
    [
        (torch.zeros(4, 4), "periodic", 'boundary must be "reflect" or "zero"'),
        (torch.zeros(4), "reflect", r"must end in \(h, w\)"),
        (torch.full((4, 4), math.nan), "reflect", "NaN or infinite"),
    ],
)
def test_what_has_no_gradient_is_refused(function, m, boundary, message):
    with pytest.raises(ValueError, match=message):
        function(m, boundary=boundary)


# --- one to three dimensions -------------------------------------------------------------------


def difference_by_loops(m, axis, dh, boundary):
    """The central difference along one axis of a field of any dimension."""
    result = np.zeros(m.shape)
    for pixel in np.ndindex(*m.shape):
        around = []
        for i in (pixel[axis] - 1, pixel[axis] + 1):
            inside = min(max(i, 0), m.shape[axis] - 1)
            neighbour = (*pixel[:axis], inside, *pixel[axis + 1 :])
            around.append(0.0 if boundary == "zero" and i != inside else m[neighbour])
        result[pixel] = (around[1] - around[0]) / (2 * dh)
    return result


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("dh", [1.0, 0.4])
@pytest.mark.parametrize("grid", [(6,), (1,), (3, 5), (3, 4, 5), (2, 1, 3)])
def test_gradient_and_score_of_any_dimension_are_the_loops(boundary, dh, grid, generator):
    dims = len(grid)
    m = torch.randn(2, 3, *grid, generator=generator, dtype=torch.float64)
    parts, total = (
        gradient(m, dh=dh, boundary=boundary, dims=dims),
        score(m, dh, boundary, dims=dims),
    )
    assert len(parts) == dims
    assert all(part.shape == m.shape for part in (*parts, total))
    for image, channel in np.ndindex(2, 3):
        field = m[image, channel].numpy()
        expected = [difference_by_loops(field, axis, dh, boundary) for axis in range(dims)]
        for part, part_expected in zip(parts, expected, strict=True):
            np.testing.assert_allclose(part[image, channel], part_expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(total[image, channel], sum(expected), rtol=0, atol=1e-14)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_fewer_dims_are_the_last_axes(boundary, generator):
    m = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    by_dims = [gradient(m, dh=0.5, boundary=boundary, dims=dims) for dims in (1, 2, 3)]
    for parts in by_dims:
        for part, expected in zip(parts, by_dims[2][-len(parts) :], strict=True):
            assert torch.equal(part, expected)
    assert torch.equal(score(m, 0.5, boundary), by_dims[1][0] + by_dims[1][1])


@pytest.mark.parametrize("function", [gradient, score])
@pytest.mark.parametrize(
    ("shape", "dims", "axes"), [((), 1, "w"), ((4,), 2, "h, w"), ((4, 4), 3, "d, h, w")]
)
def test_a_field_of_fewer_axes_than_dims_is_refused(function, shape, dims, axes):
    with pytest.raises(
        ValueError, match=rf"log_density must end in \({axes}\), none empty, got shape"
    ):
        function(torch.zeros(shape), dims=dims)
