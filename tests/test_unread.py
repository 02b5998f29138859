"""Keys that a kind does not read: changing them changes no result, and where they are read it does.

A wrong entry would refuse a legitimate sweep, so every entry of kinds.py is tried.
"""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import idx_files
from command_line import TINY
from score_embedding import kinds
from score_embedding.config import loading, unread
from score_embedding.config.schema import BaselineConfig, Config
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import load_dataset
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.training.loop import train

CPU = torch.device("cpu")
SMALL = TINY | {
    "training.epochs": 2,
    "data_loader.image": "[astronaut, coffee]",
    "data_loader.num_images": 2,
    "image_density.side": 2,
    "image_density.arrays": 256,
    "image_density.components": 4,
    "image_density.em_steps": 1,
    "image_density.rank": 4,
}
# Other than those of SMALL and the defaults, and valid by themselves.
OTHER = {
    "diffusion.dh": 2,
    "diffusion.num_timesteps": 5,
    "diffusion.solve_tolerance": 1e-1,
    "diffusion.scheme": "implicit",
    "diffusion.density": "histogram",
    "diffusion.boundary": "zero",
    "diffusion.drift": 0.1,
    "image_density.kind": "stationary",
    "image_density.side": 4,
    "image_density.stride": 1,
    "image_density.components": 2,
    "image_density.rank": 1,
    "image_density.arrays": 50,
    "image_density.em_steps": 3,
    "training.epochs": 3,
    "training.lr": 1e-2,
    "training.grad_clip": 1e-3,
    "training.timestep_multiplier": 10,
    "training.ema": 0.9,
    "training.warmup": 5,
    "training.target": "exact",
    "training.seconds": 1e-3,
    "training.target_ssim": 1e-3,
    "training.noise_levels": "log_normal",
    "training.loss_weight": "min_snr",
    "training.precision": "bfloat16",
    "training.compile": True,
    "training.on_divergence": "restart",
    "training.steps_per_epoch": "one",
    "model.max_positions": 100,
    "model.num_images": 3,
    "model.ch": 16,
    "model.ch_mult": [1, 1],
    "model.num_res_blocks": 2,
    "model.attention_resolutions": [4],
    "model.dropout": 0.5,
    "model.resample_with_conv": False,
    "model.embedding_method": "linear",
    "model.image_conditioning": "none",
    "model.network": "published",
    "misc.eps": 1e-2,
    "misc.profile_freq": 5,
    "misc.checkpoint_freq": 5,
    "data_loader.batch_size": 3,
    "sample.steps": 3,
    "sample.tolerance": 1e-1,
    "sample.conditional_weight": 0.5,
    "sample.prior": "matched",
    "sample.gaussian_above": 1.5,
    "data_loader.seed": 5,
    "data_loader.image": "rocket",
}
# Equal to data_loader.channels; only of a network that is conditioned on classes.
NOT_ALONE = {"model.in_channels", "model.out_channels", "sample.classes"}
METHODS = {
    "score_embedding": {},
    "residual": {"diffusion.embedding": "residual", "image_density.kind": "gaussian"},
    "density": {"diffusion.embedding": "residual", "sample_method": "closed_form"},
    "closed_form": {"sample_method": "closed_form"},
    "ddpm": {"sample_method": "ddpm"},
    "ddim": {"sample_method": "ddim"},
}


def config_of(*changes):
    values = loading.read(loading.find("quickstart"))
    wanted = {key: value for change in (SMALL, *changes) for key, value in change.items()}
    if wanted.get("sample_method") in ("ddpm", "ddim"):
        values["diffusion"] = {"num_timesteps": 6}
        allowed = unread.keys(BaselineConfig)
        wanted = {
            key: value
            for key, value in wanted.items()
            if (key in allowed or "." not in key) and not key.startswith("diffusion.")
        }
    for key, value in wanted.items():
        loading.put(values, key, loading.value_of(str(value), key), key)
    values["training"].pop("target_ssim", None)
    if "training.target_ssim" in wanted:
        values["training"]["target_ssim"] = wanted["training.target_ssim"]
    return loading.validate(values, source="test")


KNOWN = {}


def result(config):
    """Losses and samples of a run, without its reports; of each config once."""
    name = config.model_dump_json()
    if name not in KNOWN:
        KNOWN[name] = new_result(config)
    return KNOWN[name]


def new_result(config):
    images = load_dataset(config.data_loader)
    method = method_of(config)
    method.check(images)
    known = method.precompute(images, CPU)
    losses, network = [], None
    if method.trained:
        network = build_network(method, len(images), CPU)
        history = train(network, method.objective(images, known), config)
        losses = [row["loss"] for row in history.rows]
    samples = TrainedModel(method, network, known).sample(images)
    return np.concatenate([losses, samples.x.double().flatten().numpy(), [samples.nfe]])


def covered(entries, of):
    return [key for key in unread.keys(of) if key in entries or key.split(".")[0] in entries]


def test_every_entry_is_a_key_or_a_section_of_some_config():
    known = {*unread.keys(Config), *unread.keys(BaselineConfig)}
    sections = {key.split(".")[0] for key in known}
    tables = (kinds.METHODS, kinds.SCHEMES, kinds.SAMPLERS, kinds.DENSITIES, kinds.DATASETS)
    entries = {entry for table in tables for kind in table.values() for entry in kind.unread}
    assert len(entries) > 30
    assert entries <= known | sections


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_does_not_read_changes_nothing(method):
    base = config_of(METHODS[method])
    keys = covered(kinds.METHODS[method].unread, type(base))
    keys = [key for key in keys if key not in NOT_ALONE]
    assert set(keys) <= set(OTHER)
    assert keys
    changed = config_of(METHODS[method], {key: OTHER[key] for key in keys})
    assert changed.method == base.method == method
    for key in keys:
        section, name = key.split(".")
        assert getattr(getattr(base, section), name) != getattr(getattr(changed, section), name)
        assert "does not read it" in unread.why_unread(base, key)
    np.testing.assert_array_equal(result(changed), result(base))


READ = [
    *[("score_embedding", key) for key in ("diffusion.dh", "diffusion.num_timesteps", "misc.eps")],
    *[("score_embedding", key) for key in ("diffusion.density", "diffusion.boundary")],
    *[("score_embedding", key) for key in ("training.lr", "model.ch", "data_loader.batch_size")],
    *[("score_embedding", key) for key in ("diffusion.drift", "model.image_conditioning")],
    *[("score_embedding", key) for key in ("model.num_images", "model.max_positions")],
    *[("residual", f"training.{key}") for key in ("noise_levels", "ema", "timestep_multiplier")],
    *[(method, "training.loss_weight") for method in ("residual", "ddpm")],
    *[("residual", f"image_density.{key}") for key in ("kind", "side", "stride", "arrays")],
    *[("density", f"image_density.{key}") for key in ("components", "em_steps", "stride")],
    *[("closed_form", key) for key in ("misc.eps", "sample.steps")],
    *[("ddpm", key) for key in ("training.lr", "training.warmup", "model.dropout")],
]


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(("method", "key"), READ)
def test_what_a_method_reads_changes_its_result(method, key):
    base = config_of(METHODS[method])
    assert unread.why_unread(base, key) == ""
    other = result(config_of(METHODS[method], {key: OTHER[key]}))
    before = result(base)
    assert other.shape != before.shape or not np.array_equal(other, before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds.DENSITIES)
def test_what_a_density_does_not_read_changes_nothing_and_the_rest_does(kind):
    chosen = METHODS["density"] | {"image_density.kind": kind}
    base = config_of(chosen)
    before = result(base)
    keys = [key for key in unread.keys(Config) if key.startswith("image_density.")]
    keys.remove("image_density.kind")
    read = [key for key in keys if not unread.why_unread(base, key)]
    assert set(keys) - set(read) == set(kinds.DENSITIES[kind].unread)
    changed = {key: OTHER[key] for key in keys if key not in read}
    np.testing.assert_array_equal(result(config_of(chosen, changed)), before)
    for key in read:
        other = result(config_of(chosen, {key: OTHER[key]}))
        assert not np.array_equal(other, before), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "key"),
    [
        ({"diffusion.scheme": "spectral"}, "diffusion.solve_tolerance"),
        ({"sample.solver": "rk45"}, "sample.steps"),
        ({"sample.solver": "heun"}, "sample.tolerance"),
        ({"sample.type": "unconditional"}, "sample.conditional_weight"),
        ({"sample.type": "conditional", "sample.conditional_weight": 0.2}, "sample.prior"),
        ({"model.embedding_method": "linear"}, "model.max_positions"),
        ({"model.image_conditioning": "none"}, "model.num_images"),
    ],
)
def test_what_a_choice_does_not_read_changes_nothing_and_another_choice_reads_it(choice, key):
    base, changed = config_of(choice), config_of(choice, {key: OTHER[key]})
    assert base != changed
    np.testing.assert_array_equal(result(changed), result(base))
    name, chosen = next(iter(choice.items()))
    why = unread.why_unread(base, key)
    assert why.startswith(f"{name} {chosen} does not read it (")
    other = why.partition("(")[2].split()[0].strip(",)")
    given = choice | {name: other, "sample.conditional_weight": 0.2}
    base, changed = config_of(given), config_of(given, {key: OTHER[key]})
    assert unread.why_unread(base, key) == ""
    assert not np.array_equal(result(changed), result(base))


@pytest.fixture
def sources(tmp_path):
    """The options of each data set, with other ones in which all that it does not read differs."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    folders = {name: tmp_path / name for name in ("pictures", "batches", "elsewhere")}
    for folder in folders.values():
        folder.mkdir()
    files = [folders["pictures"] / f"{i}.png" for i in range(2)]
    for file, picture in zip(files, pixels[:2], strict=True):
        Image.fromarray(picture).save(file)
    for i in range(1, 6):
        batch = {b"data": pixels.transpose(0, 3, 1, 2).reshape(6, -1) // i, b"labels": [5] * 6}
        (folders["batches"] / f"data_batch_{i}").write_bytes(pickle.dumps(batch))
    faces = np.empty(6, dtype=object)
    faces[:] = list(pixels)
    (tmp_path / "faces.pkl").write_bytes(pickle.dumps(faces))
    digits = idx_files.write(tmp_path / "digits")
    return {
        "cifar": {"path": folders["batches"]},
        "fashion_mnist": {"path": digits},
        "mnist": {"path": digits},
        "celeb": {"path": tmp_path / "faces.pkl"},
        "imagenet": {"path": tmp_path / "faces.pkl"},
        "sample": {"image": "coffee"},
        "folder": {"path": folders["pictures"]},
        "files": {"path": files[0]},
    }


@pytest.mark.parametrize("dataset", kinds.DATASETS)
def test_what_a_data_set_does_not_read_changes_no_image(dataset, sources, tmp_path):
    values = {"dataset": dataset, "image_size": 8, "num_images": 1} | {
        key: str(value) for key, value in sources[dataset].items()
    }
    other = {"seed": 77, "image": "rocket", "path": str(tmp_path / "elsewhere")}
    keys = [entry.removeprefix("data_loader.") for entry in kinds.DATASETS[dataset].unread]
    assert keys
    before = load_dataset(DataLoader(**values))
    changed = load_dataset(DataLoader(**values | {key: other[key] for key in keys}))
    assert torch.equal(before, changed)
    if "seed" not in keys:
        seeds = (load_dataset(DataLoader(**values | {"seed": s})) for s in range(8))
        assert any(not torch.equal(before, images) for images in seeds)


def test_the_seed_of_the_data_is_read_where_it_draws_crops():
    cropped = {"data_loader.crops": True, "data_loader.num_images": 3}
    base, changed = config_of(cropped), config_of(cropped, {"data_loader.seed": 5})
    assert unread.why_unread(base, "data_loader.seed") == ""
    assert not torch.equal(load_dataset(base.data_loader), load_dataset(changed.data_loader))
    assert "data_loader.dataset sample" in unread.why_unread(config_of(), "data_loader.seed")


def test_crops_keep_their_contrast_and_the_key_of_it_is_not_read():
    cropped = {"data_loader.crops": True, "data_loader.num_images": 3}
    own = {"data_loader.contrast": "own"}
    base, changed = config_of(cropped), config_of(cropped, own)
    assert torch.equal(load_dataset(base.data_loader), load_dataset(changed.data_loader))
    why = unread.why_unread(base, "data_loader.contrast")
    assert why == "data_loader.crops True does not read it (False would)"
    whole, other = config_of(), config_of(own)
    assert unread.why_unread(whole, "data_loader.contrast") == ""
    assert not torch.equal(load_dataset(whole.data_loader), load_dataset(other.data_loader))


def test_a_kind_that_names_nothing_is_taken_to_read_everything(monkeypatch):
    quiet = kinds.SchemeKind("somewhere", "another scheme")
    monkeypatch.setitem(kinds.SCHEMES, "other", quiet)
    config = config_of({"diffusion.scheme": "other"})
    for key in unread.keys(Config):
        assert "diffusion.scheme" not in unread.why_unread(config, key)
