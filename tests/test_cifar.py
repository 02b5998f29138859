import contextlib
import hashlib
import io
import pickle
import shutil
import socket
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

import cifar_archive
from score_embedding.config.sections import DataLoader
from score_embedding.data import cifar
from score_embedding.data.datasets import load_dataset, load_labelled
from score_embedding.errors import DataError

BATCHES = [f"data_batch_{i}" for i in (1, 2, 3, 4, 5)]
LABELS = [[5, 0, 5], [1, 5, 9, 5], [0, 2], [5, 5, 5], [3, 5]]  # 8 dogs in 5 batches


def python2_str(content):
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content
    return b"T" + struct.pack("<i", len(content)) + content


def python2_batch(data, labels):
    """What Python 2's cPickle wrote, opcode by opcode: keys and pixels are its byte strings."""
    dtype = b"cnumpy\ndtype\n" + python2_str(b"u1") + b"K\x00K\x01\x87R"
    dtype += (
        b"(K\x03" + python2_str(b"|") + b"NNN" + 2 * (b"J" + struct.pack("<i", -1)) + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    array += python2_str(b"b") + b"\x87R"
    shape = b"".join(b"M" + struct.pack("<H", n) for n in data.shape) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89" + python2_str(data.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    entries = python2_str(b"batch_label") + python2_str(b"training batch")
    entries += python2_str(b"labels") + numbers + python2_str(b"data") + array
    return b"\x80\x02}(" + entries + b"u."


def pixels():
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8) for labels in LABELS]


def expected_dogs():
    """By the documented layout: 1024 red, then green, then blue values, each row by row."""
    found = []
    for data, labels in zip(pixels(), LABELS, strict=True):
        for row, label in zip(data, labels, strict=True):
            if label == 5:
                planes = [row[:1024], row[1024:2048], row[2048:]]
                found.append(np.dstack([plane.reshape(32, 32) for plane in planes]))
    return found


def dogs(source, count, seed):
    everyone = cifar.split(source, "train", lambda images: images.of_classes(["dog"]))
    return everyone.drawn(count, seed, "CIFAR-10").images


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "here" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, data, labels in zip(BATCHES, pixels(), LABELS, strict=True):
        (folder / name).write_bytes(python2_batch(data, labels))
    return folder


@pytest.fixture
def archive(folder):
    path = folder.parent.parent / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    return path


def sha256(path):
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def server(archive, serve):
    """A web server over the archive's folder: its address, and the paths asked for so far."""
    return serve(archive.parent)


def test_the_batches_of_this_test_are_what_python_reads(folder):
    content = pickle.loads((folder / "data_batch_1").read_bytes(), encoding="bytes")
    assert content[b"labels"] == LABELS[0]
    assert np.array_equal(content[b"data"], pixels()[0])


def test_a_download_is_kept_and_not_repeated(server, archive, tmp_path):
    url, asked = server
    for _ in range(2):
        path = cifar.fetch(tmp_path / "cache", f"{url}/{archive.name}", sha256(archive))
        assert path == tmp_path / "cache" / "cifar-10-python.tar.gz"
        assert path.read_bytes() == archive.read_bytes()
    assert len(asked) == 1
    assert cifar.find([tmp_path / "cache"]) == path
    assert len(dogs(path, 8, 0)) == 8


def test_a_damaged_copy_is_downloaded_again(server, archive, tmp_path):
    url, asked = server
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / archive.name).write_bytes(archive.read_bytes()[:1000])
    path = cifar.fetch(tmp_path / "cache", f"{url}/{archive.name}", sha256(archive))
    assert path.read_bytes() == archive.read_bytes()
    assert len(asked) == 1


def test_a_download_with_a_wrong_hash_is_refused_and_not_kept(server, archive, tmp_path):
    url, _ = server
    with pytest.raises(DataError, match="hash"):
        cifar.fetch(tmp_path / "cache", f"{url}/{archive.name}", "sha256:" + 64 * "0")
    assert [p for p in tmp_path.glob("cache/**/*") if p.is_file()] == []


def test_a_server_without_the_archive_is_an_error_with_the_remedy(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        cifar.fetch(tmp_path / "cache", f"{server[0]}/elsewhere.tar.gz", "sha256:" + 64 * "0")


def test_no_network_is_an_error_with_the_remedy(tmp_path):
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/cifar-10-python.tar.gz"
        with pytest.raises(DataError) as caught:
            cifar.fetch(tmp_path / "cache", url)
    expected = [url, str(tmp_path / "cache"), "cifar-10-python.tar.gz", "--set data_loader.path="]
    assert [part for part in expected if part not in str(caught.value)] == []


@pytest.mark.parametrize("seed", [0, 9, 56])
@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_dogs_are_the_draw_of_numpys_random_state_in_file_order(kind, n, seed, request):
    found = dogs(request.getfixturevalue(kind), n, seed)
    everyone = expected_dogs()
    chosen = np.random.RandomState(seed).choice(len(everyone), n, replace=False)
    assert len(found) == n
    for dog, i in zip(found, chosen, strict=True):
        assert (dog.dtype, dog.shape) == (np.uint8, (32, 32, 3))
        assert np.array_equal(dog, everyone[i])


def test_an_uncompressed_archive_is_read(folder, tmp_path):
    path = tmp_path / "cifar.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "cifar-10-batches-py")
    assert cifar.find([path]) == path
    assert np.array_equal(dogs(path, 8, 1), dogs(folder, 8, 1))


def test_an_archive_is_unpacked_once_in_whatever_order_its_batches_are(
    folder, tmp_path, monkeypatch
):
    path, opened, open_archive = tmp_path / "cifar.tar.gz", [], tarfile.open
    with open_archive(path, "w:gz") as tar:
        for name in BATCHES[::-1]:
            tar.add(folder / name, f"cifar-10-batches-py/{name}")

    def count(source, *options):
        opened.append(source)
        return open_archive(source, *options)

    monkeypatch.setattr(tarfile, "open", count)
    assert np.array_equal(dogs(path, 8, 1), dogs(folder, 8, 1))
    assert opened == [path]


def test_batches_pickled_by_python_3_are_read_equally(folder):
    before = dogs(folder, 8, 1)
    for name, data, labels in zip(BATCHES, pixels(), LABELS, strict=True):
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=2))
    assert np.array_equal(dogs(folder, 8, 1), before)


def test_the_data_is_found_itself_or_in_a_parent(folder, archive):
    assert cifar.find([folder]) == folder
    assert cifar.find([folder.parent]) == folder
    assert cifar.find([archive]) == archive
    assert cifar.find([archive.parent]) == archive
    assert cifar.find([archive.parent / "nowhere", folder.parent, archive]) == folder


def test_nothing_is_found_where_nothing_is(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    assert cifar.find([tmp_path, tmp_path / "nowhere", tmp_path / "notes.txt"]) is None
    assert cifar.find([]) is None


def test_too_few_dogs_are_counted(folder):
    with pytest.raises(DataError, match="8 images, 9 asked for"):
        dogs(folder, 9, 0)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_missing_batch_is_named(kind, name, folder, tmp_path):
    (folder / name).unlink()
    source = folder
    if kind == "archive":
        source = tmp_path / "short.tar.gz"
        with tarfile.open(source, "w:gz") as tar:
            tar.add(folder, "cifar-10-batches-py")
    with pytest.raises(DataError, match=name):
        dogs(source, 1, 0)


ROWS = np.zeros((6, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        3,
        ROWS,
        {b"data": ROWS},
        {b"labels": [5] * 6},
        {"data": ROWS, "labels": [5] * 6},
        {b"data": ROWS[:, :5], b"labels": [5] * 6},
        {b"data": b"pixels", b"labels": [5] * 6},
        {b"data": ROWS, b"labels": [5]},
        {b"data": ROWS, b"labels": [1] * 7},
        {b"data": ROWS, b"labels": 5},
        {b"data": ROWS, b"labels": None},
        {b"data": ROWS, b"labels": [[5], [5, 6]]},
        {b"data": ROWS, b"labels": np.full((6, 1), 5)},
        {b"data": ROWS, b"labels": [5, 5, 5, 5, 5, 10]},
        {b"data": ROWS, b"labels": ["dog"] * 6},
    ],
    ids=[
        *("dict", "list", "none", "number", "array", "no labels", "no data", "text keys"),
        *("short rows", "bytes", "few labels", "many labels", "one label", "labels none"),
        *("ragged labels", "labels in a column", "no class", "words"),
    ],
)
def test_a_pickle_that_is_no_batch_is_named(content, folder):
    # protocol 2: what numpy writes for protocol 5 is tested in test_pickles.py
    (folder / "data_batch_3").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match="data_batch_3"):
        dogs(folder, 1, 0)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_batch_is_named(share, folder):
    content = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="data_batch_2"):
        dogs(folder, 1, 0)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_named(share, archive):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=archive.name):
        dogs(archive, 1, 0)


def test_a_damaged_archive_raises_nothing_but_its_own_error(archive):
    content, rng = archive.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(0, len(content), 60):
        for damage in (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff"):
            archive.write_bytes(content[:position] + damage + content[position + 4 :])
            with contextlib.suppress(DataError):
                dogs(archive, 1, 0)


def test_a_run_reads_its_dogs_from_the_path_of_the_config(folder):
    options = DataLoader(dataset="cifar", path=str(folder.parent), num_images=3, seed=9)
    images = load_dataset(options)
    for image, dog in zip(images, dogs(folder, 3, 9), strict=True):
        scaled = (dog - float(dog.min())) / (float(dog.max()) - float(dog.min()))
        assert np.allclose(image.permute(1, 2, 0), scaled, atol=1e-6)


def test_classes_of_a_part_in_file_order(folder):
    rng = np.random.default_rng(8)
    tested = rng.integers(0, 256, (5, 3072), dtype=np.uint8)
    (folder / "test_batch").write_bytes(python2_batch(tested, [9, 0, 3, 5, 0]))
    options = DataLoader(dataset="cifar", path=str(folder), classes=["truck", "airplane"])
    found = load_labelled(options)
    assert [found.classes[label] for label in found.labels] == ["airplane", "truck", "airplane"]
    test = load_labelled(options.model_copy(update={"num_images": 1}), "test")
    assert test.labels.tolist() == [9, 0, 0]
    everything = options.model_copy(update={"classes": ["all"], "contrast": "own"})
    assert len(load_labelled(everything).images) == sum(map(len, LABELS))
    expected = tested.reshape(5, 3, 32, 32).astype(np.float32) / 255
    assert np.array_equal(load_labelled(everything, "test").images, expected)


def test_a_class_that_is_not_there_is_named(folder):
    options = DataLoader(dataset="cifar", path=str(folder), classes=["dogs"])
    with pytest.raises(DataError, match=r"'dogs' is not one of .*; did you mean dog\?"):
        load_dataset(options)


def test_a_run_finds_the_archive_in_the_data_folder(archive, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("SCORE_EMBEDDING_DATA", str(archive.parent))
    assert load_dataset(DataLoader(dataset="cifar")).shape == (1, 3, 32, 32)


def test_a_path_without_cifar_is_an_error_and_not_a_download(folder, tmp_path):
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"data_loader\.path") as caught:
        load_dataset(DataLoader(dataset="cifar", path=str(tmp_path / "here")))
    assert str(tmp_path / "here") in str(caught.value)


def test_a_zip_of_dogs_becomes_an_archive_that_is_read_in_the_same_order(tmp_path):
    pictures = np.random.default_rng(4).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    with zipfile.ZipFile(tmp_path / "dogs.zip", "w") as archive:
        for k in (7, 3, *range(8, 12), 0, 1, 2, 4, 5, 6):  # the order of names counts
            content = io.BytesIO()
            Image.fromarray(pictures[k]).save(content, "PNG")
            archive.writestr(f"{k:04d}.png", content.getvalue())
    path = tmp_path / cifar.ARCHIVE
    cifar_archive.write_archive(cifar_archive.read_zip(tmp_path / "dogs.zip"), path)
    for seed in (9, 56):
        found = dogs(path, 3, seed)
        chosen = np.random.RandomState(seed).choice(12, 3, replace=False)
        np.testing.assert_array_equal(found, pictures[chosen])
    with tarfile.open(path) as archive:
        assert archive.getnames() == [f"{cifar.FOLDER}/{name}" for name in BATCHES]
