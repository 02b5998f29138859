"""The parts of a comparison: what a method changes, quartiles, ratios, and the forms of a table."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from score_embedding.comparison import spec, tables
from score_embedding.comparison.summary import FINAL, Quartiles, Summary, ratio
from score_embedding.comparison.summary import quartiles as quartiles_by
from score_embedding.comparison.variants import VARIANTS
from score_embedding.config import loading
from score_embedding.errors import ConfigError
from score_embedding.report.parts import Table

OWN = ("lr", "grad_clip", "ema", "warmup")


def configs_of(base, *methods, overrides=()):
    comparison = spec.build(base, list(methods), [0], [0.9], list(overrides))
    return comparison.configs


def flat(config):
    """A config as section.key: value."""
    values = {}
    for section, keys in config.model_dump().items():
        if isinstance(keys, dict):
            values |= {f"{section}.{key}": value for key, value in keys.items()}
        else:
            values[section] = keys
    return values


def changes(config, base):
    """The keys that differ, with the value in `config`; both must have the same keys."""
    own, other = flat(config), flat(base)
    assert own.keys() == other.keys()
    return {key: value for key, value in own.items() if value != other[key]}


# What a method is


@pytest.mark.parametrize("base", ["quickstart", "cifar3_conditional"])
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("score_embedding", {}),
        ("none", {"diffusion.embedding": "none"}),
        ("shuffled", {"diffusion.embedding": "shuffled"}),
        ("no_index", {"model.image_conditioning": "none"}),
        ("exact", {"model.image_conditioning": "none", "training.target": "exact"}),
        ("closed_form", {"sample_method": "closed_form"}),
        ("closed_form_denoised", {"sample_method": "closed_form", "sample.denoise": True}),
    ],
)
def test_a_control_changes_these_keys_and_no_other(base, method, expected):
    assert changes(configs_of(base, method)[method], loading.load(base)) == expected


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
@pytest.mark.parametrize("plain", ["", "_plain"])
@pytest.mark.parametrize(
    ("base", "published"),
    [
        ("quickstart", "cifar1"),
        ("cifar1", "cifar1"),
        ("celeb1", "celeb1"),
        ("cifar3_conditional", "cifar3"),
    ],
)
def test_a_baseline_has_the_images_network_and_steps_of_the_config(base, published, plain, kind):
    base = loading.load(base)
    baseline = configs_of(base.name, kind + plain)[kind + plain]
    published = loading.load(f"{published}_{kind}")
    assert baseline.method == kind
    assert baseline.data_loader == base.data_loader
    assert baseline.misc == base.misc
    assert baseline.diffusion == published.diffusion
    fourier = {"embedding_method": "fourier"}
    assert baseline.model.model_dump() == base.model.model_dump() | fourier
    own, other = baseline.training, (base if plain else published).training
    assert {key: getattr(own, key) for key in OWN} == {key: getattr(other, key) for key in OWN}
    for key in ("epochs", "precision", "compile"):
        assert getattr(own, key) == getattr(base.training, key)
    assert own.timestep_multiplier == 1
    for key in ("type", "conditional_weight", "prior"):
        assert getattr(baseline.sample, key) == getattr(base.sample, key)
    assert baseline.sample.steps == 50


def test_the_published_training_of_a_baseline_is_that_of_its_paper():
    celeb = configs_of("celeb1", "ddpm", "ddim")
    assert [celeb[kind].training.lr for kind in ("ddpm", "ddim")] == [2e-4, 1e-4]
    assert [celeb[kind].training.warmup for kind in ("ddpm", "ddim")] == [600, 400]
    assert [celeb[kind].diffusion.beta_max for kind in ("ddpm", "ddim")] == [0.002, 0.008]
    assert {celeb[kind].training.ema for kind in celeb} == {0.9999}


def test_an_override_holds_for_all_methods_or_for_the_one_that_it_names():
    overrides = ["model.ch=16", "training.epochs=7", "none.training.lr=0.5", "ddpm.sample.steps=20"]
    found = configs_of("quickstart", "score_embedding", "none", "ddpm", overrides=overrides)
    assert [config.model.ch for config in found.values()] == [16, 16, 16]
    assert [config.training.epochs for config in found.values()] == [7, 7, 7]
    assert [config.training.lr for config in found.values()] == [7e-4, 0.5, 2e-4]
    assert found["ddpm"].sample.steps == 20
    assert changes(found["none"], found["score_embedding"]) == {
        "training.lr": 0.5,
        "diffusion.embedding": "none",
    }


def test_a_config_of_its_own_is_a_method_where_its_images_are_the_same(tmp_path):
    other = loading.load("quickstart", ["training.lr=0.25", "data_loader.batch_size=3"])
    path = tmp_path / "mine.yml"
    path.write_text(loading.dump(other), encoding="utf-8")
    found = configs_of("quickstart", "none", str(path))
    assert list(found) == ["none", "mine"]
    assert found["mine"] == other
    for key, value in (("image", "coffee"), ("image_size", "16"), ("seed", "3")):
        changed = loading.load("quickstart", [f"data_loader.{key}={value}"])
        path.write_text(loading.dump(changed), encoding="utf-8")
        with pytest.raises(ConfigError, match=r"mine\.yml: its images are not those of quickstart"):
            configs_of("quickstart", str(path))


def test_each_run_has_its_seed_both_priors_and_no_target_that_would_end_it(tmp_path):
    comparison = spec.build("quickstart", ["none", "ddpm"], [4, 2], [0.99, 0.5], [])
    assert comparison.targets == (0.5, 0.99)
    assert comparison.configs["none"].training.target_ssim == 0.92
    jobs = spec.jobs(comparison, tmp_path)
    names = ["none_seed4", "ddpm_seed4", "none_seed2", "ddpm_seed2"]
    assert [job.path for job in jobs] == [tmp_path / "runs" / name for name in names]
    for job, name in zip(jobs, names, strict=True):
        changed = {
            "name": name,
            "training.seed": int(name[-1]),
            "training.target_ssim": None,
            "misc.profile_priors": ("unit", "matched"),
        }
        base = comparison.configs[job.method]
        assert flat(job.config) == flat(base) | changed


def test_a_comparison_is_read_back_as_it_was_written(tmp_path):
    overrides = ["training.lr=0.1", "ddim.sample.steps=10", "exact.training.grad_clip=false"]
    for base in ("quickstart", "cifar3_conditional"):
        comparison = spec.build(base, list(VARIANTS), [3, 1], [1, 0.123456789], overrides)
        spec.write(comparison, tmp_path)
        assert spec.read(tmp_path) == comparison


# Quartiles and ratios


def quartiles(values):
    """Of one group, beside another that must not matter."""
    runs = pd.DataFrame({"method": ["m"] * len(values) + ["other"], "seconds": [*values, 1e9]})
    return Quartiles(*quartiles_by(runs, ["method"])["seconds"][:3])


SECONDS = st.floats(0, 1e6, allow_subnormal=False)


@given(st.lists(SECONDS, min_size=1, max_size=20))
def test_quartiles_are_those_of_numpy(values):
    found = quartiles(values)
    expected = np.quantile(values, [0.25, 0.5, 0.75], method="linear")
    np.testing.assert_allclose(
        (found.lower, found.median, found.upper), expected, rtol=1e-12, atol=1e-300
    )


@given(st.lists(SECONDS, max_size=12), st.integers(1, 8))
def test_a_quartile_is_infinite_where_one_that_never_arrives_has_a_share_in_it(values, never):
    found = quartiles([math.inf] * never + values)
    late = np.quantile([1e15] * never + values, [0.25, 0.5, 0.75])  # shares are at least 1 / 4
    for own, expected in zip((found.lower, found.median, found.upper), late, strict=True):
        if expected > 1e14:
            assert own == math.inf
        else:
            assert own == pytest.approx(expected, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], (3, 3, 3)),
        ([4.0, 1.0, 2.0], (1.5, 2, 3)),
        ([math.inf, 1.0, 2.0], (1.5, 2, math.inf)),
        ([math.inf, 1.0], (math.inf, math.inf, math.inf)),
        ([5.0, 1.0, math.inf, 2.0, 3.0], (2, 3, 5)),
        ([math.inf] * 2, (math.inf, math.inf, math.inf)),
    ],
)
def test_quartiles_by_hand(values, expected):
    assert quartiles(values) == Quartiles(*expected)


def summary(method, time_to, trained=100.0, reached=3):
    """Medians by target, with quartiles a tenth to each side; 5 steps a second."""

    def spread(median):
        return Quartiles(0.9 * median, median, 1.1 * median)

    return Summary(
        method,
        "unit",
        3,
        spread(trained),
        500,
        {target: spread(median) for target, median in time_to.items()},
        {target: spread(5 * median) for target, median in time_to.items()},
        dict.fromkeys(time_to, reached),
        {name: spread(0.5) for name in FINAL},
    )


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (4.0, 10.0, ("=", 2.5)),
        (10.0, 4.0, ("=", 0.4)),
        (4.0, 0.0, ("=", 0.0)),
        (4.0, math.inf, (">", 25.0)),
        (400.0, math.inf, (">", 0.25)),
    ],
)
def test_a_ratio_is_that_of_the_medians_or_a_bound(own, other, expected):
    assert ratio(summary("m", {0.9: own}), summary("b", {0.9: other}), 0.9) == expected


@pytest.mark.parametrize("own", [math.inf, 0.0])
@pytest.mark.parametrize("other", [math.inf, 10.0])
def test_there_is_no_ratio_where_the_method_never_arrives_or_needs_no_time(own, other):
    sign, value = ratio(summary("m", {0.9: own}), summary("b", {0.9: other}), 0.9)
    assert sign == "-"
    assert math.isnan(value)


def test_the_ratio_table_has_a_column_a_baseline_and_leaves_out_targets_without_a_time():
    configs = configs_of("quickstart", "none", "score_embedding", "ddpm", "ddim")
    comparison = spec.Comparison("x", configs, (0,), (0.9, 0.95, 0.99))
    found = [
        summary("none", {0.9: 5.0, 0.95: math.inf, 0.99: math.inf}),
        summary("score_embedding", {0.9: 2.0, 0.95: 8.0, 0.99: math.inf}),
        summary("ddpm", {0.9: 7.0, 0.95: math.inf, 0.99: math.inf}),
        summary("ddim", {0.9: 1.0, 0.95: 20.0, 0.99: 30.0}, trained=40.0),
    ]
    table = tables.ratio_table(found, comparison)
    assert table.header == ("method", "prior", "target", "ddpm / method", "ddim / method")
    assert table.rows == [
        ("none", "unit", "0.90", "1.40", "0.20"),
        ("score_embedding", "unit", "0.90", "3.50", "0.50"),
        ("score_embedding", "unit", "0.95", "> 12.50", "2.50"),
    ]
    without = spec.Comparison("x", configs_of("quickstart", "none"), (0,), (0.9,))
    assert tables.ratio_table(found[:1], without) is None


@pytest.mark.parametrize(
    ("median", "reached", "expected"),
    [
        (10.0, 3, "10.0 [9.0, 11.0] (50)"),
        (0.0, 3, "0.0 (0)"),
        (math.inf, 1, "not reached (1 of 3 did)"),
        (math.inf, 0, "not reached"),
    ],
)
def test_a_time_is_shown_with_quartiles_and_steps(median, reached, expected):
    assert tables.time_to(summary("m", {0.9: median}, reached=reached), 0.9) == expected


def test_an_upper_quartile_that_is_infinite_is_shown_as_such():
    found = summary("m", {0.9: 2.0})
    found.time_to[0.9] = quartiles([1.0, 2.0, math.inf])
    assert tables.time_to(found, 0.9) == "2.0 [1.5, ∞] (10)"


# Forms of a table

TABLE = Table(
    "A_b & std² 50%",
    ("a|b", "c_d"),
    [("x|y", "> 2.5 [1, ∞]"), ("{#1}", r"$5 < \6")],
    "note_1: 100 %.",
)


def test_bars_in_markdown_do_not_end_a_cell():
    assert tables.markdown(TABLE).split("\n") == [
        "### A_b & std² 50%",
        "",
        "note_1: 100 %.",
        "",
        r"| a\|b | c_d |",
        "| --- | --- |",
        r"| x\|y | > 2.5 [1, ∞] |",
        r"| {#1} | $5 < \6 |",
        "",
    ]


def test_what_latex_would_obey_is_escaped():
    assert tables.latex(TABLE).split("\n") == [
        r"\begin{table}",
        r"\caption{A\_b \& std$^2$ 50\%. note\_1: 100 \%.}",
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"a|b & c\_d \\",
        r"\midrule",
        r"x|y & $>$ 2.5 [1, $\infty$] \\",
        r"\{\#1\} & \$5 $<$ \textbackslash{}6 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]


def test_a_comparison_is_not_made_from_a_baseline():
    with pytest.raises(ConfigError, match=r"cifar1_ddpm: a config of DDPM; .*--methods beside it"):
        spec.build("cifar1_ddpm", ["score_embedding"], [0], None, [])
