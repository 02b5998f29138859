"""Fitting, evaluating, saving and loading the densities."""

import json
import math
import pickle
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from score_embedding.data.image_files import LUMA
from score_embedding.densities import fit, fitting, load, mixture, patch_mixture, save, white
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import FitOptions
from score_embedding.errors import CheckpointError, DivergenceError
from score_embedding.kinds import DENSITIES

KINDS = list(DENSITIES)
LIKELIHOODS = [kind for kind in KINDS if DENSITIES[kind].likelihood]
# Noise level, and decibels gained on a picture of another kind, a little less than measured:
# white and the windows themselves gain nothing in colour at a level of 0.1.
GAINS = {"white": (0.3, 1.5), "empirical": (0.3, 6.0), "low_rank": (0.1, 2.3)}
GAINS |= {"gaussian": (0.1, 3.5), "stationary": (0.1, 3.5), "patch_mixture": (0.1, 4.5)}
GAINS |= {"image_mixture": (0.1, 3.5), "combined": (0.1, 4.5)}


def picture(name, h, w, c=3):
    """A real one (c, h, w), float32, each pixel the mean of a block."""
    pixels = torch.from_numpy(getattr(skimage.data, name)().copy()).float() / 255
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    if c < len(pixels):
        pixels = pixels.mean(dim=0, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(pixels, (h, w))


@lru_cache(maxsize=1)
def pictures(c=3):
    return [picture(*p, c) for p in (("coffee", 80, 120), ("chelsea", 90, 130), ("rocket", 64, 96))]


@lru_cache(maxsize=32)
def small(kind, c=3):
    """A density of 4 x 4 arrays, quickly fitted."""
    side = 1 if kind == "white" else 4
    return fit(kind, pictures(c), side=side, arrays=300, components=3, rank=6)


def noise(shape, generator, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=dtype)


def psnr(a, b):
    return -10 * math.log10(float((a - b).square().mean()))


def random_gaussians(generator, shape, K):
    d = math.prod(shape)
    factors = 0.5 * torch.randn(K, d, d, generator=generator, dtype=torch.float64)
    C = factors @ factors.mT + 0.1 * torch.eye(d, dtype=torch.float64)
    means = torch.randn(K, d, generator=generator, dtype=torch.float64)
    weights = torch.arange(1, K + 1, dtype=torch.float64)
    return fitting.from_moments(shape, weights / weights.sum(), means, C), C


# --- every kind --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "c"),
    [
        *((kind, 1) for kind in KINDS),
        ("patch_mixture", 3),
        *(
            pytest.param(kind, 3, marks=pytest.mark.slow)
            for kind in KINDS
            if kind != "patch_mixture" and not DENSITIES[kind].of_images  # of 3072 numbers
        ),
    ],
)
def test_every_kind_denoises_a_picture_it_was_not_fitted_to(kind, c, generator):
    clean = picture("astronaut" if c == 3 else "camera", 60, 72, c)[None]
    sigma, least = GAINS[kind]
    noisy = clean + sigma * noise(clean.shape, generator)
    density = fit(kind, pictures(c), arrays=3000, components=4)
    model = density.model
    side = model.variances.shape[-1] if kind == "stationary" else model.shape[-1]
    assert (density.kind, density.channels, side) == (kind, c, DENSITIES[kind].side)
    denoised = density.denoise(noisy, sigma)
    assert psnr(denoised, clean) > psnr(noisy, clean) + least
    again = fit(kind, pictures(c), arrays=3000, components=4)
    assert torch.equal(again.denoise(noisy, sigma), denoised)


@pytest.mark.parametrize("kind", KINDS)
def test_each_image_has_its_own_noise_level(kind, generator):
    density, x = small(kind), noise((3, 3, 7, 9), generator) + 0.5
    levels = torch.tensor([0.3, 0.0, 1.25])
    together = density.denoise(x, levels)
    for n, s in enumerate(levels.tolist()):
        alone = density.denoise(x[n : n + 1], s)[0]
        torch.testing.assert_close(together[n], alone, rtol=0, atol=1e-5)
        assert torch.equal(together[n], density.denoise(x, levels.tolist())[n])
    assert torch.equal(together[1], x[1])
    assert not torch.equal(together[0], density.denoise(x[:1], 0.5)[0])
    score = density.score(x[::2], levels[::2])
    torch.testing.assert_close(
        score, (together - x)[::2] / levels[::2, None, None, None] ** 2, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_images_keep_their_dtype_and_may_be_numpys(kind, generator):
    density, x = small(kind), noise((2, 3, 6, 5), generator) + 0.5
    own = noise((2, 3, 1, 1) if kind == "white" else (2, 3, 4, 4), generator)
    calls = [("denoise", x), ("score", x)] + [("log_density", own)] * (kind in LIKELIHOODS)
    for method, images in calls:
        found = getattr(density, method)(images, 0.25)
        assert found.dtype == torch.float32
        assert found.shape == ((2,) if method == "log_density" else images.shape)
        assert torch.equal(getattr(density, method)(images.numpy(), np.float64(0.25)), found)
        double = getattr(density, method)(images.double(), np.array([0.25, 0.25]))
        assert double.dtype == torch.float64
        torch.testing.assert_close(found.double(), double, rtol=1e-3, atol=1e-3)
    kept = x.clone()
    assert torch.equal(density.denoise(x, 0), x)
    assert density.denoise(x, 0.0).data_ptr() != x.data_ptr()
    assert torch.equal(x, kept)
    assert density.to(x.double()).denoise(x, 0.25).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_in_float64_uses_the_whole_of_sigma(kind, generator):
    density, x = small(kind), noise((1, 3, 5, 6), generator, torch.float64)
    expected = (density.denoise(x, 0.3) - x) / 0.3**2
    torch.testing.assert_close(density.score(x, 0.3), expected, rtol=2e-7, atol=1e-12)


def test_the_score_in_float64_is_exact(generator):
    density, x = small("white"), noise((1, 3, 5, 6), generator, torch.float64)
    expected = (density.denoise(x, 0.3) - x) / 0.3**2
    torch.testing.assert_close(density.score(x, 0.3), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_arguments_are_refused(kind):
    density, x = small(kind), torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"density of 3 channel\(s\), images of 1"):
        density.denoise(x[:, :1], 0.1)
    with pytest.raises(ValueError, match="images must have 4 dimensions"):
        density.denoise(x[0], 0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        density.denoise(x * math.inf, 0.1)
    for sigma in (-0.1, math.nan, math.inf, torch.tensor([0.1, -1.0]), [0.1], torch.ones(3)):
        for method in (density.denoise, density.score, density.log_density):
            with pytest.raises(ValueError, match="sigma: one finite number >= 0, or 2 of them"):
                method(x, sigma)
    for sigma in (0, torch.tensor([0.1, 0.0])):
        with pytest.raises(ValueError, match=r"without noise .* sigma is 0"):
            density.score(x, sigma)
    if kind not in ("stationary", "white"):
        joint = r"\(3, 8, 8\).*no joint density"
        with pytest.raises(ValueError, match=joint if kind in LIKELIHOODS else "no log-density"):
            density.log_density(x, 0.1)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("kind must be one of white, .*'grey'", {"kind": "grey"}),
        ("stride must be a whole number from 1", {"stride": 0}),
        ("stride must be a whole number", {"stride": 1.5}),
        ("side must be a whole number from 1 to 32", {"side": 4.0}),
        ("side must be a whole number from 1 to 32", {"side": 33}),
        ("arrays must be a whole number", {"arrays": 10.0}),
        ("components must be a whole number", {"components": True}),
        ("em_steps must be a whole number", {"em_steps": 0}),
        ("rank must be a whole number from 0", {"rank": -1}),
        ("seed must be a whole number from 0 to 4294967295", {"seed": -1}),
        ("seed must be a whole number from 0 to 4294967295", {"seed": 2**32}),
        ("images must be an array", {"images": None}),
        ("an image must not be empty", {"images": torch.rand(1, 3, 0, 9)}),
        ("at most 4.3e\\+09 can be fitted", {"images": 1e10 * torch.rand(2, 3, 9, 9)}),
        ("stride: from 1 to the side of the arrays, 4, got 5", {"stride": 5}),
        ("same number of channels", {"images": []}),
        ("same number of channels", {"images": [torch.rand(3, 9, 9), torch.rand(1, 9, 9)]}),
        ("image must have 3 dimensions", {"images": torch.rand(3, 9, 9)}),
    ],
)
def test_what_cannot_be_fitted_is_refused(words, arguments):
    with pytest.raises(ValueError, match=words):
        fit(**{"kind": "gaussian", "images": torch.rand(2, 3, 9, 9), "side": 4, **arguments})


def test_the_numbers_of_a_fit_may_be_those_of_numpy(generator):
    images = torch.rand(2, 3, 9, 9, generator=generator)
    plain = fit("patch_mixture", images, side=4, components=2, arrays=50, seed=3)
    options = {"side": np.int64(4), "components": torch.tensor(2), "seed": np.array([3])}
    same = fit("patch_mixture", images, arrays=np.int32(50), **options)
    assert torch.equal(plain.denoise(images, 0.1), same.denoise(images, 0.1))


def test_images_of_the_size_of_the_arrays_are_taken_unchanged(generator):
    images = torch.rand(12, 3, 4, 4, generator=generator)
    density = fit("empirical", images, side=4)
    assert torch.equal(density.model.points, images.flatten(1))
    for found in (
        density.denoise(images, 1e-3),
        fit("empirical", list(images), side=4).model.points,
    ):
        assert torch.equal(found.reshape(images.shape), images)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    c=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 2), st.integers(1, 11), st.integers(1, 11)),
    power=st.floats(-9, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_whatever_the_image_and_the_noise_the_answer_is_finite(kind, c, size, power, dtype, seed):
    n, h, w = size
    sigma = 10.0**power
    generator = torch.Generator().manual_seed(seed)
    x = noise((n, c, h, w), generator, dtype) * (0.3 + sigma) + 0.5
    density = small(kind, c)
    denoised, score = density.denoise(x, sigma), density.score(x, sigma)
    for found in (denoised, score):
        assert found.shape == x.shape
        assert found.dtype == dtype
        assert torch.isfinite(found).all()
    if kind == "empirical":
        assert float(denoised.min()) > -1e-4  # a mean of pixels
        assert float(denoised.max()) < 1 + 1e-4


def test_white_of_any_side_is_of_every_pixel():
    density = fit("white", torch.rand(2, 3, 9, 9), side=8)
    assert torch.isfinite(density.denoise(torch.rand(1, 3, 9, 9), 0.1)).all()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("white", "stride", 0), ("low_rank", "rank", -1), ("gaussian", "arrays", 0)],
)
def test_numbers_out_of_range_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=name):
        fit(kind, pictures(), **{"arrays": 50, name: value}).denoise(pictures()[0][None], 0.1)


def test_the_log_density_of_points_without_noise_is_refused():
    with pytest.raises(ValueError, match="sigma"):
        small("empirical").log_density(torch.rand(1, 3, 4, 4), 0)


def test_results_that_are_not_finite_are_refused():
    density, x = small("white"), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DivergenceError, match=r"the score is not finite .* a larger sigma"):
        density.score(x, 1e-25)
    with pytest.raises(DivergenceError, match="the log-density is not finite"):
        density.log_density(1e30 * x, 0.1)
    with pytest.raises(DivergenceError, match="the posterior mean is not finite"):
        small("empirical").denoise(1e25 * x, 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_any_level_whose_square_is_finite_leaves_the_mean(kind):
    density, x = small(kind), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    means = [density.denoise(x, s).mean(dim=(2, 3)) for s in (1e3, 1e19)]
    torch.testing.assert_close(*means, rtol=0, atol=1e-3)
    for s in (1e20, 1e200, True):
        with pytest.raises(ValueError, match=r"sigma: one finite number .* below 1.8e\+19, got"):
            density.denoise(x, s)
    with pytest.raises(ValueError, match="images must not be empty"):
        density.denoise(x[..., :0], 0.1)


def test_noise_levels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="sigma: one finite number"):
        small("white").denoise(torch.rand(2, 3, 4, 4), torch.full((2, 1), 0.1))


def test_of_no_images_there_are_no_means():
    assert small("white").denoise(torch.rand(0, 3, 9, 9), 0.1).shape == (0, 3, 9, 9)


def test_a_stationary_log_density_refuses_other_channels():
    with pytest.raises(ValueError, match="channel"):
        small("stationary").log_density(torch.rand(1, 1, 4, 4), 0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_the_answer_is_the_same(kind, generator):
    density, x = small(kind), noise((2, 3, 9, 14), generator, torch.float64) + 0.5
    side = 1 if kind == "white" else 4
    for sigma in (0.1, 1.0):
        found = density.to(x.cuda()).denoise(x.cuda(), sigma)
        torch.testing.assert_close(found.cpu(), density.denoise(x, sigma), rtol=0, atol=1e-6)
        found = density.denoise(x.float().cuda(), torch.full((2,), sigma).cuda())
        assert found.device.type == "cuda"
        torch.testing.assert_close(
            found.cpu(), density.denoise(x.float(), sigma), rtol=0, atol=1e-4
        )
        if kind in LIKELIHOODS:
            own = x[..., :side, :side]
            found = density.log_density(own.cuda(), sigma).cpu()
            torch.testing.assert_close(found, density.log_density(own, sigma), rtol=1e-6, atol=1e-6)
    fitted = fit(kind, [p.cuda() for p in pictures()], side=side, arrays=300, components=3, rank=6)
    torch.testing.assert_close(
        fitted.denoise(x.cuda(), 0.3).cpu(), density.denoise(x, 0.3), rtol=0, atol=1e-3
    )


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_density_is_the_same_bit_for_bit(kind, tmp_path, generator):
    density, path = small(kind), tmp_path / "density.safetensors"
    save(density, path)
    read = load(path)
    assert (read.kind, read.stride, type(read.model)) == (kind, density.stride, type(density.model))
    assert read.model.array_shapes() == density.model.array_shapes()
    own, found = density.model.tensors(), read.model.tensors()
    assert found.keys() == own.keys()
    for name, value in own.items():
        assert torch.equal(found[name], value), name
    x = noise((2, 3, 5, 7), generator)
    # The tensors may lie otherwise in memory, and products then be summed in another order.
    torch.testing.assert_close(read.denoise(x, 0.2), density.denoise(x, 0.2), rtol=0, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_density_of_float64_is_read_as_it_was_saved(tmp_path):
    density = fit("white", [p.double() for p in pictures()], arrays=50)
    save(density, tmp_path / "density")
    assert torch.equal(load(tmp_path / "density").model.means, density.model.means)


def test_a_file_that_was_cut_anywhere_is_named(tmp_path):
    path = tmp_path / "cut"
    save(small("gaussian"), path)
    content = path.read_bytes()
    for length in (*range(0, 400, 7), len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=f"{path}: not a density"):
            load(path)


def test_what_is_no_density_is_named(tmp_path):
    text, weights = tmp_path / "text", tmp_path / "weights"
    text.write_text("A density, but in words.\n" * 20, encoding="utf-8")
    save_file({"conv.weight": torch.rand(3, 3)}, weights)
    about = tmp_path / "about"
    save_file({"conv.weight": torch.rand(3, 3)}, about, {"format": "pt"})
    for path in (text, weights, about, tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match=f"{path}: not a density that can be read"):
            load(path)


class Marks:
    """What runs when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_run(tmp_path):
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Marks(ran)))
    assert ran.exists()
    ran.unlink()
    (tmp_path / "pickle").write_bytes(pickle.dumps(Marks(ran)))
    torch.save({"points": Marks(ran)}, tmp_path / "torch")
    for name in ("pickle", "torch"):
        with pytest.raises(CheckpointError, match=f"{name}: not a density"):
            load(tmp_path / name)
    assert not ran.exists()


def tampered(path, about=None, text=None, **tensors):
    """A file of a density, with other metadata or tensors (None: without them)."""
    save(small("gaussian"), path)
    with safe_open(path, framework="pt") as file:
        known = json.loads(file.metadata()["density"])
        kept = {name: file.get_tensor(name) for name in list(file.keys())}
    kept = {name: value for name, value in {**kept, **tensors}.items() if value is not None}
    save_file(kept, path, {"density": text or json.dumps({**known, **(about or {})})})
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"about": {"model": "Network"}},
        {"about": {"model": "Empirical"}},
        {"about": {"model": ["Empirical"]}},
        {"about": {"shape": None}},
        {"about": {"stride": "two"}},
        {"text": "[]"},
        {"text": "no JSON"},
        {"rest": None},
        {"more": torch.ones(1)},
    ],
)
def test_a_file_that_was_tampered_with_is_named(change, tmp_path):
    path = tampered(tmp_path / "density", **change)
    with pytest.raises(CheckpointError, match=f"{path}: not a density that can be read"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"about": {"kind": "grey"}},
        {"about": {"stride": 0}},
        {"about": {"stride": 9}},
        {"about": {"stride": math.inf}},
        {"about": {"shape": [3, 4, 5]}},
        {"text": "[" * 100_000},
        {"means": torch.ones(1, 5)},
        {"means": torch.full((1, 48), math.nan)},
    ],
)
def test_a_file_that_no_save_has_written_is_named(change, tmp_path):
    path = tampered(tmp_path / "density", **change)
    with pytest.raises(CheckpointError, match=f"{path}"):
        load(path)


# --- fitting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "atol"), [(4, 1e-12), (3, 1e-7)])  # 3: constants are float32
def test_one_component_has_the_moments_of_the_sample(side, atol, generator):
    arrays = noise((900, 3, side, side), generator, torch.float64) @ noise(
        (side, side), generator, torch.float64
    )
    arrays = arrays + noise((900, 3, 1, 1), generator, torch.float64) + arrays[..., :1, :1]
    flat = arrays.flatten(1).numpy()
    S = np.cov(flat.T, ddof=0)
    P = np.kron(np.eye(3), np.full((side**2, side**2), side**-2))  # the mean of each channel
    Q = np.eye(len(P)) - P
    assert np.abs(P @ S @ Q).max() > 0.1  # what is left out
    expected = P @ S @ P + Q @ S @ Q + fitting.FLOOR * np.eye(len(P))
    model = patch_mixture.fit(arrays, FitOptions(components=1, em_steps=15))
    assert model.weights.tolist() == [1]
    np.testing.assert_allclose(model.means[0], flat.mean(axis=0), rtol=0, atol=atol)
    np.testing.assert_allclose(model.covariances()[0], expected, rtol=0, atol=20 * atol)


def test_white_has_the_mean_of_each_channel_and_one_variance(generator):
    pixels = noise((5000, 3, 1, 1), generator, torch.float64) * 0.2 + 0.5
    model, values = white.fit(pixels, FitOptions()), pixels.flatten(1).numpy()
    variance = values.var(axis=0).mean()
    mean = values.mean(axis=0)
    y = np.random.default_rng(1).normal(size=(8, 3))
    found = model.denoise(torch.from_numpy(y), 0.3)
    np.testing.assert_allclose(found, mean + variance / (variance + 0.09) * (y - mean), rtol=1e-12)


def test_a_mixture_is_likelier_for_real_windows_than_a_gaussian():
    held_out = fit("empirical", [picture("camera", 80, 80, 1)], arrays=3000).model.points
    at = {
        kind: fit(kind, pictures(1), side=8, arrays=3000, components=10).model
        for kind in ("gaussian", "patch_mixture")
    }
    likelihood = {kind: model.log_density(held_out, 0.05).mean() for kind, model in at.items()}
    assert likelihood["patch_mixture"] > likelihood["gaussian"] + 2


def test_expectation_maximisation_never_lowers_the_likelihood(generator):
    start, _ = random_gaussians(generator, (1, 2, 2), 3)
    s, truth = 0.3, random_gaussians(generator, (1, 2, 2), 2)[1]
    x = np.random.default_rng(2).multivariate_normal(np.ones(4), truth[0].numpy(), 400)
    arrays = torch.from_numpy(x) + s * noise((400, 4), generator, torch.float64)
    assert float(start.variances.min()) > mixture.NEGLIGIBLE * s**2
    model, likelihood = start, [float(start.log_density(arrays, s).mean())]
    for _ in range(12):
        model = fitting.adapted(model, arrays, s, 1, 0.0)
        likelihood.append(float(model.log_density(arrays, s).mean()))
    assert min(np.diff(likelihood)) > -1e-12
    assert likelihood[-1] > likelihood[0] + 1
    at_once = fitting.adapted(start, arrays, s, 12, 0.0)
    torch.testing.assert_close(at_once.covariances(), model.covariances(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("prior", [1e12, 1e16])
def test_a_mixture_of_great_weight_stays_unchanged(prior, generator):
    model, _ = random_gaussians(generator, (1, 2, 3), 3)
    arrays = 5 * noise((50, 6), generator, torch.float64)
    kept = fitting.adapted(model, arrays, 0.5, 2, prior)
    for found, given_ in (
        (kept.weights, model.weights),
        (kept.means, model.means),
        (kept.covariances(), model.covariances()),
    ):
        torch.testing.assert_close(found, given_, rtol=0, atol=1e-8)
    moved = fitting.adapted(model, arrays, 0.5, 2, 1.0)
    assert float((moved.means - model.means).abs().max()) > 0.1


def test_the_covariance_below_the_noise_is_estimated(generator):
    _, C = random_gaussians(generator, (1, 2, 2), 1)
    start, _ = random_gaussians(generator, (1, 2, 2), 1)
    s, n, mean = 0.5, 20_000, np.arange(4.0)
    x = np.random.default_rng(9).multivariate_normal(mean, C[0].numpy(), n)
    arrays = torch.from_numpy(x) + s * noise((n, 4), generator, torch.float64)
    fitted = fitting.adapted(start, arrays, s, 200, 0.0)
    noisy = np.cov(arrays.numpy().T, ddof=0)
    likeliest = noisy - s**2 * np.eye(4)
    np.testing.assert_allclose(fitted.means[0], arrays.numpy().mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(fitted.covariances()[0], likeliest, rtol=0, atol=1e-4)
    error = np.sqrt((np.outer(noisy.diagonal(), noisy.diagonal()) + noisy**2) / n)
    assert (np.abs(fitted.covariances()[0].numpy() - C[0].numpy()) < 4.5 * error + 1e-4).all()


def test_a_component_that_explains_nothing_does_no_harm(generator):
    means = torch.tensor([[0.0, 0.0], [1e3, 0.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    axes = torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)
    model = GaussianMixture((1, 1, 2), one / 2, means, axes, axes.sum(1), one / 2)
    arrays = noise((50, 2), generator, torch.float64)
    assert torch.isfinite(fitting.adapted(model, arrays, 0.1, 1, 0.0).means).all()


def test_the_luminance_of_a_mixture_is_that_of_its_samples(generator):
    colour, C = random_gaussians(generator, (3, 2, 3), 2)
    grey, n = fitting.luminance(colour), 100_000
    assert grey.shape == (1, 2, 3)
    assert torch.equal(grey.weights, colour.weights)
    assert LUMA.tolist() == pytest.approx([0.299, 0.587, 0.114])
    random = np.random.default_rng(6)
    for k in range(2):
        x = random.multivariate_normal(colour.means[k].numpy(), C[k].numpy(), n)
        sampled = np.tensordot(x.reshape(n, 3, 6), LUMA.double().numpy(), axes=(1, 0))
        covariance, spread = np.cov(sampled.T), sampled.var(axis=0)
        error = np.sqrt((np.outer(spread, spread) + covariance**2) / n)
        assert (np.abs(grey.covariances()[k].numpy() - covariance) < 4.5 * error).all()
        difference = grey.means[k].numpy() - sampled.mean(axis=0)
        assert (np.abs(difference) < 4.5 * np.sqrt(spread / n)).all()
        assert (spread > 10 * error.diagonal()).all()
