import pytest
import yaml

from score_embedding.config import loading
from score_embedding.config.schema import BaselineConfig, Config
from score_embedding.errors import ConfigError
from score_embedding.methods.base import method_of

# REFERENCE.md, section 2: images, size, data, seed, batch, sigma, N, tolerance, epochs, lr, clip,
# time multiplier, time embedding, convolution in resampling, conditional weight (None: off)
PUBLISHED = {
    "cifar1": (1, 32, "cifar", 9, 20, 5, 20, 2e-8, 300, 8e-5, None, 1, "linear", True, None),
    "cifar3_unconditional": (
        *(3, 32, "cifar", 56, 10, 2, 10, 2e-8, 300, 1e-4, None, 2, "linear", True, None),
    ),
    "cifar3_conditional": (
        *(3, 32, "cifar", 56, 10, 2, 10, 2e-8, 300, 1e-4, None, 1, "fourier", True, 0.6),
    ),
    "celeb1": (1, 64, "celeb", 0, 10, 2, 10, 1e-6, 750, 1e-4, None, 1, "linear", False, None),
    "celeb3_unconditional": (
        *(3, 64, "celeb", 0, 10, 2, 10, 2e-8, 750, 1e-4, 1, 4, "linear", False, None),
    ),
    "inet3_conditional": (
        *(3, 64, "imagenet", 0, 10, 2, 10, 2e-6, 750, 1e-4, 1, 1000, "fourier", False, 0.65),
    ),
}

# images, size, data, data seed, beta_min, beta_max, epochs, lr, clip, warm-up, conditional weight
BASELINES = {
    "cifar1_ddpm": (1, 32, "cifar", 9, 1e-4, 0.02, 1200, 2e-4, 1, 5000, None),
    "cifar1_ddim": (1, 32, "cifar", 9, 1e-4, 0.008, 1500, 2e-4, 1, 5000, None),
    "cifar3_ddpm": (3, 32, "cifar", 56, 5e-4, 0.004, 1500, 1e-4, 1, 5000, 0.3),
    "cifar3_ddim": (3, 32, "cifar", 56, 5e-4, 0.001, 1200, 1e-4, 0.2, 700, 0.3),
    "celeb1_ddpm": (1, 64, "celeb", 0, 1e-4, 0.002, 1750, 2e-4, 1, 600, None),
    "celeb1_ddim": (1, 64, "celeb", 0, 1e-4, 0.008, 750, 1e-4, 1, 400, None),
    "inet3_ddpm": (3, 64, "imagenet", 0, 1e-4, 0.008, 2500, 1e-5, 0.3, 500, 0.3),
}

OFFICIAL = """\
name: mine
data_loader:
  num_images: 3
  image_size: 32
  dataset: cifar
  seed: 56
  channels: 3
  batch_size: 10
  rotate_augment: False
diffusion: {sigma: 2, dh: 1, num_timesteps: 10, solve_tolerance: 2e-8}
training: {epochs: 300, lr: 1e-4, grad_clip: False, timestep_multiplier: 2}
model:
  max_positions: 10000
  num_images: 3
  in_channels: 3
  out_channels: 3
  ch: 128
  ch_mult: [1, 2, 2, 2]
  num_res_blocks: 2
  attention_resolutions: [16]
  dropout: 0.1
  resample_with_conv: True
  embedding_method: linear
sample: {type: conditional, conditional_weight: 0.6}
misc: {eps: 1e-3, profile_freq: 10}
"""

OFFICIAL_BASELINE = """\
name: mine
sample_method: ddim
data_loader:
  num_images: 3
  image_size: 32
  dataset: cifar
  seed: 56
  channels: 3
  batch_size: 20
  rotate_augment: False
diffusion: {beta_min: 5e-4, beta_max: 0.001, num_timesteps: 1000}
training: {epochs: 1200, lr: 1e-4, grad_clip: 0.2, ema: 0.9999, warmup: 700}
model:
  max_positions: 10000
  num_images: 3
  in_channels: 3
  out_channels: 3
  ch: 128
  ch_mult: [1, 2, 2, 2]
  num_res_blocks: 2
  attention_resolutions: [16]
  dropout: 0.1
  resample_with_conv: True
  embedding_method: fourier
sample: {type: conditional, conditional_weight: 0.3}
misc: {eps: 1e-3, profile_freq: 10}
"""

SHORT_BASELINE = "name: a\nsample_method: ddpm\ndata_loader: {dataset: cifar}\n"
SHORT = "name: a\ndata_loader: {dataset: cifar}\n"


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "mine.yml"
        path.write_text(text, encoding="utf-8")
        return loading.load(str(path), list(overrides))

    return load


@pytest.fixture
def refusal(load):
    def refusal(text, *overrides):
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        return str(caught.value)

    return refusal


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_holds_the_published_values(name):
    c = loading.load(name)
    assert c.name == name
    assert PUBLISHED[name] == (
        c.data_loader.num_images,
        *(c.data_loader.image_size[0], c.data_loader.dataset),
        *(c.data_loader.seed, c.data_loader.batch_size),
        *(c.diffusion.sigma, c.diffusion.num_timesteps, c.diffusion.solve_tolerance),
        *(c.training.epochs, c.training.lr, c.training.grad_clip),
        *(c.training.timestep_multiplier, c.model.embedding_method),
        *(c.model.resample_with_conv, c.sample.conditional_weight),
    )
    conditional = PUBLISHED[name][-1] is not None
    assert c.sample.type == ("conditional" if conditional else "unconditional")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_holds_the_common_values(name):
    c = loading.load(name)
    assert c.data_loader.image_size[0] == c.data_loader.image_size[1]
    assert (c.data_loader.channels, c.model.in_channels, c.model.out_channels) == (3, 3, 3)
    assert (c.diffusion.dh, c.misc.eps, c.model.dropout) == (1, 1e-3, 0.1)
    assert (c.model.ch, c.model.ch_mult, c.model.num_res_blocks) == (128, (1, 2, 2, 2), 2)
    assert c.model.attention_resolutions == (16,)
    assert c.model.max_positions == (1000 if name == "cifar3_conditional" else 10000)
    assert c.sample.prior == "unit"


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_config_holds_the_published_values(name):
    c = loading.load(name)
    assert isinstance(c, BaselineConfig)
    assert (c.name, c.sample_method) == (name, name.split("_")[1])
    assert BASELINES[name] == (
        c.data_loader.num_images,
        *(c.data_loader.image_size[0], c.data_loader.dataset, c.data_loader.seed),
        *(c.diffusion.beta_min, c.diffusion.beta_max),
        *(c.training.epochs, c.training.lr, c.training.grad_clip, c.training.warmup),
        c.sample.conditional_weight,
    )
    conditional = BASELINES[name][-1] is not None
    assert c.sample.type == ("conditional" if conditional else "unconditional")


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_config_holds_the_common_values(name):
    c = loading.load(name)
    assert c.data_loader.image_size[0] == c.data_loader.image_size[1]
    assert (c.data_loader.channels, c.model.in_channels, c.model.out_channels) == (3, 3, 3)
    assert (c.data_loader.batch_size, c.diffusion.num_timesteps) == (20, 1000)
    assert (c.training.ema, c.training.timestep_multiplier) == (0.9999, 1)
    assert (c.model.ch, c.model.ch_mult, c.model.num_res_blocks) == (128, (1, 2, 2, 2), 2)
    assert (c.model.embedding_method, c.model.resample_with_conv) == ("fourier", True)
    assert (c.sample.prior, c.sample.steps) == ("unit", None)


def test_every_bundled_config_loads_under_its_own_name():
    names = loading.bundled()
    assert set(PUBLISHED) | set(BASELINES) | {"quickstart"} <= set(names)
    assert [loading.load(name).name for name in names] == list(names)


@pytest.mark.parametrize("spelling", ["cifar1", "cifar1.yml", "cifar1.yaml"])
def test_a_bundled_config_is_found_with_or_without_its_ending(spelling):
    assert loading.load(spelling) == loading.load("cifar1")


def test_a_file_in_the_official_layout_loads(load):
    c = load(OFFICIAL)
    assert (c.diffusion.solve_tolerance, c.training.lr, c.misc.eps) == (2e-8, 1e-4, 1e-3)
    assert c.training.grad_clip is None
    assert c.data_loader.rotate_augment is False
    assert c.model.num_images == 3
    assert c.sample.conditional_weight == 0.6


def test_every_key_of_the_official_file_reaches_the_config(load):
    resolved, given = load(OFFICIAL).model_dump(mode="json"), yaml.safe_load(OFFICIAL)
    for section, keys in given.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            expected = None if value is False and key == "grad_clip" else value
            expected = float(value) if value in ("2e-8", "1e-4", "1e-3") else expected
            assert resolved[section][key] == expected, f"{section}.{key}"


def test_a_baseline_file_in_the_official_layout_loads(load):
    c = load(OFFICIAL_BASELINE)
    assert isinstance(c, BaselineConfig)
    assert (c.diffusion.beta_min, c.diffusion.beta_max) == (5e-4, 0.001)
    assert (c.training.ema, c.training.warmup, c.training.grad_clip) == (0.9999, 700, 0.2)
    assert (c.method, c.sample.conditional_weight) == ("ddim", 0.3)
    resolved, given = c.model_dump(mode="json"), yaml.safe_load(OFFICIAL_BASELINE)
    for section, keys in given.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            expected = float(value) if value in ("5e-4", "1e-4", "1e-3") else value
            assert resolved[section][key] == expected, f"{section}.{key}"


def test_false_switches_averaging_and_warm_up_off(load):
    text = OFFICIAL_BASELINE.replace("ema: 0.9999", "ema: False")
    c = load(text.replace("warmup: 700", "warmup: False"))
    assert (c.training.ema, c.training.warmup) == (None, None)
    assert load(loading.dump(c)) == c


def test_an_official_baseline_means_what_it_means_to_the_official_program(load):
    """Not told the index, one batch an epoch, no clipping, and a weight is a conditional start."""
    text = OFFICIAL_BASELINE.replace("type: conditional", "").replace("{, ", "{")
    assert "type" not in text
    c = load(text)
    assert (c.sample.type, c.sample.image_weight) == ("conditional", 0.3)
    assert (c.sample.chain, c.training.steps_per_epoch) == ("published", "one")
    assert (c.model.image_conditioning, method_of(c).uses_index) == ("none", False)
    assert load(loading.dump(c)) == c
    own = load(text, "training.steps_per_epoch=images", "model.image_index=True")
    assert (own.training.steps_per_epoch, own.model.image_conditioning) == ("images", "index")


@pytest.mark.parametrize("section", ["", "sample: {type: unconditional}\n"])
def test_without_a_weight_or_with_a_type_the_start_is_as_stated(section, load):
    assert load(SHORT + section).sample.image_weight is None
    weighted = section.replace("}", ", conditional_weight: 0.3}")
    if section:
        assert load(SHORT + weighted).sample.image_weight is None


def test_the_old_name_of_image_conditioning_is_read_and_not_beside_the_new(load, refusal):
    told = [load(SHORT + f"model: {{image_index: {value}}}\n") for value in ("true", "false")]
    assert [c.model.image_conditioning for c in told] == ["index", "none"]
    both = refusal(SHORT + "model: {image_index: true, image_conditioning: none}")
    assert "image_index is the old name of image_conditioning" in both
    assert "image_index: 3: True or False" in refusal(SHORT + "model: {image_index: 3}")


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        *(("cifar1", 2), ("celeb1", 5), ("cifar3_unconditional", 5), ("cifar3_conditional", 5)),
        *(("cifar3_ddpm", 5), ("cifar1_ddpm", 10), ("cifar1_ddim", 20), ("cifar3_ddim", 20)),
        *(("inet3_ddpm", 20), ("celeb1_ddpm", 30)),
    ],
)
def test_bundled_configs_evaluate_at_the_published_intervals(name, seconds):
    assert loading.load(name).misc.profile_freq == seconds


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *((name, BaselineConfig) for name in ("ddpm", "ddim")),
        *(("closed_form", Config), ("null", Config)),
    ],
)
def test_the_method_decides_what_kind_of_config_it_is(method, kind, load):
    c = load(SHORT + f"sample_method: {method}\n")
    assert type(c) is kind
    assert c.method == ("score_embedding" if method == "null" else method)
    assert method_of(c).uses_index is (method == "null")
    assert load(loading.dump(c)) == c
    if method != "closed_form":
        told = load(SHORT + f"sample_method: {method}\nmodel: {{image_conditioning: index}}\n")
        assert method_of(told).uses_index is True
    not_told = load(SHORT + f"sample_method: {method}\nmodel: {{image_conditioning: none}}\n")
    assert method_of(not_told).uses_index is False
    elsewhere = "held_out: {image: [china], shrink: 2, crop: 32}\n"
    if method in ("ddpm", "null"):  # measured on other images, there is nothing to be told
        c = load(SHORT + f"sample_method: {method}\n" + elsewhere)
        assert method_of(c).uses_index is False


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sample_method=ddmp"], ["sample_method: 'ddmp'", "ddpm, ddim, closed_form", "'ddpm'?"]),
        (["sample_method=closedform"], ["sample_method", "did you mean 'closed_form'?"]),
        (["sample_method=[ddpm]"], ["sample_method: ['ddpm'] is not allowed"]),
        (["sample_method=true"], ["sample_method: True is not allowed"]),
        (["sample_method=3"], ["sample_method: 3 is not allowed"]),
        (["diffusion.sigma=2"], ["diffusion.sigma: unknown key", "beta_min, beta_max"]),
        (["diffusion.beta_mn=2"], ["diffusion.beta_mn: unknown key", "did you mean 'beta_min'"]),
        (["diffusion.beta_max=1"], ["diffusion.beta_max: 1", "less than 1"]),
        (["diffusion.beta_min=0"], ["diffusion.beta_min: 0", "greater than 0"]),
        (["training.ema=1"], ["training.ema: 1", "less than 1"]),
        (["training.ema=-0.1"], ["training.ema: -0.1", "greater than or equal to 0"]),
        (["training.ema=.nan"], ["training.ema", "nan"]),
        (["training.warmup=-1"], ["training.warmup: -1", "1"]),
        (["training.warmup=0.5"], ["training.warmup: 0.5", "integer"]),
        (["training.target=exact"], ["training.target: ddpm knows only noise"]),
        (["sample.steps=1001"], ["sample.steps: 1001 does not divide", "num_timesteps: 1000"]),
        (["sample.steps=300"], ["sample.steps: 300 does not divide", "num_timesteps: 1000"]),
        (["sample.steps=20", "diffusion.num_timesteps=10"], ["sample.steps: 20", "10"]),
        (["sample.steps=0"], ["sample.steps: 0"]),
        (["sample.solver=heun"], ["sample.solver: unknown key"]),
        (["sample.type=conditional"], ["conditional_weight is needed"]),
        (["misc.profile_priors=[unt]"], ["misc.profile_priors.0: 'unt'", "'unit'?"]),
    ],
)
def test_a_wrong_value_of_a_baseline_is_named_with_what_is_allowed(overrides, told, refusal):
    text = refusal(SHORT_BASELINE, *overrides)
    assert [part for part in told if part not in text] == []


@pytest.mark.parametrize("key", ["beta_min", "beta_max"])
def test_a_noise_schedule_without_a_baseline_names_what_is_missing(key, refusal):
    text = refusal(SHORT, f"diffusion.{key}=0.01")
    assert f"diffusion.{key}: unknown key" in text
    assert "sample_method: ddpm or ddim" in text


def test_as_many_steps_as_the_chain_has_are_taken(load):
    assert load(SHORT_BASELINE, "sample.steps=1000").sample.steps == 1000


@pytest.mark.parametrize("name", sorted(loading.bundled()))
def test_a_dumped_config_loads_as_the_same(name, load):
    c = loading.load(name)
    assert load(loading.dump(c)) == c


@pytest.mark.parametrize(
    "overrides",
    [
        ["data_loader.image_size=[32, 48]"],
        ["training.grad_clip=0.5", "training.target_ssim=0.95"],
        ["training.ema=0.99", "training.warmup=5", "training.target=exact"],
        ["sample.denoise=true", "misc.profile_priors=[matched]", "model.image_index=false"],
        ["sample_method=closed_form"],
        ["data_loader.channels=1", "model.in_channels=1", "model.out_channels=1"],
        ["data_loader.path=[a.png, 'b: c.png', é.png]", "data_loader.dataset=files"],
        ["sample.type=conditional", "sample.conditional_weight=0"],
        ["name='007'", "diffusion.solve_tolerance=1e-300"],
    ],
)
def test_a_dump_keeps_every_override(overrides, load):
    c = loading.load("cifar1", overrides)
    assert c != loading.load("cifar1")
    assert load(loading.dump(c)) == c


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("trainin: {}", ["trainin: unknown key", "data_loader", "did you mean 'training'"]),
        ("training: {epoch: 3}", ["training.epoch: unknown key", "did you mean 'epochs'"]),
        ("sample: {chain: clipped}", ["sample.chain: unknown key"]),
        ("diffusion: {sgma: 3}", ["diffusion.sgma: unknown key", "'sigma'", "solve_tolerance"]),
        ("model: {chmult: [1]}", ["model.chmult: unknown key", "did you mean 'ch_mult'"]),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest(line, told, refusal):
    text = refusal(SHORT + line)
    assert [part for part in told if part not in text] == []


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 1\n", "'c'", "lines 3 and 5"),
        ("training: {epochs: 1}\nname: x\n\ntraining: {lr: 1}\n", "'training'", "lines 1 and 4"),
        ("1: x\n0x1: y\n", "1", "lines 1 and 2"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(text, key, lines):
    with pytest.raises(ConfigError, match=rf"mine\.yml: .*the key {key} twice, in {lines}"):
        loading.mapping(text, "mine.yml")


@pytest.mark.parametrize("line", ["1: 2", "training: {1: 2}", "? [a, b]\n: 2", "null: 2"])
def test_a_key_that_is_no_text_is_refused(line, refusal):
    assert refusal(SHORT + line)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data_loader.dataset=celebb", ["data_loader.dataset", "celebb", "imagenet", "'celeb'?"]),
        ("model.embedding_method=furier", ["model.embedding_method", "linear", "'fourier'?"]),
        ("sample.type=conditionl", ["sample.type", "unconditional", "'conditional'?"]),
        ("diffusion.scheme=spectrl", ["diffusion.scheme", "implicit", "'spectral'?"]),
        ("data_loader.channels=2", ["data_loader.channels: 2", "1 or 3"]),
        ("training.lr=fast", ["training.lr", "'fast'", "number"]),
        ("training.lr=-1", ["training.lr: -1", "greater than 0"]),
        ("training.lr=.nan", ["training.lr", "nan"]),
        ("training.lr=1e400", ["training.lr", "finite"]),
        ("training.lr=", ["training.lr", "number"]),
        ("training.epochs=1.5", ["training.epochs: 1.5", "integer"]),
        ("training.epochs=0", ["training.epochs: 0", "1"]),
        ("training.compile=maybe", ["training.compile: 'maybe'", "boolean"]),
        ("training.grad_clip=0", ["training.grad_clip: 0", "greater than 0"]),
        ("training.seed=-1", ["training.seed: -1"]),
        ("training.seed=4294967296", ["training.seed: 4294967296"]),
        ("training=3", ["training: 3"]),
        ("model.ch=30", ["model.ch: 30", "multiple of 4"]),
        ("model.ch_mult=[]", ["model.ch_mult"]),
        ("model.ch_mult=[1, two]", ["model.ch_mult.1", "'two'"]),
        ("model.dropout=1", ["model.dropout: 1", "less than 1"]),
        ("misc.eps=1", ["misc.eps: 1", "less than 1"]),
        ("data_loader.image_size=[32, 32, 3]", ["data_loader.image_size", "[32, 32, 3]"]),
        ("data_loader.image_size=big", ["data_loader.image_size", "'big'"]),
        ("sample.type=conditional", ["sample", "conditional_weight is needed"]),
        ("data_loader.dataset=folder", ["data_loader", "path is needed"]),
        ("data_loader.dataset=sample", ["data_loader", "image is needed"]),
        ("held_out={image: china, levels: [1e300]}", ["held_out.levels.0", "1000000"]),
        (
            "held_out={image: china, levels: [0.1, 0.1]}",
            ["held_out", "levels: [0.1, 0.1]", "twice"],
        ),
        ("held_out={image: china, crop: 2}", ["held_out.crop: 2", "3"]),
        ("training.epochs=*a", ["training.epochs=*a", "aliases (*name) are not read"]),
        ("held_out={image: china, image: coffee}", ["the key 'image' twice"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(override, told):
    with pytest.raises(ConfigError) as caught:
        loading.load("cifar1", [override])
    assert [part for part in told if part not in str(caught.value)] == []


def test_all_mistakes_are_told_at_once(refusal):
    text = refusal(
        "name: a/b\ndata_loader: {dataset: cifarr, sed: 1}\n"
        "training: {epochs: many, lr: 0}\nmodle: {}\n"
    )
    mistakes = ["name", "data_loader.dataset", "data_loader.sed"]
    mistakes += ["training.epochs", "training.lr", "modle"]
    lines = [line.strip() for line in text.splitlines()[1:]]
    assert sorted(line.split(":")[0] for line in lines) == sorted(mistakes)


@pytest.mark.parametrize("key", ["name", "data_loader", "data_loader.dataset"])
def test_a_missing_key_is_named(key, refusal):
    values = yaml.safe_load(SHORT)
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    del section[last]
    assert f"{key}: missing" in refusal(yaml.safe_dump(values))


@pytest.mark.parametrize(
    "override",
    ["training.lr", "training lr 3", "", "=3", "training.lr=[", "data_loader.dataset.x=1"],
)
def test_a_malformed_override_is_quoted(override, refusal):
    assert f"--set {override!r}" in refusal(OFFICIAL, override)


@pytest.mark.parametrize("override", ["trainin.lr=1", "training.=1", ".lr=1", "training.lr.x=1"])
def test_an_override_of_an_unknown_key_is_refused(override, refusal):
    assert "allowed" in refusal(SHORT, override)


def test_overrides_are_typed_as_in_a_file(load):
    c = load(
        SHORT,
        *("training.lr=2e-8", "training.epochs=7", "training.grad_clip=off"),
        *("model.resample_with_conv=false", "model.ch_mult=[1, 2]", "name=bc"),
        *("training.epochs=8", "data_loader.image=a=b"),
    )
    assert (c.training.lr, c.training.epochs, c.training.grad_clip) == (2e-8, 8, None)
    assert (c.model.resample_with_conv, c.model.ch_mult, c.name) == (False, (1, 2), "bc")
    assert c.data_loader.image == ["a=b"]


SECTIONS = {
    "data_loader": ["num_images", "image_size", "seed", "channels", "batch_size"],
    "diffusion": ["sigma", "dh", "num_timesteps", "solve_tolerance"],
    "training": [
        "epochs",
        "lr",
        "grad_clip",
        "timestep_multiplier",
        "seed",
        "target_ssim",
        "ema",
        "warmup",
    ],
    "model": [
        "max_positions",
        "num_images",
        "in_channels",
        "out_channels",
        "ch",
        "num_res_blocks",
        "dropout",
    ],
    "sample": ["conditional_weight", "tolerance", "steps"],
    "misc": ["eps", "profile_freq"],
}
NUMBERS = [f"{section}.{key}" for section, keys in SECTIONS.items() for key in keys]


@pytest.mark.parametrize("key", NUMBERS)
def test_true_is_not_a_number(key):
    with pytest.raises(ConfigError) as caught:
        loading.load("cifar1", [f"{key}=true"])
    # the value itself is refused: not 1, and no mere misfit with another key
    assert f"  {key}" in str(caught.value)
    assert "true" in str(caught.value).lower()


OFF = [f"training.{key}" for key in ("grad_clip", "target_ssim", "ema", "warmup")]


@pytest.mark.parametrize("key", [key for key in NUMBERS if key not in OFF])
def test_false_is_a_number_nowhere_else_than_where_it_means_off(key):
    with pytest.raises(ConfigError) as caught:
        loading.load("cifar1", [f"{key}=false"])
    assert f"  {key}" in str(caught.value)


@pytest.mark.parametrize(
    ("size", "ch_mult", "multiple"),
    [("30", "[1, 2, 2, 2]", 8), ("[32, 36]", "[1, 2, 2, 2]", 8), ("31", "[1, 1]", 2)],
)
def test_a_size_that_the_network_cannot_take_names_those_it_can(size, ch_mult, multiple):
    size_and_levels = [f"data_loader.image_size={size}", f"model.ch_mult={ch_mult}"]
    with pytest.raises(ConfigError, match=f"image_size: .* multiples of {multiple}, such as"):
        loading.load("cifar1", size_and_levels)


@pytest.mark.parametrize("size", ["8", "16", "[32, 48]", "[24, 8]"])
def test_multiples_of_the_halvings_are_taken(size):
    h_w = loading.load("cifar1", [f"data_loader.image_size={size}"]).data_loader.image_size
    value = yaml.safe_load(size)
    assert list(h_w) == (value if isinstance(value, list) else [value, value])


@pytest.mark.parametrize("key", ["model.in_channels", "model.out_channels"])
def test_channels_of_data_and_model_must_match(key):
    with pytest.raises(ConfigError, match=rf"{key}: 1 .*data_loader\.channels: 3"):
        loading.load("cifar1", [f"{key}=1"])


@pytest.mark.parametrize(
    "name",
    ["a/b", "../a", "/a", "a\\b", "..", ".", ".hidden", "", "-rf", "a b", "a\n", "a:b", "é", "a\0"],
)
def test_a_name_that_is_no_folder_name_is_refused(name):
    values = yaml.safe_load(SHORT) | {"name": name}
    with pytest.raises(ConfigError) as caught:
        loading.validate(values, source="test")
    assert f"name: {name!r} is not allowed" in str(caught.value)


@pytest.mark.parametrize("name", ["cifar1_seed9", "a", "7", "v1.2-b", "x" * 100])
def test_plain_names_are_taken(name):
    assert loading.validate(yaml.safe_load(SHORT) | {"name": name}, "test").name == name


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("cifar", "cifar1"), ("cifar_1.yml", "cifar1"), ("quikstart", "quickstart")],
)
def test_an_unknown_config_gets_the_nearest_name(given, nearest):
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'") as caught:
        loading.load(given)
    assert repr(given) in str(caught.value)
    assert all(name in str(caught.value) for name in loading.bundled())


@pytest.mark.parametrize("given", ["", ".", "zzzzzzzz", "a\0b", "no/such/file.yml", "a" * 300])
def test_a_config_that_is_nowhere_is_refused(given):
    with pytest.raises(ConfigError, match="no bundled config"):
        loading.load(given)


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"a: b: c",
        b"\x00\x01",
        b"\xff\xfe\xfa",
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b"",
        b"- a\n- b\n",
        b"just text",
        b"a: *nowhere",
        b"name: a\n---\nname: b\n",
        b"date: 2020-13-45\n",
    ],
)
def test_a_file_that_is_no_config_is_named(content, tmp_path):
    path = tmp_path / "notes.yml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        loading.load(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/new:os.system ['touch {marker}']",
        "!!python/object/apply:pathlib.Path.touch [{marker}]",
        "!!python/name:os.system",
    ],
)
@pytest.mark.parametrize("by_override", [True, False])
def test_python_tags_are_refused_and_not_run(tag, by_override, refusal, tmp_path):
    marker = tmp_path / "marker"
    value = tag.format(marker=marker)
    if by_override:
        assert "not a YAML value" in refusal(SHORT, f"training.lr={value}")
    else:
        assert "not readable as YAML" in refusal(f"{SHORT}training:\n  lr: {value}\n")
    assert not marker.exists()


def test_a_config_cannot_be_changed_afterwards():
    c = loading.load("cifar1")
    with pytest.raises(ValueError, match="frozen"):
        c.training.epochs = 3
