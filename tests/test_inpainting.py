"""Inpainting of arrays. The bundled mixture's results are not pinned: they are compared with those
of scikit-image's biharmonic inpainting."""

import functools

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import inpaint_biharmonic
from skimage.transform import rescale
from sklearn.datasets import load_sample_images

from score_embedding import densities
from score_embedding.densities import Density
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.restoration import conditional, inpainting, models
from score_embedding.restoration.inpainting import inpaint

RNG = np.random.default_rng
SIZE = 64
BUNDLED = models.resolve("bundled", torch.device("cpu"))


@functools.cache
def picture(name):
    """SIZE x SIZE pixels; the bundled mixture was not fitted to any of these."""
    if name == "lines":
        drawn = Image.new("L", (4 * SIZE, 4 * SIZE), 255)
        draw, ends = ImageDraw.Draw(drawn), RNG(3).uniform(0, 4 * SIZE, (8, 4))
        for line in ends:
            draw.line(line.tolist(), fill=0, width=10)
        draw.ellipse((60, 60, 200, 200), outline=0, width=10)
        return rescale(np.asarray(drawn) / 255, 0.25, anti_aliasing=True)
    if name == "stars":
        i, j = np.indices((SIZE, SIZE))
        sky = 0.02 + 0.005 * RNG(5).normal(size=(SIZE, SIZE))
        for row, column, peak in zip(
            *RNG(6).uniform(0, SIZE, (2, 12)), RNG(7).random(12), strict=True
        ):
            sky += peak * np.exp(-((i - row) ** 2 + (j - column) ** 2) / 3)
        return sky.clip(0, 1)
    if name == "camera":
        small = rescale(skimage.data.camera() / 255, 0.5, anti_aliasing=True)
        return small[60 : 60 + SIZE, 90 : 90 + SIZE]
    pixels = load_sample_images().images[("china", "flower").index(name)] / 255
    small = rescale(pixels, 0.25, anti_aliasing=True, channel_axis=2)
    return small[20 : 20 + SIZE, 40 : 40 + SIZE]


def mask(kind):
    found = np.zeros((SIZE, SIZE), bool)
    if kind.startswith("block of 24"):
        row, column = {"upper": (4, 20), "middle": (20, 22), "lower": (36, 36)}[kind.split()[-1]]
        found[row : row + 24, column : column + 24] = True
    elif kind == "blocks":
        for i in range(6, SIZE - 8, 18):
            for j in range(6, SIZE - 8, 18):
                found[i : i + 8, j : j + 8] = True
    elif kind == "scratches":
        drawn = Image.new("L", (SIZE, SIZE), 0)
        for line in RNG(2).uniform(0, SIZE, (8, 4)):
            ImageDraw.Draw(drawn).line(line.tolist(), fill=1, width=2)
        found = np.asarray(drawn) > 0
    else:
        found = RNG(4).random((SIZE, SIZE)) < {"loss": 0.5, "specks": 0.05}[kind]
    return found


def psnr(truth, answer):
    return peak_signal_noise_ratio(truth, np.clip(answer, 0, 1).astype(float), data_range=1)


def gains(model, kinds, names):
    """dB on the missing pixels beyond the biharmonic continuation."""
    for kind in kinds:
        hole = mask(kind)
        for name in names:
            truth = picture(name)
            hidden = np.where(hole[..., None] if truth.ndim == 3 else hole, 0, truth)
            rival = inpaint_biharmonic(hidden, hole, channel_axis=2 if truth.ndim == 3 else None)
            answer = inpaint(hidden, hole, model=model)
            yield psnr(truth[hole], answer[hole]) - psnr(truth[hole], rival[hole])


def gaussian(side, seed=1, noise=1e-4):
    """One Gaussian of grey images, with a covariance that falls with the distance."""
    i = np.indices((side, side)).reshape(2, -1).T
    distance = np.linalg.norm(i[:, None] - i, axis=2)
    C = torch.from_numpy(0.04 * np.exp(-distance / 3) + noise * np.eye(side**2))
    variances, axes = torch.linalg.eigh(C)
    mean = 0.5 + 0.1 * torch.randn(side**2, generator=torch.Generator().manual_seed(seed)).double()
    model = GaussianMixture(
        (1, side, side),
        torch.ones(1).double(),
        mean[None],
        axes.flip(1)[None],
        variances.flip(0)[None],
        variances[:1],
    )
    return model, mean.numpy(), C.numpy()


@pytest.mark.parametrize("model", ["fit", "bundled"])
def test_it_is_better_than_the_biharmonic_continuation(model):
    small = ["blocks", "scratches", "loss", "specks"]
    found = np.array(list(gains(model, small, ["camera", "lines"])))
    assert found.mean() > (2 if model == "fit" else 1)
    assert found.min() > 0


@pytest.mark.parametrize("model", [pytest.param("fit", marks=pytest.mark.slow), "bundled"])
def test_large_holes_are_better_than_the_biharmonic_continuation(model):
    large = [f"block of 24, {place}" for place in ("upper", "middle", "lower")]
    assert np.mean(list(gains(model, large, ["camera", "lines", "stars"]))) > 0


@pytest.mark.parametrize("kind", [pytest.param("scratches", marks=pytest.mark.slow), "specks"])
def test_colour_is_better_than_the_biharmonic_continuation(kind):
    assert np.mean(list(gains("fit", [kind], ["china", "flower"]))) > 0.5


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_window_of_one_gaussian_gives_the_conditional_mean(share):
    side = 6
    model, mean, C = gaussian(side)
    x = RNG(5).multivariate_normal(mean, C)
    hole = RNG(6).random(side**2) < share
    noisy = C + conditional.LEVELS[-1] ** 2 * np.eye(side**2)
    gain = C[np.ix_(hole, ~hole)] @ np.linalg.inv(noisy[np.ix_(~hole, ~hole)])
    expected = mean[hole] + gain @ (x[~hole] - mean[~hole])
    tensor, missing = (torch.from_numpy(v).reshape(side, side) for v in (x, hole))
    found = conditional.filled(tensor[None], missing, torch.zeros_like(tensor)[None], model)
    np.testing.assert_allclose(found[0].numpy().ravel()[hole], expected, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(found[0].numpy().ravel()[~hole], x[~hole])


def test_overlapping_windows_give_the_minimum_of_their_energy():
    side, size = 4, 11
    model, mean, C = gaussian(side)
    x = 0.5 + 0.2 * RNG(7).normal(size=(size, size))
    hole = RNG(8).random((size, size)) < 0.3
    precision = np.linalg.inv(C + conditional.LEVELS[-1] ** 2 * np.eye(side**2))
    H, g = np.zeros((size**2, size**2)), np.zeros(size**2)
    places = [k for k in range(size - side + 1) if k % conditional.STRIDE == 0 or k == size - side]
    number = np.arange(size**2).reshape(size, size)
    for i in places:
        for j in places:
            own = number[i : i + side, j : j + side].ravel()
            H[np.ix_(own, own)] += precision
            g[own] += precision @ mean
    m = hole.ravel()
    expected = np.linalg.solve(H[np.ix_(m, m)], g[m] - H[np.ix_(m, ~m)] @ x.ravel()[~m])
    tensor = torch.from_numpy(x)[None]
    found = conditional.filled(tensor, torch.from_numpy(hole), torch.zeros_like(tensor), model)
    np.testing.assert_allclose(found[0].numpy()[hole], expected, rtol=0, atol=1e-3)


def test_a_colour_pixel_is_estimated_from_its_own_window_only():
    """White windows of one pixel are independent: what is missing is their mean."""
    white = densities.fit(
        "white", [torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(1))]
    )
    image = RNG(1).random((9, 14, 3))
    hole = np.eye(9, 14, dtype=bool)
    found = inpaint(image, hole, model=white)
    expected = np.broadcast_to(white.model.means.numpy(), (9, 3))
    np.testing.assert_allclose(found[hole], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_other_pixels_stay_bit_for_bit(shape, dtype):
    image = RNG(7).random(shape).astype(dtype)
    hole = RNG(8).random(shape[:2]) < 0.1
    filled = inpaint(image, hole, model="bundled")
    assert filled.shape == shape
    assert filled.dtype == np.result_type(dtype, np.float32)
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    assert (filled[hole] != image[hole]).all()


@pytest.mark.parametrize("shape", [(1, 7), (3, 3), (12, 14, 3)])
@pytest.mark.parametrize("model", ["fit", "bundled"])
def test_masks(shape, model):
    image = RNG(6).random(shape).astype(np.float32)
    h, w = size = shape[:2]
    np.testing.assert_array_equal(inpaint(image, np.zeros(size, np.uint8), model=model), image)
    hole = np.zeros(size)
    hole[0, 1] = -1e-9  # anything that is not 0
    found = inpaint(image, hole, model=model)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[hole == 0], image[hole == 0])
    assert inpaint(image, hole, model=model).tobytes() == found.tobytes()
    with pytest.raises(ValueError, match="covers the whole image"):
        inpaint(image, np.ones(size))
    for wrong in ((h + 1, w), (w + 1, h), (h, w, 3)):
        message = f"the mask is {'x'.join(map(str, wrong))} .*, the image {h}x{w}"
        with pytest.raises(ValueError, match=message):
            inpaint(image, np.ones(wrong))


@pytest.mark.parametrize("known", [(0, 0), (4, 7)])
def test_a_single_known_pixel(known):
    image = RNG(9).random((9, 11, 3))
    hole = np.ones((9, 11), bool)
    hole[known] = False
    found = inpaint(image, hole)
    assert np.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("model", ["bundled", "stationary"])
def test_holes_far_apart_are_filled_in_as_if_alone(model):
    """By a model that only denoises to the bit, else up to where its iteration ends."""
    image = np.tile(picture("camera"), (1, 4))
    one, other = np.zeros((2, *image.shape), bool)
    one[20:26, 10:16] = other[30:33, 200:240] = True
    if model == "stationary":
        x = torch.from_numpy(picture("camera").astype(np.float32))[None]
        model = densities.fit("stationary", [x])
    both, *alone = (inpaint(image, hole, model=model) for hole in (one | other, one, other))
    for hole, found in zip((one, other), alone, strict=True):
        atol = 1e-3 if model == "bundled" else 0
        np.testing.assert_allclose(both[hole], found[hole], rtol=0, atol=atol)


def test_the_cost_grows_with_the_holes_not_with_their_bounding_box(monkeypatch):
    seen = []
    responsibilities = GaussianMixture.responsibilities
    monkeypatch.setattr(
        GaussianMixture,
        "responsibilities",
        lambda self, y, s: seen.append(len(y)) or responsibilities(self, y, s),
    )
    hole = np.zeros((300, 400), bool)
    hole[0, 0] = hole[-1, -1] = hole[150, 200] = True
    inpaint(RNG(1).random(hole.shape), hole, model="bundled")
    assert sum(seen) <= 3 * 16 * len(conditional.LEVELS)


def test_models_that_only_denoise_improve_on_nothing_but_are_finite():
    """A density without windows in closed form, by falling noise levels."""
    truth, hole = picture("camera"), mask("specks")
    x = torch.from_numpy(truth.astype(np.float32))[None]
    found = inpaint(np.where(hole, np.nan, truth), hole, model=densities.fit("stationary", [x]))
    assert psnr(truth[hole], found[hole]) > psnr(truth[hole], np.full(hole.sum(), truth.mean())) + 3


def test_a_hole_starts_from_the_biharmonic_continuation():
    truth, hole = picture("camera"), mask("blocks")
    x, missing = torch.from_numpy(truth)[None], torch.from_numpy(hole)
    found = inpainting.start(torch.where(missing, torch.nan, x), missing)
    np.testing.assert_allclose(found[0], inpaint_biharmonic(np.where(hole, 0, truth), hole))


def test_threads_change_nothing_but_round_off():
    truth, hole = picture("camera")[:20, :24], mask("specks")[:20, :24]
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(inpaint(truth, hole, model="bundled"))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(*found, rtol=0, atol=1e-3)


def test_windows_by_batches_are_windows_at_once(monkeypatch):
    truth, hole = picture("camera").astype(np.float32), mask("loss")
    whole = inpaint(truth, hole, model="bundled")
    monkeypatch.setattr(conditional, "BATCH_ROWS", 50)
    np.testing.assert_allclose(inpaint(truth, hole, model="bundled"), whole, rtol=0, atol=1e-3)


def test_a_density_of_windows_is_used_as_the_bundled_one_is():
    truth, hole = picture("camera").astype(np.float32), mask("scratches")
    own = models.bundled(1)
    assert isinstance(own, Density)
    expected = inpaint(truth, hole, model="bundled")
    np.testing.assert_array_equal(inpaint(truth, hole, model=own), expected)


def test_pixels_in_any_order_of_memory():
    truth, hole = picture("china").astype(np.float32)[:30, :40], mask("specks")[:30, :40]
    x, missing = torch.from_numpy(truth).permute(2, 0, 1), torch.from_numpy(hole)
    assert not x.is_contiguous()
    found = inpainting.filled(x, missing, BUNDLED)
    np.testing.assert_array_equal(found, inpainting.filled(x.contiguous(), missing, BUNDLED))
    assert (found != torch.where(missing, inpainting.start(x, missing), x)).any()


def test_wide_holes_are_averaged_with_their_start(monkeypatch):
    truth, wide, narrow = picture("camera"), mask("block of 24, lower"), mask("blocks")
    for hole, share in ((wide, inpainting.SMOOTH_SHARE), (narrow, 0)):
        x, missing = torch.from_numpy(truth)[None], torch.from_numpy(hole)
        found = inpainting.filled(x, missing, BUNDLED)
        with monkeypatch.context() as patch:
            patch.setattr(inpainting, "WIDE", np.inf)
            alone = inpainting.filled(x, missing, BUNDLED)
        expected = (1 - share) * alone + share * inpainting.start(x, missing)
        np.testing.assert_allclose(found, expected.clamp(0, 1), rtol=0, atol=1e-9)


def test_fast_is_the_mixture_unchanged():
    truth, hole = picture("camera"), mask("scratches")
    expected = inpaint(truth, hole, model="bundled")
    np.testing.assert_array_equal(inpaint(truth, hole, model="fast"), expected)
    assert (inpaint(truth, hole, model="fit") != expected).any()
