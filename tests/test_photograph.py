import contextlib
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import tifffile
import torch
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

from score_embedding.errors import DataError, DivergenceError, RunFolderError
from score_embedding.restoration.photographs import reading, tiff_writing, writing
from score_embedding.restoration.photographs.photograph import Photograph

H, W = 6, 9
LOSSLESS_16 = ["png", "tif"]
LOSSLESS = [*LOSSLESS_16, "tiff", "webp", "bmp"]


def noise(*shape, bits=8, seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(f"u{bits // 8}")


GREY, RGB, ALPHA = noise(H, W), noise(H, W, 3, seed=1), noise(H, W, seed=2)
ALPHA[:2] = 0  # colour is hidden under it
DEEP, DEEP_RGB = noise(H, W, bits=16), noise(H, W, 3, bits=16, seed=1)
DEEP_ALPHA = noise(H, W, bits=16, seed=2)
DEEP_ALPHA[:2] = 0
RGBA, DEEP_RGBA = np.dstack([RGB, ALPHA]), np.dstack([DEEP_RGB, DEEP_ALPHA])
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def values(found):
    """Colour (h, w) or (h, w, n)."""
    return found.colour[:, :, 0] if found.colour.shape[2] == 1 else found.colour


def check(found, colour, alpha, depth):
    assert (found.colour.dtype.itemsize, found.depth) == (depth // 8, depth)
    assert found.colour.shape[2] == found.colours
    np.testing.assert_array_equal(values(found), colour)
    if alpha is None:
        assert found.alpha is None
    else:
        assert found.alpha.dtype == f"u{depth // 8}"
        np.testing.assert_array_equal(found.alpha, alpha)


def check_round_trip(path, ending):
    """Reading, writing the same and reading again changes nothing, but that some formats have
    three channels for grey. Gives what was read first."""
    first = reading.read(path)
    second_path = path.with_name(f"again.{ending}")
    writing.write(first, second_path)
    second = reading.read(second_path)
    expected = np.broadcast_to(first.colour, second.colour.shape)
    alpha = None if ending == "bmp" else first.alpha
    check(second, expected if second.colours == 3 else expected[:, :, 0], alpha, first.depth)
    assert os.listdir(path.parent).count(second_path.name) == 1
    assert not [name for name in os.listdir(path.parent) if name.endswith(".partial")]
    return first


def saved(folder, picture, ending, **options):
    path = folder / f"picture.{ending}"
    picture.save(path, **options)
    return path


def loaded(path):
    """The picture as Pillow sees it, its file closed."""
    with Image.open(path) as picture:
        picture.getexif().get_ifd(IFD.Exif)
        picture.load()
        return picture


def png(path, pixels, *extra, interlace=False):
    """A 16-bit PNG (h, w, c), written without the module under test."""
    h, w, c = pixels.shape
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    passes += [(1, 0, 2, 1)]
    rows = []
    for top, left, down, across in passes if interlace else [(0, 0, 1, 1)]:
        part = pixels[top::down, left::across]
        rows += [b"\0" + row.astype(">u2").tobytes() for row in part if row.size]
    header = struct.pack(">2I5B", w, h, 16, (0, 4, 2, 6)[c - 1], 0, 0, interlace)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )
    return path


@pytest.mark.parametrize("ending", LOSSLESS)
def test_8_bits_survive(tmp_path, ending):
    for pixels, colour, alpha in [
        (GREY, GREY, None),
        (RGB, RGB, None),
        (np.dstack([GREY, ALPHA]), GREY, ALPHA),
        (RGBA, RGB, ALPHA),
    ]:
        path = saved(tmp_path, Image.fromarray(pixels), "png")
        check(check_round_trip(path, ending), colour, alpha, 8)


@pytest.mark.parametrize("ending", LOSSLESS)
def test_palettes_and_bilevel(tmp_path, ending):
    palette = Image.fromarray(GREY % 4, "L")
    palette.putpalette(RGB.tobytes()[:12])
    colours = RGB.reshape(-1, 3)[:4]
    path = saved(tmp_path, palette, "gif" if ending == "png" else "png")
    check(check_round_trip(path, ending), colours[GREY % 4], None, 8)
    path = saved(tmp_path, palette, "png", transparency=2)
    alpha = np.where(GREY % 4 == 2, 0, 255)
    check(check_round_trip(path, ending), colours[GREY % 4], alpha, 8)
    path = saved(tmp_path, Image.fromarray(GREY > 127), "png")
    check(check_round_trip(path, ending), (GREY > 127) * 255, None, 8)


@pytest.mark.parametrize("ending", LOSSLESS_16)
@pytest.mark.parametrize(
    ("pixels", "source"),
    [(pixels, "png") for pixels in (DEEP, np.dstack([DEEP, DEEP_ALPHA]), DEEP_RGB, DEEP_RGBA)]
    + [(pixels, "tif") for pixels in (DEEP, DEEP_RGB, DEEP_RGBA)],
    ids=lambda x: x if isinstance(x, str) else "x".join(map(str, x.shape)),
)
def test_16_bits_survive(tmp_path, pixels, source, ending):
    path = tmp_path / f"picture.{source}"
    if source == "png":
        png(path, pixels.reshape(H, W, -1))
    else:
        extra = ["unassalpha"] if pixels.shape[2:] == (4,) else None
        kind = "minisblack" if pixels.ndim == 2 else "rgb"
        tifffile.imwrite(path, pixels, photometric=kind, extrasamples=extra)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    alpha = DEEP_ALPHA if channels in (2, 4) else None
    found = check_round_trip(path, ending)
    check(found, DEEP if channels < 3 else DEEP_RGB, alpha, 16)


@pytest.mark.parametrize("pixels", [DEEP, DEEP_RGB, DEEP_RGBA], ids=["grey", "rgb", "rgba"])
def test_others_read_the_same_from_what_is_written(tmp_path, pixels):
    path = png(tmp_path / "picture.png", pixels.reshape(H, W, -1))
    found = reading.read(path)
    writing.write(found, tmp_path / "deep.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "deep.tif"), pixels)
    writing.write(found, tmp_path / "deep.png")
    upper = np.asarray(loaded(tmp_path / "deep.png"))
    np.testing.assert_array_equal(upper, pixels if pixels.ndim == 2 else pixels >> 8)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}], ids=str)
def test_16_bit_tiff_however_it_is_stored(tmp_path, byte_order, options):
    path = tmp_path / "picture.tif"
    for pixels, kind in [(DEEP, "minisblack"), (DEEP_RGB, "rgb")]:
        tifffile.imwrite(path, pixels, photometric=kind, byteorder=byte_order, **options)
        check(reading.read(path), pixels, None, 16)


def test_16_bit_png_interlaced_or_with_a_transparent_colour(tmp_path):
    path = tmp_path / "picture.png"
    for pixels in (DEEP_RGB, DEEP_RGBA):
        png(path, pixels, interlace=True)
        np.testing.assert_array_equal(values(reading.read(path)), DEEP_RGB)
    grey, rgb = DEEP[:, :, None], DEEP_RGB
    for pixels, colour in [(grey, DEEP), (rgb, rgb)]:
        key = pixels[2, 3]
        png(path, pixels, (b"tRNS", key.astype(">u2").tobytes()))
        check(reading.read(path), colour, np.where((pixels == key).all(2), 0, 65535), 16)


def test_32_bit_integers_and_floats(tmp_path):
    path = tmp_path / "picture.tif"
    Image.fromarray(DEEP.astype(np.int32)).save(path)
    check(check_round_trip(path, "tif"), DEEP, None, 32)
    real = np.random.default_rng(0).random((H, W)).astype(np.float32)
    Image.fromarray(real).save(path)
    found = check_round_trip(path, "tif")
    check(found, real, None, 32)
    np.testing.assert_array_equal(found.pixels[0], real)


def test_cmyk_becomes_rgb_without_its_profile(tmp_path):
    profile = SRGB[:16] + b"CMYK" + SRGB[20:]
    picture = Image.fromarray(noise(H, W, 4), "CMYK")
    found = check_round_trip(saved(tmp_path, picture, "jpg", icc_profile=profile), "png")
    assert (found.pixels.shape, found.alpha, found.icc) == ((3, H, W), None, b"")
    check(found, np.asarray(loaded(tmp_path / "picture.jpg").convert("RGB")), None, 8)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 1)])
@pytest.mark.parametrize("ending", LOSSLESS_16)
def test_smallest_pictures(tmp_path, size, ending):
    for pixels in (noise(*size), noise(*size, 3), noise(*size, 4)):
        check_round_trip(saved(tmp_path, Image.fromarray(pixels), "png"), ending)
    check_round_trip(png(tmp_path / "picture.png", noise(*size, 3, bits=16)), ending)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("source", ["jpg", "png", "tif", "deep png", "deep tif"])
def test_orientation_is_applied_once(tmp_path, orientation, source):
    stored = DEEP_RGB if "deep" in source else RGB
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    path = tmp_path / f"picture.{source[-3:]}"
    if source == "deep png":
        png(path, stored, (b"eXIf", exif.tobytes()[6:]))
    elif source == "deep tif":
        tag = (int(Base.Orientation), "H", 1, orientation, True)
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[tag])
    else:
        Image.fromarray(stored).save(path, exif=exif)
        stored = np.asarray(loaded(path)) if source == "jpg" else stored
    turned = {2: np.fliplr(stored), 3: np.rot90(stored, 2), 4: np.flipud(stored)}
    turned |= {5: stored.transpose(1, 0, 2), 6: np.rot90(stored, 3), 8: np.rot90(stored)}
    turned[7] = np.rot90(turned[5], 2)
    found = check_round_trip(path, source[-3:].replace("jpg", "png"))
    check(found, turned.get(orientation, stored), None, found.depth)


def described(orientation=6):
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Copyright], exif[Base.Orientation] = "Maker", "Someone", orientation
    exif[IFD.Exif] = {int(Base.ExposureTime): 0.5, int(Base.DateTimeOriginal): "2020:02:03"}
    exif[IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "webp"])
def test_what_is_kept_besides_pixels(tmp_path, ending, deep):
    path = tmp_path / "picture.png"
    if deep:
        extra = [(b"iCCP", b"name\0\0" + zlib.compress(SRGB)), (b"eXIf", described().tobytes()[6:])]
        png(path, DEEP_RGB, (b"pHYs", struct.pack(">2IB", 11811, 5906, 1)), *extra)
    else:
        kept = {"exif": described(), "icc_profile": SRGB, "dpi": (300, 150)}
        Image.fromarray(RGB).save(path, **kept)
    for source in (path, tmp_path / f"first.{ending}"):  # from PNG, and from the format itself
        found = reading.read(source)
        target = tmp_path / ("first" if source == path else "second")
        target = target.with_suffix(f".{ending}")
        writing.write(found, target)
        written = loaded(target)
        exif = written.getexif()
        assert (exif[Base.Make], exif[Base.Copyright]) == ("Maker", "Someone")
        assert exif.get(Base.Orientation, 1) == 1
        assert exif.get_ifd(IFD.Exif) == dict(described()[IFD.Exif])
        assert exif.get_ifd(IFD.GPSInfo) == dict(described()[IFD.GPSInfo])
        assert written.info["icc_profile"] == SRGB
        assert written.size == (H, W)  # turned
        if ending != "webp":
            assert [round(x) for x in written.info["dpi"]] == [300, 150]


def test_how_a_tiff_is_stored_does_not_become_exif(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), "tif", software="Program", compression="tiff_lzw")
    found = reading.read(path)
    writing.write(found, tmp_path / "out.jpg")
    exif = loaded(tmp_path / "out.jpg").getexif()
    assert dict(exif) == {Base.Software: "Program", Base.Orientation: 1}


def test_nothing_is_made_up(tmp_path):
    found = reading.read(saved(tmp_path, Image.fromarray(RGB), "png"))
    assert (found.exif, found.icc, found.dpi) == (b"", b"", None)


def test_damaged_exif_is_logged_and_left_out(tmp_path, caplog):
    path = tmp_path / "picture.png"
    for orientation in (1, 6):
        exif = described(orientation).tobytes()[6:]
        exif = exif.replace(b"\x01\x0f\x00\x02", b"\x01\x0f\x00\x0c")  # the maker is a number
        png(path, DEEP_RGB, (b"eXIf", exif))
        if orientation == 1:
            found = reading.read(path)
            check(found, DEEP_RGB, None, 16)
            assert found.exif == b""
            assert "picture.png: its EXIF is damaged and not kept" in caplog.text
        else:
            with contextlib.suppress(DataError):  # Pillow cannot turn it
                reading.read(path)


def test_what_a_format_cannot_hold_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    colour = np.broadcast_to(np.array([0, 16384, 65535], np.uint16)[None, :, None], (2, 3, 3))
    deep = Photograph(colour, DEEP_ALPHA[1:3, :3], 3, described(1).tobytes())
    writing.write(deep, tmp_path / "out.JPG")
    assert loaded(tmp_path / "out.JPG").mode == "RGB"
    assert "16 bits a channel become 8" in caplog.text
    assert "transparency is left out" in caplog.text
    writing.write(deep, tmp_path / "out.bmp")
    assert "EXIF and colour profile are left out" in caplog.text
    np.testing.assert_array_equal(np.asarray(loaded(tmp_path / "out.bmp"))[0, :, 0], [0, 64, 255])
    writing.write(deep, tmp_path / "out.webp")
    narrow = reading.read(tmp_path / "out.webp").alpha
    np.testing.assert_array_equal(narrow, (DEEP_ALPHA[1:3, :3] / 257).round())


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_tiff_in_separate_planes(tmp_path, compression):
    path, planes = tmp_path / "picture.tif", DEEP_RGB.transpose(2, 0, 1)
    options = {"planarconfig": "separate", "compression": compression}
    tifffile.imwrite(path, planes, photometric="rgb", **options)
    check(check_round_trip(path, "tif"), DEEP_RGB, None, 16)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_colour_that_is_multiplied_by_alpha_in_the_file(tmp_path, dtype):
    path = tmp_path / "picture.tif"
    share = np.clip(DEEP_ALPHA, 6000, None) / 65535
    share[:2] = 0
    stored = np.dstack([DEEP_RGB / 65535 * share[:, :, None], share])
    stored = (stored * 65535).round().astype(dtype) if dtype == np.uint16 else stored.astype(dtype)
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["assocalpha"])
    found = reading.read(path)
    assert found.colour.dtype == dtype
    np.testing.assert_array_equal(found.alpha, (share * 65535).round())
    unit = found.colour if dtype == np.float32 else found.colour / 65535
    np.testing.assert_allclose(unit[2:], DEEP_RGB[2:] / 65535, atol=1e-4)  # 6 of 65535 at least
    assert (unit[:2] == 0).all()


def test_16_bit_tiff_where_0_is_white(tmp_path):
    path = tmp_path / "picture.tif"
    tifffile.imwrite(path, 65535 - DEEP, photometric="miniswhite")
    check(check_round_trip(path, "tif"), DEEP, None, 16)


def test_floating_point_tiff_in_colour(tmp_path):
    path = tmp_path / "picture.tif"
    for dtype in (np.float16, np.float32, np.float64):
        unit = (DEEP_RGB / 65535).astype(dtype)
        tifffile.imwrite(path, unit, photometric="rgb")
        found = check_round_trip(path, "tif")
        check(found, unit, None, 8 * unit.itemsize)
        np.testing.assert_array_equal(found.pixels.permute(1, 2, 0), unit.astype(np.float32))
        with reading.opened(path) as source:
            assert source.shape(0) == (3, H, W)


def test_lab_tiff_becomes_rgb(tmp_path):
    path = tmp_path / "picture.tif"
    lab = skimage.color.rgb2lab(RGB[:1, :5] // 2 + 64)  # adapted to D50, as ICC has it, about equal
    stored = np.stack([lab[..., 0] * 2.55, lab[..., 1], lab[..., 2]], axis=-1).round()
    tifffile.imwrite(path, stored.astype(np.int16).astype(np.uint8), photometric="cielab")
    found = reading.read(path)
    expected = (RGB[:1, :5] // 2 + 64) / 255
    np.testing.assert_allclose(found.colour / 255, expected, atol=0.03)


@pytest.mark.parametrize("pixels", [RGB, DEEP_RGB], ids=["8 bits", "16 bits"])
def test_big_tiff_is_read_and_written_with_its_tags(tmp_path, pixels):
    path = tmp_path / "picture.tif"
    tags = [(int(Base.Make), "s", 0, "Maker", True), (int(Base.Orientation), "H", 1, 6, True)]
    tifffile.imwrite(path, pixels, photometric="rgb", bigtiff=True, extratags=tags, metadata=None)
    for ending in ("tif", "png", "jpg"):
        found = reading.read(path)
        check(found, np.rot90(pixels, 3), None, 8 * pixels.dtype.itemsize)
        writing.write(found, tmp_path / f"out.{ending}")
        exif = loaded(tmp_path / f"out.{ending}").getexif()
        assert (exif[Base.Make], exif.get(Base.Orientation, 1)) == ("Maker", 1)


def test_a_picture_too_large_for_classic_tiff_keeps_its_tags(tmp_path):
    path = tmp_path / "out.tif"
    given = Photograph(DEEP_RGB, None, 3, described().tobytes(), SRGB, (300, 150))
    tiff_writing.write(path, [given], big=True)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
    found = reading.read(path)
    exif = Image.Exif()
    exif.load(found.exif)
    assert exif[Base.Make] == "Maker"
    assert exif.get_ifd(IFD.Exif) == dict(described()[IFD.Exif])
    assert (found.icc, found.dpi) == (SRGB, (300, 150))


def test_16_bit_tiff_in_a_compression_that_only_pillow_reads(tmp_path):
    """LZW in colour, encoded by hand: none of the libraries here writes it."""
    path = tmp_path / "picture.tif"
    codes = [256]  # it clears the table, after each byte, so that all codes have 9 bits
    for byte in DEEP_RGB.astype("<u2").tobytes():
        codes += [byte, 256]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    encoded = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    tifffile.imwrite(path, DEEP_RGB, photometric="rgb", byteorder="<")
    whole = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        changes = {"Compression": 5, "StripOffsets": len(whole), "StripByteCounts": len(encoded)}
        for name, value in changes.items():
            form = {3: "<H", 4: "<I", 16: "<Q"}[int(tags[name].dtype)]
            struct.pack_into(form, whole, tags[name].valueoffset, value)
    path.write_bytes(bytes(whole) + encoded)
    check(reading.read(path), DEEP_RGB, None, 16)


def test_bad_files_are_refused_by_name(tmp_path, monkeypatch):
    whole = png(tmp_path / "whole.png", DEEP_RGB).read_bytes()
    for name, content, message in [
        ("empty.png", b"", "an empty file"),
        ("text.png", b"no picture", "not an image that Pillow can read"),
        ("cut.png", whole[:200], "truncated or damaged"),
        ("cut.tif", b"II*\0\x08\0\0\0\xff\xff", "not an image that Pillow can read"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: {message}"):
            reading.read(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        reading.read(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder\.png: no regular file"):
        reading.read(tmp_path / "folder.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo.png")
        with pytest.raises(DataError, match=r"fifo\.png: no regular file"):
            reading.read(tmp_path / "fifo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)
    reading.read(tmp_path / "whole.png")  # a warning of Pillow's, which is not shown
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)
    with pytest.raises(DataError, match=r"whole\.png: .*decompression bomb"):
        reading.read(tmp_path / "whole.png")


def test_damage_anywhere_is_refused_or_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)  # damaged sizes take no time
    rng = np.random.default_rng(0)
    found = reading.read(png(tmp_path / "whole.png", DEEP_RGBA))
    deep = Photograph(found.colour, found.alpha, 3, described(6).tobytes(), SRGB, (300, 300))
    for ending in ("png", "tif"):
        path = tmp_path / f"picture.{ending}"
        writing.write(deep, path)
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[rng.integers(0, len(whole))] = rng.integers(0, 256)
            path.write_bytes(damaged)
            with contextlib.suppress(DataError):
                reading.read(path)


def test_nothing_is_written_that_is_wrong(tmp_path):
    grey = Photograph(np.zeros((2, 3, 1), np.uint8))
    for name in ("out.gif", "out", ".png"):
        with pytest.raises(DataError, match=r"written as \.png, \.apng, \.tif, \.tiff, \.webp"):
            writing.write(grey, tmp_path / name)
    with pytest.raises(DivergenceError, match="NaN"):
        grey.with_units([torch.full((1, 2, 3), torch.nan)])
    with pytest.raises(DataError, match=r"out\.webp: WEBP cannot hold"):
        writing.write(Photograph(np.zeros((1, 20000, 1), np.uint8)), tmp_path / "out.webp")
    with pytest.raises(RunFolderError, match=r"out\.png: cannot be written"):
        writing.write(grey, tmp_path / "none" / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_the_ending_of_a_result():
    for ending, kind, only_tiff, expected in [
        (".png", "single", False, ".png"),
        (".JPG", "single", False, ".JPG"),
        (".tiff", "single", True, ".tiff"),
        (".gif", "single", False, ".png"),
        (".heic", "single", False, ".png"),
        ("", "single", False, ".png"),
        (".dng", "single", True, ".tif"),
        (".png", "single", True, ".tif"),
        (".TIF", "pages", False, ".TIF"),
        (".png", "pages", False, ".tif"),
        (".lsm", "pages", True, ".tif"),
        (".gif", "frames", False, ".png"),
        (".webp", "frames", False, ".webp"),
        (".apng", "frames", False, ".apng"),
        (".avif", "frames", False, ".png"),
    ]:
        found = writing.ending_for(ending, kind, only_tiff)
        assert found == expected
        assert writing.format_of(Path(f"photo{found}"))
    assert writing.ending_for(".jpeg", lossless=True) == ".png"
    assert writing.ending_for(".webp", lossless=True) == ".webp"
