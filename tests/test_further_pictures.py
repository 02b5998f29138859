"""What a file holds besides the photograph: further pictures in a JPEG, private tags in a TIFF."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from score_embedding.report import figures

BUNDLED = ("--model", "bundled", "--sigma", "0.05")
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(60, 190, (24, 32, 3)).astype(np.uint8)
MAP = RNG.integers(0, 255, (6, 8)).astype(np.uint8)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf hdrgm:Version="1.0"/></x:xmpmeta>'


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DPI", 20)
    monkeypatch.chdir(tmp_path)


def multi_picture(path, *others, **options):
    """By Pillow's own writer."""
    first, *rest = map(Image.fromarray, (PICTURE, *others))
    first.save(path, format="MPO", save_all=True, append_images=rest, quality=95, **options)


def frames(path):
    with Image.open(path) as opened:
        found = []
        for k in range(getattr(opened, "n_frames", 1)):
            opened.seek(k)
            found.append(np.asarray(opened.copy()))
        return opened.format, found


def stored(path):
    """The last JPEG file within a file."""
    data = Path(path).read_bytes()
    return data[data.rindex(b"\xff\xd8\xff") :]


@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "a.mpo"])
def test_pictures_behind_the_first_are_kept(call, name, exif):
    tags = Image.Exif()
    tags[271] = "Maker"
    multi_picture(name, PICTURE[::-1], MAP, **({"exif": tags} if exif else {}))
    done = call("denoise", name, *BUNDLED)
    result = name.replace("a.", "a_denoised.")
    assert (done.returncode, done.stdout) == (0, f"denoised: {result}\n"), done.stderr
    assert "further pictures in it (2) are kept unchanged" in done.stderr
    (kind, before), (_, after) = frames(name), frames(result)
    assert (kind, len(after)) == ("MPO", 3)
    assert np.abs(before[0].astype(int) - after[0]).max() > 5
    for one, other in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert stored(name) == stored(result)
    with Image.open(result) as opened:
        assert opened.getexif().get(271) == ("Maker" if exif else None)


def test_a_brightness_map_is_kept_with_what_says_so(call):
    """Pillow reads such a file as a single JPEG."""
    multi_picture("a.jpg", MAP, xmp=XMP)
    assert frames("a.jpg")[0] == "JPEG"
    done = call("denoise", "a.jpg", *BUNDLED)
    assert "further pictures in it (1) are" in done.stderr
    assert stored("a.jpg") == stored("a_denoised.jpg")
    with Image.open("a_denoised.jpg") as opened:
        assert opened.info["xmp"] == XMP
    with Image.open(io.BytesIO(stored("a_denoised.jpg"))) as opened:
        assert opened.size == (8, 6)


def test_what_the_format_of_the_result_cannot_hold_is_named(call):
    multi_picture("a.jpg", MAP)
    mask = np.zeros(PICTURE.shape[:2], np.uint8)
    mask[3:5, 3:5] = 255
    Image.fromarray(mask).save("mask.png")
    done = call("inpaint", "a.jpg", "mask.png", "--model", "bundled")
    assert done.returncode == 0
    assert "further pictures (1) are left out, PNG has none" in done.stderr


@pytest.mark.parametrize("cut", [1, 400])
def test_a_file_that_ends_before_its_further_pictures(call, cut):
    multi_picture("a.jpg", MAP, xmp=XMP)
    size = len(stored("a.jpg"))
    data = Path("a.jpg").read_bytes()
    Path("a.jpg").write_bytes(data[: -min(cut, size)])
    done = call("denoise", "a.jpg", *BUNDLED)
    assert (done.returncode, done.stdout) == (0, "denoised: a_denoised.jpg\n"), done.stderr


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [16, 17])
def test_private_tags_of_8_bytes_are_kept(call, big, kind):
    content = np.array([2**40, 7], "<i8").tobytes()
    tag = (65000, kind, None, content, True)
    tifffile.imwrite("a.tif", PICTURE, photometric="rgb", bigtiff=big, extratags=[tag])
    done = call("denoise", "a.tif", *BUNDLED)
    assert done.returncode == 0, done.stderr
    with tifffile.TiffFile("a_denoised.tif") as file:
        found = file.pages.first.tags[65000]
        assert (int(found.dtype), found.value) == (kind, (2**40, 7))


def test_tags_that_point_into_the_file_are_named(call):
    tag = (65001, 13, None, (8).to_bytes(4, "little"), True)
    tifffile.imwrite("a.tif", PICTURE, photometric="rgb", extratags=[tag])
    done = call("denoise", "a.tif", *BUNDLED)
    assert "a.tif: not kept: TIFF tags that point to places in it (65001)" in done.stderr
    with tifffile.TiffFile("a_denoised.tif") as file:
        assert 65001 not in file.pages.first.tags
