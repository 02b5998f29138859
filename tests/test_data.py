import io
import logging
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from score_embedding import load_images
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import load_dataset
from score_embedding.data.files import data_folder
from score_embedding.errors import DataError

CELEB = Path(__file__).parents[2] / "shared" / "data" / "celeb_data.pkl"
H, W = 6, 9
LUMA = np.array([0.299, 0.587, 0.114])


def noise(*shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def min_max(x):
    x = np.asarray(x, dtype=np.float64)
    return (x - x.min()) / (x.max() - x.min())


def chw(pixels):
    """(h, w) or (h, w, 3) to min-max scaled (3, h, w)."""
    if pixels.ndim == 2:
        pixels = np.dstack([pixels] * 3)
    return min_max(pixels.transpose(2, 0, 1))


def on_white(rgb, alpha):
    a = alpha[:, :, None] / 255
    return rgb * a + 255 * (1 - a)


def assert_image(result, expected, atol=1e-6):
    assert (result.dtype, result.shape) == (torch.float32, (1, *expected.shape))
    assert (result.min(), result.max()) == (0, 1)
    np.testing.assert_allclose(result[0].numpy(), expected, rtol=0, atol=atol)


def saved(folder, picture, ending, **options):
    path = folder / f"picture.{ending}"
    picture.save(path, **options)
    return path


GREY, RGB, ALPHA = noise(H, W), noise(H, W, 3, seed=1), noise(H, W, seed=2)
DEEP = noise(H, W, high=65536, dtype=np.uint16)
REAL = np.random.default_rng(3).normal(size=(H, W)).astype(np.float32)
INDEX = noise(H, W, high=4, seed=4)
PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], dtype=np.uint8)
CMYK = noise(H, W, 4, seed=5)


def palette_picture():
    picture = Image.new("P", (W, H))
    picture.putpalette(PALETTE.tobytes())
    picture.putdata(INDEX.ravel().tolist())
    return picture


def transparent(index):
    return on_white(PALETTE[INDEX], np.where(index == INDEX, 0, 255))


MODES = [
    ("L", Image.fromarray(GREY), GREY, ["png", "tiff", "bmp", "gif"]),
    ("RGB", Image.fromarray(RGB), RGB, ["png", "tiff", "bmp"]),
    ("P", palette_picture(), PALETTE[INDEX], ["png", "tiff", "bmp", "gif"]),
    ("I;16", Image.fromarray(DEEP), DEEP, ["png", "tiff"]),
    ("F", Image.fromarray(REAL), REAL, ["tiff"]),
    ("1", Image.fromarray(GREY > 127), (GREY > 127) * 255, ["png", "tiff", "bmp", "gif"]),
    (
        "LA",
        Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]),
        on_white(np.dstack([GREY] * 3), ALPHA),
        ["png", "tiff"],
    ),
    ("RGBA", Image.fromarray(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA), ["png", "tiff"]),
    (
        "CMYK",
        Image.frombytes("CMYK", (W, H), CMYK.tobytes()),
        # ink on ink: what each of C, M, Y leaves of the white, times what K leaves
        (255 - CMYK[:, :, :3].astype(float)) * (255 - CMYK[:, :, 3:].astype(float)) / 255,
        ["tiff"],
    ),
]


@pytest.mark.parametrize(
    ("mode", "picture", "pixels", "ending"),
    [(*case[:3], ending) for case in MODES for ending in case[3]],
    ids=[f"{case[0]}-{ending}" for case in MODES for ending in case[3]],
)
def test_a_picture_of_any_mode_becomes_its_colours(mode, picture, pixels, ending, tmp_path):
    assert picture.mode == mode
    result = load_images(saved(tmp_path, picture, ending), size=(H, W))
    assert_image(result, chw(pixels), atol=5e-3 if mode == "CMYK" else 1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_read_as_pillow_decodes_it(mode, tmp_path):
    y, x = np.mgrid[:H, :W]
    picture = Image.fromarray((20 * y + 10 * x).astype(np.uint8)).convert("RGB").convert(mode)
    path = saved(tmp_path, picture, "jpg", quality=95)
    with Image.open(path) as opened:
        assert opened.mode == mode
        expected = np.asarray(opened.convert("RGB"))
    assert_image(load_images(str(path), size=(H, W)), chw(expected))


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("ending", ["png", "gif"])
def test_a_transparent_palette_entry_is_white(index, ending, tmp_path):
    path = saved(tmp_path, palette_picture(), ending, transparency=index)
    assert_image(load_images(path, size=(H, W)), chw(transparent(index)))


def test_a_palette_with_degrees_of_transparency_is_laid_on_white(tmp_path):
    path = saved(tmp_path, palette_picture(), "png", transparency=bytes([0, 85, 170, 255]))
    alpha = np.array([0, 85, 170, 255])[INDEX]
    assert_image(load_images(path, size=(H, W)), chw(on_white(PALETTE[INDEX], alpha)))


@pytest.mark.parametrize(
    ("pixels", "key"),
    [(GREY, int(GREY[2, 3])), (RGB, tuple(RGB[2, 3].tolist())), (DEEP, int(DEEP[2, 3]))],
    ids=["L", "RGB", "I;16"],
)
def test_a_transparent_colour_is_white(pixels, key, tmp_path):
    white = 65535 if pixels.dtype == np.uint16 else 255
    hidden = (pixels == np.array(key)).reshape(H, W, -1).all(axis=2)
    assert 0 < hidden.sum() < 5
    expected = np.where(hidden[..., None] if pixels.ndim == 3 else hidden, white, pixels)
    path = saved(tmp_path, Image.fromarray(pixels), "png", transparency=key)
    assert_image(load_images(path, size=(H, W)), chw(expected))


ORIENTATIONS = {  # EXIF's definition: where row 0 and column 0 of the file belong
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: a[::-1, ::-1],
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("ending", ["png", "tiff", "jpg"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_orientation_of_the_camera_is_honoured(orientation, ending, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(RGB), ending, exif=exif)
    with Image.open(path) as opened:
        stored = np.array(opened.convert("RGB"))
    if ending == "tiff":  # Pillow turns these on loading
        stored = RGB
    upright = ORIENTATIONS[orientation](stored)
    assert_image(load_images(path, size=upright.shape[:2]), chw(upright))


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.fromarray(noise(H, W, seed=seed)) for seed in range(3)]
    path = saved(tmp_path, frames[0], "gif", save_all=True, append_images=frames[1:])
    assert_image(load_images(path, size=(H, W)), chw(np.asarray(frames[0])))


@pytest.mark.parametrize("source", ["file", "array"])
def test_one_channel_is_the_luminance(source, tmp_path):
    given = saved(tmp_path, Image.fromarray(RGB), "png") if source == "file" else RGB
    result = load_images(given, size=(H, W), channels=1)
    assert_image(result, min_max(RGB @ LUMA)[None])


def test_grey_becomes_three_equal_channels_or_one():
    three, one = (load_images(GREY, size=(H, W), channels=c) for c in (3, 1))
    assert_image(three, chw(GREY))
    assert_image(one, min_max(GREY)[None])


@pytest.mark.parametrize(
    "pixels",
    [
        *(GREY, RGB, GREY[:, :, None], DEEP, DEEP.astype(">u2"), REAL, REAL.astype(np.float64)),
        *(REAL.astype(np.float16), GREY > 127, GREY.astype(np.int64), np.asfortranarray(RGB)),
        *(RGB[::-1, ::-1], RGB.astype(np.float32) * 1e6 - 1e7),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_an_array_is_min_max_scaled(pixels):
    before = pixels.copy()
    expected = pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels
    assert_image(load_images(pixels, size=(H, W)), chw(expected.astype(np.float64)))
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("white", [255, 65535, 1.0])
def test_an_array_with_alpha_is_laid_on_white(white):
    alpha = ALPHA[:, :, None] / 255
    pixels = np.dstack([RGB, ALPHA]) / 255 * white
    pixels = pixels if white == 1.0 else pixels.round().astype(f"u{1 if white == 255 else 2}")
    expected = RGB / 255 * alpha + (1 - alpha)
    assert_image(load_images(pixels, size=(H, W)), chw(expected), atol=1e-6)


CONSTANTS = [
    (np.full((5, 7), 51, dtype=np.uint8), 51 / 255),
    (np.full((5, 7, 3), 51, dtype=np.uint8), 51 / 255),
    (np.full((5, 7), 13107, dtype=np.uint16), 0.2),
    (np.full((5, 7), 0.3), 0.3),
    (np.zeros((5, 7), dtype=bool), 0.0),
    (np.ones((5, 7), dtype=bool), 1.0),
    (np.zeros((1, 1), dtype=np.uint8), 0.0),
]


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("pixels", "value"), CONSTANTS, ids=lambda a: str(getattr(a, "dtype", a)))
def test_a_constant_image_keeps_its_value(pixels, value, channels, size):
    result = load_images(pixels, size=size, channels=channels)
    torch.testing.assert_close(result, torch.full((1, channels, *size), value), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("pixels", "value"), CONSTANTS[:3], ids=["L", "RGB", "I;16"])
def test_a_constant_file_keeps_its_value(pixels, value, tmp_path):
    path = saved(tmp_path, Image.fromarray(pixels), "png")
    result = load_images(path, size=8)
    torch.testing.assert_close(result, torch.full((1, 3, 8, 8), value), rtol=0, atol=1e-6)


def test_a_colour_without_contrast_within_channels_is_still_scaled():
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[:, :, 0] = 200
    assert load_images(red, size=4)[0].mean(dim=(1, 2)).tolist() == [1, 0, 0]


def pillow_bicubic(pixels, h, w):
    """In Pillow's 32-bit floating mode, channel by channel, so without its rounding to bytes."""
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in pixels.transpose(2, 0, 1)]
    return np.stack([np.asarray(p.resize((w, h), Image.Resampling.BICUBIC)) for p in planes])


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (64, 48), (11, 90), (40, 30), (40, 7), (1, 1)])
def test_resizing_is_pillows_antialiased_bicubic(size):
    y, x = np.mgrid[:40, :30]
    waves = np.dstack([np.sin(y / 5), np.cos(x / 3), np.sin((x + y) / 9)])
    pixels = (127 + 100 * waves + noise(40, 30, 3, high=20)).astype(np.uint8)
    result = load_images(pixels, size=size)
    assert_image(result, min_max(pillow_bicubic(pixels, *size)), atol=1e-4)


def test_an_image_of_the_right_size_is_not_resampled():
    assert_image(load_images(RGB, size=(H, W)), chw(RGB), atol=1e-7)
    assert torch.equal(load_images(GREY[:, :6], size=6), load_images(GREY[:, :6], size=(6, 6)))


def test_one_number_makes_squares_and_the_default_is_32():
    assert load_images(RGB, size=5).shape == (1, 3, 5, 5)
    assert load_images(RGB).shape == (1, 3, 32, 32)


@pytest.fixture
def album(tmp_path):
    """Five pictures, named against the order in which they were written, and some company."""
    folder = tmp_path / "album"
    (folder / "inner").mkdir(parents=True)
    for i, letter in enumerate("dbeca"):
        Image.fromarray(noise(8, 8, 3, seed=i)).save(folder / f"{letter}.png")
    (folder / ".DS_Store").write_bytes(b"no picture")
    (folder / "inner" / "z.txt").write_bytes(b"no picture")
    return folder


ALPHABETIC = [4, 1, 3, 0, 2]  # seeds of a.png to e.png


def test_a_folder_is_read_in_the_order_of_its_names_without_hidden_files(album):
    images = load_images(album, size=8)
    assert images.shape == (5, 3, 8, 8)
    for image, seed in zip(images, ALPHABETIC, strict=True):
        np.testing.assert_allclose(image, chw(noise(8, 8, 3, seed=seed)), atol=1e-6)


def test_files_folders_and_arrays_keep_the_order_given(album):
    images = load_images([RGB, str(album / "c.png"), album, GREY], size=8)
    assert len(images) == 8
    assert torch.equal(images[1], images[4])
    assert torch.equal(images[0], load_images(RGB, size=8)[0])
    assert torch.equal(images[7], load_images(GREY, size=8)[0])


def test_images_are_scaled_one_by_one():
    images = load_images([GREY // 4, GREY // 2 + 60], size=(H, W))
    assert images.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    assert images.amax(dim=(1, 2, 3)).tolist() == [1, 1]


@pytest.mark.parametrize(("n", "seeds"), [(None, ALPHABETIC), (1, [4]), (3, [4, 1, 3])])
def test_num_images_takes_the_first_of_a_folder(n, seeds, album):
    options = DataLoader(dataset="folder", path=str(album), num_images=n, image_size=8)
    expected = load_images([noise(8, 8, 3, seed=seed) for seed in seeds], size=8)
    assert torch.equal(load_dataset(options), expected)


def test_num_images_takes_the_first_of_a_list_of_files(album):
    paths = [str(album / "e.png"), str(album / "a.png"), str(album / "nowhere.png")]
    options = DataLoader(dataset="files", path=paths, num_images=2, image_size=8)
    expected = load_images([noise(8, 8, 3, seed=seed) for seed in (2, 4)], size=8)
    assert torch.equal(load_dataset(options), expected)


def test_more_images_than_there_are_is_an_error(album):
    with pytest.raises(DataError, match=r"num_images: 6, but only 5"):
        load_dataset(DataLoader(dataset="folder", path=str(album), num_images=6))


def test_nothing_to_load_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images"):
        load_images([])
    with pytest.raises(DataError, match="empty folder"):
        load_images(tmp_path)


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


def bad_files():
    yield "truncated.png", encoded("PNG")[:2000]
    yield "truncated.jpg", encoded("JPEG")[:700]
    yield "truncated.bmp", encoded("BMP")[:2000]
    yield "truncated.gif", encoded("GIF")[:1500]
    yield "header.png", encoded("PNG")[:20]
    yield "header.jpg", encoded("JPEG")[:20]
    yield "empty.png", b""
    yield "notes.txt", b"These are words.\n"
    yield "page.html", b"<html></html>"
    yield "noise.jpg", noise(500).tobytes()


@pytest.mark.parametrize("as_folder", [True, False])
def test_all_bad_files_are_named_in_one_error(as_folder, album):
    bad = dict(bad_files())
    for name, content in bad.items():
        (album / name).write_bytes(content)
    sources = [album] if as_folder else [album / name for name in [*bad, "a.png", "missing.png"]]
    with pytest.raises(DataError) as caught:
        load_images(sources)
    lines = str(caught.value).splitlines()
    expected = [*bad] if as_folder else [*bad, "missing.png"]
    assert sorted(line.split(": ")[0] for line in lines) == sorted(str(album / n) for n in expected)
    reasons = {Path(line.split(": ")[0]).name: line for line in lines}
    assert "truncated" in reasons["truncated.png"]
    assert "truncated" in reasons["truncated.jpg"]
    assert "empty" in reasons["empty.png"]
    assert "not an image" in reasons["notes.txt"]
    assert as_folder or "no such file" in reasons["missing.png"]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it warns of the metadata, then fails
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_a_file_cut_short_is_refused_by_name(kind, tmp_path):
    content, path = encoded(kind), tmp_path / f"cut.{kind.lower()}"
    for share in (0.01, 0.2, 0.5, 0.8):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError) as caught:
            load_images(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_picture_too_large_to_be_true_is_refused(tmp_path):
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"bomb\.png: .*exceeds limit"):
        load_images(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_with_a_pixel_that_is_no_number_is_refused_by_name(value, tmp_path):
    pixels = REAL.copy()
    pixels[2, 3] = value
    path = saved(tmp_path, Image.fromarray(pixels), "tiff")
    with pytest.raises(DataError, match=r"picture\.tiff: .*NaN or infinite"):
        load_images([REAL, path])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_with_a_pixel_that_is_no_number_are_all_named(dtype, value):
    bad = np.zeros((4, 4, 3), dtype=dtype)
    bad[1, 2, 0] = value
    with pytest.raises(DataError) as caught:
        load_images([bad, GREY, bad])
    names = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert names == ["array 0", "array 2"]


@pytest.mark.parametrize(
    "shape", [(), (4,), (4, 4, 2), (4, 4, 5), (2, 4, 4, 2), (0, 4), (4, 0, 3), (4, 4, 0)]
)
def test_an_array_of_a_wrong_shape_is_refused_with_its_shape(shape):
    with pytest.raises(DataError, match=r"array 1(\[0\])?: shape"):
        load_images([GREY, np.zeros(shape, dtype=np.uint8)])


@pytest.mark.parametrize(
    "dtype", [complex, object, "U3", "S3", "M8[D]", "m8[s]", "V4", [("r", "u1")]]
)
def test_an_array_of_no_numbers_is_refused_with_its_dtype(dtype):
    with pytest.raises(DataError, match="array 0: pixels of dtype"):
        load_images(np.zeros((4, 4), dtype=dtype))


def test_square_images_are_augmented_by_four_turns(album):
    options = {"dataset": "folder", "path": str(album), "num_images": 2, "image_size": 8}
    plain = load_dataset(DataLoader(**options)).numpy()
    turned = load_dataset(DataLoader(**options, rotate_augment=True)).numpy()
    expected = [np.rot90(image, k, axes=(1, 2)) for image in plain for k in range(4)]
    assert np.array_equal(turned, np.stack(expected))


def test_other_images_are_augmented_by_two_turns(album):
    options = {"dataset": "folder", "path": str(album), "num_images": 2, "image_size": (6, 8)}
    plain = load_dataset(DataLoader(**options)).numpy()
    turned = load_dataset(DataLoader(**options, rotate_augment=True)).numpy()
    expected = [np.rot90(image, k, axes=(1, 2)) for image in plain for k in (0, 2)]
    assert np.array_equal(turned, np.stack(expected))


def test_samples_are_the_pictures_of_scikit_image():
    images = load_dataset(DataLoader(dataset="sample", image=["astronaut", "coffee"]))
    for image, original in zip(
        images, (skimage.data.astronaut(), skimage.data.coffee()), strict=True
    ):
        np.testing.assert_allclose(image, min_max(pillow_bicubic(original, 32, 32)), atol=1e-4)


def test_num_images_takes_the_first_samples():
    options = {"dataset": "sample", "image": ["coffee", "astronaut"], "image_size": 16}
    both, one = (load_dataset(DataLoader(**options, num_images=n)) for n in (2, 1))
    assert len(both) == 2
    assert torch.equal(one, both[:1])
    with pytest.raises(DataError, match="num_images: 3"):
        load_dataset(DataLoader(**options, num_images=3))


def test_unknown_samples_are_all_named_with_those_there_are():
    with pytest.raises(DataError, match=r"astronot, tea: .*astronaut, .*coffee"):
        load_dataset(DataLoader(dataset="sample", image=["astronot", "coffee", "tea"]))


FACES = [noise(8 + i, 10, 3, seed=10 + i) for i in range(5)]  # each of its own size


def write_pickle(path, protocol=4, faces=FACES):
    content = np.empty(len(faces), dtype=object)
    for i, face in enumerate(faces):
        content[i] = face
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("dataset", "n", "chosen"),
    [
        *(("celeb", None, [2]), ("celeb", 1, [2]), ("celeb", 2, [0, 1])),
        *(("imagenet", None, [1]), ("imagenet", 1, [1]), ("imagenet", 3, [0, 1, 2])),
    ],
)
def test_a_pickle_gives_the_images_of_the_official_loader(dataset, n, chosen, protocol, tmp_path):
    path = write_pickle(tmp_path / "faces.pkl", protocol)
    options = DataLoader(dataset=dataset, path=str(path), num_images=n, image_size=8)
    assert torch.equal(load_dataset(options), load_images([FACES[i] for i in chosen], size=8))


def test_pickled_lists_and_stacks_of_images_are_read(tmp_path):
    path = tmp_path / "faces.pkl"
    equal = [noise(8, 8, 3, seed=i) for i in range(4)]
    for content in (equal, tuple(equal), np.stack(equal)):
        path.write_bytes(pickle.dumps(content, 4))
        images = load_dataset(DataLoader(dataset="celeb", path=str(path), image_size=8))
        assert torch.equal(images, load_images(equal[1], size=8))


@pytest.mark.parametrize(
    ("dataset", "there", "n"), [("celeb", 2, 1), ("celeb", 3, 4), ("imagenet", 1, 1)]
)
def test_a_pickle_with_too_few_images_is_named(dataset, there, n, tmp_path):
    path = write_pickle(tmp_path / "few.pkl", faces=FACES[:there])
    with pytest.raises(DataError, match=rf"few\.pkl: {there} images"):
        load_dataset(DataLoader(dataset=dataset, path=str(path), num_images=n))


@pytest.mark.parametrize("content", [{}, 3, [], [1, 2, 3], GREY[::-1], ["a"] * 5, [FACES[0], None]])
def test_a_pickle_of_something_else_is_named(content, tmp_path):
    path = tmp_path / "else.pkl"
    path.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(DataError, match=r"else\.pkl"):
        load_dataset(DataLoader(dataset="celeb", path=str(path)))


def test_a_bad_image_in_a_pickle_is_named_by_its_place(tmp_path):
    path = write_pickle(tmp_path / "faces.pkl", faces=[FACES[0], np.zeros((3, 3, 2)), FACES[1]])
    with pytest.raises(DataError, match=r"faces\.pkl\[1\]: shape"):
        load_dataset(DataLoader(dataset="celeb", path=str(path), num_images=3))


@pytest.mark.skipif(not CELEB.is_file(), reason="the celebrity images are not here")
@pytest.mark.parametrize("as_folder", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_the_real_celebrities_are_read(n, as_folder):
    with CELEB.open("rb") as file:
        faces = pickle.load(file)
    path = CELEB.parent if as_folder else CELEB
    images = load_dataset(DataLoader(dataset="celeb", path=str(path), num_images=n, image_size=64))
    chosen = [faces[len(faces) - 3]] if n == 1 else [faces[i] for i in range(n)]
    for image, face in zip(images, chosen, strict=True):
        np.testing.assert_allclose(image, min_max(pillow_bicubic(face, 64, 64)), atol=1e-4)


@pytest.mark.parametrize(
    ("dataset", "file_name"), [("celeb", "celeb_data.pkl"), ("imagenet", "imagenet_data.pkl")]
)
def test_the_error_for_a_missing_pickle_names_where_it_was_looked_for(
    dataset, file_name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORE_EMBEDDING_DATA", str(tmp_path / "sets"))
    with pytest.raises(DataError) as caught:
        load_dataset(DataLoader(dataset=dataset))
    expected = [f"data/{file_name}", f", {file_name}", str(tmp_path / "sets" / file_name)]
    expected.append("--set data_loader.path=")
    assert [part for part in expected if part not in str(caught.value)] == []
    with pytest.raises(DataError, match="elsewhere"):
        load_dataset(DataLoader(dataset=dataset, path=str(tmp_path / "elsewhere")))


@pytest.mark.parametrize("place", ["data", ".", "sets"])
def test_a_pickle_is_found_in_each_of_the_places(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORE_EMBEDDING_DATA", str(tmp_path / "sets"))
    (tmp_path / place).mkdir(exist_ok=True)
    write_pickle(tmp_path / place / "celeb_data.pkl")
    images = load_dataset(DataLoader(dataset="celeb", image_size=8))
    assert torch.equal(images, load_images(FACES[2], size=8))


@pytest.mark.parametrize("value", [None, ""])
def test_the_data_folder_is_a_cache_where_the_environment_names_none(value, monkeypatch):
    monkeypatch.delenv("SCORE_EMBEDDING_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("SCORE_EMBEDDING_DATA", value)
    assert data_folder().is_absolute()
    assert data_folder().name == "score-embedding"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_a_conversion_is_said(mode, tmp_path, caplog):
    Image.new(mode, (8, 8), 1).save(tmp_path / "a.tiff")
    with caplog.at_level(logging.INFO):
        load_images(tmp_path / "a.tiff", size=8)
    assert f"a.tiff: {mode} converted" in caplog.text
