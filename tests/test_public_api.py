"""The library as a user calls it: keyword-only options, old names, dtypes, devices, gradients."""

import importlib
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import score_embedding as se
from command_line import start_calling
from score_embedding import kinds
from score_embedding.errors import DataError, DivergenceError
from score_embedding.methods.samplers import start

TIMES = torch.linspace(0.1, 1, 4, dtype=torch.float64)
SDE = se.VarianceExploding(2.0)
SCHEMES = ("spectral", "implicit", "krylov", "published")


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)


# --- the score of a solution -------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(9,), (6, 7), (4, 5, 3)])
@pytest.mark.parametrize("boundary", ["reflect", "zero"])
@pytest.mark.parametrize("scheme", ["spectral", "implicit", "krylov"])
def test_the_score_of_a_solution_has_its_spacing_and_boundary(grid, boundary, scheme):
    m0, dh = random(2, 3, *grid), 0.7
    solution = se.solve(m0, SDE, TIMES, scheme=scheme, dh=dh, boundary=boundary)
    m = solution.log_density
    expected = torch.zeros_like(m)
    for axis in range(3, m.ndim):
        size = m.shape[axis]
        padded = torch.nn.functional.pad(m.movedim(axis, -1), (1, 1))
        if boundary == "reflect":
            padded[..., 0], padded[..., -1] = padded[..., 1].clone(), padded[..., -2].clone()
        slope = (padded[..., 2:] - padded[..., :size]) / (2 * dh)
        expected += slope.movedim(-1, axis)
    torch.testing.assert_close(solution.score(), expected, rtol=0, atol=1e-12)


def test_the_score_of_the_published_scheme_is_its_own():
    solution = se.solve(random(1, 2, 4, 5), SDE, TIMES, scheme="published")
    flat = solution.log_density.flatten(3)
    padded = torch.nn.functional.pad(flat, (1, 1))
    expected = ((padded[..., 2:] - padded[..., :-2]) / 2).reshape(solution.log_density.shape)
    torch.testing.assert_close(solution.score(), expected, rtol=0, atol=1e-12)
    assert solution.dt == 1 / len(TIMES)
    assert se.solve(random(1, 2, 4, 5), SDE, TIMES).dt is None


# --- names of the last release -----------------------------------------------------------------


def test_options_by_position_still_work_and_warn():
    m0 = random(1, 1, 4, 5)
    with pytest.warns(DeprecationWarning, match=r"solve: .*scheme=\.\.\., dh=\.\.\., tolerance"):
        old = se.solve(m0, SDE, TIMES, "implicit", 0.5, 1e-4)
    new = se.solve(m0, SDE, TIMES, scheme="implicit", dh=0.5, tolerance=1e-4)
    assert torch.equal(old.log_density, new.log_density)
    with pytest.warns(DeprecationWarning, match=r"log_density: .*method=\.\.\."):
        assert torch.equal(se.log_density(m0, "exact"), se.log_density(m0, method="exact"))
    with (
        pytest.warns(DeprecationWarning, match="scheme"),
        pytest.raises(TypeError, match="multiple values for argument 'scheme'"),
    ):
        se.solve(m0, SDE, TIMES, "implicit", scheme="spectral")
    with pytest.raises(TypeError, match="positional"):
        se.log_density(m0, "exact", 1)


def test_the_old_score_function_works_and_names_the_new_one():
    solution = se.solve(random(2, 1, 4, 5), SDE, TIMES, dh=0.5, boundary="zero")
    with pytest.warns(DeprecationWarning, match=r"use solution\.score\(\)"):
        assert torch.equal(se.score(solution.log_density, 0.5, "zero"), solution.score())
    both = se.gradient(solution.log_density, dh=0.5, boundary="zero")
    torch.testing.assert_close(sum(both), solution.score(), rtol=0, atol=1e-12)


MOVED = {
    "scores": ("Density", "fit", "load", "save"),
    "sections": ("DataLoader",),
    "denoising": ("denoise", "inpaint", "estimate_sigma"),
    "data": ("load_dataset", "load_images"),
    "config": ("Config",),
}


def test_modules_that_have_moved_are_found_under_their_old_names():
    for module, names in MOVED.items():
        old = importlib.import_module(f"score_embedding.{module}")
        for name in names:
            with pytest.warns(
                DeprecationWarning, match=rf"{module}\.{name} has moved to "
            ) as caught:
                found = getattr(old, name)
            place = str(caught[0].message).split()[-1]
            assert found is getattr(importlib.import_module(place.rpartition(".")[0]), name)
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = old.no_such_name
    from score_embedding import scores, sections

    assert (scores.__name__, sections.__name__) == (
        "score_embedding.scores",
        "score_embedding.sections",
    )


def test_all_names_of_a_module_that_has_moved_are_imported():
    for module, names in MOVED.items():
        found = {}
        with pytest.warns(DeprecationWarning, match="has moved to"):
            exec(f"from score_embedding.{module} import *", found)
        assert set(names) <= set(found)
        assert "torch" not in found


# --- load_images -------------------------------------------------------------------------------


def stack(n=3, h=6, w=7, c=3, dtype=np.float64):
    values = np.random.default_rng(7).random((n, h, w, c))
    return (values * 255).astype(dtype) if np.dtype(dtype).kind in "ui" else values.astype(dtype)


def one_by_one(arrays):
    return torch.cat([se.load_images(array, size=6) for array in arrays])


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">i4", "<f2", ">f4", ">f8", "<f8"])
def test_arrays_of_every_dtype_and_byte_order_are_loaded(dtype):
    images = stack(dtype=dtype)
    found = se.load_images(images, size=6)
    assert (found.shape, found.dtype) == ((3, 3, 6, 6), torch.float32)
    native = images.astype(images.dtype.newbyteorder("="))
    assert torch.equal(found, one_by_one(native))


@pytest.mark.parametrize("c", [1, 3, 4])
def test_tensors_are_loaded_channels_first(c):
    images = stack(c=c)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    expected = one_by_one(images)
    assert torch.equal(se.load_images(tensors, size=6), expected)
    assert torch.equal(se.load_images(list(tensors), size=6), expected)
    assert torch.equal(se.load_images([tensors[:1], images[1], tensors[2]], size=6), expected)
    if c == 1:
        assert torch.equal(se.load_images(tensors[0, 0], size=6), expected[:1])
    half = se.load_images(tensors.to(torch.bfloat16), size=6)
    torch.testing.assert_close(half, expected, rtol=0, atol=0.02)
    strided = se.load_images(tensors.flip(3), size=6)
    torch.testing.assert_close(strided.flip(3), expected, rtol=0, atol=1e-6)


def test_masked_pixels_are_refused_and_an_empty_mask_is_not():
    images = np.ma.masked_array(stack(), mask=False)
    assert torch.equal(se.load_images(images, size=6), se.load_images(stack(), size=6))
    images.mask[1, 2, 3, 0] = True
    with pytest.raises(DataError, match=r"array 0\[1\]: holds masked pixels; fill them first"):
        se.load_images(images)
    with pytest.raises(ValueError, match="masked values; fill them first"):
        se.log_density(np.moveaxis(images, 3, 1))


@pytest.mark.parametrize("source", [np.zeros((0, 4, 4, 3)), torch.zeros(0, 3, 4, 4)])
def test_a_stack_of_no_images_is_refused(source):
    with pytest.raises(DataError, match="no images"):
        se.load_images(source)


def test_loading_refuses_a_gradient_and_complex_numbers():
    with pytest.raises(ValueError, match=r"tensor 0 requires a gradient.*detach\(\)"):
        se.load_images(torch.rand(3, 4, 4, requires_grad=True))
    with pytest.raises(DataError, match="complex"):
        se.load_images(np.zeros((4, 4), dtype=complex))
    for x in (np.zeros((1, 1, 4), dtype=complex), torch.zeros(1, 1, 4, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="real numbers, got dtype"):
            se.solve(x, SDE, TIMES)


PIXELS = stack(1)[0]


def test_a_size_may_be_of_any_whole_numbers():
    expected = se.load_images(PIXELS, size=(5, 4))
    for size in ([5, 4], np.array([5, 4]), torch.Size([5, 4]), (np.int64(5), torch.tensor(4))):
        assert torch.equal(se.load_images(PIXELS, size=size), expected)
    assert se.load_images(PIXELS, size=np.int64(8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("size", [0, -1, (8,), (8, 8, 8), "8", "88", True, 8.0, None, (8, 0)])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="size must be a whole number from 1 on, got"):
        se.load_images(PIXELS, size=size)


@pytest.mark.parametrize("channels", [2, 4, 0, -1, True, 3.0, None])
def test_channels_other_than_one_and_three_are_refused(channels):
    with pytest.raises(ValueError, match="channels must be"):
        se.load_images(PIXELS, channels=channels)


@pytest.mark.parametrize("sources", ["", None, 5, [None], [[1, 2], [3, 4]], [PIXELS, ""], b"x"])
def test_sources_that_are_no_images_are_refused(sources):
    with pytest.raises(ValueError, match="must be a file, folder, array or tensor"):
        se.load_images(sources)


# --- arguments that cannot be used ---------------------------------------------------------------

M0, SCORES = random(1, 1, 4, 5), random(1, 4, 1, 4, 5)
X = torch.ones(1, 1, 2, 2)


def towards_zero(x, t):
    return -x / (1 + t[:, None, None, None])


@pytest.mark.parametrize(
    ("message", "use"),
    [
        ("tolerance must be a positive", lambda: se.rk45(towards_zero, SDE, X, 0.1, tolerance=0)),
        ("tolerance must be a positive", lambda: se.rk45(towards_zero, SDE, X, 0.1, tolerance=-1)),
        ("tolerance must be at least", lambda: se.rk45(towards_zero, SDE, X, 0.1, tolerance=1e-11)),
        (
            "tolerance must be at least 1e-13",
            lambda: se.rk45(towards_zero, SDE, X.double(), 0.1, tolerance=1e-14),
        ),
        ("eps must be a positive .* below 1", lambda: se.rk45(towards_zero, SDE, X, 1.0)),
        ("eps must be a positive .* below 1", lambda: se.heun(towards_zero, SDE, X, 2.0)),
        ("eps must be a positive", lambda: se.heun(towards_zero, SDE, X, 0)),
        ("steps must be a whole number", lambda: se.heun(towards_zero, SDE, X, 0.1, steps=0)),
        ("steps must be a whole number", lambda: se.heun(towards_zero, SDE, X, 0.1, steps=1.5)),
        ("sde must be an SDE", lambda: se.heun(towards_zero, 2.0, X, 0.1)),
        ("x must have 4 dimensions", lambda: se.heun(towards_zero, SDE, X[0], 0.1)),
        ("sde must be an SDE", lambda: se.solve(M0, 2.0, TIMES)),
        ("sde must be an SDE", lambda: se.embed(M0, SCORES, 2.0, TIMES)),
        ("dt must be a positive", lambda: se.embed(M0, SCORES, SDE, TIMES, dt=math.nan)),
        ("dt must be a positive", lambda: se.embed(M0, SCORES, SDE, TIMES, dt=-0.1)),
        ("dt must be a positive", lambda: se.embed(M0, SCORES, SDE, TIMES, dt=[0.1, 0.2])),
        ("times must be ascending", lambda: se.embed(M0, SCORES, SDE, TIMES.flip(0))),
        ("times must be ascending", lambda: se.embed(M0, SCORES[:, :0], SDE, TIMES[:0])),
        ("dh must be a positive", lambda: se.gradient(M0, dh=0)),
        ("dh must be a positive", lambda: se.gradient(M0, dh=math.inf)),
        ("dims must be a whole number", lambda: se.gradient(M0, dims=0)),
        ("log_density must end in", lambda: se.gradient(M0[..., :0])),
        ("dh must be a finite number", lambda: se.solve(M0, SDE, TIMES, dh=math.inf)),
        ("dh must be a finite number", lambda: se.solve(M0, SDE, TIMES, dh="1")),
        ("dh must be a finite number", lambda: se.solve(M0, SDE, TIMES, dh=1e300)),
        ("tolerance must be a positive", lambda: se.solve(M0, SDE, TIMES, tolerance=math.inf)),
        ("max_iterations must be a whole", lambda: se.solve(M0, SDE, TIMES, max_iterations=1.5)),
        ("rate must be a finite", lambda: se.solve(M0, SDE, TIMES, drift=se.AffineDrift(1e300))),
        (r"use m0\.to_dense\(\)", lambda: se.solve(M0.to_sparse(), SDE, TIMES)),
        (
            r"use tensor 0\.to_dense\(\)",
            lambda: se.load_images(torch.rand(3, 4, 4).to_sparse()),
        ),
        ("m0 must be an array", lambda: se.solve([[1, [2]]], SDE, TIMES)),
        ("sigma must be a positive", lambda: se.VarianceExploding("2")),
        ("sigma must be a positive", lambda: se.VarianceExploding(True)),
        ("sigma must be a positive", lambda: se.VarianceExploding(1e300)),
        ("sigma must be a positive", lambda: se.VarianceExploding(10**400)),
        ("beta_max must be a positive", lambda: se.VariancePreserving(0.1, 1e300)),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(message, use):
    with pytest.raises(ValueError, match=message):
        use()


@pytest.mark.parametrize(
    ("message", "use"),
    [
        (r"std\(t\) is not finite in", lambda: SDE.std(-1.0)),
        (r"std\(t\) is not finite in", lambda: SDE.std(torch.tensor([0.5, -0.5]))),
        (r"g\(t\) is not finite in", lambda: SDE.g(torch.tensor(1000.0))),
        ("the time of std .* from 0 on$", lambda: SDE.time_of(-1.0)),
        (
            "the time of std .* from 0 on and below 0.8493",
            lambda: se.VarianceExploding(0.5).time_of(0.9),
        ),
        (r"std\(t\) is not finite in", lambda: se.VariancePreserving().std(-0.001)),
        (r"g\(t\) is not finite in", lambda: se.VariancePreserving().g(-1.0)),
        ("the gradient is", lambda: se.gradient(M0.half(), dh=1e-6)),
        ("embedded is", lambda: se.embed(M0, SCORES + 1e308, se.VarianceExploding(50.0), TIMES)),
        ("the log-density is", lambda: se.solve(M0.half() * 1e4, SDE, TIMES, dh=1e-100)),
    ],
)
def test_a_result_that_is_not_finite_is_refused(message, use):
    with pytest.raises(DivergenceError, match=message):
        use()


@pytest.mark.parametrize("sampler", [se.heun, se.rk45])
@pytest.mark.parametrize("kind", ["int", "numpy"])
def test_samplers_compute_whole_numbers_in_float64(sampler, kind):
    x = torch.arange(1, 5).reshape(1, 1, 2, 2)
    expected = sampler(towards_zero, SDE, x.double(), 0.01).x
    found = sampler(towards_zero, SDE, x.numpy() if kind == "numpy" else x, 0.01).x
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


def test_the_default_dtype_changes_no_sample_and_no_start():
    usual = [se.heun(towards_zero, SDE, X, 0.01).x, start(X, 1.0, 0)]
    torch.set_default_dtype(torch.float64)
    try:
        changed = [se.heun(towards_zero, SDE, X, 0.01).x, start(X, 1.0, 0)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, usual, changed))


def test_an_sde_computes_whole_numbers_in_float64():
    x, t = torch.tensor([3, -4]), torch.tensor(1)
    preserving = se.VariancePreserving()
    assert torch.equal(preserving.f(x, 0.5), preserving.f(x.double(), 0.5))
    assert torch.equal(SDE.f(x, 0.5), torch.zeros(2, dtype=torch.float64))
    for sde in (SDE, preserving):
        for name in ("g", "std"):
            assert torch.equal(getattr(sde, name)(t), getattr(sde, name)(1.0))


def test_an_embedding_is_differentiable_in_the_times():
    times = TIMES.clone().requires_grad_()
    torch.autograd.gradcheck(lambda t: se.embed(M0, SCORES, SDE, t), times)


# --- torch's defaults --------------------------------------------------------------------------


EVERY_CALL = str(Path(__file__).with_name("every_call.py"))


def run_every_call(*arguments):
    sys.argv = [EVERY_CALL, *arguments]
    runpy.run_path(EVERY_CALL)


@pytest.mark.slow
def test_a_default_dtype_or_device_of_the_user_changes_nothing(tmp_path):
    with start_calling(run_every_call, str(tmp_path / "usual"), "float32", "cpu") as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    usual = load_file(tmp_path / "usual")
    assert len(usual) > 150
    # Both at once: neither hides the other, as a dtype is compared and a meta tensor has no values.
    # What is made at import must not depend on them either: in a new interpreter.
    arguments = str(tmp_path / "changed"), "float64", "meta"
    subprocess.run([sys.executable, EVERY_CALL, *arguments], check=True)
    changed = load_file(tmp_path / "changed")
    assert changed.keys() == usual.keys()
    for name, value in usual.items():
        assert changed[name].dtype == value.dtype, name
        assert torch.equal(changed[name], value), name


# --- every scheme x every option ---------------------------------------------------------------


class Swirl:
    """A drift of two grid axes with a divergence, its strength growing in time."""

    def __call__(self, x, t):
        pull = -0.2 * (1 + t) * x
        return pull + 0.1 * x.flip(0) if len(x) == 2 else pull

    def __str__(self):
        return "swirl"


def drift_of(name, grid):
    array = 0.1 * random(len(grid), *grid, seed=3)
    return {"none": None, "affine": se.AffineDrift(0.3), "any": Swirl(), "array": array}[name]


@pytest.mark.parametrize("grid", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("drift", ["none", "affine", "any", "array"])
@pytest.mark.parametrize("boundary", ["reflect", "zero"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_option_is_solved_or_refused(scheme, boundary, drift, grid):
    about = kinds.SCHEMES[scheme]
    known = boundary in (about.boundaries if drift == "none" else about.drift_boundaries)
    if scheme == "spectral" and drift in ("any", "array"):
        known = False
    if scheme == "published" and len(grid) != 2:
        known = False
    m0 = 0.3 * random(2, 2, *grid)
    times = torch.linspace(0.01, 0.3, 5, dtype=torch.float64)
    options = {"boundary": boundary, "drift": drift_of(drift, grid), "dh": 0.8}

    def solved(scheme, **more):
        return se.solve(m0, SDE, times, scheme=scheme, tolerance=1e-6, **options, **more)

    if not known:
        with pytest.raises(ValueError, match="use implicit"):
            solved(scheme)
        return
    solution = solved(scheme)
    m = solution.log_density
    assert m.shape == solution.score().shape == (2, 5, 2, *grid)
    assert torch.equal(m[:, 0], m0)
    about = solution.diagnostics
    assert (about.scheme, about.dh) == (scheme, 0.8)
    assert about.boundary == ("wrapping" if scheme == "published" else boundary)
    assert (about.tolerance is None) == (scheme == "spectral")
    assert about.summary().startswith(f"{scheme}, {about.boundary} boundary, drift {about.drift}: ")
    if scheme in ("implicit", "krylov"):
        other = solved("implicit", linear="direct").log_density
        torch.testing.assert_close(m, other, rtol=0, atol=1e-5)
    if scheme == "spectral" and boundary == "reflect":  # no probability is lost
        mass = m.flatten(3).logsumexp(dim=3)
        torch.testing.assert_close(mass, mass[:, :1].expand_as(mass), rtol=0, atol=1e-9)
    if scheme == "spectral" and drift == "none":  # the maximum principle
        lowest, highest = (m0.flatten(2).amin(2), m0.flatten(2).amax(2))
        if boundary == "zero":
            lowest, highest = lowest.clamp_max(0), highest.clamp_min(0)
        inner = m.flatten(3)
        assert (inner.amin(3) >= lowest[:, None] - 1e-9).all()
        assert (inner.amax(3) <= highest[:, None] + 1e-9).all()


# --- gradients of a solve ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_spectral_scheme_is_differentiable(dtype):
    m0 = random(1, 2, 4, 5)
    weights = random(1, 4, 2, 4, 5, seed=4)

    def functional(m):
        solution = se.solve(m, SDE, TIMES)
        return (weights * (solution.log_density + solution.score())).sum()

    tracked = m0.to(dtype).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional(tracked), tracked)
    direction, h = random(1, 2, 4, 5, seed=5), 1e-5
    slope = float(functional(m0 + h * direction) - functional(m0 - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("scheme", ["implicit", "krylov", "published"])
def test_other_schemes_refuse_a_gradient_and_name_spectral(scheme):
    m0 = random(1, 1, 4, 5).requires_grad_()
    message = rf"m0 requires a gradient, which the {scheme} scheme.*spectral.*m0\.detach\(\)"
    with pytest.raises(ValueError, match=message):
        se.solve(m0, SDE, TIMES, scheme=scheme)
    with torch.no_grad():
        tracked = se.solve(m0, SDE, TIMES, scheme=scheme).log_density
    detached = se.solve(m0.detach(), SDE, TIMES, scheme=scheme).log_density
    assert torch.equal(tracked, detached)


def test_a_gradient_of_a_drift_or_of_times_is_refused():
    drift = torch.zeros(2, 4, 5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="drift requires a gradient"):
        se.solve(random(1, 1, 4, 5), SDE, TIMES, scheme="implicit", drift=drift)
    with pytest.raises(ValueError, match="times requires a gradient"):
        se.solve(random(1, 1, 4, 5), SDE, TIMES.clone().requires_grad_())


TRACKED = torch.tensor(2.0, requires_grad=True)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("dh", lambda: se.solve(random(1, 1, 4, 5), SDE, TIMES, dh=TRACKED)),
        ("sigma", lambda: se.VarianceExploding(TRACKED)),
        ("beta_max", lambda: se.VariancePreserving(0.1, TRACKED)),
        (
            "rate",
            lambda: se.solve(random(1, 1, 4, 5), SDE, TIMES, drift=se.AffineDrift(TRACKED)),
        ),
        (
            "rate",
            lambda: se.solve(
                random(1, 1, 4, 5), SDE, TIMES, drift=se.AffineDrift(lambda t: t * TRACKED)
            ),
        ),
        (
            r"drift\(x, t\)",
            lambda: se.solve(
                random(1, 1, 4, 5), SDE, TIMES, scheme="implicit", drift=lambda x, _: -TRACKED * x
            ),
        ),
        ("x", lambda: se.heun(lambda x, _: -x, SDE, random(1, 1, 4, 5).requires_grad_(), 1e-3)),
        ("x", lambda: se.rk45(lambda x, _: -x, SDE, random(1, 1, 4, 5).requires_grad_(), 1e-3)),
        ("image", lambda: se.denoise(random(32, 32).requires_grad_(), sigma=0.1)),
        (
            "image",
            lambda: se.inpaint(random(32, 32).requires_grad_(), torch.zeros(32, 32, dtype=bool)),
        ),
    ],
)
def test_a_gradient_that_would_be_lost_is_refused(name, use):
    with pytest.raises(ValueError, match=rf"^{name} requires a gradient"):
        use()


def test_a_tensor_of_one_entry_is_a_number():
    sde = se.VarianceExploding(torch.tensor(5.0))
    assert sde == se.VarianceExploding(5.0)
    m0 = random(1, 1, 4, 5)
    one, other = (se.solve(m0, sde, TIMES, dh=dh).log_density for dh in (torch.tensor(2.0), 2.0))
    assert torch.equal(one, other)


def test_a_log_density_and_an_embedding_are_differentiable():
    images, scores = random(1, 1, 3, 4), random(1, 4, 1, 3, 4, seed=1)
    x = images.clone().requires_grad_()
    se.log_density(x).sum().backward()
    h, direction = 1e-6, random(1, 1, 3, 4, seed=2)
    ends = [se.log_density(images + t * direction).sum() for t in (h, -h)]
    slope = float(ends[0] - ends[1]) / (2 * h)
    assert float((x.grad * direction).sum()) == pytest.approx(slope, rel=1e-5)
    with pytest.raises(ValueError, match=r"images requires a gradient.*\"exact\" does"):
        se.log_density(x, method="histogram")
    tracked = scores.clone().requires_grad_()
    se.embed(images, tracked, SDE, TIMES)[:, -1].sum().backward()
    steps = -(SDE.g(TIMES) ** 2) / 2 * torch.cat([torch.zeros(1).double(), TIMES.diff()])
    torch.testing.assert_close(tracked.grad, steps[:, None, None, None].expand_as(scores))
