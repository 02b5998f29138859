import math

import pytest
import torch

from score_embedding.fokker_planck.embedding import embed
from score_embedding.sde import VarianceExploding


def embedded_by_loops(images, scores, sigma, times):
    x = images.clone()
    states = [x.clone()]
    for k in range(1, len(times)):
        dt = float(times[k]) - float(times[k - 1])
        g2 = sigma ** (2 * float(times[k]))
        for index in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
            i, channel, row, column = index
            x[i, channel, row, column] -= g2 / 2 * scores[i, k, channel, row, column] * dt
        states.append(x.clone())
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("sigma", [1.0, 5.0])
@pytest.mark.parametrize("times", [[0.2], [0.001, 1.0], [0.001, 0.1, 0.5, 0.6, 1.0]])
@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (2, 3, 4, 2)])
def test_embedding_is_the_explicit_euler_loop(sigma, times, shape, generator):
    n, c, h, w = shape
    images = torch.rand(shape, generator=generator, dtype=torch.float64)
    scores = torch.randn(n, len(times), c, h, w, generator=generator, dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64)
    embedded = embed(images, scores, VarianceExploding(sigma), t)
    expected = embedded_by_loops(images, scores, sigma, t)
    torch.testing.assert_close(embedded, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(embedded[:, 0], images)


def test_the_first_score_is_not_used(generator):
    images = torch.rand(1, 1, 3, 3, generator=generator, dtype=torch.float64)
    scores = torch.randn(1, 4, 1, 3, 3, generator=generator, dtype=torch.float64)
    times, sde = torch.linspace(0.001, 1, 4, dtype=torch.float64), VarianceExploding(2.0)
    before = embed(images, scores, sde, times)
    scores[:, 0] = 100.0
    assert torch.equal(embed(images, scores, sde, times), before)
    scores[:, 1] += 100.0
    assert not torch.equal(embed(images, scores, sde, times), before)


def test_a_constant_score_moves_the_image_by_the_integral_of_g2_at_first_order():
    sde, errors = VarianceExploding(3.0), []
    for N in (51, 101, 201):
        times = torch.linspace(0, 1, N, dtype=torch.float64)
        embedded = embed(torch.zeros(1, 1, 1, 1), torch.ones(1, N, 1, 1, 1).double(), sde, times)
        errors.append(abs(float(embedded[0, -1]) + float(sde.std(1.0)) ** 2 / 2))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("image_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("score_dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_scores(image_dtype, score_dtype):
    images, scores = torch.ones(1, 1, 2, 2), torch.ones(1, 3, 1, 2, 2)
    times = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    embedded = embed(images.to(image_dtype), scores.to(score_dtype), VarianceExploding(2.0), times)
    assert embedded.dtype == score_dtype


def test_numpy_and_tensors_agree(generator):
    images = torch.rand(2, 3, 4, 5, generator=generator)
    scores = torch.randn(2, 3, 3, 4, 5, generator=generator)
    times, sde = torch.tensor([0.1, 0.5, 1.0]), VarianceExploding(2.0)
    from_numpy = embed(images.numpy(), scores.numpy(), sde, times.numpy())
    assert torch.equal(from_numpy, embed(images, scores, sde, times))


@pytest.mark.parametrize(
    ("images", "scores", "times", "message"),
    [
        ((3, 4, 4), (1, 2, 3, 4, 4), 2, "images must have 4 dimensions"),
        ((1, 3, 4, 4), (2, 3, 4, 4), 2, "scores must have 5 dimensions"),
        ((1, 3, 4, 4), (1, 2, 3, 4, 4), 3, "scores must be"),
        ((1, 3, 4, 4), (1, 2, 1, 4, 4), 2, "scores must be"),
        ((2, 3, 4, 4), (1, 2, 3, 4, 4), 2, "scores must be"),
        ((1, 3, 4, 5), (1, 2, 3, 5, 4), 2, "scores must be"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(images, scores, times, message):
    with pytest.raises(ValueError, match=message):
        embed(
            torch.zeros(images),
            torch.zeros(scores),
            VarianceExploding(2.0),
            torch.linspace(0.1, 1, times),
        )


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_values_that_are_not_finite_are_refused(broken):
    arguments = [torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 1, 2, 2), torch.tensor([0.1, 1.0])]
    arguments[broken].view(-1)[-1] = math.nan
    images, scores, times = arguments
    with pytest.raises(ValueError, match="NaN or infinite"):
        embed(images, scores, VarianceExploding(2.0), times)
