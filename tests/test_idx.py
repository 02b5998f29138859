import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import idx_files
from idx_files import LABELS, NAMES, images_of, packed
from score_embedding.config.sections import DataLoader
from score_embedding.data import idx
from score_embedding.data.datasets import load_dataset, load_labelled
from score_embedding.errors import DataError


@pytest.fixture
def folder(tmp_path):
    return idx_files.write(tmp_path / "here")


@pytest.fixture
def options(folder):
    def make(**values):
        values = {"dataset": "mnist", "path": str(folder), "channels": 1, **values}
        return DataLoader(**values)

    return make


def test_images_are_in_the_middle_of_larger_ones_at_their_own_contrast(options):
    found = load_dataset(options(image_size=(32, 31), contrast="own"))
    assert (found.dtype, found.shape) == (torch.float32, (6, 1, 32, 31))
    inner = found[:, 0, 2:30, 1:29]
    assert np.array_equal(inner, images_of("train").astype(np.float32) / 255)
    assert found.double().sum().item() == pytest.approx(inner.double().sum().item())


def test_each_image_is_stretched_unless_its_contrast_is_kept(options):
    found = load_dataset(options(image_size=28))
    x = images_of("train").astype(float)
    low, high = (f(x, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    np.testing.assert_allclose(found[:, 0], (x - low) / (high - low), rtol=0, atol=1e-6)


def test_smaller_images_are_resized_and_grey_is_repeated(options):
    found = load_dataset(options(image_size=14, channels=3))
    assert found.shape == (6, 3, 14, 14)
    assert torch.equal(found[:, 0], found[:, 2])


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_classes_of_a_part(options, part):
    found = load_labelled(options(classes=[9, "3"]), part)
    assert found.labels.tolist() == [label for label in LABELS[part] if label in (3, 9)]
    assert found.classes == tuple("0123456789")
    assert len(load_labelled(options(classes="all"), part).labels) == len(LABELS[part])


def test_num_images_are_drawn_from_the_seed_of_the_data(options):
    chosen = [load_labelled(options(num_images=4, seed=seed)).labels for seed in range(9)]
    places = np.random.RandomState(8).choice(6, 4, replace=False)
    assert chosen[8].tolist() == np.array(LABELS["train"])[places].tolist()
    assert len({tuple(labels.tolist()) for labels in chosen}) > 1
    assert len(load_labelled(options(num_images=4), "test").labels) == 2  # of which none are drawn


def test_too_few_images_are_counted(options):
    with pytest.raises(DataError, match=r"mnist, 3: 3 images, 4 asked for \(num_images\)"):
        load_dataset(options(classes=3, num_images=4))


def test_classes_of_a_data_set_without_labels_are_refused():
    with pytest.raises(ValueError, match=r"\(cifar, fashion_mnist, mnist\), not sample"):
        DataLoader(dataset="sample", image="coffee", classes="dog")


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_file_is_read_equally(name, folder, options):
    before = load_labelled(options()), load_labelled(options(), "test")
    (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    (folder / name).unlink()
    for was, part in zip(before, ("train", "test"), strict=True):
        now = load_labelled(options(), part)
        assert torch.equal(was.images, now.images)
        assert torch.equal(was.labels, now.labels)


IMAGES, LABEL = NAMES[:2]
DAMAGED = {
    "empty": (IMAGES, lambda _: b"", "not an IDX file of images"),
    "no sizes": (IMAGES, lambda content: content[:15], "not an IDX file of images"),
    "truncated": (IMAGES, lambda content: content[:-1], "are needed for shape"),
    "too long": (IMAGES, lambda content: content + b"0", "are needed for shape"),
    "labels": (IMAGES, lambda _: packed(np.zeros(6)), "not an IDX file of images"),
    "images": (LABEL, lambda _: packed(np.zeros((6, 28, 28))), "not an IDX file of labels"),
    "a picture": (LABEL, lambda _: b"\x89PNG" + bytes(40), "not an IDX file of labels"),
    "another size": (IMAGES, lambda _: packed(np.zeros((6, 32, 32))), "images of 32x32"),
    "too few": (IMAGES, lambda _: packed(images_of("train")[1:]), "5 images, but 6 labels in"),
    "class 10": (LABEL, lambda _: packed(np.array([0, 1, 2, 3, 10, 5])), "a label 10"),
    "half a gzip": (IMAGES, lambda content: gzip.compress(content)[:300], "damaged"),
    "changed gzip": (LABEL, lambda content: gzip.compress(content)[:-8] + bytes(8), "damaged"),
}


@pytest.mark.parametrize(("name", "change", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(name, change, message, folder, options):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(options())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_missing_file_is_named_and_no_download(name, folder, options):
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name} or {name}\.gz here \(data_loader\.path\)"):
        load_dataset(options())


@pytest.fixture
def served(folder, serve, monkeypatch):
    """The packed files on a web server, of which the checksums are known."""
    checksums = {}
    for name in NAMES:
        content = gzip.compress((folder / name).read_bytes(), mtime=0)
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    address, _ = serve(folder)
    nowhere = Path(folder.parent / "nowhere")
    source = idx.Source(nowhere, address, checksums, tuple("0123456789"))
    monkeypatch.setitem(idx.SOURCES, "mnist", source)
    monkeypatch.setenv("SCORE_EMBEDDING_DATA", str(folder.parent / "data"))
    monkeypatch.chdir(nowhere.parent)
    return source


def test_what_is_nowhere_is_downloaded_once(served, options):
    values = {"path": None, "contrast": "own", "image_size": 28}
    found = load_dataset(options(**values))
    assert np.array_equal(found[:, 0], images_of("train").astype(np.float32) / 255)
    kept = sorted(path.name for path in Path("data/mnist").iterdir())
    assert kept == [f"{name}.gz" for name in sorted(NAMES[:2])]
    del served
    idx.SOURCES["mnist"] = dataclasses.replace(idx.SOURCES["mnist"], url="http://127.0.0.1:9")
    assert torch.equal(load_dataset(options(**values)), found)


def test_a_download_of_something_else_is_refused_and_leaves_nothing(served, options):
    changed = served.md5 | {NAMES[1]: 32 * "0"}
    idx.SOURCES["mnist"] = dataclasses.replace(served, md5=changed)
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz .*put its four files into"):
        load_dataset(options(path=None))
    assert [path.name for path in Path("data/mnist").iterdir()] == [f"{NAMES[0]}.gz"]


@pytest.mark.skipif(
    not idx.SOURCES["fashion_mnist"].debian.is_dir(), reason="Debian's package is not installed"
)
def test_fashion_mnist_as_debian_has_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORE_EMBEDDING_DATA", str(tmp_path))
    options = DataLoader(dataset="fashion_mnist", channels=1, contrast="own")
    for part, count in (("train", 60_000), ("test", 10_000)):
        found = load_labelled(options, part)
        assert found.images.shape == (count, 1, 32, 32)
        assert found.labels.bincount().tolist() == [count // 10] * 10
    trousers = load_labelled(options.model_copy(update={"classes": ["trouser"]}), "test").images
    columns = trousers.mean(dim=(0, 1, 2))
    assert columns[:6].max() < 0.1 < columns[12:20].mean()  # they are narrow, and in the middle
