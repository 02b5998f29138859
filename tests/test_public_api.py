"""The library as a user calls it: keyword-only options, old names, dtypes, devices, gradients."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import score_embedding as se
from score_embedding.errors import DataError

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
}


@pytest.mark.parametrize("module", MOVED)
def test_modules_that_have_moved_are_found_under_their_old_names(module):
    script = f"""
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from score_embedding.{module} import {", ".join(MOVED[module])}
    from score_embedding import {module}
texts = [str(warning.message) for warning in caught]
names = {{text.split()[0].split(".")[-1] for text in texts if "has moved" in text}}
assert names == set({MOVED[module]!r}), names
"""
    subprocess.run([sys.executable, "-c", script], check=True)


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
