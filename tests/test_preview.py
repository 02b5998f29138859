"""The command denoise with --preview: one detail at several strengths, and the noise curve."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import score_embedding as se
from command_line import assert_mistake, tree
from score_embedding.report import figures, preview_figure
from score_embedding.restoration import files, preview

RNG = np.random.default_rng
BUNDLED = ("--model", "bundled")
NOISE = RNG(0).normal(size=(40, 56, 3))
COLOUR = ((0.5 + 0.1 * NOISE).clip(0, 1) * 255).round().astype(np.uint8)
GREY = COLOUR[..., 0]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DPI", 20)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the figures that are drawn."""
    found, whole = [], preview_figure.preview
    monkeypatch.setattr(
        preview_figure, "preview", lambda *given: found.append(given) or whole(*given)
    )
    return found


def saved(name, values):
    Path(name).parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(name)


def lines(done):
    return [line.removeprefix("preview: ") for line in done.stdout.splitlines()]


def test_only_the_preview_is_written(call_and_draw, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    saved("in/colour.png", COLOUR)
    saved("in/grey.jpg", GREY)
    saved("$x^$.png", GREY)
    before = tree(tmp_path)
    done = call_and_draw("denoise", "$x^$.png", "in", "--preview", *BUNDLED)
    written = ["$x^$_denoised_preview.png", "in/colour_denoised_preview.png"]
    written.append("in/grey_denoised_preview.png")
    assert (done.returncode, lines(done)) == (0, written), done.stderr
    assert tree(tmp_path).keys() == before.keys() | set(written)
    assert "denoise with --strength S without --preview" in done.stderr
    assert "(3 of 3): 56 x 40 pixels, grey, 8 bit; noise 0.1" in done.stderr
    for name in written:
        with Image.open(name) as picture:
            picture.load()
            assert picture.width > 200
    # They are no photographs themselves, and are replaced on demand only.
    assert_mistake(call_and_draw("denoise", "in", "--preview"), "already there; --overwrite")
    again = call_and_draw("denoise", "in", "--preview", "--overwrite", "--out", "out", *BUNDLED)
    assert lines(again) == [name.replace("in/", "out/") for name in written[1:]]


def test_panels_from_the_photograph_to_twice_the_strength(call, drawn):
    saved("a.png", COLOUR)
    assert call("denoise", "a.png", "--preview", "--strength", "1.2", *BUNDLED).returncode == 0
    heading, panels, whole, curve = drawn[0]
    assert heading == "a.png: a detail at several strengths (model bundled, mean)"
    assert [panel.title for panel in panels] == [
        *("strength 0, unchanged", "strength 0.5", "strength 0.75", "strength 1"),
        *("strength 1.2, as --strength is now", "strength 2"),
    ]
    assert [panel.now for panel in panels] == [False] * 4 + [True, False]
    np.testing.assert_allclose(panels[0].pixels.transpose(1, 2, 0), COLOUR / 255, atol=1e-6)
    for place, strength in ((3, 1.0), (4, 1.2)):
        expected = se.denoise(COLOUR, model="bundled", strength=strength)
        np.testing.assert_allclose(panels[place].pixels.transpose(1, 2, 0), expected, atol=1e-6)
    spread = [panel.pixels.std() for panel in panels]
    assert spread == sorted(spread, reverse=True)
    noise = se.estimate_noise(COLOUR)
    np.testing.assert_allclose(curve.deviations[:, 128], 255 * noise.deviations[:, 0])
    assert curve.description == f"noise, estimated: {noise.described()}"
    assert (whole.rows, whole.columns) == (slice(0, 40), slice(0, 56))


def test_the_noise_is_that_of_the_whole_and_only_the_detail_is_denoised(call, drawn, monkeypatch):
    sizes, clean = [], preview.denoising.clean
    monkeypatch.setattr(
        preview.denoising, "clean", lambda x, *rest: sizes.append(x.shape) or clean(x, *rest)
    )
    values = (0.5 + 0.05 * RNG(1).normal(size=(600, 400))).clip(0, 1)
    values[:, 200:] += 0.05 * RNG(2).normal(size=(600, 200))  # more of it in one half
    values = (values.clip(0, 1) * 65535).round().astype(np.uint16)
    tifffile.imwrite("a.tif", values)
    call("denoise", "a.tif", "--preview", *BUNDLED)
    _, panels, whole, curve = drawn[0]
    assert max(max(size) for size in sizes) <= preview.SIDE + 2 * preview.MARGIN
    assert {panel.pixels.shape for panel in panels} == {(1, preview.SIDE, preview.SIDE)}
    inside = values[whole.rows, whole.columns] / 65535
    np.testing.assert_allclose(panels[0].pixels[0], inside, atol=1e-6)
    assert curve.description.endswith(se.estimate_noise(values).described())


def test_first_pages_and_given_noise(call, drawn):
    tifffile.imwrite("stack.tif", np.stack([GREY, GREY[::-1], GREY // 2]), photometric="minisblack")
    for options, page, name in (
        ((), GREY, "stack_denoised_preview.png"),
        (("--page", 3), GREY // 2, "stack_page3_denoised_preview.png"),
    ):
        done = call("denoise", "stack.tif", "--preview", "--sigma", "0.05", *options, *BUNDLED)
        assert lines(done) == [name], done.stderr
        _, panels, _, curve = drawn.pop()
        np.testing.assert_allclose(panels[0].pixels[0], page / 255, atol=1e-6)
        assert curve.description == "noise, given: 12.8 of 255"
        np.testing.assert_allclose(curve.deviations, 255 * 0.05)
    call("denoise", "stack.tif", "--preview", "--noise", "poisson", "--overwrite", *BUNDLED)
    curve = drawn.pop()[3]
    assert (np.diff(curve.deviations[0]) >= 0).all()


def test_values_on_their_own_scale(call, drawn):
    tifffile.imwrite("a.tif", 1000 + 100 * NOISE[..., 0].astype(np.float32))
    done = call("denoise", "a.tif", "--preview", "--sigma", "100", *BUNDLED)
    assert "noise 100, given" in done.stderr
    assert "is 6" in drawn[0][3].axis


@pytest.mark.parametrize("options", [(), ("--sigma", "0")])
def test_without_noise_it_says_so(call, drawn, options):
    saved("a.png", np.kron(GREY[:8, :8], np.ones((16, 16), np.uint8)))
    assert call("denoise", "a.png", "--preview", *options).returncode == 0
    _, panels, _, curve = drawn[0]
    state = "given" if options else "found"
    assert (
        curve.description == f"no noise is {state}: the photograph stays unchanged at any strength"
    )
    assert not curve.deviations.any()
    assert all(np.array_equal(panel.pixels, panels[0].pixels) for panel in panels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2), (7, 9, 3)])
def test_the_smallest_photographs(call_and_draw, shape):
    saved("a.png", RNG(3).integers(0, 256, shape).astype(np.uint8))
    done = call_and_draw("denoise", "a.png", "--preview", "--sigma", "0.1", *BUNDLED)
    assert (done.returncode, os.path.isfile("a_denoised_preview.png")) == (0, True), done.stderr


def test_what_cannot_be(call, tmp_path, monkeypatch):
    saved("a.png", GREY)
    Path("text.png").touch()
    before = tree(tmp_path)
    assert_mistake(call("denoise", "a.png", "text.png", "--preview"), "text.png: an empty file")
    assert_mistake(call("denoise", "a.png", "--preview", "--strength", "-1"), "--strength: -1")
    with monkeypatch.context() as patched:
        patched.setattr(preview.denoising, "clean", lambda x, *_: x * float("nan"))
        done = call("denoise", "a.png", "--preview", *BUNDLED)
        assert_mistake(done, "a.png: not drawn, the result holds", code=3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "save", full)
    done = call("denoise", "a.png", "--preview", *BUNDLED)
    assert_mistake(done, "a_denoised_preview.png: cannot be written (No space left on device)")
    assert tree(tmp_path) == before


def test_what_fails_in_a_folder_is_skipped(call):
    saved("in/a.png", GREY)
    Path("in/b.png").touch()
    done = call("denoise", "in", "--preview", *BUNDLED)
    assert (done.returncode, lines(done)) == (1, ["in/a_denoised_preview.png"])
    assert "error: skipped 1 of 2 photographs; 1 previewed:\nin/b.png: an empty file" in done.stderr


def test_a_detail_with_texture_and_without():
    """Left of column 400 nothing, right of it texture; the upper half is black, as at night."""
    x = np.full((600, 800), 0.5)
    x[:, 400:] += 0.1 * np.sin(np.arange(400) * 1.3)
    x[:300] = 0
    x += 0.02 * RNG(4).normal(size=x.shape)
    image = torch.from_numpy(x.clip(0, 1).astype(np.float32))[None]
    rows, columns = preview.detail(image)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (160, 160)
    assert rows.start >= 272
    assert columns.start + 30 < 400 < columns.stop - 30
    assert preview.detail(image) == (rows, columns)
    known = np.ones(x.shape, bool)
    known[:, 350:] = False  # no data there
    assert preview.detail(image, known)[1].stop <= 360


def test_a_detail_of_an_image_without_texture_is_in_its_middle():
    rows, columns = preview.detail(torch.full((3, 640, 960), 0.5))
    assert abs(rows.start + 80 - 320) <= 32
    assert abs(columns.start + 80 - 480) <= 32


def test_the_strength_that_is_set_takes_the_place_of_the_nearest():
    assert preview.strengths(1.0) == preview.STRENGTHS == (0, 0.5, 0.75, 1, 1.5, 2)
    assert preview.strengths(0.0) == preview.STRENGTHS
    assert preview.strengths(0.1) == (0, 0.1, 0.75, 1, 1.5, 2)
    assert preview.strengths(5.0) == (0, 0.5, 0.75, 1, 1.5, 5)


def test_channels_have_lines_of_their_own_where_they_differ():
    panels = [preview_figure.Panel(np.zeros((3, 4, 5)), f"{k}") for k in range(4)]
    whole = preview_figure.Whole(np.zeros((3, 8, 9)), slice(0, 4), slice(1, 6))
    levels = np.linspace(0, 255, 9)
    for deviations, count in ((np.ones((3, 9)), 1), (np.arange(27.0).reshape(3, 9), 3)):
        curve = preview_figure.Curve(levels, deviations, "words", "brightness")
        figure = preview_figure.preview("heading", panels, whole, curve)
        axes = figure.get_axes()
        assert [axis.get_title() for axis in axes[:4]] == ["0", "1", "2", "3"]
        assert len(axes[-1].lines) == count
        (box,) = axes[-2].patches
        assert (box.get_xy(), box.get_width(), box.get_height()) == ((1, 0), 5, 4)


def test_it_is_a_function_of_files_too():
    saved("a.png", GREY)
    options = files.Options(files.FileNoise(0.1), "bundled", "mean", torch.device("cpu"))
    assert list(files.preview([Path("a.png")], options)) == [Path("a_denoised_preview.png")]
