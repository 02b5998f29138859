"""Non-local Bayes against loops with full covariances in float64."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from score_embedding.restoration import neighbourhoods
from score_embedding.restoration.neighbourhoods import Groups
from score_embedding.restoration.noise import LEAST_EIGENVALUE, Stationary

SIDE, REACH, COMPARED = 5, 6, 10


def texture(shape, generator):
    """All windows differ, and all are related."""
    c, h, w = shape
    down, right = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    waves = [torch.sin(0.9 * down + 0.4 * k + 0.2 * right) for k in range(c)]
    rough = torch.randn(shape, generator=generator, dtype=torch.float64)
    return 0.5 + 0.3 * torch.stack(waves).double() + 0.05 * rough


def noisy_pair(shape, generator, s):
    first = texture(shape, generator)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return first + s * noise, first


def windows_of(image):
    """By place, (c, SIDE, SIDE) as rows."""
    _, h, w = image.shape
    places = itertools.product(range(h - SIDE + 1), range(w - SIDE + 1))
    return {(i, j): image[:, i : i + SIDE, j : j + SIDE].ravel() for i, j in places}


def along(length, stride):
    """Tile by tile: the reference windows, and the candidates for their groups."""
    tile = {1: 18, 4: 16, 6: 18}[stride]
    size = min(length, tile + 2 * REACH)
    steps = range(0, tile, stride)
    last = max(length - 1 - steps[-1], 0)
    for start in [*range(0, last, tile), last]:
        own = [min(start + step, length - 1) for step in steps]
        first = min(max(start - REACH, 0), length - size)
        yield own, range(first, first + size)


def principal_axes(whitened, s):
    """Of all windows, as columns from the most variance down, but for the negligible ones."""
    centred = whitened - whitened.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    count = max(1, int(np.sum(variances > neighbourhoods._NEGLIGIBLE * s**2)))
    return axes[:, ::-1][:, :count]


def by_loops(y, first, noise, groups):
    """With the covariances along the principal axes, of the image and of the noise."""
    y, first, K = y.numpy(), first.numpy(), groups.nearest
    covariance = noise.level**2 * noise.window(SIDE)
    white = np.linalg.inv(sqrtm(noise.window(SIDE)).real)
    noisy, clean = windows_of(y), windows_of(first)
    axes = principal_axes(np.stack(list(clean.values())) @ white, noise.level)
    along_axes, back = axes.T @ white, np.linalg.inv(white) @ axes
    clean, noisy = ({p: along_axes @ w for p, w in own.items()} for own in (clean, noisy))
    covariance = along_axes @ covariance @ along_axes.T
    extra, noises = groups.missing**2 * covariance, groups.gain**2 * covariance
    total, count = np.zeros_like(y), np.zeros(y.shape[1:])
    rows, columns = (along(length - SIDE + 1, groups.stride) for length in y.shape[1:])
    for (own_i, near_i), (own_j, near_j) in itertools.product(rows, list(columns)):
        candidates = list(itertools.product(near_i, near_j))
        for place in itertools.product(own_i, own_j):
            distance = {p: np.sum((clean[p] - clean[place])[:COMPARED] ** 2) for p in candidates}
            group = sorted(candidates, key=distance.__getitem__)[:K]
            members = np.stack([clean[p] for p in group])
            mean, C = members.mean(axis=0), np.atleast_2d(np.cov(members.T, bias=True))
            filtered = (C + extra) @ np.linalg.inv(C + extra + noises)
            shrunk = C @ np.linalg.inv(C + extra + noises)
            left = max(np.sum(shrunk**2) / len(white) + 1 / len(group), 1e-3)
            for i, j in group:
                change = back @ (mean + filtered @ (noisy[i, j] - mean) - clean[i, j])
                total[:, i : i + SIDE, j : j + SIDE] += change.reshape(-1, SIDE, SIDE) / left
                count[i : i + SIDE, j : j + SIDE] += 1 / left
    return torch.from_numpy(first + total / count)


SHAPES = [(3, 21, 24), (1, 37, 9), (1, 5, 40), (2, 8, 8), (1, 20, 19), (1, 17, 18)]


def refined(y, first, s, stride=4, block=neighbourhoods.BLOCK):
    noise = Stationary.white(s, len(y))
    return neighbourhoods.refined(y, first, noise, Groups(SIDE, 32, stride), block)


@pytest.mark.parametrize(
    ("shape", "s", "stride"),
    [
        *((shape, s, stride) for shape in SHAPES for s, stride in ((0.01, 4), (0.3, 4), (0.1, 6))),
        *((shape, 0.1, 1) for shape in SHAPES[2:4]),
    ],
)
def test_equal_to_the_average_by_loops(shape, s, stride, generator):
    y, first = noisy_pair(shape, generator, s)
    expected = by_loops(y, first, Stationary.white(s, shape[0]), Groups(SIDE, 32, stride))
    torch.testing.assert_close(refined(y, first, s, stride), expected, rtol=0, atol=1e-10)


def blurred(channels, level):
    """Noise that neighbours and channels share."""
    near = np.array([0.2, 0.6, 1.0, 0.6, 0.2])
    lags = near[:, None] * near * np.array([1.0, 0.9, 1, 0.9, 1.0])  # no product of two
    between = 0.3 + 0.7 * np.eye(channels)
    return Stationary(level, between[:, :, None, None] * lags)


@pytest.mark.parametrize(("gain", "missing"), [(1.0, 0.0), (0.9, 0.2)])
@pytest.mark.parametrize("shape", [(3, 11, 14), (1, 17, 9)])
def test_equal_to_the_average_by_loops_where_noise_is_correlated(shape, gain, missing, generator):
    y, first = noisy_pair(shape, generator, 0.1)
    noise, groups = blurred(shape[0], 0.1), Groups(SIDE, 24, 4, gain, missing)
    assert np.linalg.eigvalsh(noise.window(SIDE)).min() > LEAST_EIGENVALUE
    found = neighbourhoods.refined(y, first, noise, groups)
    torch.testing.assert_close(found, by_loops(y, first, noise, groups), rtol=0, atol=1e-9)


def test_a_map_of_the_noise_is_that_of_each_place(generator):
    """Far from the border of a map of two levels the answer is that of either level alone."""
    y, first = noisy_pair((1, 40, 120), generator, 0.1)
    scale = torch.ones(40, 120)
    scale[:, 60:] = 2
    noise = replace(Stationary.white(0.1, 1), scale=scale)
    found = neighbourhoods.refined(y, first, noise, Groups(SIDE, 32))
    left, right = refined(y, first, 0.1), refined(y, first, 0.2)
    torch.testing.assert_close(found[..., :24], left[..., :24], rtol=0, atol=1e-10)
    torch.testing.assert_close(found[..., -24:], right[..., -24:], rtol=0, atol=1e-10)


def test_the_number_of_threads_changes_nothing(generator):
    y, first = noisy_pair((3, 150, 90), generator, 0.1)
    threads = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            answers.append(refined(y, first, 0.1))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("tiles", [1, 2])
def test_blocks_do_not_show(tiles, generator):
    y, first = noisy_pair((3, 70, 45), generator, 0.1)
    whole = refined(y, first, 0.1)
    torch.testing.assert_close(refined(y, first, 0.1, block=tiles), whole, rtol=0, atol=1e-12)


def test_rows_and_columns_are_treated_equally(generator):
    y, first = noisy_pair((3, 50, 23), generator, 0.1)
    turned = refined(y.mT, first.mT, 0.1).mT
    torch.testing.assert_close(turned, refined(y, first, 0.1), rtol=0, atol=1e-12)


def test_brightness_and_contrast_go_through(generator):
    y, first = noisy_pair((3, 30, 23), generator, 0.1)
    brighter = refined(3 * y + 2, 3 * first + 2, 0.3)
    torch.testing.assert_close(brighter, 3 * refined(y, first, 0.1) + 2, rtol=0, atol=1e-11)


def test_with_hardly_any_noise_the_image_comes_back(generator):
    _, first = noisy_pair((3, 20, 23), generator, 0.0)
    assert (refined(first, first, 1e-7) - first).abs().max() < 1e-6
    with_noise = refined(first, first, 10.0)
    assert (with_noise - first).abs().max() > 0.01  # only the groups' means are left


@pytest.mark.parametrize("stride", [4, 5, 6])
@pytest.mark.parametrize("length", range(5, 60))
def test_every_window_is_within_reach_of_a_reference_window(length, stride):
    """None at the ends is left out, for all sizes."""
    ((own, around),) = neighbourhoods._tiles(length, stride, 8, torch.device("cpu"))
    places = sorted({int(place) for place in own.flatten()})
    assert (places[0], places[-1]) == (0, length - 1)
    assert all(after - before <= stride for before, after in itertools.pairwise(places))
    assert int(around.min()) == 0
    assert int(around.max()) == length - 1


@pytest.mark.parametrize("s", [1e-300, 1e-9, 1e-6])
@pytest.mark.parametrize("channels", [1, 3])
def test_next_to_no_noise_is_no_trouble(channels, s, generator):
    y, first = noisy_pair((channels, 24, 37), generator, 0.0)
    first[:, :, 20:] = first[:, :, :1]  # windows that are the same, too
    for dtype in (torch.float32, torch.float64):
        assert torch.isfinite(refined(y.to(dtype), first.to(dtype), s)).all()


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_first_estimate_without_structure_is_all_there_is(value, generator):
    noise = torch.randn(3, 33, 40, generator=generator)
    found = refined(value + 0.1 * noise, torch.full_like(noise, value), 0.1)
    torch.testing.assert_close(found, torch.full_like(noise, value), rtol=0, atol=1e-6)


@pytest.mark.parametrize("s", [1e-4, 1e-3, 0.019, 0.021, 0.1, 1.0])
def test_float32_is_enough(s, generator):
    y, first = noisy_pair((3, 40, 40), generator, s)
    first[:, :20] = first[:, :1, :1]  # where nothing varies, too
    found = refined(y.float(), first.float(), s)
    assert found.dtype == torch.float32
    assert (
        found - refined(y, first, s)
    ).abs().max() < 0.1 * s + 5e-5  # a hundredth of a grey level


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 9), (3, 4, 3), (1, 6, 5)])
def test_the_smallest_images(shape, generator):
    y, first = noisy_pair(shape, generator, 0.1)
    found = refined(y, first, 0.1)
    assert found.shape == y.shape
    assert (found - first).abs().max() < 0.5


def test_a_photograph_is_better_after_than_before(photographs, generator):
    truth = photographs(128, n=1)[0]
    y = truth + 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    first = torch.nn.functional.avg_pool2d(y, 3, stride=1, padding=1, count_include_pad=False)
    errors = [
        float((image - truth).square().mean()) for image in (y, first, refined(y, first, 0.1))
    ]
    assert errors[2] < 0.7 * min(errors[:2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_answer_is_the_same(generator):
    y, first = noisy_pair((3, 70, 45), generator, 0.1)
    found = refined(y.cuda(), first.cuda(), 0.1)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), refined(y, first, 0.1), rtol=0, atol=1e-10)
