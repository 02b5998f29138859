"""Crops of photographs, photographs at their own contrast, and those that are held out."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from score_embedding.config import loading
from score_embedding.config.sections import DataLoader, HeldOut
from score_embedding.data import bundled_pictures, crops
from score_embedding.data import datasets as data
from score_embedding.errors import ConfigError, DataError


def numbered(h, w, first):
    """An image whose pixels all differ, and from those of one with another `first`."""
    return (torch.arange(h * w) + first).reshape(1, h, w).float()


# Crops


def test_every_place_of_every_image_is_equally_likely_and_half_are_flipped(generator):
    images = [numbered(5, 6, 0), numbered(4, 4, 100)]
    places = {
        image[0, y : y + 3, x : x + 2].numpy().tobytes(): (int(image[0, y, x]), 0)
        for image in images
        for y in range(image.shape[1] - 2)
        for x in range(image.shape[2] - 1)
    }
    assert len(places) == 15 + 6
    for flip, cells in ((True, 42), (False, 21)):
        drawn = crops.draw(images, (3, 2), 200 * cells, generator, flip)
        assert drawn.shape == (200 * cells, 1, 3, 2)
        found = {}
        for crop in drawn[:, 0]:
            own = places.get(crop.numpy().tobytes())
            own = own or (places[crop.flip(1).numpy().tobytes()][0], 1)
            found[own] = found.get(own, 0) + 1
        assert len(found) == cells
        assert stats.chisquare(list(found.values())).pvalue > 1e-3


def test_crops_are_the_generators_alone():
    images = [numbered(9, 7, 0), numbered(8, 8, 100)]
    drawn = [
        crops.draw(images, (3, 3), 20, torch.Generator().manual_seed(seed), True)
        for seed in (4, 4, 5)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("size", [(2, 3), (5, 4), (9, 3), (2, 14), (13, 11)])
def test_images_are_continued_as_numpy_mirrors_them(size, generator):
    image = torch.stack([numbered(2, 3, 0)[0], numbered(2, 3, 50)[0]])
    pad = [(0, 0), *((0, wanted - has) for wanted, has in zip(size, (2, 3), strict=True))]
    expected = torch.from_numpy(np.pad(image.numpy(), pad, mode="symmetric"))
    assert torch.equal(crops.continued(image, *size), expected)
    assert torch.equal(crops.draw([image], size, 1, generator)[0], expected)


def test_the_middle_is_in_the_middle():
    image = numbered(6, 9, 0)
    assert crops.middle(image, 4)[0, :, 0].tolist() == [11, 20, 29, 38]
    assert crops.middle(image, 4).shape == (1, 4, 4)
    assert torch.equal(crops.middle(image, 7), image[:, :, 1:8])
    assert torch.equal(crops.middle(image, 100), image)


# Data


@pytest.fixture
def pale(tmp_path):
    """A folder of two pictures of little contrast, and their pixels."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(100, 150, size=(h, w, 3), dtype=np.uint8) for h, w in ((21, 30), (9, 9))]
    for name, pixels in zip("ab", arrays, strict=True):
        (tmp_path / "pale").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pale" / f"{name}.png")
    return tmp_path / "pale", arrays


def loader(folder, **options):
    return DataLoader(dataset="folder", path=[str(folder)], crops=True, **options)


def test_photographs_keep_their_size_and_contrast(pale):
    folder, arrays = pale
    found = data.load_photographs(loader(folder, num_images=1))  # of crops, not of files
    for photograph, pixels in zip(found, arrays, strict=True):
        assert photograph.dtype == torch.float32
        np.testing.assert_allclose(photograph.permute(1, 2, 0), pixels / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("times", [2, 4, 50])
def test_shrinking_is_pillows(pale, times):
    folder, arrays = pale
    found = data.load_photographs(loader(folder, shrink=times, channels=1))
    for photograph, pixels in zip(found, arrays, strict=True):
        h, w = (max(1, side // times) for side in pixels.shape[:2])
        grey = Image.fromarray((pixels @ [0.299, 0.587, 0.114]).astype(np.float32) / 255)
        expected = np.asarray(grey.resize((w, h), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(photograph[0], expected, rtol=0, atol=1e-5)


def test_a_data_set_of_crops_is_that_of_its_seed(pale):
    folder, _ = pale
    images = data.load_dataset(loader(folder, image_size=8))
    assert images.shape == (16, 3, 8, 8)
    assert 100 / 255 <= images.min() < images.max() < 150 / 255
    again, other = (data.load_dataset(loader(folder, image_size=8, seed=seed)) for seed in (0, 1))
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert len(data.load_dataset(loader(folder, image_size=8, num_images=3))) == 3


def test_what_is_held_out_has_its_name_and_its_middle(pale):
    folder, arrays = pale
    options = HeldOut(image="flower", path=str(folder), crop=8)
    found = data.load_held_out(options, 3)
    assert list(found) == ["flower", "a.png", "b.png"]
    assert {x.shape for x in found.values()} == {(3, 8, 8)}
    middle = arrays[0][6:14, 11:19] / 255
    np.testing.assert_allclose(found["a.png"].permute(1, 2, 0), middle, rtol=0, atol=1e-6)
    whole = data.load_held_out(HeldOut(path=str(folder), shrink=3), 1)
    assert [x.shape for x in whole.values()] == [(1, 7, 10), (1, 3, 3)]


def test_held_out_files_of_the_same_name_are_both_measured(pale, tmp_path):
    folder, _ = pale
    shutil.copytree(folder, tmp_path / "other")
    options = HeldOut(path=[str(folder), str(tmp_path / "other")])
    assert len(data.load_held_out(options, 3)) == 4


def test_files_that_cannot_be_held_out_or_cropped_are_named(pale, tmp_path):
    folder, _ = pale
    (folder / "notes.png").write_text("no picture")
    for load in (
        lambda: data.load_held_out(HeldOut(path=str(folder)), 3),
        lambda: data.load_photographs(loader(folder)),
    ):
        with pytest.raises(DataError, match=r"notes\.png: not an image"):
            load()
    with pytest.raises(DataError, match=r"nowhere: no such file"):
        data.load_held_out(HeldOut(path=str(tmp_path / "nowhere")), 3)
    with pytest.raises(DataError, match=r"flwer: not among .*flower"):
        data.load_held_out(HeldOut(image=["china", "flwer"]), 3)


def test_what_is_trained_on_is_not_held_out_under_another_name(pale, tmp_path, monkeypatch):
    folder, _ = pale
    last = sorted(folder.iterdir())[-1]  # also of what crops are drawn from, whatever their number
    (tmp_path / "link.png").symlink_to(last)
    monkeypatch.chdir(tmp_path)
    trained_on = DataLoader(dataset="folder", path=str(folder), crops=True, num_images=1)
    for given in (str(folder), "link.png", os.path.relpath(last)):
        with pytest.raises(DataError, match=r"held_out: .*trained on, too"):
            data.check_apart(HeldOut(path=given), trained_on)
    coffee, sample = (
        bundled_pictures.available()["coffee"],
        DataLoader(dataset="sample", image=["coffee"]),
    )
    for given in (HeldOut(path=str(coffee)), HeldOut(image=["china", "coffee"])):
        with pytest.raises(DataError, match=r"held_out: .*coffee.*: trained on, too"):
            data.check_apart(given, sample)
    data.check_apart(HeldOut(path=str(coffee), image=["china"]), trained_on)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["data_loader.dataset=cifar"], "crops are of datasets sample, folder and files"),
        (["held_out={}"], "image or path is needed"),
        (["held_out.levels=[]"], "held_out.levels"),
        (["held_out.levels=[0.1,0]"], "held_out.levels.1"),
        (["training.target_ssim=0.9"], "training.target_ssim: samples are not measured"),
        (["sample_method=closed_form", "diffusion.embedding=input"], "knows no others"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change, said):
    with pytest.raises(ConfigError, match="photographs") as refused:
        loading.load("photographs", change)
    assert said in str(refused.value)


def test_a_residual_model_starts_from_its_own_noise_by_default():
    assert loading.load("photographs").sample.prior == "matched"
    for change in (["sample.prior=unit"], ["diffusion.embedding=input"]):
        assert loading.load("photographs", change).sample.prior == "unit"
    steps = loading.load("photographs", ["sample.steps=3"])
    assert (steps.sample.prior, steps.sample.steps) == ("matched", 3)
    assert loading.load("quickstart").sample.prior == "unit"
