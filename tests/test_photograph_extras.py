"""Files that need an extra: raw files of cameras, and HEIC."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from command_line import assert_mistake
from score_embedding.report import figures
from score_embedding.restoration.photographs import raw, reading

H, W = 64, 96
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
needs_rawpy = pytest.mark.skipif(
    importlib.util.find_spec("rawpy") is None, reason="the extra raw is not installed"
)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DPI", 20)
    monkeypatch.chdir(tmp_path)


def dng(path, orientation=1):
    """A raw file of a grey subject with noise."""
    values = 20000 + 2000 * np.random.default_rng(0).normal(size=(H, W))
    one = (10000, 10000)
    zero = (0, 10000)
    matrix = (one + zero * 3) * 2 + one  # 3 x 3, of the camera's colours
    tags = [
        (271, "s", 0, b"Maker\0", True),
        (274, "H", 1, orientation, True),
        (33421, "H", 2, (2, 2), True),  # the colour filter array: its size and its colours
        (33422, "B", 4, bytes([0, 1, 1, 2]), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),
        (50708, "s", 0, b"Camera\0", True),
        (50717, "H", 1, 65535, True),  # white
        (50721, "2i", 9, matrix, True),
        (50728, "2I", 3, (1, 1) * 3, True),
        (50778, "H", 1, 21, True),
    ]
    tifffile.imwrite(path, values.astype("u2"), photometric=32803, extratags=tags, metadata=None)


@needs_rawpy
def test_a_raw_file_becomes_a_linear_tiff(call):
    dng("a.DNG")
    found = reading.read(Path("a.DNG"))
    assert (found.colour.dtype, found.colour.shape) == (np.uint16, (H, W, 3))
    assert abs(found.colour.mean() / found.colour[: H // 2].mean() - 1) < 0.05
    done = call("denoise", "a.DNG", "--model", "bundled")
    assert (done.returncode, done.stdout) == (0, "denoised: a_denoised.tif\n"), done.stderr
    after = reading.read(Path("a_denoised.tif"))
    assert after.colour.dtype == np.uint16
    assert after.colour.std() < found.colour.std()
    with Image.open("a_denoised.tif") as opened:
        assert opened.getexif()[271] == "Maker"
        assert opened.info["icc_profile"] == raw.linear_profile()
    with reading.opened(Path("a.DNG")) as source:
        assert source.shape(0) == (3, H, W)


@needs_rawpy
def test_a_raw_file_is_upright(call):
    del call
    dng("a.dng", orientation=6)
    assert reading.read(Path("a.dng")).colour.shape == (W, H, 3)


@needs_rawpy
def test_a_damaged_raw_file_is_named(call):
    dng("a.dng")
    Path("a.dng").write_bytes(Path("a.dng").read_bytes()[:300])
    assert_mistake(call("denoise", "a.dng"), "a.dng: not a raw file that LibRaw can read")


def test_a_linear_profile_is_valid():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(raw.linear_profile()))
    srgb = ImageCms.createProfile("sRGB")
    picture = Image.new("RGB", (1, 1), (55, 55, 55))
    found = ImageCms.profileToProfile(picture, profile, srgb).getpixel((0, 0))
    expected = round(255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055))
    assert max(abs(x - expected) for x in found) <= 1


def test_the_extra_that_is_missing_is_named(call, monkeypatch):
    dng("a.nef")
    Path("b.heic").write_bytes(HEIC)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    assert_mistake(call("denoise", "a.nef"), "a.nef: ", "pip install 'score-embedding[raw]'")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "score_embedding.data.image_files.find_spec",
        lambda name: None if name == "pillow_heif" else find(name),
    )
    assert_mistake(call("denoise", "b.heic"), "b.heic: HEIC", "score-embedding[heic]")


def test_heic_becomes_png(call):
    heif = pytest.importorskip("pillow_heif")
    pixels = np.random.default_rng(0).integers(90, 160, (H, W, 3)).astype(np.uint8)
    heif.from_pillow(Image.fromarray(pixels)).save("a.HEIC", quality=-1)
    found = reading.read(Path("a.HEIC"))
    assert found.colour.shape == (H, W, 3)
    done = call("denoise", "a.HEIC", "--model", "bundled")
    assert (done.returncode, done.stdout) == (0, "denoised: a_denoised.png\n"), done.stderr


def test_another_file_under_the_name_of_a_raw_file(call):
    Image.new("L", (W, H), 100).save("a.nef", format="PNG")
    done = call("denoise", "a.nef", "--sigma", "0.1", "--model", "bundled")
    assert (done.returncode, done.stdout) == (0, "denoised: a_denoised.png\n"), done.stderr
