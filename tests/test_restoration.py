"""The commands denoise and inpaint: from photograph files to photograph files."""

import os
import shutil
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base

from command_line import assert_mistake, process, tree
from score_embedding import pipeline
from score_embedding.config import loading
from score_embedding.methods.base import method_of
from score_embedding.report import figures
from score_embedding.restoration.photographs import reading, writing
from score_embedding.restoration.photographs.photograph import Photograph
from score_embedding.runs import folder as run_folder
from score_embedding.runs import resources

H, W = 24, 33


def noise(*shape, bits=8, seed=0):
    values = 0.5 + 0.1 * np.random.default_rng(seed).normal(size=shape)
    return (values.clip(0, 1) * (2**bits - 1)).round().astype(f"u{bits // 8}")


GREY, RGB = noise(H, W), noise(H, W, 3)
ALPHA = np.random.default_rng(1).integers(0, 256, (H, W)).astype(np.uint8)
HOLE = np.zeros((H, W), np.uint8)
HOLE[8:12, 10:20] = 255


def turned(path):
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Artist] = 6, "somebody"
    Image.fromarray(RGB).save(path, exif=exif, quality=95)


def deep(*shape):
    colour = np.atleast_3d(noise(*shape, bits=16))
    of = Photograph(colour, colours=colour.shape[2])
    return lambda path: writing.write(of, path)


def saved(values, mode=None):
    picture = Image.fromarray(values)
    return lambda path: (picture.convert(mode) if mode else picture).save(path)


# What is saved as the file of that name.
PHOTOGRAPHS = {
    "grey.png": saved(GREY),
    "colour.png": saved(RGB),
    "deep_grey.png": deep(H, W),
    "deep_colour.png": deep(H, W, 3),
    "turned.jpg": turned,
    "alpha.png": saved(np.dstack([RGB, ALPHA])),
    "grey_alpha.png": saved(np.dstack([GREY, ALPHA])),
    "palette.png": saved(RGB, "P"),
    "palette.gif": saved(GREY, "P"),
    "pixel.png": saved(RGB[:1, :1]),
    "thin.png": saved(noise(1, 200, 3)),
    "deep_grey.tif": deep(H, W),
    "deep_colour.tif": deep(H, W, 3),
}
BUNDLED = ("--model", "bundled")
COMMANDS = (("denoise", "photo.png"), ("inpaint", "photo.png", "mask.png"))


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(figures, "DPI", 20)


@pytest.fixture
def before(tmp_path, monkeypatch):
    """The files of a folder with a photograph and a mask: (name, hash) of each."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(GREY).save("photo.png")
    Image.fromarray(HOLE).save("mask.png")
    Image.fromarray(RGB).save("colour.png")
    Path("text.png").touch()
    return tree(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a model that knows colour only."""
    tiny = ["model.ch=8", "model.ch_mult=[1,2]", "training.epochs=1", "held_out=null"]
    tiny += ["image_density.arrays=300", "image_density.components=2"]
    tiny += ["data_loader.image_size=16", "data_loader.num_images=4"]
    config = loading.load("photographs", tiny)
    folder = run_folder.create(tmp_path_factory.mktemp("run"), config)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method, cpu = method_of(config), torch.device("cpu")
    known = method.precompute(images, cpu)
    method.save(folder.path, images, known)
    pipeline.train_model(folder, images, method, known, cpu, profile=False)
    return folder.path


def opens(path):
    with Image.open(path) as picture:
        picture.load()
        return picture


def same_kind(before, after, filled=None):
    """The values (c, h, w) of both, where all else of them is the same, but that alpha is opaque
    where something is `filled` in."""
    one, other = reading.read(Path(before)), reading.read(Path(after))
    assert (one.colour.shape, one.colour.dtype) == (other.colour.shape, other.colour.dtype)
    assert (one.exif, one.icc) == (other.exif, other.icc)
    alpha = one.alpha
    if alpha is not None and filled is not None:
        alpha = np.where(filled, 255, alpha)
    np.testing.assert_array_equal(alpha, other.alpha)
    return one.colour.transpose(2, 0, 1), other.colour.transpose(2, 0, 1)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_denoised_photograph_is_like_the_photograph(call, tmp_path, name):
    PHOTOGRAPHS[name](tmp_path / name)
    before = tree(tmp_path)
    stem, ending = name.split(".")
    done = call("denoise", name, "--sigma", "0.1", *BUNDLED)
    target = f"{stem}_denoised.{'png' if ending == 'gif' else ending}"
    picture = f"{stem}_denoised_before_after.png"
    assert (done.returncode, done.stdout) == (0, f"denoised: {target}\n"), done.stderr
    assert tree(tmp_path) == before | {key: tree(tmp_path)[key] for key in (target, picture)}
    noisy, found = same_kind(name, target)
    assert found.std() < noisy.std() or noisy[0].size == 1
    formats = ("PNG", "PNG" if ending == "gif" else opens(name).format)
    assert (opens(picture).format, opens(target).format) == formats
    assert f"{noisy.shape[2]} x {noisy.shape[1]} pixels, " in done.stderr
    assert "noise 0.1000 (25.5 of 255), given" in done.stderr
    if name == "turned.jpg":
        assert (opens(target).size, opens(target).getexif()[Base.Artist]) == ((H, W), "somebody")


def test_several_photographs_or_none(call, tmp_path, before):
    bad = ["text.png", "missing.png"]
    done = call("denoise", "photo.png", *bad, "colour.png", *BUNDLED)
    assert_mistake(done, *(f"{name}: " for name in bad))
    assert tree(tmp_path) == before
    done = call("denoise", "photo.png", "mask.png", "colour.png", *BUNDLED)
    assert (done.returncode, done.stdout.count("denoised: ")) == (0, 3)
    assert all(f"({i} of 3)" in done.stderr for i in (1, 2, 3))
    assert len(tree(tmp_path)) == len(before) + 6


@pytest.mark.parametrize("names", [("small.png", "other.png"), (".",), ("./",)])
def test_what_cannot_be_denoised_is_named(call, names):
    for name in ("small.png", "other.png"):
        Image.fromarray(RGB[:2, :2]).save(name)
    assert_mistake(call("denoise", *names), "small.png: ", "other.png: ", "its sigma is needed")


@pytest.mark.parametrize(
    ("command", "name"), [(c, f"photo_{c[0].rstrip('e')}ed") for c in COMMANDS]
)
@pytest.mark.usefixtures("before")
def test_what_is_there_stays_unless_it_may_be_overwritten(call, tmp_path, command, name):
    assert call(*command, *BUNDLED).returncode == 0
    done_once = tree(tmp_path)
    assert_mistake(call(*command, *BUNDLED), "already there; --overwrite replaces", "--out")
    assert tree(tmp_path) == done_once
    for written in (f"{name}.png", f"{name}_before_after.png"):
        Path(written).write_bytes(b"something else")
    assert call(*command, *BUNDLED, "--overwrite").returncode == 0
    assert tree(tmp_path) == done_once


def test_another_folder(call, before, tmp_path):
    for command in COMMANDS:
        done = call(*command, "--out", "photo.png/away", *BUNDLED)
        assert_mistake(done, "photo.png: a file is in the way of the folder photo.png/away")
    assert_mistake(call("denoise", "text.png", "--out", "away", *BUNDLED), "text.png: ")
    assert tree(tmp_path) == before
    assert not Path("away").exists()  # it is created when all photographs are valid
    assert call("denoise", "photo.png", "--out", "new/away", *BUNDLED).returncode == 0
    names = ["photo_denoised.png", "photo_denoised_before_after.png"]
    assert sorted(os.listdir("new/away")) == names
    Path("other").mkdir()
    Image.fromarray(GREY).save("other/photo.png")
    done = call("denoise", "photo.png", "other/photo.png", "--out", "away", "--overwrite")
    assert_mistake(done, "photo_denoised.png", "of two photographs")


RANGE = "from 0 to 2 is needed, white being 1 (25 grey levels of 255 are 0.098)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sigma abc", "--sigma abc: auto, or a number"),
        *((f"--sigma {s}", f"sigma: {s}: a standard deviation {RANGE}") for s in (-1, "nan", 30)),
        ("--mode nonsense", "--mode nonsense: mean or sample"),
        ("--model nonsense", "nonsense: not a run folder"),
        ("--device nonsense", "nonsense"),
    ],
)
def test_options_that_cannot_be(call, before, tmp_path, options, message):
    assert_mistake(call("denoise", "photo.png", *options.split()), message)
    if "model" in options or "device" in options:
        assert_mistake(call("inpaint", "photo.png", "mask.png", *options.split()), message)
    assert tree(tmp_path) == before


def test_masks_that_cannot_be(call, before, tmp_path):
    for name, mask in (("small.png", HOLE[1:]), ("all.png", HOLE * 0 + 1)):
        Image.fromarray(mask).save(name)
    messages = {"small.png": f"the mask is {H - 1}x{W} (h x w), the image {H}x{W}"}
    messages |= {"all.png": "the mask covers the whole image", "text.png": "", "missing.png": ""}
    for name, text in messages.items():
        assert_mistake(call("inpaint", "photo.png", name), f"{name}: {text}")
        Path(name).unlink(missing_ok=True)
    assert tree(tmp_path).items() < before.items()


@pytest.mark.parametrize(
    "name",
    ["deep_grey.png", "turned.jpg", "alpha.png", "palette.gif", "thin.png", "deep_colour.tif"],
)
def test_an_inpainted_photograph_is_the_photograph_elsewhere(call, tmp_path, name):
    PHOTOGRAPHS[name](tmp_path / name)
    hole = np.zeros(reading.read(tmp_path / name).pixels.shape[1:], bool)
    hole[4:9, 2:] = hole[:1, -1:] = True
    Image.fromarray(hole).save("mask.png")
    done = call("inpaint", name, "mask.png")
    stem, ending = name.split(".")
    target = f"{stem}_inpainted.{'png' if ending in ('jpg', 'gif') else ending}"
    assert (done.returncode, done.stdout) == (0, f"inpainted: {target}\n"), done.stderr
    was, now = same_kind(name, target, hole)
    np.testing.assert_array_equal(was[:, ~hole], now[:, ~hole])
    assert not np.array_equal(was[:, hole], now[:, hole])
    assert opens(f"{stem}_inpainted_before_after.png").format == "PNG"


@pytest.mark.parametrize("name", ["turned.jpg", "palette.gif", "deep_colour.tif"])
@pytest.mark.parametrize("command", ["denoise", "inpaint"])
def test_with_nothing_to_do_the_file_is_a_copy(call, tmp_path, name, command):
    PHOTOGRAPHS[name](tmp_path / name)
    _, h, w = reading.read(tmp_path / name).pixels.shape
    Image.new("L", (w, h)).save("mask.png")
    done = call(command, name, *(("--sigma", "0") if command == "denoise" else ["mask.png"]))
    written, given = Path(done.stdout.split(": ")[1].strip()), Path(name)
    if (command, name) == ("denoise", "palette.gif"):  # becomes PNG, with the same pixels
        assert torch.equal(reading.read(written).pixels, reading.read(given).pixels)
    else:
        assert (written.suffix, written.read_bytes()) == (given.suffix, given.read_bytes())
    assert command == "denoise" or "mask.png: all dark, nothing is missing" in done.stderr


def test_nothing_is_written_where_the_model_does_not_suit_all(call, before, run, tmp_path):
    done = call("denoise", "colour.png", "photo.png", "--model", run)
    assert_mistake(done, "photo.png", "of 3 channel(s), the image has 1")
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("before")
def test_a_run_folder_denoises_and_fills_in(call, run, tmp_path):
    for command in (("denoise", "colour.png"), ("inpaint", "colour.png", "mask.png")):
        done = call(*command, "--model", run)
        assert done.returncode == 0, done.stderr
    (shutil.copytree(run, tmp_path / "damaged") / "density.safetensors").unlink()
    done = call("denoise", "colour.png", "--model", "damaged", "--overwrite")
    assert_mistake(done, "damaged/density.safetensors")


@pytest.mark.parametrize("names", [("a.png", "a_denoised.png"), ("a.png", "a.jpg")])
def test_photographs_in_the_way_of_one_another(call, names):
    for name in names:
        Image.fromarray(GREY).save(name)
    done = call("denoise", *names, "--overwrite", *BUNDLED)
    way = "a_denoised.png: would be written" if "jpg" not in names[1] else "of two photographs"
    assert_mistake(done, way)


def test_two_spellings_of_one_file_are_one(call, before, tmp_path):
    shutil.copy("photo.png", "photo_denoised.png")
    there = tree(tmp_path)
    for other, message in (("photo_denoised.png", "would be written"), ("photo.png", "of two")):
        done = call("denoise", "photo.png", str(tmp_path / other), "--overwrite", *BUNDLED)
        assert_mistake(done, message)
        assert tree(tmp_path) == there
    assert before.items() < there.items()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_photograph_that_memory_does_not_hold(call, before, tmp_path, monkeypatch, command):
    monkeypatch.setattr(resources, "free_memory", lambda _: 1000)
    assert_mistake(call(*command), "photo.png: needs about ", "0.000954 MiB are free")
    assert tree(tmp_path) == before


def huge(path):
    """A PNG of ten gigapixels, by its head."""
    head = b"IHDR" + struct.pack(">2I5B", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (head, b"IEND")
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_photograph_too_large_is_refused_by_its_head(call, before, tmp_path):
    huge(tmp_path / "huge.png")
    needed = ("huge.png: needs about ", "GiB", "are free; a part of the photograph needs less")
    for command in (("denoise", "huge.png"), ("inpaint", "huge.png", "mask.png")):
        assert_mistake(call(*command), *needed)
    assert_mistake(call("inpaint", "photo.png", "huge.png"), *needed)
    (tmp_path / "huge.png").unlink()
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("before")
def test_more_pixels_than_the_limit_of_pillow(call, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)
    for command in COMMANDS:
        assert call(*command, *BUNDLED).returncode == 0
    assert Image.MAX_IMAGE_PIXELS == H * W // 2 - 1


@pytest.mark.parametrize("trouble", [signal.SIGTERM, signal.SIGINT, "no permission"])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_partial_is_left_behind(call, before, tmp_path, monkeypatch, command, trouble):
    def replace(partial, _):
        assert partial.is_file()
        if trouble == "no permission":
            raise PermissionError(13, "Permission denied")
        os.kill(os.getpid(), trouble)

    monkeypatch.setattr(Path, "replace", replace)
    done = call(*command, *BUNDLED)
    if trouble == "no permission":
        assert_mistake(done, "ed.png: cannot be written (Permission denied)")
    else:
        assert_mistake(done, f"stopped by {trouble.name}", code=128 + trouble)
    assert tree(tmp_path) == before


def test_as_a_process_the_noise_is_estimated_and_the_model_adapted(before, tmp_path):
    done = process(tmp_path, "denoise", "photo.png", "--mode", "sample")
    assert (done.returncode, done.stdout) == (0, "denoised: photo_denoised.png\n")
    assert done.stderr.count("\n") == 1
    assert "estimated; model fit" in done.stderr
    assert len(tree(tmp_path)) == len(before) + 2
