"""Denoising of arrays. The bundled mixture's results are not pinned: they are
compared with those of scikit-image's methods."""

import functools
import math

import numpy as np
import pytest
import skimage.data
import torch
from scipy.ndimage import gaussian_filter, laplace
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_tv_chambolle, denoise_wavelet
from skimage.transform import rescale
from sklearn.datasets import load_sample_images

from command_line import undrawn
from score_embedding import densities, pipeline
from score_embedding.config import loading
from score_embedding.densities import Density
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.errors import DataError, RunFolderError
from score_embedding.methods import tiles
from score_embedding.restoration import adaptive, consistency, models, pixels
from score_embedding.restoration.denoising import denoise
from score_embedding.restoration.noise import Noise, Stationary
from score_embedding.restoration.noise_estimation import estimate_sigma

RNG = np.random.default_rng
LEVELS = [0.05, 0.1, 0.25]
PICTURES = ["china", "flower", "camera"]


@functools.cache
def picture(name):
    """At a quarter of its size; the bundled mixture was not fitted to any of these."""
    if name == "camera":
        return rescale(skimage.data.camera() / 255, 0.25, anti_aliasing=True)
    pixels = load_sample_images().images[("china", "flower").index(name)] / 255
    return rescale(pixels, 0.25, anti_aliasing=True, channel_axis=2)


@functools.cache
def noisy(name, s):
    return picture(name) + s * RNG(7).normal(size=picture(name).shape)


@functools.cache
def by_bundled(name, s):
    return denoise(noisy(name, s), sigma=s, model="bundled")


def to_tensor(image):
    """(c, h, w), as it is denoised."""
    return next(pixels.read(image).images())[0]


def psnr(truth, answer):
    return peak_signal_noise_ratio(truth, np.clip(answer, 0, 1).astype(float), data_range=1)


@functools.cache
def rivals(name, s):
    """The PSNR of scikit-image's wavelets and total variation at the true noise level."""
    truth, y = picture(name), noisy(name, s)
    axis = 2 if y.ndim == 3 else None
    wavelet = denoise_wavelet(
        y, sigma=s, channel_axis=axis, convert2ycbcr=axis is not None, rescale_sigma=True
    )
    variation = denoise_tv_chambolle(y, weight=s, channel_axis=axis)
    return psnr(truth, wavelet), psnr(truth, variation)


@functools.cache
def white(channels):
    """The simplest density, where nothing depends on the model."""
    generator = torch.Generator().manual_seed(1)
    return densities.fit("white", [torch.rand(channels, 9, 9, generator=generator)], arrays=100)


@pytest.fixture(scope="module")
def runs(once):
    """Run folders: of the config photographs, and the closed form of its own images; to be read
    only."""
    tiny = ["model.ch=8", "model.ch_mult=[1,2]", "training.epochs=1", "held_out=null"]
    tiny += ["image_density.arrays=300", "image_density.components=2", "sample.solver=heun"]
    tiny += ["data_loader.image_size=16", "data_loader.num_images=4", "sample.steps=2"]
    own = ["diffusion.embedding=input", "sample_method=closed_form"]

    def make(out):
        with undrawn():
            for name, changes in (("residual", []), ("own", own)):
                config = loading.load("photographs", tiny + changes)
                pipeline.run(config, out / name, torch.device("cpu"), profile=False)

    return once("runs_that_denoise", make)


@pytest.mark.parametrize("s", LEVELS)
@pytest.mark.parametrize("name", PICTURES)
def test_bundled_is_better_than_wavelets_and_total_variation(name, s):
    found, (wavelet, variation) = psnr(picture(name), by_bundled(name, s)), rivals(name, s)
    assert found > wavelet + 1
    assert found > variation + (0.5 if s < 0.25 else -0.7)  # at high noise levels both are equal


@pytest.mark.parametrize(
    ("name", "s"),
    [
        *(("china", 0.25), ("camera", 0.05), ("camera", 0.1)),
        *(
            pytest.param(name, s, marks=pytest.mark.slow)
            for name, s in (("flower", 0.1), ("camera", 0.25))
        ),
    ],
)
def test_adapted_to_the_picture_it_is_better_still(name, s):
    found = psnr(picture(name), denoise(noisy(name, s), sigma=s))
    assert found > max(rivals(name, s))
    assert found > psnr(picture(name), by_bundled(name, s))


@pytest.mark.parametrize(("name", "s"), list(zip(PICTURES, LEVELS, strict=True)))
def test_estimating_the_noise_costs_next_to_nothing(name, s):
    assert estimate_sigma(to_tensor(noisy(name, s))) == pytest.approx(s, rel=0.15)
    found = psnr(picture(name), denoise(noisy(name, s), model="bundled"))
    assert found > psnr(picture(name), by_bundled(name, s)) - 0.3


@pytest.mark.parametrize("shape", [(9, 14), (9, 14, 1), (9, 14, 3)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8", "?"])
def test_shapes_and_dtypes(shape, dtype):
    white_at = np.iinfo(dtype).max if dtype in ("u1", "u2") else 1
    image = (white_at * RNG(1).random(shape)).round(0 if dtype == "?" else 9).astype(dtype)
    kept, unit, model = image.copy(), image / white_at, white(len(to_tensor(image)))
    for mode in ("mean", "sample"):
        answer = denoise(image, sigma=0.1, model=model, mode=mode)
        assert (answer.dtype, answer.shape) == (np.float32, shape)
        assert 0 <= answer.min() < answer.max() <= 1
        expected = denoise(unit, sigma=0.1, model=model, mode=mode)
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(denoise(image, sigma=0), unit, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        *(("bundled", mode) for mode in ("mean", "sample")),
        ("fit", "mean"),
        pytest.param("fit", "sample", marks=pytest.mark.slow),
    ],
)
def test_the_same_call_gives_the_same_result_bit_for_bit(model, mode):
    y = noisy("camera", 0.1)[:20, :24]
    one, other = (denoise(y, sigma=0.1, model=model, mode=mode) for _ in range(2))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 3), (1, 60), (1, 1, 3), (3, 2, 3)])
def test_the_smallest_images(shape):
    image = RNG(2).random(shape).astype(np.float32)
    for mode in ("mean", "sample"):
        assert np.isfinite(denoise(image, sigma=0.1, model="bundled", mode=mode)).all()
    if len(shape) == 2:
        assert np.isfinite(denoise(image, sigma=0.1, model="fit")).all()
    h, w = shape[:2]
    with pytest.raises(DataError, match=f"{h}x{w}.*cannot be estimated; its sigma is needed"):
        denoise(image)


@pytest.mark.parametrize("sigma", [-1, -1e-9, math.nan, math.inf, 25, 2.001])
def test_a_noise_level_that_cannot_be(sigma):
    with pytest.raises(ValueError, match=r"0 to 2 .*white being 1 \(25 grey levels of 255"):
        denoise(np.zeros((8, 8)), sigma=sigma, model=white(1))


def test_a_mode_that_cannot_be():
    with pytest.raises(ValueError, match="mode must be"):
        denoise(np.zeros((8, 8)), sigma=0.1, mode="median")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_channel_without_noise_does_not_hide_that_of_the_others():
    image = 0.5 + 0.1 * RNG(3).normal(size=(40, 40, 3))
    image[..., 2] = 0
    assert estimate_sigma(to_tensor(image)) > 0.05


def test_the_noise_of_four_columns_is_estimated_in_silence():
    estimate_sigma(to_tensor(RNG(4).random((30, 4))))


def test_a_constant_image_is_unchanged():
    np.testing.assert_array_equal(denoise(np.full((20, 20), 0.5)), 0.5)


def test_models_of_other_channels_and_no_models(runs, tmp_path):
    grey, colour, residual = np.zeros((8, 8)), np.zeros((8, 8, 3)), runs / "residual"
    models = [(white(3), grey, 3, 1), (white(1), colour, 1, 3), (residual, grey, 3, 1)]
    for model, image, own, other in models:
        message = f"of {own} channel.*the image has {other}; bundled and fit take both"
        with pytest.raises(DataError, match=message):
            denoise(image, sigma=0.1, model=model)
    with pytest.raises(DataError, match=r"own: .*its own images only; .*held_out"):
        denoise(colour, sigma=0.1, model=runs / "own")
    for place in (tmp_path, tmp_path / "missing", "nonsense"):
        with pytest.raises(RunFolderError, match=f"{place}: not a run folder"):
            denoise(colour, sigma=0.1, model=place)


def test_a_run_folder_denoises_tile_by_tile(runs):
    truth, y = picture("china"), noisy("china", 0.1)
    white = Stationary.white(0.1, 3)
    estimate = models.resolve(str(runs / "residual"), torch.device("cpu")).estimate(
        to_tensor(y), white, False
    )
    whole = estimate(to_tensor(y), white).permute(1, 2, 0).numpy()
    assert psnr(truth, whole) > psnr(truth, y) + 4
    tiled = tiles.blended(to_tensor(y), lambda tile: estimate(tile, white), 50, 17)
    tiled = tiled.permute(1, 2, 0).numpy()
    assert not np.array_equal(tiled, whole)
    # The windows of a tile are not all those of the whole, and its edges are mirrors.
    assert np.std(tiled - whole) < 0.1 * np.std(y - whole)
    assert psnr(truth, tiled) == pytest.approx(psnr(truth, whole), abs=0.2)


def test_a_run_folders_mean_is_refined_by_the_photograph(runs):
    truth, x = picture("china"), to_tensor(noisy("china", 0.1))
    white = Stationary.white(0.1, 3)
    known = models.resolve(runs / "residual", torch.device("cpu")).estimate(x, white, False)
    found = denoise(noisy("china", 0.1), sigma=0.1, model=runs / "residual")
    refined = consistency.consistent(x, adaptive.refined(known)(x, white), Noise.white(0.1, 3))
    refined = refined.clamp(0, 1).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, refined, rtol=0, atol=1e-6)
    assert psnr(truth, found) > psnr(truth, known(x, white).permute(1, 2, 0).numpy()) + 0.3


@pytest.mark.parametrize("s", LEVELS)
def test_a_sample_keeps_what_the_mean_smooths(s):
    truth, y = picture("camera")[:96, :96], noisy("camera", s)[:96, :96]
    mean, sample = (denoise(y, sigma=s, model="bundled", mode=mode) for mode in ("mean", "sample"))
    assert np.isfinite(sample).all()
    assert sample.std() > mean.std()
    assert np.std(laplace(sample)) > 1.2 * np.std(laplace(mean))
    assert psnr(truth, y) < psnr(truth, sample) < psnr(truth, mean)


def test_the_flow_maps_the_noisy_gaussian_to_the_gaussian():
    generator = torch.Generator().manual_seed(3)
    side, N, s = 3, 20_000, 0.12
    d = side**2
    v, mean = torch.logspace(-2, -5, d), torch.full((1, d), 0.5)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    model = GaussianMixture((1, side, side), torch.ones(1), mean, axes[None], v[None], v[-1:])
    own = Density("gaussian", model, stride=side)
    x = mean + torch.randn(N, d, generator=generator) * v.sqrt() @ axes.T
    y = x + s * torch.randn(N, d, generator=generator)
    side_by_side = y.reshape(N, side, side).permute(1, 0, 2).reshape(side, -1).numpy()
    found = (
        denoise(side_by_side, sigma=s, model=own, mode="sample")
        .reshape(side, N, side)
        .transpose(1, 0, 2)
    )
    one = denoise(y[0].reshape(side, side).numpy(), sigma=s, model=own, mode="sample")
    np.testing.assert_allclose(one, found[0], rtol=0, atol=1e-6)
    before, along = ((z - 0.5) @ axes for z in (y, torch.from_numpy(found.reshape(N, d))))
    gain = (along * before).sum(0) / before.square().sum(0)
    # Ten steps of Heun's method: 3 % of the map's slopes. The covariance has twice that, and 1 %,
    # or 0.01 of a correlation, is the standard error of 20,000 samples.
    np.testing.assert_allclose(gain, (v / (v + s**2)).sqrt(), rtol=0.05)
    np.testing.assert_allclose(along.var(0), v, rtol=0.1)
    np.testing.assert_allclose(torch.corrcoef(along.T), np.eye(d), rtol=0, atol=0.04)


@pytest.mark.parametrize(("side", "overlap"), [(8, 2), (8, 3), (9, 4), (16, 5), (13, 1)])
def test_tiles_of_the_identity_give_the_image(side, overlap):
    for h, w in [(1, 1), (side, side), (side + 1, side), (1, 3 * side), (37, 41), (2 * side, 100)]:
        image = torch.rand(2, h, w, generator=torch.Generator().manual_seed(h))
        seen = []
        answer = tiles.blended(
            image, lambda tile, seen=seen: seen.append(tile) or tile, side, overlap
        )
        assert torch.isfinite(answer).all()  # no weight is 0
        np.testing.assert_allclose(answer.numpy(), image.numpy(), rtol=0, atol=3e-7)
        (shape,) = {tile.shape[1:] for tile in seen}
        counts = [max(1, -(-(length - overlap) // (side - overlap))) for length in (h, w)]
        assert len(seen) == counts[0] * counts[1]
        for length, own, count in zip((h, w), shape, counts, strict=True):
            assert own <= side
            assert 0 <= count * own - (count - 1) * overlap - length < count  # end to end, just so
        if (h, w) == (side, side):
            assert answer is image


@pytest.mark.parametrize("length", [21, 40, 97, 200])
@pytest.mark.parametrize("overlap", [2, 5, 10])
def test_no_seam_shows_between_tiles_that_differ(length, overlap):
    image = torch.zeros(1, 33, length)
    generator = torch.Generator().manual_seed(length)
    answer = tiles.blended(
        image, lambda tile: tile + torch.rand(1, generator=generator), 20, overlap
    )
    steps = torch.cat([answer.diff(dim=axis).abs().flatten() for axis in (1, 2)])
    assert 0 < steps.max() <= 1 / overlap + 1e-6
    assert 0 < answer.min() < answer.max() < 1


def shared_by_neighbours():
    """Noise as of a camera, and what it is."""
    noise = gaussian_filter(RNG(11).normal(size=picture("china").shape), (0.7, 0.7, 0))
    line = np.exp(-(np.arange(-3, 4) ** 2) / (4 * 0.7**2))
    correlation = np.eye(3)[:, :, None, None] * np.outer(line, line)
    return 0.1 * noise / noise.std(), Noise(np.array([0.5]), np.full((3, 1), 0.1), correlation)


@pytest.mark.parametrize("kind", ["shared", "map", "counts"])
@pytest.mark.parametrize("model", ["residual", "bundled"])
def test_any_model_gains_by_what_is_known_of_the_noise(runs, model, kind):
    """The network of a run folder is evaluated as for white noise of the same level; what refines
    its answer uses all that is known."""
    truth, model = picture("china"), model if model == "bundled" else runs / model
    if kind == "shared":
        noise, known = shared_by_neighbours()
        y, white, given = truth + noise, {"sigma": 0.1}, {"noise": known}
    elif kind == "map":
        s = np.linspace(0.02, 0.2, truth.shape[1]) * np.ones(truth.shape[:2])
        y = truth + s[..., None] * RNG(12).normal(size=truth.shape)
        white, given = {"sigma": np.sqrt(np.mean(s**2))}, {"sigma": s}
    else:
        y = RNG(13).poisson(truth.clip(0, 1) * 60) / 60
        white, given = {"noise": "white"}, {"noise": "poisson"}
    simple, known = (psnr(truth, denoise(y, model=model, **how)) for how in (white, given))
    assert psnr(truth, y) + 3 < simple < known - 0.6


@pytest.mark.parametrize("options", [{"noise": "camera"}, {"noise": "camera", "mode": "sample"}])
def test_a_run_folder_takes_noise_that_is_estimated(runs, options):
    truth = picture("china")
    y = truth + shared_by_neighbours()[0]
    found = denoise(y, model=runs / "residual", **options)
    assert np.isfinite(found).all()
    assert psnr(truth, found) > psnr(truth, y) + (2 if len(options) == 1 else 0)


@pytest.mark.parametrize("model", ["fit", "fast", "bundled"])
def test_the_number_of_threads_changes_nothing_but_round_off(model):
    y = noisy("china", 0.1)[:80, :140]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(denoise(y, noise="camera", model=model))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)
