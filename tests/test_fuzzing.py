"""Whatever is in a file, it is read or refused with one of the documented errors that names it."""

import contextlib
import copy
import csv
import hashlib
import io
import json
import math
import pickle
import shutil
import signal
import struct
import sys
import warnings
import zlib
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, features
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from command_line import small_figures, start_calling
from score_embedding import pipeline
from score_embedding.config import loading
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import load_dataset
from score_embedding.data.images import load_images
from score_embedding.errors import CheckpointError, ConfigError, DataError, RunFolderError
from score_embedding.methods import embedded
from score_embedding.methods import model as trained
from score_embedding.methods.base import method_of
from score_embedding.methods.precomputation import precompute
from score_embedding.report import render as report
from score_embedding.runs.folder import RunFolder
from score_embedding.training import checkpoints
from score_embedding.training import state as training_state
from score_embedding.training.checkpoints import Checkpoints
from score_embedding.training.loop import train
from test_training import network_for, tiny_config

CPU = torch.device("cpu")
HANGS_AFTER = 20  # seconds


def little_memory():
    """This process may take 1 GiB more than it has."""
    import resource  # not everywhere

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))


def in_little_memory(function, *arguments):
    """What the function printed in a process of its own, which must say nothing else."""
    child = start_calling(function, *arguments)
    stdout, stderr = child.communicate(timeout=120)
    assert (child.returncode, stderr[-4000:]) == (0, "")
    return stdout


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


@contextlib.contextmanager
def in_time():
    """Fails what takes far too long, whatever errors it catches."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("no end in sight"))
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(case, *strategies, cases):
    """Calls `case` with drawn inputs, the same in every run; returns how many there were."""
    count = 0

    @given(st.tuples(*strategies))
    @settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    def each(drawn):
        nonlocal count
        count += 1
        with in_time():
            case(*drawn)

    each()
    return count


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.slow), 10], ids=["whole", "a_tenth"])
def share(request):
    """The number of cases is divided by this where the tests have to be quick."""
    return request.param


def one_message(error, *names):
    """The error says one of the names, in text that any terminal can be given."""
    text = str(error)
    text.encode()
    assert any(str(name) in text for name in names), text
    assert "Traceback" not in text


# Damage


def edits(kinds, most=3):
    """Lists of changes: what, where (more often near the start), how much, and other bytes."""
    where = st.floats(0, 1, exclude_max=True)
    place = st.one_of(where, where.map(lambda x: x / 10), where.map(lambda x: x / 100))
    edit = st.tuples(st.sampled_from(kinds), place, st.integers(1, 40), st.binary(min_size=1))
    return st.lists(edit, min_size=1, max_size=most)


BYTES = ("cut", "flip", "insert", "remove", "repeat", "huge", "zero")


def damaged(content, changes):
    for kind, place, length, noise in changes:
        at = int(place * len(content))
        head, middle, tail = content[:at], content[at : at + length], content[at + length :]
        content = {
            "cut": head,
            "flip": head + bytes([(middle or b"\0")[0] ^ (noise[0] or 1)]) + middle[1:] + tail,
            "insert": head + noise + middle + tail,
            "remove": head + tail,
            "repeat": head + middle * 3 + tail,
            "huge": head + [b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff"][length % 2] + tail,
            "zero": head + bytes(len(middle)) + tail,
        }[kind]
    return content


ODD = (
    *(None, True, False, 0, -1, 1.5, 7, 2**63, -(10**400), 1e308, math.nan, math.inf, -math.inf),
    *("", "x", "nan", "1e-3", "\ud800", "\0", [], {}, [[]], [None, 1.0], {"a": None}, {"step": 1}),
)


def spots(value, path=()):
    """The paths to all there is in nested dicts and lists, outermost first."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value[:3])
    for key, item in items:
        yield from spots(item, (*path, key))


def changed(value, path, how, new):
    """A copy with what is at the path replaced, deleted, or kept under another name."""
    if not path:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if how == "delete":
        del inner[path[-1]]
    elif how == "rename" and isinstance(inner, dict):
        inner[str(new)] = inner.pop(path[-1])
    elif how == "add" and isinstance(inner[path[-1]], dict):
        inner[path[-1]][str(new)] = new
    else:
        inner[path[-1]] = new
    return value


def walks(news=None):
    """A spot (by a number below 1), what to do there, and a new value."""
    return st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["replace", "replace", "delete", "rename", "add"]),
        st.sampled_from(ODD) if news is None else news,
    )


def walked(value, walk):
    place, how, new = walk
    paths = list(spots(value))
    return changed(value, paths[int(place * len(paths))], how, new)


# Configs

CONFIGS = {name: path.read_text(encoding="utf-8") for name, path in loading.bundled().items()}
SYNTAX = (
    *("&a ", "*a", "<<: *a", "- ", "? ", ": ", "{", "}", "[", "]", "|", ">", "'", '"', "#", "%"),
    *("\t", "\n", "\r", "\0", "\x85", "\u2028", "\ufeff", "---\n", "...\n", "!!", "!!set ", "!x "),
    *("!!int ''", "!!float ''", "!!bool maybe", "!!timestamp x", "!!binary =", "!!omap [1]"),
    *("!!python/object/apply:os.system [x]", "2001-13-99", "2001-01-01", "12:61:61", "0x", "0b_"),
    *("0x" + 4000 * "f", 5000 * "9", 400 * "[", 400 * "{a: ", 400 * "- ", "1e400", ".nan", "-.inf"),
    *("~", "off", '"\\ud800"', '"\\x00"', "&a [*a]", "&a {a: *a}", "{1: 2}", "{[1]: 2}", "é" * 50),
)


def assert_config(path, *overrides, names=()):
    """Read, and then the same when it was dumped, or refused by name."""
    try:
        config = loading.load(str(path), list(overrides))
    except ConfigError as error:
        one_message(error, path, *names)
    else:
        copied = path.with_name("dumped.yml")
        copied.write_text(loading.dump(config), encoding="utf-8")
        assert loading.load(str(copied)) == config


LINES = ("delete", "duplicate", "swap", "cut", "insert", "indent", "value", "bytes")


def damaged_text(text, changes):
    """Changes to the lines and bytes of a config."""
    content = text.encode()
    for kind, place, length, noise, token in changes:
        lines = content.splitlines(keepends=True) or [b"\n"]
        i = int(place * len(lines))
        at = int(place * len(content))
        token = token.encode("utf-8", "surrogatepass")
        match kind:
            case "delete":
                del lines[i : i + 1 + length % 4]
            case "duplicate":
                lines.insert(i, lines[length % len(lines)])
            case "swap":
                j = length % len(lines)
                lines[i], lines[j] = lines[j], lines[i]
            case "indent":
                lines[i] = lines[i][1:] if length % 2 else b"  " + lines[i]
            case "value":
                lines[i] = lines[i].split(b":")[0] + b": " + token + b"\n"
        content = b"".join(lines)
        match kind:
            case "cut":
                content = content[:at]
            case "insert":
                content = content[:at] + token + content[at:]
            case "bytes":
                content = content[:at] + noise + content[at + length % 3 :]
    return content


def test_a_mutated_config_is_read_or_refused_by_name(tmp_path, record_property, share):
    path = tmp_path / "mine.yml"
    change = st.tuples(
        st.sampled_from(LINES),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 40),
        st.binary(min_size=1, max_size=4),
        st.sampled_from(SYNTAX),
    )

    def case(name, changes):
        path.write_bytes(damaged_text(CONFIGS[name], changes))
        assert_config(path)

    changes = st.lists(change, min_size=1, max_size=3)
    cases = fuzz(case, st.sampled_from(sorted(CONFIGS)), changes, cases=500 // share)
    record_property("cases", cases)
    assert cases >= 500 // share


@pytest.mark.parametrize("token", SYNTAX, ids=range(len(SYNTAX)))
def test_each_oddity_of_yaml_is_read_or_refused_by_name(token, tmp_path, record_property):
    path = tmp_path / "mine.yml"
    head = "name: a\ndata_loader: {dataset: cifar}\n"
    texts = [token, head + f"training: {token}\n", head + f"training:\n  lr: {token}\n"]
    texts += [head + f"training:\n  epochs: {token}\n", head + token, f"name: {token}\n"]
    for text in texts:
        path.write_text(text, encoding="utf-8", newline="")
        with in_time():
            assert_config(path)
    record_property("cases", len(texts))


VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
        *(st.integers(-(10**400), 10**400), st.binary(max_size=4), st.sampled_from(ODD)),
        *(st.dates(date(1000, 1, 1)), st.datetimes(datetime(1000, 1, 1))),
        st.sampled_from(["ddpm", "heun", "files", "off", "2e-8", "0x10", "1_000", "12:30"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=4), st.integers(), st.none()), inner, max_size=3
        ),
        inner.map(lambda value: [value, value]),  # written with an anchor and an alias
        st.sampled_from([32, 64, 8, 3]).map(lambda side: [side, side]),
    ),
    max_leaves=6,
)


def test_any_value_at_any_key_of_a_config_is_read_or_refused_by_name(
    tmp_path, record_property, share
):
    path = tmp_path / "mine.yml"
    wholes = [loading.load(name).model_dump(mode="json") for name in ("quickstart", "celeb1_ddim")]

    def case(whole, changes):
        for walk in changes:
            whole = walked(whole, walk)
        path.write_text(yaml.safe_dump(whole, allow_unicode=True), "utf-8", "backslashreplace")
        assert_config(path)

    changes = st.lists(walks(VALUES), min_size=1, max_size=2)
    cases = fuzz(case, st.sampled_from(wholes), changes, cases=350 // share)
    record_property("cases", cases)
    assert cases >= 350 // share


KEYS = (
    *("name", "sample_method", "data_loader", "data_loader.image_size", "data_loader.path"),
    *("training.lr", "training.epochs", "training.seed", "training.ema", "model.ch_mult"),
    *("diffusion.sigma", "diffusion.beta_min", "sample.steps", "sample.type", "misc.eps"),
    *("", ".", "..", "a", "a.b.c", "training.lr.x", "name.x", "misc.profile_priors", "<<"),
)


def test_any_override_is_taken_or_refused_by_name(tmp_path, record_property, share):
    path = tmp_path / "mine.yml"
    path.write_text(CONFIGS["quickstart"], encoding="utf-8")
    values = st.one_of(
        *(st.sampled_from(SYNTAX), st.text(max_size=12), VALUES.map(str)),
        st.sampled_from(["1", "0.5", "ddpm", "[1, 2]", "null", "off", "8", "closed_form", "16"]),
    )
    known = st.tuples(st.sampled_from(KEYS), values).map("=".join)

    def case(overrides):
        assert_config(path, *overrides, names=[repr(override) for override in overrides])

    overrides = st.lists(st.one_of(known, known, st.text(max_size=20)), min_size=1, max_size=3)
    cases = fuzz(case, overrides, cases=350 // share)
    record_property("cases", cases)
    assert cases >= 350 // share


def laughs(innermost, level, count=9):
    """YAML that a few hundred bytes of aliases make ten to the ninth values of."""
    lines = [f"x0: &x0 {innermost}"]
    lines += [f"x{i}: &x{i} {level.format(', '.join(10 * [f'*x{i - 1}']))}" for i in range(1, 10)]
    return "\n".join(lines[: count + 1]) + "\n"


HEAD = "name: a\ndata_loader: {dataset: cifar}\n"
BOMBS = {
    "unknown keys": HEAD + laughs("[a]", "[{}]"),
    "a value": laughs("[a]", "[{}]") + "data_loader: *x9\nname: *x9\n",
    "a list of numbers": HEAD + laughs("[1]", "[{}]") + "model: {ch_mult: *x9}\n",
    "a list of paths": laughs("[a]", "[{}]") + "data_loader: {dataset: files, path: *x9}\n",
    "a method": HEAD + laughs("[a]", "[{}]") + "sample_method: *x9\n",
    "merged mappings": HEAD + laughs("{a: 1}", "{{<<: [{}]}}"),
}


def read_bombs(paths):
    little_memory()
    lengths = []
    for path in paths:
        signal.alarm(10)
        try:
            loading.load(str(path))
        except ConfigError as error:
            one_message(error, path)
            lengths.append(len(str(error)))
        except MemoryError:
            raise SystemExit(f"{path}: fills the memory") from None
    assert max(lengths) < 100_000


@on_linux
def test_aliases_of_aliases_neither_fill_the_memory_nor_hang(tmp_path, record_property):
    paths = []
    for name, text in BOMBS.items():
        paths.append(tmp_path / f"{name}.yml")
        paths[-1].write_text(text)
    in_little_memory(read_bombs, paths)
    record_property("cases", len(paths))


# Images

WIDTH, HEIGHT = 37, 29
SIZES = (0, 200, 13_000, 2**16 - 1, 2**31 - 1)


def encodings(image):
    """A photograph (3, h, w) in [0, 1] as the bytes of many kinds of picture files."""
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    rgb = Image.fromarray(pixels)
    grey, alpha = rgb.convert("L"), rgb.copy()
    alpha.putalpha(grey)
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    real = Image.fromarray(pixels[:, :, 0].astype(np.float32) / 255)
    palette = rgb.quantize(64)
    pictures = [
        *((rgb, "PNG", {}), (alpha, "PNG", {}), (deep, "PNG", {}), (palette, "PNG", {})),
        *((grey, "PNG", {}), (palette, "PNG", {"transparency": 3}), (rgb.convert("1"), "PNG", {})),
        *(
            (rgb, "JPEG", {}),
            (grey, "JPEG", {"progressive": True}),
            (rgb.convert("CMYK"), "JPEG", {}),
        ),
        *((rgb, "TIFF", {}), (deep, "TIFF", {}), (real, "TIFF", {}), (palette, "TIFF", {})),
        *(
            (rgb, "TIFF", {"compression": c})
            for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
        ),
        *((palette, "GIF", {}), (rgb, "BMP", {}), (rgb, "PPM", {}), (rgb, "TGA", {})),
        (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(90)]}),
    ]
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures += [(rgb, "JPEG", {"exif": exif}), (rgb, "PNG", {"exif": exif})]
    if features.check("webp"):
        pictures += [(rgb, "WEBP", {}), (alpha, "WEBP", {"lossless": True})]
    for picture, kind, options in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        yield buffer.getvalue()


def resealed_png(content):
    """With the checksums of its chunks made right, so that damage comes through to the decoder."""
    sealed, at = content[:8], 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        sealed += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return sealed + content[at:]


def resized(content, which, size):
    """The header says another width or height."""
    for order in ("<I", ">I", "<H", ">H"):
        at = content[:400].find(struct.pack(order, (WIDTH, HEIGHT)[which % 2]))
        if at >= 0 and size < 256 ** struct.calcsize(order):
            return content[:at] + struct.pack(order, size) + content[at + struct.calcsize(order) :]
    return content


@pytest.fixture(scope="module")
def picture_files(photographs):
    images = photographs(HEIGHT, WIDTH, 2)
    return [content for image in images for content in encodings(image)]


def assert_image_or_refused(path):
    try:
        with warnings.catch_warnings():
            # Pillow says what it doubts in warnings, and goes on
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            images = load_images(path, size=8)
    except DataError as error:
        one_message(error, path)
    else:
        assert (images.shape, images.dtype) == ((1, 3, 8, 8), torch.float32)
        assert torch.isfinite(images).all()
        assert images.min() >= 0
        assert images.max() <= 1


def test_a_damaged_image_is_read_or_refused_by_name(
    picture_files, tmp_path, record_property, share
):
    path = tmp_path / "picture"

    def case(content, changes, sealed):
        content = damaged(content, changes)
        path.write_bytes(resealed_png(content) if sealed else content)
        assert_image_or_refused(path)

    strategies = st.sampled_from(picture_files), edits(BYTES), st.booleans()
    cases = fuzz(case, *strategies, cases=650 // share)
    record_property("cases", cases)
    assert cases >= 650 // share


def test_an_image_that_lies_about_its_size_is_read_or_refused_by_name(
    picture_files, tmp_path, record_property
):
    path, cases = tmp_path / "picture", 0
    for content in picture_files[: len(picture_files) // 2 : 2]:
        for size in SIZES:
            for which in (0, 1):
                path.write_bytes(resealed_png(resized(content, which, size)))
                with in_time():
                    assert_image_or_refused(path)
                cases += 1
    record_property("cases", cases)
    assert cases >= 100


def read_images(paths):
    warnings.simplefilter("error")  # as some users do
    little_memory()
    for path in paths:
        signal.alarm(30)
        try:
            assert load_images(path, size=8).shape == (1, 3, 8, 8)
        except DataError as error:
            one_message(error, path)


@pytest.mark.slow
@on_linux
def test_images_of_few_bytes_do_not_fill_the_memory(tmp_path, record_property):
    paths = []
    for side in (30_000, 10_000):
        paths.append(tmp_path / f"{side}.png")
        Image.new("1", (side, side)).save(paths[-1])
        assert paths[-1].stat().st_size < 200_000
    in_little_memory(read_images, paths)
    record_property("cases", len(paths))


# Data sets: in a process of its own, as numpy could end it


def face(i):
    return np.random.default_rng(i).integers(0, 256, (5 + i, 6, 3)).astype(np.uint8)


def data_sets():
    """Images as pickles of several protocols, and as .npy, with and without objects."""
    faces = np.empty(4, dtype=object)
    for i in range(4):
        faces[i] = face(i)
    contents = (faces, list(faces), np.stack([face(1)] * 4), [face(1)[::-1] / 255] * 4)
    for content in contents:
        yield from (pickle.dumps(content, protocol) for protocol in (0, 2, 4, 5))
    for array in (faces, contents[2]):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        yield buffer.getvalue()


def read_damaged_data_sets(folder, cases):
    path = folder / "faces.pkl"
    little_memory()

    def case(content, changes, n, dataset):
        path.write_bytes(damaged(content, changes))
        options = DataLoader(dataset=dataset, path=str(path), num_images=n, image_size=8)
        try:
            with np.errstate(all="raise"):
                images = load_dataset(options)
        except DataError as error:
            one_message(error, path)
        else:
            assert (images.shape, images.dtype) == ((n, 3, 8, 8), torch.float32)
            assert torch.isfinite(images).all()
            assert images.min() >= 0
            assert images.max() <= 1

    kinds = st.sampled_from(["celeb", "imagenet"])
    strategies = st.sampled_from(list(data_sets())), edits(BYTES), st.sampled_from([1, 2]), kinds
    print(fuzz(case, *strategies, cases=cases))


@on_linux
def test_a_damaged_data_set_is_read_or_refused_and_never_ends_the_process(
    tmp_path, record_property, share
):
    cases = int(in_little_memory(read_damaged_data_sets, tmp_path, 350 // share))
    record_property("cases", cases)
    assert cases >= 350 // share


# Checkpoints


@pytest.fixture(scope="module")
def run_config(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    pixels = (photographs(24, 24, 1)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    options = tiny_config(epochs=3, ema=0.9).model_dump(mode="json")
    options["data_loader"] |= {"dataset": "files", "path": [str(folder / "a.png")], "image_size": 8}
    options["sample"] = {"solver": "heun", "steps": 2}
    return loading.validate(options, "test")


@pytest.fixture(scope="module")
def finished(run_config, tmp_path_factory):
    """The folder of a whole run, with an evaluation at each step."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with small_figures():
            pipeline.run(run_config, path, CPU, profile=True)
    return path


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def training(photographs, tmp_path_factory):
    """The config of a training, a folder with its last two checkpoints, and the state at start."""
    config = tiny_config(epochs=3, ema=0.9)
    folder = RunFolder(tmp_path_factory.mktemp("training"))
    images = photographs(8, 8, 1).float()
    objective = embedded.objective(
        precompute(images, config.diffusion, config.misc).embedded, config
    )
    train(network_for(config), objective, config, {"solve": 1.0}, None, Checkpoints(folder, 1e-9))
    state = training_state.start(network_for(config), config.training, CPU, {}, 1.0)
    return config, folder, state


def header_of(content):
    """The header of a safetensors file as bytes, and what comes after it."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def signed(content, values=None):
    """A checkpoint with its checksum made right, as somebody could who knows how, and with other
    numbers where they are given. Unchanged where its header cannot be read."""
    header, data = header_of(content)
    try:
        entries = json.loads(header)
        values = json.loads(entries["__metadata__"]["values"]) if values is None else values
        if isinstance(values, dict):
            values = {**values, "sha256": 64 * "0"}
        entries["__metadata__"] = {**entries["__metadata__"], "values": json.dumps(values)}
    except (ValueError, TypeError, KeyError, RecursionError):
        return content
    new = json.dumps(entries, separators=(",", ":")).encode()
    new = struct.pack("<Q", len(new)) + new
    digest = hashlib.sha256(new + data).hexdigest()
    zeros = f'\\"sha256\\": \\"{64 * "0"}'.encode()
    return new.replace(zeros, zeros.replace(64 * b"0", digest.encode())) + data


def values_of(content):
    """The numbers in a checkpoint."""
    return json.loads(json.loads(header_of(content)[0])["__metadata__"]["values"])


DTYPES = (torch.float16, torch.float64, torch.int32, torch.uint8, torch.bool, torch.complex64)


def with_other_header(content, walk, raw):
    """A safetensors file whose header says something else."""
    header, data = header_of(content)
    new = damaged(header, raw) if raw else json.dumps(walked(json.loads(header), walk)).encode()
    return struct.pack("<Q", len(new)) + new + data


def exchanged(content, place, how):
    """Another tensor in the place of one of a safetensors file: whole, but not what was there."""
    tensors = from_bytes(content)
    names = sorted(tensors)
    name = names[int(place * len(names))]
    tensor = tensors.pop(name)
    match how:
        case int():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tensors[name] = tensor.to(DTYPES[how])
        case "flat":
            tensors[name] = tensor.flatten()[:-1]
        case "empty":
            tensors[name] = tensor.flatten()[:0]
        case "nan" if tensor.is_floating_point():
            tensors[name] = torch.full_like(tensor, math.nan)
        case "nested":
            tensors[f"{name}/x"] = tensor
        case str() if how.startswith("optimizer"):
            tensors[how] = tensor
        case _:
            tensors |= {"other": tensor}
    metadata = json.loads(header_of(content)[0])["__metadata__"]
    return signed(to_bytes(tensors, metadata=metadata))


NEWS = ("optimizer/9999/step", "optimizer/-1/exp_avg", "optimizer/x/y", "optimizer/0", "optimizer/")
HOWS = (*range(len(DTYPES)), "flat", "empty", "nan", "nested", "gone", *NEWS)
EXCHANGES = st.sampled_from(HOWS)
PLACE = st.floats(0, 1, exclude_max=True)
HEADERS = st.sampled_from(
    [*ODD, "F64", "I8", "BOOL", "C64", "F4", "F8_E4M3", "BF16", [2**62], [0, 1]]
)
FORGERIES = st.one_of(
    st.tuples(st.just("values"), walks()),
    st.tuples(st.just("header"), walks(HEADERS), st.just([])),
    st.tuples(st.just("header"), walks(HEADERS), edits(BYTES, 2)),
    st.tuples(st.just("tensors"), PLACE, EXCHANGES),
)


def forged(content, forgery):
    """A checkpoint that was changed, with the checksum made right."""
    match forgery:
        case "values", walk:
            return signed(content, walked(values_of(content), walk))
        case "header", walk, raw:
            return signed(with_other_header(content, walk, raw))
        case "tensors", place, how:
            return exchanged(content, place, how)


def test_a_damaged_model_is_loaded_whole_or_not_at_all(copied, run_config, record_property, share):
    names = ("model.safetensors", "state.json")
    whole = {name: (copied / name).read_bytes() for name in names}
    folder, network = RunFolder(copied), trained.build_network(method_of(run_config), 1, CPU)
    before = {name: w.clone() for name, w in network.state_dict().items()}

    def case(name, changes):
        (copied / name).write_bytes(damaged(whole[name], changes))
        same = (copied / name).read_bytes() == whole[name]
        try:
            checkpoints.load(folder, network)
        except CheckpointError as error:
            one_message(error, copied)
            assert not same
            after = network.state_dict()
            assert all(torch.equal(after[key], before[key]) for key in before)
        else:
            assert same or name == "state.json"
            network.load_state_dict(before)
        finally:
            (copied / name).write_bytes(whole[name])

    cases = fuzz(case, st.sampled_from(names), edits(BYTES), cases=150 // share)
    record_property("cases", cases)
    assert cases >= 150 // share


def test_a_forged_model_is_loaded_whole_or_not_at_all(copied, run_config, record_property, share):
    content = (copied / "model.safetensors").read_bytes()
    folder, network = RunFolder(copied), trained.build_network(method_of(run_config), 1, CPU)
    before = {name: w.clone() for name, w in network.state_dict().items()}

    def case(forgery):
        model = forged(content, forgery)
        (copied / "model.safetensors").write_bytes(model)
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            (copied / "state.json").write_text(json.dumps(values_of(model)))
        try:
            state = checkpoints.load(folder, network)
        except CheckpointError as error:
            one_message(error, copied)
            after = network.state_dict()
            assert all(torch.equal(after[key], before[key]) for key in before)
        else:
            assert "step" in state
            assert all(not w.isnan().any() or forgery[2] == "nan" for w in network.parameters())
            network.load_state_dict(before)

    cases = fuzz(case, FORGERIES, cases=200 // share)
    record_property("cases", cases)
    assert cases >= 200 // share


CHECKPOINT, ROWS = "checkpoint_00000003.safetensors", "checkpoint_rows.jsonl"


def take_a_step(state):
    """What training does with a state: a step, its row, and the next checkpoint's content."""
    for parameter in state.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    if state.average:
        state.average.update_parameters(state.network)
    assert math.isfinite(state.history.training_seconds)
    state.history.rows.append(
        {"step": state.history.step + 1, "training_seconds": 1.0, "loss": 1.0}
    )
    assert math.isfinite(state.next_evaluation)
    assert math.isfinite(sum(state.history.precompute_seconds.values()))
    assert math.isfinite(state.history.evaluation_seconds)
    to_bytes({name: tensor.contiguous() for name, tensor in state.tensors(CPU).items()})
    json.dumps(state.values())


def resumed(folder, fresh):
    """The state that training would resume from; None where there is no checkpoint."""
    found = Checkpoints(folder, 1.0).latest()
    if found is None:
        return None
    state = copy.deepcopy(fresh)
    with torch.random.fork_rng(devices=[]):
        state.restore(*found, CPU)
    return state


def test_a_damaged_checkpoint_is_passed_over(training, tmp_path, record_property, share):
    _, source, fresh = training
    whole = {path.name: path.read_bytes() for path in source.path.iterdir()}
    names = sorted(whole)

    def case(damages):
        for name in names:
            (tmp_path / name).write_bytes(damaged(whole[name], damages.get(name, [])))
        try:
            state = resumed(RunFolder(tmp_path), fresh)
        except CheckpointError as error:
            one_message(error, tmp_path)
            assert len(damages) > 1 or "checkpoint_rows.jsonl" in damages
        else:
            assert state.history.step in (2, 3)
            take_a_step(state)

    damages = st.dictionaries(st.sampled_from(names), edits(BYTES), min_size=1, max_size=4)
    cases = fuzz(case, damages, cases=40 // share)
    record_property("cases", cases)
    assert cases >= 40 // share


@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_a_forged_checkpoint_is_resumed_from_or_refused(training, tmp_path, record_property, share):
    _, source, fresh = training
    content = (source / CHECKPOINT).read_bytes()
    shutil.copy(source / ROWS, tmp_path)

    def case(forgery):
        (tmp_path / CHECKPOINT).write_bytes(forged(content, forgery))
        try:
            state = resumed(RunFolder(tmp_path), fresh)
        except CheckpointError as error:
            one_message(error, "checkpoint", tmp_path)
        else:
            take_a_step(state)

    cases = fuzz(case, FORGERIES, cases=60 // share)
    record_property("cases", cases)
    assert cases >= 60 // share


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("kind", ["network/", "optimizer/0/exp_avg", "optimizer/0/exp_avg_sq"])
def test_no_exchanged_tensor_ends_training_later(training, kind, tmp_path, record_property, share):
    _, source, fresh = training
    content = (source / CHECKPOINT).read_bytes()
    shutil.copy(source / ROWS, tmp_path)
    names = sorted(from_bytes(content))
    place = next(i for i, tensor in enumerate(names) if tensor.startswith(kind)) / len(names)
    hows = HOWS[::share]
    for how in hows:
        (tmp_path / CHECKPOINT).write_bytes(exchanged(content, place + 1e-9, how))
        with contextlib.suppress(CheckpointError):
            take_a_step(resumed(RunFolder(tmp_path), fresh))
    record_property("cases", len(hows))


def test_no_forged_value_ends_training_later(training, tmp_path, record_property, share):
    _, source, fresh = training
    content, lines = (source / CHECKPOINT).read_bytes(), (source / ROWS).read_bytes()
    values, cases = values_of(content), 0
    rows = [json.loads(line) for line in lines.splitlines()]
    forgeries = [(spot, "numbers") for spot in spots(values)]
    forgeries += [(spot, "rows") for spot in spots(rows) if spot]
    for spot, what in forgeries[::share]:
        for new in (10**400, None, math.nan):
            numbers, text = values, lines
            if what == "numbers":
                numbers = changed(values, spot, "replace", new)
            else:
                others = changed(rows, spot, "replace", new)
                text = "".join(f"{json.dumps(row)}\n" for row in others).encode()
                digest = hashlib.sha256(text).hexdigest()
                numbers = {**values, "rows": {"bytes": len(text), "sha256": digest}}
            (tmp_path / ROWS).write_bytes(text)
            (tmp_path / CHECKPOINT).write_bytes(signed(content, numbers))
            with contextlib.suppress(CheckpointError):
                take_a_step(resumed(RunFolder(tmp_path), fresh))
            cases += 1
    record_property("cases", cases)
    assert cases >= 50 // share


# Run folders

FILES = ("config.yml", "metrics.csv", "timing.json", "environment.json", "scores.npz")
FILES += ("samples.npz", "state.json")
REFUSED = (RunFolderError, ConfigError, CheckpointError)


def reshaped(array, how):
    """An array that is not what it was."""
    match how:
        case "flat":
            return array.ravel()
        case "less":
            return array.ravel()[:-1]
        case "scalar":
            return np.zeros((), array.dtype)
        case "empty":
            return np.zeros((0, *array.shape[1:]), array.dtype)
        case "nan" if array.dtype.kind == "f":
            return np.full_like(array, np.nan)
        case "huge" if array.dtype.kind in "fi":
            return np.full_like(array, 10**18 if array.dtype.kind == "i" else 3e38)
        case "words":
            return np.full(array.shape, "x")
        case "nested":
            return np.array(20_000 * "[")
        case _:
            return array[..., None]


ARRAYS = st.sampled_from(
    ["flat", "less", "scalar", "empty", "nan", "huge", "words", "nested", "deep"]
)


def rewritten(path, place, walk, how):
    """A file of a run folder that is whole, with one thing in it changed."""
    buffer = io.BytesIO()
    match path.suffix:
        case ".json":
            return json.dumps(walked(json.loads(path.read_text()), walk)).encode()
        case ".yml":
            text = yaml.safe_dump(walked(yaml.safe_load(path.read_text()), walk))
            return text.encode("utf-8", "backslashreplace")
        case ".csv":
            rows = list(csv.reader(io.StringIO(path.read_text())))
            row = rows[int(place * len(rows))]
            cell = int(walk[0] * len(row))
            row[cell : cell + 1] = [] if walk[1] == "delete" else [str(walk[2])]
            return "\n".join(map(",".join, rows)).encode("utf-8", "backslashreplace")
        case _:
            with np.load(path) as content:
                arrays = dict(content)
            names = sorted(arrays)
            name = names[int(place * len(names))]
            array = arrays[name]
            if array.dtype.kind == "U" and how not in ("scalar", "words", "nested"):
                array = np.array(json.dumps(walked(json.loads(str(array)), walk)))
            else:
                array = reshaped(array, how)
            if walk[1] == "delete":
                del arrays[name]
            else:
                arrays[name] = array
            np.savez(buffer, **arrays)
            return buffer.getvalue()


def assert_report_or_refused(path):
    """A new report, or the old one and an error."""
    before = {name: (path / name).read_bytes() for name in ("report.html", "report.pdf")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numbers that are none, in figures
            report.write(RunFolder(path))
    except REFUSED as error:
        one_message(error, path)
        assert all((path / name).read_bytes() == content for name, content in before.items())
    assert [left.name for left in path.iterdir() if left.name.startswith(".")] == []


@pytest.fixture
def unrendered():
    """Figures are built, and saved as the same small picture."""
    with small_figures():
        yield


DAMAGES = st.one_of(
    st.tuples(st.just("bytes"), edits(BYTES)),
    *2 * [st.tuples(st.just("content"), st.tuples(PLACE, walks(), ARRAYS))],
)


def report_on(copied, number):
    """Reports of folders of which one file is damaged, or whole and not what it was."""
    whole = {name: (copied / name).read_bytes() for name in FILES}

    def case(name, damage):
        path = copied / name
        kind, how = damage
        path.write_bytes(damaged(whole[name], how) if kind == "bytes" else rewritten(path, *how))
        try:
            assert_report_or_refused(copied)
        finally:
            path.write_bytes(whole[name])

    return fuzz(case, st.sampled_from(FILES), DAMAGES, cases=number)


WORST = (10**400, None, "x", [], {"a": [None]}, math.nan)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "name", ["state.json", "timing.json", "environment.json", "samples.npz", "scores.npz"]
)
def test_no_value_in_a_run_folder_ends_a_report(name, copied, record_property, share):
    path = copied / name
    arrays = dict(np.load(path)) if path.suffix == ".npz" else {}
    key = next((key for key in arrays if arrays[key].dtype.kind == "U"), "")
    values = json.loads(str(arrays[key]) if arrays else path.read_text())
    texts = [20_000 * "[", 20_000 * '{"a":', "", "1"]
    for spot in spots(values):
        texts += [json.dumps(changed(values, spot, "replace", new)) for new in WORST]
        texts += [json.dumps(changed(values, spot, "delete", None))]
    texts = texts[::share]
    for text in texts:
        if arrays:
            np.savez(path, **arrays | {key: np.array(text)})
        else:
            path.write_text(text)
        with in_time():
            assert_report_or_refused(copied)
        for left in ("report.html", "report.pdf"):
            assert (copied / left).is_file()
    record_property("cases", len(texts))


@pytest.mark.usefixtures("unrendered")
def test_a_folder_with_a_damaged_file_is_reported_on_or_refused(copied, record_property, share):
    cases = report_on(copied, 35 // share)
    record_property("cases", cases)
    assert cases >= 35 // share


def test_a_report_with_its_figures_is_written_or_refused(copied, record_property, share):
    cases = report_on(copied, max(1, 5 // share))
    record_property("cases", cases)
    assert cases >= 5 // share
