"""The model of the noise, its estimate, and what denoising makes of both."""

import io
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

import score_embedding as se
from score_embedding import densities
from score_embedding.densities import fitting
from score_embedding.restoration import adaptive, consistency, models, quiet_patches, quiet_tiles
from score_embedding.restoration.noise import LEAST_EIGENVALUE, Noise, Stationary
from score_embedding.restoration.stabilisation import stabilisation

RNG = np.random.default_rng


def psnr(image, truth):
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - truth) ** 2)))


def shared(side=96, level=0.1, channels=3):
    """White noise blurred by a known kernel, and its exact covariance."""
    kernel = np.array([0.3, 0.4, 0.3])
    kernel = kernel[:, None] * kernel
    kernel /= np.sqrt(np.sum(kernel**2))
    lags = np.zeros((5, 5))
    for i in range(-2, 3):
        for j in range(-2, 3):
            moved = np.zeros((7, 7))
            moved[2 + i : 5 + i, 2 + j : 5 + j] = kernel
            lags[2 + i, 2 + j] = np.sum(moved[2:5, 2:5] * kernel)
    covariance = np.eye(channels)[:, :, None, None] * lags
    white = RNG(0).standard_normal((channels, side + 2, side + 2))
    windows = np.lib.stride_tricks.sliding_window_view(white, (3, 3), (1, 2))
    return level * np.einsum("chwij,ij->chw", windows, kernel), Stationary(level, covariance)


def test_the_covariance_of_a_window_is_that_of_the_noise():
    noise, model = shared(400, 1.0, 1)
    windows = np.lib.stride_tricks.sliding_window_view(noise[0], (4, 4)).reshape(-1, 16)
    np.testing.assert_allclose(np.cov(windows.T), model.window(4), atol=0.03)


def test_halving_is_the_covariance_of_means_of_two_by_two():
    noise, model = shared(800, 1.0, 1)
    small = noise[0].reshape(400, 2, 400, 2).mean((1, 3))
    half = model.halved()
    assert small.std() == pytest.approx(half.level, rel=0.02)
    windows = np.lib.stride_tricks.sliding_window_view(small, (3, 3)).reshape(-1, 9)
    np.testing.assert_allclose(np.cov(windows.T) / half.level**2, half.window(3), atol=0.03)


def test_halved_white_noise_is_white():
    half = Stationary.white(0.2, 3).halved()
    assert (half.level, half.is_white) == (pytest.approx(0.1), True)


def test_whitened_windows_have_independent_noise():
    _, model = shared()
    whiten, colour = model.whitening(4, torch.zeros(1, dtype=torch.float64))
    values = np.linalg.eigvalsh(model.window(4))
    assert values.min() < LEAST_EIGENVALUE < values.max()  # the smallest are raised
    torch.testing.assert_close(whiten @ colour, torch.eye(48, dtype=torch.float64))
    product = whiten.numpy() @ model.window(4) @ whiten.numpy()
    assert np.linalg.eigvalsh(product).max() == pytest.approx(1)


def test_the_posterior_mean_of_a_mixture_under_correlated_noise():
    """Against the formula with full matrices, and against Monte Carlo: of samples of the mixture
    with noise, the mean of those whose noisy array is nearly the given one."""
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    C = roots @ roots.mT / 8 + 0.01 * torch.eye(4)
    means = torch.tensor([[0.0] * 4, [1.0, 0.5, -0.5, 0.0]], dtype=torch.float64)
    mixture = fitting.from_moments((1, 2, 2), torch.tensor([0.4, 0.6]).double(), means, C)
    near = np.array([[0.2, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 0.2]])
    noise = Stationary(0.5, near[None, None])
    S = torch.from_numpy(0.25 * noise.window(2))
    y = torch.tensor([0.6, 0.1, -0.3, 0.2], dtype=torch.float64)
    weights, answers = [], []
    for k in range(2):
        total = torch.distributions.MultivariateNormal(means[k], C[k] + S)
        weights.append(total.log_prob(y) + torch.log(mixture.weights[k]))
        answers.append(means[k] + C[k] @ torch.linalg.solve(C[k] + S, y - means[k]))
    r = torch.softmax(torch.stack(weights), 0)
    expected = r[0] * answers[0] + r[1] * answers[1]
    density = densities.Density("patch_mixture", mixture, 1)
    found = adaptive.of_mixture(density)(y.view(1, 2, 2), noise)
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-6)

    count = 2_000_000
    kinds = torch.bernoulli(torch.full((count,), 0.6), generator=generator).long()
    z = torch.randn(count, 4, 2, generator=generator, dtype=torch.float64)
    x = means[kinds] + torch.einsum("nij,nj->ni", torch.linalg.cholesky(C)[kinds], z[..., 0])
    noisy = x + z[..., 1] @ torch.linalg.cholesky(S).T
    close = (noisy - y).abs().amax(dim=1) < 0.15
    assert int(close.sum()) > 500
    torch.testing.assert_close(x[close].mean(dim=0), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("noise", [Noise.poisson(0.01, 1e-4, 1), Noise.poisson(0.2, 0.0, 1)])
def test_stabilised_noise_is_the_same_everywhere_and_restored_without_bias(noise):
    slope = {65: noise.deviations[0, -1] ** 2}[len(noise.levels)]
    known = stabilisation(noise, 0, 3)
    for x in (0.3, 0.6, 1.0):
        counts = RNG(1).poisson(x / slope, 200_000) * slope
        f = known.stabilised(torch.from_numpy(counts[None, None]))
        assert float(f.std()) == pytest.approx(known.noise.level, rel=0.15)
        mean = known.restored(f.mean().view(1, 1, 1))
        assert float(mean) == pytest.approx(x, rel=0.02)


@pytest.mark.parametrize("s", [0.02, 0.06, 0.1, 0.2])
@pytest.mark.parametrize("name", ["astronaut", "camera", "moon", "brick"])
def test_independent_noise_is_found_whatever_the_texture(name, s):
    image = getattr(skimage.data, name)()[:384, :384] / 255.0
    noise = se.estimate_noise(image + s * RNG(2).standard_normal(image.shape))
    assert noise.level == pytest.approx(s, rel=0.12, abs=0.004)
    assert noise.correlation.shape[-1] == 1


def test_noise_that_neighbours_share_is_found_with_its_correlation():
    image = skimage.data.rocket()[:288, :440] / 255.0
    noise = gaussian_filter(RNG(3).standard_normal(image.shape), (0.8, 0.8, 0))
    noise *= 0.03 / noise.std()
    found = se.estimate_noise(image + noise)
    assert 0.8 < found.level / 0.03 < 1.6
    centre = found.correlation.shape[-1] // 2
    true = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    assert found.correlation[0, 0, centre, centre + 1] == pytest.approx(true, abs=0.12)
    assert "shared by neighbouring pixels" in found.described()
    gain = psnr(se.denoise(image + noise), image) - psnr(image + noise, image)
    assert gain > 2


@pytest.mark.parametrize("s", [8 / 255, 25 / 255])
@pytest.mark.parametrize("name", ["retina", "stereo_motorcycle", "camera", "moon", "coffee"])
def test_blurred_noise_is_found(name, s):
    image = getattr(skimage.data, name)()
    image = (image[0] if isinstance(image, tuple) else image)[:400, :400] / 255.0
    noise = gaussian_filter(RNG(4).standard_normal(image.shape), (1, 1, 0)[: image.ndim])
    noise *= s / noise.std()
    found = se.estimate_noise(image + noise)
    assert found.level == pytest.approx(s, rel=0.3)
    centre = found.correlation.shape[-1] // 2
    assert found.correlation[0, 0, centre, centre + 1] == pytest.approx(np.exp(-0.25), abs=0.12)


@pytest.mark.parametrize("quality", [75, 95])
def test_noise_in_a_jpeg_is_shared_by_the_channels(quality):
    image = skimage.data.chelsea()[:256, 50:306] / 255.0
    noisy = image + 25 / 255 * RNG(5).standard_normal(image.shape)
    file = io.BytesIO()
    Image.fromarray(np.round(255 * noisy.clip(0, 1)).astype(np.uint8)).save(
        file, "jpeg", quality=quality
    )
    stored = np.asarray(Image.open(file)) / 255
    found = se.estimate_noise(stored)
    assert found.level == pytest.approx(np.std(stored - image), rel=0.2)
    centre = found.correlation.shape[-1] // 2
    assert found.correlation[0, 1, centre, centre] > 0.5
    assert psnr(se.denoise(stored, model="fast"), image) > psnr(stored, image) + 4.5


def test_one_range_of_brightness_with_texture_does_not_make_noise():
    """Of the coins only the brightest parts have no flat place."""
    for image in (skimage.data.coins(), skimage.data.camera()):
        assert 255 * se.estimate_noise(image).level < 1


def test_the_noise_at_one_brightness_bounds_that_at_others():
    brightness = np.array([0.02, 0.2, 0.4, 0.8])
    found = quiet_tiles.at_most_by_brightness(brightness, np.array([[0.1, 1.0, 5.0, 9.0]]))
    np.testing.assert_allclose(found, [[0.1, 1.0, 1.25 * 2**0.5, 1.25 * 4**0.5]])


@pytest.mark.parametrize("kind", ["checker", "two by two", "stripes", "steps", "dithered"])
def test_what_is_drawn_has_no_noise_and_stays(kind):
    i, j = np.indices((96, 96))
    image = {
        "checker": (i + j) % 2,
        "two by two": (i // 2 + j // 2) % 2,
        "stripes": i % 2,
        "steps": (i // 16) / 6,
        "dithered": RNG(4).random((96, 96)) < j / 96,
    }[kind].astype(np.float32)
    assert se.estimate_noise(image).described() == "none found"
    np.testing.assert_array_equal(se.denoise(image), image)


@pytest.mark.parametrize(("size", "s"), [(1, 0.1), pytest.param(2, 0.05, marks=pytest.mark.slow)])
def test_fine_patterns_are_not_destroyed(size, s):
    i, j = np.indices((160, 160)) // size
    clean = ((i + j) % 2).astype(float)
    noisy = clean + s * RNG(0).standard_normal(clean.shape)
    assert psnr(se.denoise(noisy, sigma=s), clean) > psnr(noisy, clean) - 0.01
    assert psnr(se.denoise(noisy), clean) > psnr(noisy, clean) - 0.1


def test_grey_stored_as_colour_is_denoised_once():
    grey = skimage.data.camera()[100:228, 100:228] / 255.0
    noisy = grey + 0.1 * RNG(5).standard_normal(grey.shape)
    three = se.denoise(np.dstack([noisy] * 3), sigma=0.1)
    np.testing.assert_array_equal(three[..., 0], three[..., 2])
    np.testing.assert_allclose(three[..., 1], se.denoise(noisy, sigma=0.1), atol=1e-6)


@pytest.mark.parametrize("tint", [0, 4])
def test_grey_stored_as_colour_with_round_off(tint):
    """Channels that differ by a grey level, as after JPEG, are joined; a tint stays."""
    grey = skimage.data.camera()[100:228, 100:228] / 255.0
    noisy = (255 * (grey + 0.1 * RNG(5).standard_normal(grey.shape))).clip(8, 240).round()
    one = (noisy / 255).astype(np.float32)
    three = noisy[..., None] + RNG(6).integers(-1, 2, (*grey.shape, 3))
    three[..., 2] += tint
    found = se.denoise(three.astype(np.uint8), sigma=0.1)
    alone = psnr(se.denoise(one, sigma=0.1), grey)
    if tint == 0:
        assert psnr(found.mean(axis=2), grey) > alone - 0.1
        np.testing.assert_allclose(np.ptp(found, axis=2), np.ptp(found[0, 0]), atol=1e-6)
    assert np.mean(found[..., 2] - found[..., 0]) == pytest.approx(tint / 255, abs=0.002)


@pytest.mark.parametrize(
    ("deviations", "words"),
    [
        ([0.0, 0.1, 0.0], "14.7 of 255, from 0.0 to 25.5, most at brightness 128"),
        ([1e-5, 1.5e-5, 1e-5], "0.003 of 255, from 0.0026 to 0.0038, most at brightness 128"),
        ([0.02, 0.05, 0.08], "14.2 of 255, from 5.1 in the dark to 20.4 in the light"),
        ([0.1, 0.1, 0.1], "25.5 of 255"),
        ([0.0, 0.0, 0.0], "none found"),
    ],
)
def test_noise_in_words(deviations, words):
    levels = np.array([0.2, 0.5, 0.8])
    noise = Noise(levels, np.array([deviations]), np.eye(1)[:, :, None, None])
    assert noise.described() == words


@pytest.mark.parametrize("s", [0.05, 0.1])
def test_a_sample_of_a_pattern_is_hardly_worse_than_the_noisy_picture(s):
    i, j = np.indices((64, 64))
    for clean, most in (((i + j) % 2, 0.1), ((i // 2 + j // 2) % 2 * 0.6 + 0.2, 3)):
        noisy = clean + s * RNG(0).standard_normal(clean.shape)
        found = se.denoise(noisy, sigma=s, mode="sample", model="bundled")
        assert psnr(found, clean) > psnr(noisy, clean) - most


def test_where_more_is_taken_away_than_noise_the_image_is_kept():
    y = torch.zeros(1, 40, 40)
    y[:, :, 20:] = torch.from_numpy(RNG(6).choice([-1.0, 1.0], (40, 20))).float()
    found = consistency.consistent(y, torch.zeros_like(y), Noise.white(0.1, 1))
    assert found[:, :, :14].abs().max() == 0
    assert (found - y)[:, :, 26:].abs().max() < 0.02


def test_bands_of_rows_make_no_difference(monkeypatch):
    image = skimage.data.coffee()[:200, 100:250] / 255
    y = torch.from_numpy(image + 0.1 * RNG(6).standard_normal(image.shape)).permute(2, 0, 1)
    y, noise = y.clamp(0, 1), Noise.white(0.1, 3)
    noise = replace(noise, scale=np.linspace(0.5, 1.5, 200)[:, None] * np.ones(150))
    answer = torch.from_numpy(gaussian_filter(y.numpy(), (0, 4, 4)))
    whole = consistency.consistent(y, answer, noise, clipped=True)
    monkeypatch.setattr(consistency, "BAND", 30)
    bands = consistency.consistent(y, answer, noise, clipped=True)
    torch.testing.assert_close(bands, whole, rtol=0, atol=1e-9)


def test_a_map_of_the_noise():
    image = skimage.data.astronaut()[:160, 140:300] / 255.0
    sigma = np.full((160, 160), 0.03)
    sigma[:, 80:] = 0.15
    noisy = image + sigma[..., None] * RNG(7).standard_normal(image.shape)
    found = se.denoise(noisy, sigma=sigma)
    level = float(np.sqrt(np.mean(sigma**2)))
    assert psnr(found, image) > psnr(se.denoise(noisy, sigma=level), image) + 0.5


@pytest.mark.parametrize(
    "deviations", [[[0.0, 0.0, 0.1]] * 3, [[0.0] * 3, [0.1, 0.05, 0.1], [0] * 3]]
)
def test_places_and_channels_without_noise(deviations):
    image = skimage.data.astronaut()[:64, 140:204] / 255.0
    noise = Noise(np.array([0.2, 0.5, 0.8]), np.array(deviations), np.eye(3)[:, :, None, None])
    noisy = image + noise.at(image.transpose(2, 0, 1)).transpose(1, 2, 0) * RNG(14).standard_normal(
        image.shape
    )
    assert psnr(se.denoise(noisy, noise=noise), image) > psnr(noisy, image)


@pytest.mark.parametrize("model", ["fit", "fast"])
def test_half_an_image_without_noise(model):
    image = skimage.data.astronaut()[:128, 140:268] / 255.0
    sigma = np.zeros((128, 128))
    sigma[:, 64:] = 0.1
    noisy = image + sigma[..., None] * RNG(15).standard_normal(image.shape)
    found = se.denoise(noisy, sigma=sigma, model=model)
    assert psnr(found[:, 76:], image[:, 76:]) > psnr(noisy[:, 76:], image[:, 76:]) + 6
    assert np.abs(found - image)[:, :52].max() < 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise.white(np.nan, 3), "deviations must be finite and not negative"),
        (lambda: Noise.white(-0.1, 3), "deviations must be finite and not negative"),
        (lambda: Noise.white([0.1, 0.2], 3), "one standard deviation or 3"),
        (lambda: Noise.white(0.1, 0), "channels must be a whole number from 1 on, got 0"),
        (lambda: Noise.poisson(-1, 0, 3), "slope must be finite and not negative, got -1"),
        (lambda: Noise.poisson(0.1, np.inf, 3), "offset must be finite and not negative, got inf"),
        (
            lambda: replace(Noise.white(0.1, 3), scale=np.full((4, 4), -1.0)),
            "scale must be finite and not negative",
        ),
    ],
)
def test_noise_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_level_for_each_channel():
    image = skimage.data.astronaut()[:128, 140:268] / 255.0
    sigma = np.array([0.02, 0.05, 0.15])
    noisy = image + sigma * RNG(8).standard_normal(image.shape)
    found = se.denoise(noisy, sigma=sigma)
    mean = float(np.sqrt(np.mean(sigma**2)))
    assert psnr(found, image) > psnr(se.denoise(noisy, sigma=mean), image) + 0.5


def test_counts():
    image = skimage.data.camera()[::4, ::4] / 255.0
    noisy = RNG(9).poisson(20 * image) / 20
    found = se.denoise(noisy, noise="poisson")
    assert psnr(found, image) > psnr(se.denoise(noisy, noise="white"), image)
    assert abs(found.mean() - image.mean()) < 0.01


def test_strength():
    noisy = 0.5 + 0.1 * RNG(10).standard_normal((48, 48))
    np.testing.assert_array_equal(
        se.denoise(noisy, sigma=0.1, strength=0), noisy.astype(np.float32)
    )
    twice = se.denoise(noisy, sigma=0.05, strength=2)
    np.testing.assert_allclose(twice, se.denoise(noisy, sigma=0.1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1}, "strength: -1: a number from 0"),
        ({"strength": np.nan}, "strength: nan"),
        ({"strength": "much"}, "strength: much"),
        ({"noise": "film"}, "noise: 'film': auto, white, camera, poisson are there"),
        ({"noise": Noise.white(0.1, 3)}, "noise: of 3 channels, the image has 1"),
        ({"noise": Noise.white(0.1, 1), "sigma": 0.1}, "sigma: of a Noise it is part"),
    ],
)
def test_noise_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        se.denoise(np.full((32, 32), 0.5), **options)


def test_salt_and_pepper_is_reported():
    image = skimage.data.camera()[:200, :200] / 255.0
    specks = RNG(11).random(image.shape)
    image = np.where(specks < 0.025, 0.0, np.where(specks > 0.975, 1.0, image))
    noise = se.estimate_noise(image + 0.0)
    assert noise.impulses == pytest.approx(0.05, abs=0.02)
    assert "% isolated specks, which are kept" in noise.described()


def test_fast_is_between_the_noisy_image_and_the_best():
    image = skimage.data.astronaut()[:160, 140:300] / 255.0
    noisy = image + 0.1 * RNG(12).standard_normal(image.shape)
    fast, best = (psnr(se.denoise(noisy, sigma=0.1, model=m), image) for m in ("fast", "fit"))
    assert psnr(noisy, image) + 5 < fast < best


def test_autocovariance_is_that_of_loops():
    tiles = torch.from_numpy(RNG(13).standard_normal((3, 2, 6, 6)))
    found = quiet_tiles.autocovariance(tiles, 2)
    for i, j in ((0, 0), (1, -2), (-2, 1)):
        products = [
            tiles[:, 0, r, q] * tiles[:, 1, r + i, q + j]
            for r in range(6)
            for q in range(6)
            if 0 <= r + i < 6 and 0 <= q + j < 6
        ]
        expected = float(torch.stack(products).mean())
        assert found[0, 1, 2 + i, 2 + j] == pytest.approx(expected, abs=1e-9)


def test_a_resolved_model_names_its_kind():
    assert [models.resolve(m, torch.device("cpu")).name for m in ("fit", "fast")] == ["fit", "fast"]


@pytest.mark.parametrize("colours", [(255, 0), (30, 220)])
def test_text_without_a_flat_tile_has_no_more_noise_than_its_background(colours):
    background, ink = colours
    page = Image.new("L", (200, 160), background)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for y in range(3, 160, 18):
        draw.text((3, y), "Sphinx of black quartz, judge my vow", fill=ink, font=font)
    text = np.asarray(page) / 255
    assert se.estimate_noise(text).level == 0
    noisy = text + 0.02 * RNG(0).standard_normal(text.shape)
    assert se.estimate_noise(noisy).level == pytest.approx(0.02, rel=0.25)
    assert psnr(se.denoise(noisy, model="fast"), text) > 35


def test_the_quietest_patches_of_noise_alone_bound_nothing():
    for shape in ((120, 120), (120, 120, 3)):
        image = 0.5 + 0.05 * RNG(1).standard_normal(shape)
        x = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1).float()
        noise = Noise.white(0.05, len(x))
        assert quiet_patches.at_most(noise, x) is noise
        assert quiet_patches.at_most(noise.times(3), x).level == pytest.approx(0.05, rel=0.12)
