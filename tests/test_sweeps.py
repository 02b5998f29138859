"""Sweeps: values of a key, compared over seeds."""

import itertools
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import shared_fixtures
from command_line import assert_mistake, sets
from comparison_helpers import csv_rows, json_of, metrics_of, stamps, tables_of
from score_embedding.comparison import spec, tables
from score_embedding.comparison.reproduction import published
from score_embedding.comparison.sweeps import pictures, results, runtimes, settings
from score_embedding.config import loading
from score_embedding.data.datasets import load_dataset
from score_embedding.errors import ConfigError
from score_embedding.evaluation import frechet
from score_embedding.methods import precomputation

pytestmark = pytest.mark.filterwarnings("ignore:FPDF.preload_image:DeprecationWarning")

SEEDS, TARGETS, SETTINGS = (2, 5), (0.02, 0.99), {"base": 1, "dh_2": 2}
PICTURES = ("metrics_over_keys.png", "seconds_by_stage.png", "residuals.png", "samples.png")
MEASURES = ("loss", "ssim_minmax", "seconds_to_0.02", "seconds_to_0.99", "solve_seconds")
MEASURES += ("iterations",)
HEADINGS = ("final loss", "final SSIM", "SSIM 0.02: s", "SSIM 0.99: s", "solve (s)", "iterations")


def command(*sweeps, options=(), seeds=SEEDS, out="c", **changes):
    swept = [part for sweep in sweeps for part in ("--sweep", sweep)]
    short = {"training__epochs": 2, "diffusion__num_timesteps": 3} | changes
    return (
        *("compare", "--config", "quickstart", *swept, "--out", out),
        *("--seeds", ",".join(map(str, seeds)), "--targets", ",".join(map(str, TARGETS))),
        *(*sets(**short), *options),
    )


@pytest.fixture(scope="module")
def swept(once):
    """One sweep of two values with two seeds; to be read only."""
    asked = command("diffusion.dh=1,2", diffusion__scheme="published")
    return shared_fixtures.compared_by(once, "swept", asked)


def measured(folder, setting, seed, prefix):
    """The measures of a run under a prior, from its own files."""
    name = f"{setting}_seed{seed}"
    rows, run = metrics_of(folder, name), folder / "runs" / name
    diagnostics = json.loads(str(np.load(run / "scores.npz")["diagnostics"]))
    values = {
        "loss": rows[-1]["loss"],
        "ssim_minmax": rows[-1][f"{prefix}ssim_minmax"],
        "solve_seconds": json.loads((run / "timing.json").read_text())["solve"],
        "iterations": sum(diagnostics["iterations"]),
    }
    for target in TARGETS:
        reached = [r["training_seconds"] for r in rows if r[f"{prefix}ssim_minmax"] >= target]
        values[f"seconds_to_{target:g}"] = reached[0] if reached else math.inf
    return values


def expected(folder, prefix):
    """Values over the seeds by setting and measure."""
    return {
        setting: {
            name: [measured(folder, setting, seed, prefix)[name] for seed in SEEDS]
            for name in MEASURES
        }
        for setting in SETTINGS
    }


# The results


def test_a_sweep_leaves_its_runs_tables_and_pictures(swept):
    found = {path.name for path in swept.folder.iterdir()}
    files = {"comparison.yml", "table.md", "table.tex", "runs.csv", "settings.csv"}
    assert found == files | {"comparison.json", "runs", *PICTURES}
    runs = [f"{setting}_seed{seed}" for setting in SETTINGS for seed in SEEDS]
    assert sorted(path.name for path in (swept.folder / "runs").iterdir()) == sorted(runs)
    for name in PICTURES:
        with Image.open(swept.folder / name) as picture:
            assert min(picture.size) > 300
    for setting, dh in SETTINGS.items():
        values = (swept.folder / "runs" / f"{setting}_seed5" / "config.yml").read_text()
        config = loading.validate(loading.mapping(values, "config"), "config")
        assert (config.diffusion.dh, config.training.seed) == (dh, 5)
    for title in ("setting", "final loss", "SSIM, unit", "iterations", *SETTINGS):
        assert title in re.sub(r"\s+", " ", swept.stdout)


@pytest.mark.parametrize(("prior", "prefix"), [("unit", ""), ("matched", "matched_")])
def test_the_statistics_are_those_of_the_run_folders(swept, prior, prefix):
    found = pd.read_csv(swept.folder / "settings.csv")
    found = found[found["prior"] == prior].set_index("setting")
    from_json = {
        row["setting"]: row for row in json_of(swept.folder)["statistics"] if row["prior"] == prior
    }
    assert list(found.index) == list(from_json) == list(SETTINGS)
    reached = 0
    for setting, measures in expected(swept.folder, prefix).items():
        for name, values in measures.items():
            row = found.loc[setting]
            assert row[f"{name}_count"] == np.isfinite(values).sum()
            reached += row[f"{name}_count"]
            if np.isfinite(values).all():
                mean, std = np.mean(values), np.std(values, ddof=1)
                quartiles = np.percentile(values, [25, 50, 75])
                of = ("mean", "std", "lower", "median", "upper")
                for key, value in zip(of, (mean, std, *quartiles), strict=True):
                    assert row[f"{name}_{key}"] == pytest.approx(value, rel=1e-9)
                    assert from_json[setting][f"{name}_{key}"] == pytest.approx(value, rel=1e-9)
            else:
                assert math.isnan(row[f"{name}_mean"])
                assert from_json[setting][f"{name}_mean"] is None
    assert reached > 2 * 2 * 4  # some run reached a target


@pytest.mark.parametrize(("k", "prefix"), [(0, ""), (2, "matched_")])
def test_markdown_latex_and_csv_say_the_same(swept, k, prefix):
    means, medians = (rows for _, _, rows in tables_of(swept.folder)[k : k + 2])
    tex = (swept.folder / "table.tex").read_text(encoding="utf-8")
    for setting, row, middle in zip(SETTINGS, means, medians, strict=True):
        of_runs = expected(swept.folder, prefix)[setting]
        for table in (row, middle):
            assert (table["setting"], table["runs"]) == (setting, "2")
            assert float(table["dh"]) == SETTINGS[setting]
        for heading, name in zip(HEADINGS, MEASURES, strict=True):
            values = of_runs[name]
            if not np.isfinite(values).all():
                assert row[heading].startswith("not reached")
                continue
            mean, _, std = row[heading].partition(" ± ")
            assert float(mean) == pytest.approx(np.mean(values), rel=1e-2, abs=5e-2)
            assert float(std) == pytest.approx(np.std(values, ddof=1), rel=6e-2, abs=5e-2)
            low, median, high = np.percentile(values, [25, 50, 75])
            numbers = [float(text) for text in re.findall(r"[\d.]+", middle[heading])]
            given = [median] if len(numbers) == 1 else [median, low, high]
            assert numbers == pytest.approx(given, rel=1e-2, abs=5e-2)
        for table in (row, middle):
            cells = [tables.latex(type_table([cell])) for cell in table.values()]
            line = " & ".join(re.search(r"midrule\n(.*) \\\\", cell)[1] for cell in cells)
            assert line in tex


def type_table(row):
    return tables.Table("t", tuple("x" * len(row)), [tuple(row)])


def test_the_csv_file_has_a_row_for_each_run_and_prior(swept):
    rows = csv_rows(swept.folder)
    assert len(rows) == 8
    for row in rows:
        prefix = {"unit": "", "matched": "matched_"}[row["prior"]]
        values = measured(swept.folder, row["setting"], int(row["seed"]), prefix)
        assert float(row["diffusion.dh"]) == SETTINGS[row["setting"]]
        assert row["status"] == "finished"
        for name, value in values.items():
            assert row[name] == "" if value == math.inf else float(row[name]) == value


def test_fid_is_refused_with_the_reason_however_many_seeds_are_pooled(swept):
    _, _, rows = tables_of(swept.folder)[-1]
    assert rows[0]["measure"] == "FID, pooled over the seeds"
    assert rows[0]["reason"].startswith(frechet.refusal(1))
    assert "2 seeds adds no training image" in rows[0]["reason"]
    assert frechet.refusal(frechet.MINIMUM) == ""
    assert str(frechet.MINIMUM) in frechet.refusal(frechet.MINIMUM - 1)


@pytest.mark.slow
def test_the_same_command_again_runs_nothing_and_a_value_more_keeps_the_rest(swept, call, tmp_path):
    folder = Path(shutil.copytree(swept.folder, tmp_path / "c"))
    before = stamps(folder / "runs")
    done = call("compare", "--again", "c")
    assert done.returncode == 0, done.stderr
    assert "4 runs, 4 of them there already" in done.stderr
    less = command("diffusion.dh=0.5,1", seeds=[5], diffusion__scheme="published")
    assert_mistake(call(*less), "c: its tables compare dh_2, seed 2 too")
    done = call(*command("diffusion.dh=0.5,1,2", diffusion__scheme="published"))
    assert done.returncode == 0, done.stderr
    assert "6 runs, 4 of them there already" in done.stderr
    after = stamps(folder / "runs")
    assert {path: stamp for path, stamp in after.items() if path in before} == before
    (_, _, rows), *_ = tables_of(folder)
    assert [row["setting"] for row in rows] == ["dh_0.5", "base", "dh_2"]
    assert call(*less, "--overwrite").returncode == 0
    (_, _, rows), *_ = tables_of(folder)
    assert [row["setting"] for row in rows] == ["dh_0.5", "base"]
    assert rows[0]["final loss"].endswith("± -")  # one seed has no standard deviation


@pytest.mark.slow
def test_runs_that_fail_are_named_and_counted_out(call, tmp_path):
    done = call(*command("training.lr=1e-3,1e30", seeds=[2]))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (_, _, rows), *_, (title, _, missing) = tables_of(tmp_path / "c")
    assert [row["runs"] for row in rows] == ["1", "0 of 1, 1 FAILED"]
    assert rows[1]["final loss"] == rows[1]["final SSIM"] == "-"
    assert title == "Missing runs"
    assert re.fullmatch(r"lr_1e-30-[0-9a-f]{6}_seed2", missing[0]["run"])
    assert "not finite" in missing[0]["reason"]
    assert {row["status"] == "finished" for row in csv_rows(tmp_path / "c")} == {True, False}
    assert (tmp_path / "c" / "samples.png").is_file()


def test_a_sweep_without_any_finished_run_has_tables_of_what_is_missing(call, tmp_path):
    done = call(*command("training.lr=1e30", seeds=[2]))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    ((title, _, missing),) = tables_of(tmp_path / "c")
    assert (title, len(missing)) == ("Missing runs", 1)
    assert [row["seed"] for row in csv_rows(tmp_path / "c")] == ["2"]


# The pictures


@pytest.fixture
def content(swept):
    """Comparison, runs, their table and statistics, as the pictures are drawn from."""
    comparison = spec.read(swept.folder)
    jobs = spec.jobs(comparison, swept.folder)
    found = [results.read(job, comparison.targets) for job in jobs]
    runs = results.frame(found, comparison, {})
    return comparison, jobs, found, runs, results.statistics(runs, comparison)


def test_the_metric_picture_has_means_and_every_run(content):
    comparison, _, _, runs, statistics = content
    figure = pictures.metrics_over_keys(runs, statistics, comparison, "caption")
    by_label = {axis.get_ylabel(): axis for axis in figure.axes}
    axis = by_label["final SSIM"]
    for prior, means in zip(("unit", "matched"), axis.containers, strict=True):
        own = statistics[statistics["prior"] == prior]
        np.testing.assert_allclose(
            means.lines[0].get_ydata().astype(float), own["ssim_minmax_mean"]
        )
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["unit prior", "matched prior"]
    drawn = [line.get_ydata() for line in axis.lines if line.get_marker() == "."]
    values = np.sort(np.concatenate(drawn))
    np.testing.assert_array_equal(values, np.sort(runs["ssim_minmax"]))
    assert {"final loss", "solve (s)", "iterations"} <= set(by_label)
    ticks = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert ticks == ["1", "2"]


def test_the_bars_are_the_mean_seconds_of_each_stage(content):
    comparison, _, found, _, _ = content
    figure = runtimes.stages(found, comparison, "caption")
    axis = figure.axes[1]
    assert axis.get_title() == "whole run"
    for bars in axis.containers:
        expected_widths = [
            np.mean([run.stages[bars.get_label()] for run in found if run.setting == setting])
            for setting in SETTINGS
        ]
        np.testing.assert_allclose([bar.get_width() for bar in bars], expected_widths)
    assert len(axis.containers) == len({stage for run in found for stage in run.stages})


def test_residuals_over_iterations_and_seconds_are_those_of_the_first_seed(content, swept):
    comparison, _, found, _, _ = content
    left, right = runtimes.residuals(found, comparison, "caption").axes
    for k, setting in enumerate(SETTINGS):
        run = swept.folder / "runs" / f"{setting}_seed2"
        diagnostics = json.loads(str(np.load(run / "scores.npz")["diagnostics"]))
        (residuals,), (seconds,) = diagnostics["residuals"], diagnostics["residual_seconds"]
        assert len(residuals) == len(seconds) > 2
        np.testing.assert_array_equal(left.lines[k].get_ydata(), residuals)
        np.testing.assert_array_equal(right.lines[k].get_ydata(), residuals)
        np.testing.assert_array_equal(right.lines[k].get_xdata(), seconds)
    assert left.get_yscale() == "log"


def test_the_sheet_shows_every_sample_and_a_frame_for_a_missing_run(content):
    comparison, jobs, *_ = content
    figure = pictures.samples(jobs[:-1], comparison, "caption")
    assert len(figure.axes) == 2 * (1 + 2 * 2)
    empty = [axis for axis in figure.axes if not axis.images]
    assert len(empty) == 2  # both priors of the last run
    assert all(axis.texts[0].get_text() == "missing" for axis in empty)


# What is asked for


def built(*sweeps, grid=False, changes=()):
    overrides = [f"{key}={value}" for key, value in changes]
    factors = settings.parsed(list(sweeps))
    return settings.read("quickstart", factors, grid, [0], None, overrides)


def test_of_several_sweeps_each_changes_one_key():
    comparison = built("diffusion.dh=0.5,1", "diffusion.sigma=2,3,4")
    assert list(comparison.configs) == ["dh_0.5", "base", "sigma_3", "sigma_4"]
    assert comparison.sweep.series == {
        "diffusion.dh": ("dh_0.5", "base"),
        "diffusion.sigma": ("base", "sigma_3", "sigma_4"),
    }
    base = loading.load("quickstart")
    assert comparison.configs["base"] == base
    values = [(c.diffusion.dh, c.diffusion.sigma) for c in comparison.configs.values()]
    assert values == [(0.5, 2), (1, 2), (1, 3), (1, 4)]


def test_a_grid_has_all_combinations():
    comparison = built("diffusion.dh=0.5,1", "diffusion.sigma=2,3", grid=True)
    values = [(c.diffusion.dh, c.diffusion.sigma) for c in comparison.configs.values()]
    assert values == list(itertools.product((0.5, 1), (2, 3)))
    names = ["dh_0.5_sigma_2", "dh_0.5_sigma_3", "base", "dh_1_sigma_3"]
    assert list(comparison.configs) == names


def test_values_of_any_kind_have_names_that_can_be_folders():
    comparison = built(
        "model.ch_mult=[1, 2, 2],[1, 2]",
        "training.grad_clip=off,0.5",
        "data_loader.image=[astronaut],[astronaut, coffee],rocket",
        "training.precision=float32,bfloat16",
        changes=[("data_loader.num_images", 1)],
    )
    names = list(comparison.configs)
    assert names[:4] == ["base", "ch_mult_1-2", "grad_clip_off", "grad_clip_0.5"]
    assert "image_rocket" in names
    assert len(names) == len(set(names)) == 7
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


def test_a_sweep_is_read_back_as_it_was_written(tmp_path):
    comparison = built("diffusion.dh=0.5,1", "training.grad_clip=off,2", grid=True)
    spec.write(comparison, tmp_path)
    assert spec.read(tmp_path) == comparison


MISTAKES = {
    "diffusion.dhh=1,2": ["--sweep diffusion.dhh", "did you mean 'diffusion.dh'"],
    "dh=1,2": ["--sweep dh", "unknown key", "did you mean 'diffusion.dh'"],
    "difusion.dh=1": ["difusion.dh", "did you mean 'diffusion.dh'"],
    "diffusion=1": ["--sweep diffusion", "unknown key"],
    "diffusion.dh=1,-2": ["--sweep diffusion.dh=-2", "dh: -2", "greater than 0"],
    "diffusion.dh=1,wide": ["diffusion.dh", "'wide'", "number"],
    "diffusion.scheme=spectral,implicitt": ["'implicitt'", "did you mean 'implicit'"],
    "diffusion.dh=": ["--sweep diffusion.dh", "one or more values"],
    "diffusion.dh=1,2,1.0": ["diffusion.dh = 1", "given twice"],
    "diffusion.dh=1 --sweep diffusion.dh=2": ["--sweep diffusion.dh", "given twice"],
    "diffusion.dh": ["--sweep 'diffusion.dh'", "expected section.key=value,value"],
    "diffusion.dh=[1": ["--sweep 'diffusion.dh=[1'", "separated by commas"],
    "'diffusion.dh={a: 1}'": ["diffusion.dh", "is not a value"],
    "diffusion.solve_tolerance=1e-4,1e-6": ["solve_tolerance", "spectral does not read it"],
    "diffusion.solve_tolerance=1e-4": ["(implicit, krylov, published would)"],
    "image_density.rank=4,8": ["method score_embedding does not read it"],
    "sample.tolerance=1e-3 --set sample.solver=heun": ["heun does not read it"],
    "training.seed=1,2": ["training.seed", "--seeds gives the seeds"],
    "sample.prior=unit,matched": ["sample.prior", "both priors"],
    "training.target_ssim=0.5": ["training.target_ssim", "cannot be swept"],
    "diffusion.kde_method=scipy,histogram": ["cannot be swept", "diffusion.density"],
    "name=a,b": ["--sweep name", "cannot be swept"],
    "sample_method=ddpm": ["--methods compares methods"],
    "diffusion.dh=1,2 --methods none": ["--methods: not of a sweep"],
    "diffusion.dh=1,2 --task denoising": ["--task denoising: not of a sweep"],
    "diffusion.dh=1,2 --seeds ,": ["seeds: []", "one or more"],
    "diffusion.dh=1,2 --set training.epoch=1": ["training.epoch", "'epochs'"],
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_in_a_sweep_is_named_and_nothing_is_created(call, tmp_path, arguments):
    done = call("compare", "--config", "quickstart", "--sweep", *shlex.split(arguments))
    assert_mistake(done, *MISTAKES[arguments])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--config cifar1_ddpm --sweep diffusion.dh=1,2", ["diffusion.dh", "config of ddpm"]),
        ("--config cifar1_ddim --sweep misc.eps=1e-3,1e-4", ["misc.eps", "ddim does not read it"]),
        ("--config photographs --sweep training.lr=1e-3", ["held_out"]),
        ("--config cifar1_sweep_dh --sweep diffusion.dh=1", ["describes a sweep"]),
        ("--config cifar1_sweep_dh --grid", ["describes a sweep"]),
        ("--config cifar1_sweep_dh --methods none", ["--methods: not of a sweep"]),
        ("--config cifar1_sweep_hd", ["did you mean 'cifar1_sweep_dh'"]),
        ("--config quickstart --grid", ["--grid", "--sweep, which is not given"]),
        ("--again nowhere --grid", ["--again takes all from its folder"]),
    ],
)
def test_a_sweep_that_does_not_fit_its_config_is_refused(call, tmp_path, arguments, parts):
    assert_mistake(call("compare", *arguments.split()), *parts)
    assert os.listdir(tmp_path) == []


def test_a_sweep_is_not_run_as_one_config(call, tmp_path):
    done = call("run", "--config", "cifar1_sweep_dh")
    assert_mistake(done, "a sweep of many runs", "compare --config cifar1_sweep_dh")
    assert os.listdir(tmp_path) == []


# Files of sweeps


ABLATIONS = {  # the published values, with that of cifar1
    "diffusion.dh": (0.5, 1, 2, 4),
    "diffusion.num_timesteps": (5, 10, 20, 50),
    "diffusion.solve_tolerance": (1e-4, 1e-6, 2e-8, 1e-10),
    "diffusion.sigma": (3, 5, 10, 25),
}


def test_the_bundled_sweeps_are_the_published_ablations():
    assert sorted(published.ABLATIONS) == sorted(loading.bundled_sweeps())
    found = {}
    base = loading.load("cifar1", ["diffusion.scheme=published"])
    for name in published.ABLATIONS:
        comparison = settings.read(name)
        assert (comparison.name, comparison.seeds) == (name, (9, 42, 123))
        ((key, series),) = comparison.sweep.series.items()
        assert comparison.configs["base"] == base
        found[key] = tuple(settings.value_at(comparison.configs[s], key) for s in series)
        for config in comparison.configs.values():
            own = {"diffusion": config.diffusion.model_dump() | {key.split(".")[1]: None}}
            expected_own = base.diffusion.model_dump() | {key.split(".")[1]: None}
            assert config.model_dump() | own == base.model_dump() | {"diffusion": expected_own}
    assert found == ABLATIONS


@pytest.mark.slow
@pytest.mark.parametrize("name", published.ABLATIONS)
def test_the_solve_of_every_published_ablation_reaches_its_tolerance(name):
    photograph = ["data_loader.dataset=sample", "data_loader.image=astronaut"]
    for config in settings.read(name, overrides=photograph).configs.values():
        images = load_dataset(config.data_loader).double()
        found = precomputation.precompute(images, config.diffusion, config.misc)
        (residuals,) = found.diagnostics.residuals
        assert residuals[-1] <= config.diffusion.solve_tolerance < residuals[-2]
        assert found.embedded.isfinite().all()


def test_a_file_of_a_sweep_names_its_base_beside_it(tmp_path):
    (tmp_path / "mine.yml").write_text(loading.dump(loading.load("quickstart", ["name=mine"])))
    path = tmp_path / "my_sweep.yml"
    path.write_text(
        "base: mine.yml\nchanges: {model.ch: 16}\ngrid: True\n"
        "sweep: {diffusion.dh: [1, 2], diffusion.sigma: [2, 3]}\n"
    )
    comparison = settings.read(str(path))
    assert comparison.name == "mine_sweep_dh_sigma_grid"
    assert comparison.seeds == (0, 1, 2)
    assert len(comparison.configs) == 4
    assert {config.model.ch for config in comparison.configs.values()} == {16}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("base: quickstart\nsweep: {}\n", ["sweep"]),
        ("sweep: {diffusion.dh: [1]}\n", ["base"]),
        ("base: quickstart\nsweep: {diffusion.dh: []}\n", ["diffusion.dh", "one or more"]),
        ("base: quickstart\nsweep: {diffusion.dh: 3}\n", ["sweep.diffusion.dh"]),
        ("base: quikstart\nsweep: {diffusion.dh: [1]}\n", ["did you mean 'quickstart'"]),
        ("base: quickstart\nsweep: {diffusion.dh: [1]}\nseed: [1]\n", ["did you mean 'seeds'"]),
        ("base: quickstart\nsweep: {diffusion.dh: [1]}\nchanges: {a: {b: 1}}\n", ["changes: a"]),
    ],
)
def test_a_mistake_in_a_file_of_a_sweep_is_named(tmp_path, text, parts):
    path = tmp_path / "sweep.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settings.read(str(path))
    for part in (*parts, "sweep.yml" if "quikstart" not in text else "quikstart"):
        assert part in str(caught.value)


def test_an_empty_list_can_be_a_value():
    key = "model.attention_resolutions"
    configs = built(f"{key}=[],[8]").configs.values()
    assert [settings.value_text(settings.value_at(c, key)) for c in configs] == ["[]", "[8]"]
