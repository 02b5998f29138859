"""Files of several pages, and TIFF files of any type of pixels, through the commands."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from command_line import assert_mistake
from score_embedding.report import figures
from score_embedding.restoration.photographs import reading
from score_embedding.restoration.photographs.scale import Scale

H, W = 20, 26
CLEAN = np.add.outer(np.linspace(0.3, 0.6, H), 0.1 * np.sin(np.arange(W) / 3))
BUNDLED = ("--model", "bundled")


def noisy(*front, sigma=0.05, seed=0):
    """Pictures (*front, H, W) of one subject with noise, in [0, 1]."""
    noise = np.random.default_rng(seed).normal(size=(*front, H, W))
    return (CLEAN + sigma * noise).clip(0, 1)


def stored(unit, dtype, low=0.0, high=None):
    """`unit` in [0, 1] as `dtype` from low to high."""
    high = np.iinfo(dtype).max if high is None else high
    values = low + unit * (high - low)
    return (values if np.dtype(dtype).kind == "f" else values.round()).astype(dtype)


def closer(after, before, clean=CLEAN):
    """Whether the noise is at most two thirds of what it was, in all of the pictures."""
    errors = [
        np.sqrt(np.mean((x.astype(np.float64) - clean) ** 2, (-2, -1))) for x in (after, before)
    ]
    return bool(np.all(errors[0] < 2 / 3 * errors[1]))


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DPI", 20)
    monkeypatch.chdir(tmp_path)


def denoised(call, name, *options):
    done = call("denoise", name, *BUNDLED, *options)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.removeprefix("denoised: ").strip()), done.stderr


RANGES = [
    ("u1", 0, 255),
    ("u2", 0, 65535),
    ("u2", 100, 3000),  # a camera of 12 bits
    ("i2", -1024, 3071),
    ("i2", 0, 32767),
    ("u4", 0, 4e9),
    ("i4", -70000, -60000),
    ("f2", 0, 1),
    ("f4", 0, 1),
    ("f4", -3, 5000),
    ("f8", 1e-6, 3e-5),
    ("f8", -1e30, 1e30),
]


@pytest.mark.parametrize(("dtype", "low", "high"), RANGES)
@pytest.mark.parametrize("colours", [1, 3])
def test_tiff_of_any_type_keeps_type_and_range(call, dtype, low, high, colours):
    unit = noisy() if colours == 1 else noisy(3).transpose(1, 2, 0)
    before = stored(unit, dtype, low, high)
    tifffile.imwrite("a.tif", before, photometric="rgb" if colours == 3 else "minisblack")
    path, _ = denoised(call, "a.tif")
    after = tifffile.imread(path)
    assert (path.suffix, after.dtype, after.shape) == (".tif", before.dtype, before.shape)
    assert before.min() <= after.min() < after.max() <= before.max()
    in_unit = [(x.astype(np.float64) - low) / (high - low) for x in (after, before)]
    if colours == 3:
        in_unit = [x.transpose(2, 0, 1) for x in in_unit]
    assert closer(*in_unit)


def test_sigma_of_floating_point_is_in_its_unit(call):
    values = stored(noisy(), "f4", -3, 5000)
    tifffile.imwrite("a.tif", values)
    path, log = denoised(call, "a.tif", "--sigma", "250")
    assert "noise 250, given" in log
    assert closer(tifffile.imread(path), values, -3 + 5003 * CLEAN)
    done = call("denoise", "a.tif", "--sigma", "1e5", *BUNDLED)
    assert_mistake(done, "a.tif: sigma: 100000 is too much where white is 1 and the values")


def test_the_scale_of_values():
    for values, low, high in [
        (np.array([0, 255], "u1"), 0, 255),
        (np.array([3, 5], "u1"), 0, 255),
        (np.array([0, 20000], "u2"), 0, 65535),
        (np.array([10, 500], "u2"), 10, 500),
        (np.array([0.0, 0.9]), 0, 1),
        (np.array([0.0, 0.2]), 0, 0.2),
        (np.array([-5.0, -5.0]), -5, -4),
        (np.array([7, 7], "u2"), 0, 65535),
    ]:
        scale = Scale.of(values)
        assert (scale.low, scale.high) == (low, high)
        back = scale.values(scale.unit(values[None, :, None]))
        np.testing.assert_allclose(back[0, :, 0], values, rtol=1e-6)
        assert scale.file_sigma(scale.unit_sigma(0.25)) == pytest.approx(0.25)


def described(path):
    """What a reader finds: shapes, axes and types, and ImageJ's metadata."""
    with tifffile.TiffFile(path) as file:
        series = [(one.axes, one.shape, one.dtype) for one in file.series]
        first = file.pages.first
        return series, file.imagej_metadata, first.tags["XResolution"].value, file.byteorder


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_a_stack_of_imagej_stays_one(call, dtype):
    low, high = (-200, 3000) if dtype == "f4" else (0, np.iinfo(dtype).max)
    stack = stored(noisy(3, 2), dtype, low, high)
    metadata = {"axes": "ZCYX", "unit": "um", "spacing": 0.3, "Labels": list("abcdef")}
    tifffile.imwrite("s.tif", stack, imagej=True, metadata=metadata, resolution=(9.5, 9.5))
    path, log = denoised(call, "s.tif")
    assert described(path) == described("s.tif")
    assert closer(tifffile.imread(path), stack, low + (high - low) * CLEAN)
    assert log.count("s.tif: 6 pages, the first 26 x 20 pixels, grey") == 1
    with tifffile.TiffFile(path) as file:  # ImageJ takes the pages as what follows the first
        starts = [page.dataoffsets[0] for page in file.pages]
    assert set(np.diff(starts)) == {H * W * stack.itemsize}
    alone, _ = denoised(call, "s.tif", "--page", "3")
    assert alone.name == "s_page3_denoised.tif"
    np.testing.assert_array_equal(tifffile.imread(alone), tifffile.imread(path)[1, 0])
    with tifffile.TiffFile(alone) as file:
        assert (len(file.pages), file.is_imagej) == (1, True)
        assert file.imagej_metadata["unit"] == "um"
        assert "images" not in file.imagej_metadata


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"ome": True}, {"bigtiff": True}])
@pytest.mark.parametrize("order", ["<", ">"])
def test_other_stacks_keep_their_shape(call, options, order):
    stack = stored(noisy(4), "u2")
    name = "s.ome.tif" if "ome" in options else "s.tif"
    tifffile.imwrite(name, stack, photometric="minisblack", byteorder=order, **options)
    path, log = denoised(call, name)
    assert closer(tifffile.imread(path), stack, 65535 * CLEAN)
    with tifffile.TiffFile(path) as file, tifffile.TiffFile(name) as before:
        assert (file.byteorder, file.is_bigtiff) == (order, before.is_bigtiff)
        assert (file.series[0].axes, len(file.series)) == (before.series[0].axes, 1)
        tags = [{tag.name for tag in one.pages.first.tags} for one in (before, file)]
        assert tags[0] - tags[1] == set()
    assert "damaged" not in log


def test_a_stack_with_one_directory(call):
    stack = stored(noisy(4), "u2")
    tifffile.imwrite("s.tif", stack, photometric="minisblack", truncate=True)
    with tifffile.TiffFile("s.tif") as file:
        assert len(file.pages) == 1
    path, _ = denoised(call, "s.tif")
    assert closer(tifffile.imread(path), stack, 65535 * CLEAN)


def test_a_volume_becomes_pages(call):
    stack = stored(noisy(4), "u2")
    options = {"volumetric": True, "tile": (16, 16, 16)}
    tifffile.imwrite("s.tif", stack, photometric="minisblack", **options)
    path, _ = denoised(call, "s.tif")
    after = tifffile.imread(path)
    assert after.shape == stack.shape
    assert closer(after, stack, 65535 * CLEAN)


def test_a_stack_with_a_palette(call):
    colours = np.stack([np.arange(256)] * 3).astype("u2") * 257
    stack = stored(noisy(3), "u1")
    tifffile.imwrite("s.tif", stack, photometric="palette", colormap=colours)
    path, _ = denoised(call, "s.tif")
    after = tifffile.imread(path)
    assert after.shape == stack.shape
    assert closer(after, stack, 255 * CLEAN)
    with tifffile.TiffFile(path) as file:
        assert len(file.series) == 1


def test_pages_that_differ(call):
    pages = [stored(noisy(), "u1"), stored(noisy()[:9], "u2"), noisy().astype("f4")]
    colour = stored(noisy(3).transpose(1, 2, 0), "u1")
    with tifffile.TiffWriter("p.tif") as writer:
        for i, page in enumerate(pages):
            writer.write(page, photometric="minisblack", description=f"page {i}", metadata=None)
        writer.write(colour, photometric="rgb", metadata=None)
        writer.write(colour[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
    path, log = denoised(call, "p.tif")
    assert "previews or masks in it (1) are left out" in log
    with tifffile.TiffFile(path) as file:
        found = [page.asarray() for page in file.pages]
        assert [page.description for page in file.pages] == ["page 0", "page 1", "page 2", ""]
    for before, after in zip([*pages, colour], found, strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert not np.array_equal(before, after)


def test_a_page_that_does_not_exist(call, tmp_path):
    tifffile.imwrite("s.tif", stored(noisy(2), "u2"), photometric="minisblack")
    Image.fromarray(stored(noisy(), "u1")).save("one.png")
    for page in ("0", "3", "-1"):
        done = call("denoise", "s.tif", "--page", page, *BUNDLED)
        assert_mistake(done, f"s.tif: --page {page}: it has pages 1 to 2")
    assert_mistake(call("denoise", "one.png", "--page", "2"), "one.png: --page 2: it has 1 page")
    assert_mistake(call("inpaint", "s.tif", "one.png", "--page", "3"), "it has pages 1 to 2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "s.tif"]
    assert denoised(call, "one.png", "--page", "1")[0].name == "one_denoised.png"


def test_a_stack_that_is_cut_off_is_refused(call):
    tifffile.imwrite("ij.tif", stored(noisy(4), "u2"), imagej=True)
    tifffile.imwrite("plain.tif", stored(noisy(4), "u2"), photometric="minisblack")
    for name in ("ij.tif", "plain.tif"):
        whole = Path(name).read_bytes()
        for share in (0.3, 0.6, 0.9):
            Path(name).write_bytes(whole[: int(share * len(whole))])
            assert_mistake(call("denoise", name, *BUNDLED), f"{name}: truncated")


def test_pages_in_a_circle_are_refused(call):
    tifffile.imwrite("s.tif", stored(noisy(3), "u2"), photometric="minisblack", byteorder="<")
    content = bytearray(Path("s.tif").read_bytes())
    with tifffile.TiffFile("s.tif") as file:
        first, last = file.pages[0], file.pages[2]
        next_page = last.offset + 2 + 12 * len(last.tags)
        content[next_page : next_page + 4] = first.offset.to_bytes(4, "little")
    Path("s.tif").write_bytes(content)
    assert_mistake(call("denoise", "s.tif"), "s.tif: damaged, its pages form a circle")


def test_bands_besides_colour_are_denoised_too(call):
    tag = (33550, "d", 3, (1.0, 2.0, 0.0), True)  # of GeoTIFF
    for name, kind, extras, plane in [
        ("near.tif", "rgb", ["unspecified"], "contig"),
        ("bands.tif", "minisblack", ["unspecified"] * 3, "separate"),
    ]:
        values = stored(noisy(4), "u2")
        given = values if plane == "separate" else values.transpose(1, 2, 0)
        options = {"photometric": kind, "extrasamples": extras, "planarconfig": plane}
        tifffile.imwrite(name, given, extratags=[tag], **options)
        path, _ = denoised(call, name)
        assert closer(tifffile.imread(path).transpose(2, 0, 1), values, 65535 * CLEAN)
        with tifffile.TiffFile(path) as file:
            assert file.pages.first.tags[33550].value == (1.0, 2.0, 0.0)


def frames(path):
    with Image.open(path) as opened:
        found = []
        for i in range(opened.n_frames):
            opened.seek(i)
            found.append((np.asarray(opened.convert("RGB")), opened.info.get("duration")))
        return found, opened.info.get("loop"), opened.format


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.apng", "a.webp"])
@pytest.mark.parametrize("colour", [False, True])
def test_an_animation_stays_one(call, name, colour):
    shape = (4, 3) if colour else (4,)
    values = [stored(x, "u1") for x in noisy(*shape)]
    pictures = [Image.fromarray(x.transpose(1, 2, 0) if colour else x) for x in values]
    options = {"lossless": True} if name.endswith("webp") else {}
    times = [50, 100, 150, 200]
    pictures[0].save(
        name, save_all=True, append_images=pictures[1:], duration=times, loop=0, **options
    )
    path, _ = denoised(call, name)
    before, after = frames(name), frames(path)
    assert path.name == f"a_denoised{'.png' if name == 'a.gif' else Path(name).suffix}"
    assert after[1] == before[1] == 0
    assert len(after[0]) == len(before[0]) == 4
    for (one, _), (other, _) in zip(before[0], after[0], strict=True):
        assert closer(*(x.transpose(2, 0, 1) for x in (other, one)), 255 * CLEAN)
    if not name.endswith("webp"):
        assert [duration for _, duration in after[0]] == times
    second, _ = denoised(call, name, "--page", "2")
    np.testing.assert_array_equal(frames(second)[0][0][0], after[0][1][0])


def test_the_still_of_an_animation_is_kept(call):
    first, *others = [Image.fromarray(stored(x, "u1")) for x in noisy(3)]
    first.save("a.png", save_all=True, append_images=others, default_image=True, duration=[70, 90])
    path, _ = denoised(call, "a.png")
    with Image.open(path) as opened:
        assert (opened.n_frames, opened.info["default_image"]) == (3, True)


def test_a_jpeg_with_a_preview_is_one_photograph(call, caplog):
    caplog.set_level(logging.INFO)
    first, second = (Image.fromarray(stored(x, "u1")) for x in noisy(2))
    first.save("m.jpg", format="MPO", save_all=True, append_images=[second], quality=100)
    path, log = denoised(call, "m.jpg")
    assert "m.jpg: the first of its 2 pictures; --page N takes another" in log
    assert reading.read(path).colours == 1
    second_path, _ = denoised(call, "m.jpg", "--page", "2")
    assert second_path.name == "m_page2_denoised.jpg"


def test_16_bit_lab_becomes_rgb(call):
    lab = np.dstack([stored(noisy(), "u2"), np.zeros((H, W, 2), "u2")])
    tifffile.imwrite("lab.tif", lab, photometric="cielab")
    found = reading.read(Path("lab.tif")).colour
    assert (found.dtype, found.shape) == (np.uint16, (H, W, 3))
    assert np.abs(np.diff(found.astype(float), axis=2)).max() < 0.01 * 65535  # grey
    denoised(call, "lab.tif")


@pytest.mark.parametrize(
    ("dtype", "nothing"), [("f4", np.nan), ("f8", np.inf), ("f4", -3.4e38), ("i2", -32768)]
)
def test_pixels_without_data_are_kept(call, dtype, nothing):
    values = stored(noisy(), dtype, 100, 3000)
    values[:5, 3:9] = nothing
    text = (42113, "s", 0, b"-32768\0", True) if dtype == "i2" else (270, "s", 0, b"x\0", True)
    tifffile.imwrite("a.tif", values, extratags=[text], metadata=None)
    path, log = denoised(call, "a.tif")
    assert "a.tif: 5.8 % of it hold no data, such as NaN, and are kept" in log
    after = tifffile.imread(path)
    nowhere = np.zeros((H, W), bool)
    nowhere[:5, 3:9] = True
    np.testing.assert_array_equal(after[nowhere], values[nowhere])
    clean = 100 + 2900 * CLEAN
    assert closer(*(np.where(nowhere, clean, x) for x in (after, values)), clean)


def test_too_few_pixels_with_data(call):
    for rows, message in [(6, "70 % of its pixels hold no data"), (0, "holds no pixel that is")]:
        values = noisy().astype("f4")
        values[rows:] = np.nan
        tifffile.imwrite("a.tif", values)
        assert_mistake(call("denoise", "a.tif"), f"a.tif: {message}")
    values[:6] = noisy()[:6]
    tifffile.imwrite("a.tif", values)
    denoised(call, "a.tif", "--sigma", "0.05")


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4"])
def test_lzw_keeps_type_and_tags(call, dtype):
    """As most GeoTIFF files are; Pillow decodes them, as signed integers of 32 bits for one."""
    values = stored(noisy(), dtype, 0 if dtype[0] == "u" else -100, 200)
    picture = Image.fromarray(values.astype("i4") if dtype[0] == "i" else values)
    picture.save("a.tif", compression="tiff_lzw", tiffinfo={33550: (1.0, 2.0, 0.0)})
    path, _ = denoised(call, "a.tif")
    after = tifffile.imread(path)
    assert after.dtype == (np.int32 if dtype[0] == "i" else values.dtype)
    assert after.min() >= values.min()
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.tags[33550].value == (1.0, 2.0, 0.0)


# Inpainting


MASK = np.zeros((H, W), "u1")
MASK[8:11, 9:14] = 255


def filled(call, name, *options):
    Image.fromarray(MASK).save("mask.png")
    done = call("inpaint", name, *(options or ["mask.png"]), *BUNDLED)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.removeprefix("inpainted: ").strip())


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -1e30, 400.0])
def test_holes_of_any_value_are_filled_in(call, unknown):
    whole = stored(noisy(sigma=0.01), "f8", -3, 5000)
    values = np.where(MASK, unknown, whole)
    tifffile.imwrite("a.tif", values)
    found = tifffile.imread(filled(call, "a.tif"))
    np.testing.assert_array_equal(found[MASK == 0], values[MASK == 0])
    assert np.abs(found - whole)[MASK > 0].max() < 500


def test_what_is_filled_in_becomes_opaque(call):
    alpha = np.full((H, W), 90, "u1")
    alpha[5:12] = 0
    Image.fromarray(np.dstack([*stored(noisy(3), "u1"), alpha])).save("a.png")
    found = reading.read(filled(call, "a.png"))
    np.testing.assert_array_equal(found.alpha, np.where(MASK, 255, alpha))


def test_a_stack_is_filled_in_by_one_mask_or_by_as_many(call):
    stack = stored(noisy(3), "u2")
    tifffile.imwrite("s.tif", stack, imagej=True)
    found = tifffile.imread(filled(call, "s.tif"))
    changed = (found != stack).any(axis=0)
    assert not changed[MASK == 0].any()
    assert changed[MASK > 0].all()
    masks = np.stack([MASK * 0, MASK, MASK.T[:H, :W] if H == W else np.roll(MASK, 3, 0)])
    tifffile.imwrite("masks.tif", masks, photometric="minisblack")
    for options, page in [((), None), (("--page", "3"), 2)]:
        found = tifffile.imread(filled(call, "s.tif", "masks.tif", "--overwrite", *options))
        for i in range(3) if page is None else [page]:
            one = found[i] if page is None else found
            np.testing.assert_array_equal(one[masks[i] == 0], stack[i][masks[i] == 0])
            assert (one != stack[i]).any() == masks[i].any()
    tifffile.imwrite("two.tif", masks[:2], photometric="minisblack")
    assert_mistake(call("inpaint", "s.tif", "two.tif"), "two.tif: 2 pages, of 3 of the photograph")
    first = filled(call, "s.tif", "masks.tif", "--page", "1")
    assert first.name == "s_page1_inpainted.tif"
    np.testing.assert_array_equal(tifffile.imread(first), stack[0])
