import os
import time

import numpy as np
import pytest
import torch

from score_embedding.config.sections import Diffusion, Misc
from score_embedding.errors import DataError
from score_embedding.fokker_planck.embedding import embed
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solve import AffineDrift, solve
from score_embedding.methods import precomputation
from score_embedding.methods.precomputation import (
    EmbeddedImages,
    check,
    fits_in_memory,
    precompute,
    time_grid,
    write_all_scores,
)
from score_embedding.sde import VarianceExploding

EPS = 1e-3
CPU = torch.device("cpu")


@pytest.mark.parametrize("N", [1, 2, 20])
def test_the_time_grid_is_even_from_eps_to_one(N):
    times = time_grid(N, EPS)
    expected = [EPS + (1 - EPS) * n / max(N - 1, 1) for n in range(N)]
    assert times.dtype == torch.float64
    assert times.tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    "diffusion",
    [
        Diffusion(num_timesteps=4),
        Diffusion(num_timesteps=4, sigma=2.0, dh=2.0, boundary="zero", density="histogram"),
        Diffusion(num_timesteps=30, sigma=2.0, scheme="implicit", solve_tolerance=1e-6),
        Diffusion(num_timesteps=4, sigma=2.0, drift=0.1),
    ],
    ids=["default", "histogram", "implicit", "drift"],
)
def test_precompute_is_the_chain_of_its_stages(diffusion, photographs):
    images = photographs(8, 10, n=2).to(torch.float32)
    N, sde = diffusion.num_timesteps, VarianceExploding(diffusion.sigma)
    started = time.perf_counter()
    known = precompute(images, diffusion, Misc())
    elapsed = time.perf_counter() - started

    times = torch.linspace(EPS, 1, N, dtype=torch.float64)
    assert torch.equal(known.times, times)
    m0 = log_density(images, method=diffusion.density)
    tolerance = diffusion.solve_tolerance
    boundary, drift = diffusion.boundary, AffineDrift(0.1) if diffusion.drift else None
    solution = solve(
        m0,
        sde,
        times,
        scheme=diffusion.scheme,
        dh=diffusion.dh,
        tolerance=tolerance,
        boundary=boundary,
        drift=drift,
    )
    m, scores = solution.log_density, solution.score()
    assert torch.equal(known.log_density, m)
    assert torch.equal(known.scores, scores)
    assert torch.equal(known.embedded, embed(images, scores, sde, times).to(torch.float32))
    assert torch.equal(known.embedded[:, 0], images)
    assert known.embedded.shape == known.scores.shape == (2, N, 3, 8, 10)
    assert (known.scores.dtype, known.embedded.dtype) == (torch.float64, torch.float32)
    assert (known.diagnostics.scheme, known.diagnostics.dh) == (diffusion.scheme, diffusion.dh)
    assert list(known.seconds) == ["density", "solve", "embedding"]
    assert all(seconds > 0 for seconds in known.seconds.values())
    assert known.diagnostics.seconds <= known.seconds["solve"]
    assert sum(known.seconds.values()) <= elapsed


def test_a_constant_image_runs_through_with_score_zero():
    known = precompute(torch.full((1, 3, 8, 8), 0.5), Diffusion(num_timesteps=3), Misc())
    assert float(known.scores.abs().max()) < 1e-12
    assert (known.embedded == 0.5).all()


def test_published_embeds_its_own_score_with_steps_of_one_over_n(photographs):
    images = photographs(8, n=1).to(torch.float32)
    diffusion, N = Diffusion(num_timesteps=6, sigma=2.0, scheme="published"), 6
    known = precompute(images, diffusion, Misc())
    sde, times = VarianceExploding(2.0), time_grid(N, EPS)
    solution = solve(log_density(images), sde, times, scheme="published")
    assert torch.equal(known.scores, solution.score())
    x = images.double()
    for n in range(1, N):
        x = x - 2.0 ** (2 * float(times[n])) / 2 * solution.score()[:, n] / N
        torch.testing.assert_close(known.embedded[:, n].double(), x, rtol=1e-6, atol=1e-6)


def bytes_of(count, images, diffusion):
    """Of one field of this many images in float32."""
    return 4 * count * diffusion.num_timesteps * images[0].numel()


@pytest.mark.parametrize("embedding", ["input", "none", "shuffled"])
@pytest.mark.parametrize("density", ["exact", "histogram"])
def test_few_and_many_images_are_embedded_and_stored_the_same(
    embedding, density, photographs, tmp_path
):
    """In memory, embedded block by block during training, and streamed into a file."""
    images = photographs(8, 10).to(torch.float32).repeat(2, 1, 1, 1)
    images = images * torch.linspace(0.5, 1, 8)[:, None, None, None]
    diffusion = Diffusion(num_timesteps=5, density=density, embedding=embedding)
    together = precompute(images, diffusion, Misc())
    block_bytes = bytes_of(3, images, diffusion)  # the last block is smaller
    many = EmbeddedImages(images, diffusion, Misc(), CPU, block_bytes=block_bytes)
    assert len(many) == 8
    for index in (0, 1, 2, 3, 7, 6, 0):
        states = many[index]
        assert (states.dtype, states.shape) == (torch.float32, (5, 3, 8, 10))
        # The log-density is kept in float32, and the solve made in it.
        torch.testing.assert_close(states, together.embedded[index], rtol=0, atol=2e-4)
    scale = float(together.scores.abs().max())
    shown = many.fields(3)
    torch.testing.assert_close(
        shown.scores.double(), together.scores[:3], rtol=0, atol=1e-4 * scale
    )
    path = tmp_path / "scores.npy"
    write_all_scores(images, diffusion, Misc(), path, block_bytes=block_bytes)
    np.testing.assert_allclose(np.load(path), together.scores, rtol=0, atol=1e-4 * scale)


def test_a_block_is_computed_once_for_the_images_in_it(photographs):
    images, diffusion = photographs(8).to(torch.float32), Diffusion(num_timesteps=5)
    block_bytes = bytes_of(2, images, diffusion)
    embedded = EmbeddedImages(images, diffusion, Misc(), CPU, block_bytes=block_bytes)
    states = [embedded[index] for index in (0, 1, 2, 3, 0)]
    block = [tensor.untyped_storage().data_ptr() for tensor in states]
    assert block[0] == block[1] != block[2] == block[3]
    assert block[4] not in block[:4]


@pytest.mark.parametrize("scheme", ["implicit", "krylov", "published"])
def test_a_scheme_too_slow_for_the_training_loop_is_refused(scheme, photographs, monkeypatch):
    images = photographs(8).to(torch.float32)
    diffusion = Diffusion(num_timesteps=5, scheme=scheme)
    check(images, diffusion)
    monkeypatch.setattr(precomputation, "IN_MEMORY", 1000)
    check(images, Diffusion(num_timesteps=5))
    with pytest.raises(DataError, match=f"4 images at 5 times .* the {scheme} scheme .* spectral"):
        check(images, diffusion)


@pytest.mark.parametrize(
    "scheme", ["spectral", "implicit", pytest.param("published", marks=pytest.mark.slow)]
)
def test_scores_of_many_images_stream_into_a_file_that_can_be_mapped(scheme, photographs, tmp_path):
    images = photographs(8, 10).to(torch.float32)
    diffusion = Diffusion(num_timesteps=12, sigma=2.0, scheme=scheme, solve_tolerance=1e-6)
    together = precompute(images, diffusion, Misc())
    path, block_bytes = tmp_path / "scores.npy", bytes_of(3, images, diffusion)
    diagnostics = write_all_scores(images, diffusion, Misc(), path, block_bytes=block_bytes)
    scores = np.load(path, mmap_mode="r")
    assert (scores.dtype, scores.shape) == (np.float32, (4, 12, 3, 8, 10))
    scale = float(together.scores.abs().max())
    np.testing.assert_allclose(scores, together.scores.numpy(), rtol=0, atol=1e-5 * scale)
    assert diagnostics.scheme == scheme
    assert diagnostics.iterations == together.diagnostics.iterations
    assert diagnostics.seconds > 0


def test_a_file_larger_than_the_disk_is_refused_with_the_figures(tmp_path, photographs):
    images = photographs(8, n=1).to(torch.float32).expand(10**9, 3, 8, 8)
    with pytest.raises(
        DataError, match=r"1000000000 images take [\d.]+ GiB, the disk has"
    ) as error:
        write_all_scores(images, Diffusion(num_timesteps=1000), Misc(), tmp_path / "scores.npy")
    assert str(tmp_path / "scores.npy") in str(error.value)
    assert os.listdir(tmp_path) == []


def test_what_fits_in_memory_is_a_matter_of_images_times_and_pixels():
    small = torch.zeros(1).expand(800, 3, 32, 32)
    assert fits_in_memory(small, Diffusion(num_timesteps=20))
    assert not fits_in_memory(small, Diffusion(num_timesteps=40))
    assert not fits_in_memory(small.repeat(1, 1, 2, 1), Diffusion(num_timesteps=20))


def test_nothing_embedded_leaves_the_image_at_all_times_all_else_equal(photographs):
    images = photographs(8, n=2).to(torch.float32)
    known, control = (
        precompute(images, Diffusion(num_timesteps=4, embedding=kind), Misc())
        for kind in ("input", "none")
    )
    assert torch.equal(control.embedded, images[:, None].expand_as(control.embedded))
    assert torch.equal(control.scores, known.scores)
    assert not torch.equal(known.embedded, control.embedded)


def test_shuffled_embeds_the_score_of_the_image_before(photographs):
    images, diffusion = photographs(8, n=3).to(torch.float32), Diffusion(num_timesteps=4)
    own = precompute(images, diffusion, Misc())
    control = precompute(images, diffusion.model_copy(update={"embedding": "shuffled"}), Misc())
    assert torch.equal(control.scores, own.scores.roll(1, dims=0))
    sde = VarianceExploding(diffusion.sigma)
    expected = embed(images, own.scores[[2, 0, 1]], sde, own.times).to(torch.float32)
    assert torch.equal(control.embedded, expected)


def test_shuffling_a_single_image_is_refused(photographs):
    images, diffusion = photographs(8, n=2), Diffusion(num_timesteps=4, embedding="shuffled")
    check(images, diffusion)
    with pytest.raises(DataError, match="shuffled needs two images or more"):
        check(images[:1], diffusion)
