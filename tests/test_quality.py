"""Quality of samples: features, precision and recall, copies of training images."""

import math

import numpy as np
import pytest
import torch

from score_embedding.config.sections import DataLoader
from score_embedding.data import idx
from score_embedding.data.datasets import load_labelled
from score_embedding.errors import CheckpointError, DataError
from score_embedding.evaluation import (
    classifier,
    denoiser_error,
    features,
    frechet,
    memorisation,
    quality,
)
from score_embedding.evaluation.precision_recall import precision_recall

CPU = torch.device("cpu")


def pictures(photographs, n, side=16):
    """n crops of real photographs, (n, 1, side, side) in float32."""
    grey = photographs(64).mean(dim=1, keepdim=True).float()
    rng = np.random.default_rng(0)
    places = rng.integers(0, 64 - side, (n, 2))
    return torch.stack(
        [grey[k % len(grey), :, i : i + side, j : j + side] for k, (i, j) in enumerate(places)]
    )


@pytest.fixture
def untrained(photographs):
    """A classifier with random weights that has normalised some batches."""
    torch.manual_seed(1)
    network = classifier.Classifier(1, 4)
    with torch.no_grad():
        for _ in range(20):
            network((255 * pictures(photographs, 20)).to(torch.uint8))
    return network.eval()


@pytest.fixture
def weights(untrained, tmp_path):
    """Its file."""
    path = tmp_path / "classifier.safetensors"
    classifier.save(untrained, path, "crops", 0.5)
    return path


# The classifier and its file


def test_a_saved_classifier_gives_the_same_features_up_to_float16(untrained, weights, photographs):
    images = pictures(photographs, 5)
    with torch.no_grad():
        expected = untrained((255 * images).round().to(torch.uint8))
    network = features.load(weights, CPU)
    found = network.features(images)
    assert found.shape == (5, classifier.FEATURES)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.numpy(), rtol=0.02, atol=0.01)
    assert found.std(axis=0).max() > 0.03  # images differ


def test_its_name_states_data_set_accuracy_and_checksum(weights):
    sha256 = classifier.load(weights, CPU).sha256
    name = features.load(weights, CPU).name
    assert name == (f"classifier of crops, 96 features, test accuracy 50.0%, SHA-256 {sha256[:12]}")


def test_a_changed_or_truncated_classifier_is_refused(weights):
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        features.load(weights, CPU)
    weights.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match="not a classifier that can be read"):
        features.load(weights, CPU)


def test_images_of_other_channels_are_refused(weights):
    with pytest.raises(DataError, match=r"takes images of 1 channel\(s\), these have 3"):
        features.load(weights, CPU).features(torch.zeros(2, 3, 8, 8))


def test_the_bundled_classifier_has_the_accuracy_that_it_states():
    trained = classifier.load(features.BUNDLED["fashion_mnist"], CPU)
    assert (trained.network.channels, trained.dataset) == (1, "fashion_mnist")
    if not idx.SOURCES["fashion_mnist"].debian.is_dir():
        pytest.skip("Fashion-MNIST is not in the place of Debian's package")
    data = DataLoader(dataset="fashion_mnist", classes="all", contrast="own", channels=1)
    found = load_labelled(data, "test")
    with torch.no_grad():
        answers = trained.network((255 * found.images[:500]).round().to(torch.uint8))
        right = trained.network.logits(answers).argmax(dim=1) == found.labels[:500]
    assert float(right.double().mean()) == pytest.approx(trained.accuracy, abs=0.04)


# Precision and recall


def by_loop(real, generated, k):
    """The definition, point by point."""

    def covered(points, others):
        found = 0
        for point in points:
            for i, other in enumerate(others):
                gaps = sorted(math.dist(other, o) for j, o in enumerate(others) if j != i)
                if math.dist(point, other) <= gaps[k - 1]:
                    found += 1
                    break
        return found / len(points)

    return covered(generated, real), covered(real, generated)


@pytest.mark.parametrize("block", [1, 100, 2**24])
def test_precision_and_recall_are_those_of_the_definition(block, monkeypatch):
    rng = np.random.default_rng(0)
    real = rng.normal(size=(40, 3))
    generated = 0.8 * rng.normal(size=(40, 3)) + 0.7
    monkeypatch.setattr("score_embedding.evaluation.precision_recall._BLOCK", block)
    precision, recall = precision_recall(real, generated, 3)
    assert (precision, recall) == pytest.approx(by_loop(real, generated, 3), abs=1e-12)
    assert 0 < recall < precision < 1


def test_equal_sets_have_both_and_distant_ones_neither():
    x = np.random.default_rng(0).normal(size=(30, 4))
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 100) == (0, 0)


def test_sets_of_different_or_too_small_size_are_refused():
    with pytest.raises(ValueError, match="5 real, 6 generated"):
        precision_recall(np.zeros((5, 2)), np.zeros((6, 2)))
    with pytest.raises(ValueError, match="more than neighbours, 3, are needed"):
        precision_recall(np.zeros((3, 2)), np.zeros((3, 2)))


# Copies


@pytest.mark.parametrize("block", [1, 2**24])
def test_the_nearest_images_are_those_of_a_loop(photographs, block, monkeypatch):
    monkeypatch.setattr(memorisation, "_BLOCK", block)
    images = pictures(photographs, 30).double()
    generator = torch.Generator().manual_seed(0)
    samples = (images[:7] + 0.3 * torch.randn(7, 1, 16, 16, generator=generator)).clamp(0, 1)
    found = memorisation.nearest(samples.float(), images)
    for sample, which, two in zip(samples, found.nearest, found.distances, strict=True):
        distances = [float((sample - image).norm()) for image in images]
        assert int(which) == int(np.argmin(distances))
        np.testing.assert_allclose(two, sorted(distances)[:2], rtol=1e-6)


def test_copies_are_counted_and_averages_are_not(photographs):
    images = pictures(photographs, 30)
    copies = images[3:7] + 1e-3
    averages = (images[0:4] + images[10:14]) / 2
    assert memorisation.nearest(copies, images).share == 1
    assert memorisation.nearest(averages, images).share == 0
    assert memorisation.nearest(torch.cat([copies, averages]), images).share == 0.5


def test_a_copy_of_an_image_that_is_there_twice_is_a_copy(photographs):
    images = pictures(photographs, 6)
    assert memorisation.nearest(images[:1], torch.cat([images, images])).share == 1


def test_the_threshold_is_a_third_of_the_second_distance():
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    for place, copied in ((0.2499, True), (0.2501, False)):  # 1/4 is a third of 3/4
        assert memorisation.nearest(torch.full((1, 1, 1, 1), place), images).share == copied


def test_one_training_image_is_refused():
    with pytest.raises(ValueError, match="1 training image"):
        memorisation.nearest(torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4))


# All together


def test_the_quality_of_samples_states_what_it_depends_on(weights, photographs):
    images = pictures(photographs, 60)
    network = features.load(weights, CPU)
    real = quality.reference(images[:40], network, images[40:])
    same = quality.measure(images[:40], real)
    assert (same.samples, same.images, same.compared, same.floor_images) == (40, 40, 40, 20)
    assert same.features == network.name
    assert same.frechet == pytest.approx(0, abs=1e-6)
    assert (same.precision, same.recall, same.memorised, same.nearest) == (1, 1, 1, 0)
    assert same.frechet_floor == pytest.approx(
        frechet.distance(network.features(images[:40]), network.features(images[40:]))
    )
    noise = quality.measure(torch.rand(30, 1, 16, 16, generator=torch.Generator()), real)
    assert noise.frechet > same.frechet_floor > same.frechet
    assert (noise.samples, noise.compared, noise.memorised) == (30, 30, 0)
    assert noise.precision < 0.5
    assert noise.nearest > 0.1


def test_the_floor_is_of_as_many_images_as_there_are_samples(weights, photographs):
    images = pictures(photographs, 60)
    real = quality.reference(images[:30], features.load(weights, CPU), images[30:])
    assert quality.measure(images[:10], real).floor_images == 10
    alone = quality.reference(images[:30], features.load(weights, CPU))
    assert quality.measure(images[:10], alone).frechet_floor is None


def test_too_few_samples_are_refused_with_the_remedy(weights, photographs):
    real = quality.reference(pictures(photographs, 10), features.load(weights, CPU))
    with pytest.raises(DataError, match=r"3 sample.* draw more with `sample -n`"):
        quality.measure(torch.zeros(3, 1, 16, 16), real)


# Error per noise level


def test_the_error_of_the_noisy_image_itself_is_the_variance(photographs):
    images = pictures(photographs, 50)
    found = denoiser_error.errors(lambda x, _: x, images, (0.1, 2.0))
    assert found[0.1] == pytest.approx(0.01, rel=0.05)
    assert found[2.0] == pytest.approx(4, rel=0.05)


def test_each_batch_is_given_its_noise_level_and_the_same_noise(photographs):
    images = pictures(photographs, 10)
    seen = []

    def denoise(x, s):
        seen.append((x.clone(), s.tolist()))
        return x

    whole = denoiser_error.outputs(denoise, images, 0.5)
    parts = denoiser_error.outputs(denoise, images, 0.5, batch=3)
    assert torch.equal(whole, parts)
    assert [s for _, s in seen] == [[0.5] * 10, [0.5] * 3, [0.5] * 3, [0.5] * 3, [0.5]]
    assert not torch.equal(whole[0] - images[0], whole[1] - images[1])


def test_r_squared_is_the_median_coefficient_of_determination(photographs):
    b = pictures(photographs, 5).double()
    a = b + 0.05 * torch.randn(b.shape, generator=torch.Generator().manual_seed(0))
    by_hand = [
        1 - np.square(p - q).sum() / np.square(q - q.mean()).sum()
        for p, q in zip(a.numpy(), b.numpy(), strict=True)
    ]
    assert denoiser_error.r_squared(a, b) == pytest.approx(np.median(by_hand), rel=1e-12)
    assert denoiser_error.r_squared(b, b) == 1
    constant = b.mean(dim=(1, 2, 3), keepdim=True).expand_as(b)
    assert denoiser_error.r_squared(constant, b) == pytest.approx(0, abs=1e-12)
    assert math.isnan(denoiser_error.r_squared(b, torch.zeros_like(b)))
