import math

import pytest
import torch

from score_embedding.methods.base import Batch
from score_embedding.methods.embedded import ScoreMatching, draw_times
from score_embedding.sde import VarianceExploding

EPS = 1e-3


def loss(network, sigma, batch):
    """Of a loss the embedded images are no part."""
    states = torch.empty(1, 1, *batch.x.shape[1:])
    return ScoreMatching(states, VarianceExploding(sigma), len(batch.x), EPS).loss(network, batch)


def noisy(x, t, z, sigma):
    """The batch of images x with noise z at times t."""
    lam = ((sigma ** (2 * t) - 1) / (2 * math.log(sigma))).sqrt()
    x = x + lam[:, None, None, None] * z
    return Batch(x, t, torch.zeros(len(x), dtype=torch.long), z)


def loss_by_loops(x, t, z, sigma, score_of_pixel):
    """Of images x without noise; score_of_pixel(value, time) is the same for all pixels."""
    total = 0.0
    for image, time_, noise in zip(x.tolist(), t.tolist(), z.tolist(), strict=True):
        g = sigma**time_
        lam = math.sqrt((sigma ** (2 * time_) - 1) / (2 * math.log(sigma)))
        for channel, channel_noise in zip(image, noise, strict=True):
            for row, row_noise in zip(channel, channel_noise, strict=True):
                for value, n in zip(row, row_noise, strict=True):
                    s = score_of_pixel(value + lam * n, time_)
                    total += (s * lam + n) ** 2 / (2 * g**2)
    return total / len(x)


@pytest.mark.parametrize("sigma", [2.0, 5.0])
@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (4, 3, 5, 2)])
def test_the_loss_is_the_sum_by_hand(sigma, shape, generator):
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    t = torch.rand(len(x), generator=generator, dtype=torch.float64)

    def s(x, t, _):
        return torch.sin(x) * (1 + t[:, None, None, None])

    value = loss(s, sigma, noisy(x, t, z, sigma))
    expected = loss_by_loops(x, t, z, sigma, lambda v, time_: math.sin(v) * (1 + time_))
    assert value.shape == ()
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_the_score_of_the_noise_itself_has_no_loss(generator):
    x = torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64)
    z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    sde = VarianceExploding(5.0)
    batch = noisy(x, torch.tensor([0.1, 0.5, 1.0]).double(), z, 5.0)

    def denoising_score(x_t, t, _):
        return -(x_t - x) / sde.std(t)[:, None, None, None] ** 2

    assert float(loss(denoising_score, 5.0, batch)) < 1e-20
    assert float(loss(lambda x, *_: torch.zeros_like(x), 5.0, batch)) > 0.1


def test_the_network_is_told_which_image_is_meant(generator):
    z = torch.randn(2, 1, 2, 2, generator=generator, dtype=torch.float64)
    batch = Batch(z, torch.tensor([0.25, 0.5]).double(), torch.tensor([4, 7]), z)
    told = []

    def s(x, t, index):
        told.append((t.tolist(), index.tolist()))
        return x

    loss(s, 5.0, batch)
    assert told == [([0.25, 0.5], [4, 7])]


def test_the_gradient_of_the_loss_is_its_difference_quotient(generator):
    x = torch.rand(2, 1, 3, 3, generator=generator, dtype=torch.float64)
    z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    batch = noisy(x, torch.tensor([0.2, 0.9]).double(), z, 2.0)
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def value(w):
        return loss(lambda x, *_: w * x, 2.0, batch)

    value(weight).backward()
    quotient = (value(0.3 + 1e-5) - value(0.3 - 1e-5)) / 2e-5
    assert float(weight.grad) == pytest.approx(float(quotient), rel=1e-7)


def labelled_states(n, N):
    """embedded[i, k] is filled with 100 i + k, so that a state tells where it is from."""
    labels = 100 * torch.arange(n)[:, None] + torch.arange(N)
    return labels[:, :, None, None, None].expand(n, N, 3, 4, 5).to(torch.float32)


def draw(embedded, index, batch_size, generator, sigma=2.0):
    """A batch, and its states as they were without the noise."""
    objective = ScoreMatching(embedded, VarianceExploding(sigma), batch_size, EPS)
    batch = objective.draw_batch(index, generator)
    lam = ((sigma ** (2 * batch.condition.double()) - 1) / (2 * math.log(sigma))).sqrt()
    return batch, batch.x - lam[:, None, None, None] * batch.target


@pytest.mark.parametrize("N", [1, 5, 20])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 20, 21, 47])
def test_a_batch_holds_states_in_order_at_times_of_their_intervals(N, batch_size, generator):
    dt = 1 / N
    sets = math.ceil(batch_size / N)
    for index in (0, 2):
        batch, states = draw(labelled_states(3, N), index, batch_size, generator)
        assert batch.x.shape == batch.target.shape == (batch_size, 3, 4, 5)
        assert batch.x.dtype == batch.target.dtype == torch.float32
        assert batch.condition.shape == (batch_size,)
        assert batch.index.tolist() == [index] * batch_size
        k = (states[:, 0, 0, 0] - 100 * index).round().long()
        expected = (100 * index + k)[:, None, None, None].double().expand(states.shape)
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-3)
        earliest = EPS + k * (1 - dt / 2 - EPS) / N - EPS * dt / 2
        assert (batch.condition >= earliest - 1e-6).all()
        assert (batch.condition <= earliest + dt / 2 + 1e-6).all()
        assert (batch.condition > 0).all()
        assert (batch.condition < 1).all()
        assert int((k.diff() <= 0).sum()) <= sets - 1
        assert int(k.bincount().max()) <= sets


def test_a_batch_of_whole_sets_holds_every_state(generator):
    _, states = draw(labelled_states(1, 6), 0, 18, generator)
    assert states[:, 0, 0, 0].round().tolist() == 3 * [0, 1, 2, 3, 4, 5]


def test_the_noise_of_a_batch_is_standard_normal_and_its_own_in_each_entry(generator):
    batch, _ = draw(labelled_states(1, 6), 0, 600, generator)
    assert float(batch.target.mean()) == pytest.approx(0, abs=0.02)
    assert float(batch.target.std()) == pytest.approx(1, abs=0.02)
    assert len(batch.target.flatten(1).unique(dim=0)) == 600


def test_every_state_is_drawn_equally_often_and_times_are_uniform(generator):
    N, draws = 5, 2000
    counts, shares = torch.zeros(N), []
    for _ in range(draws):
        k, t = draw_times(N, 3, EPS, generator)
        counts += k.bincount(minlength=N)
        earliest = EPS + k * (1 - 0.1 - EPS) / N - EPS * 0.1
        shares.append((t - earliest) / 0.1)
    share = torch.cat(shares)
    torch.testing.assert_close(counts / (3 * draws), torch.full((N,), 0.2), rtol=0, atol=0.02)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(share.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.02)


def test_a_batch_is_determined_by_the_generator():
    embedded = labelled_states(2, 5)
    first, second, other = (
        draw(embedded, 1, 7, torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4)
    )
    for name in ("x", "condition", "target"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_an_objective_has_a_turn_for_every_image():
    assert len(ScoreMatching(labelled_states(3, 5), VarianceExploding(2.0), 4, EPS)) == 3
