"""Comparisons of denoising as a user meets them, and the classical denoisers beside them."""

import csv
import dataclasses
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import assert_mistake, tree
from comparison_helpers import (
    DENOISING_METHODS,
    DENOISING_PICTURES,
    LEVELS,
    MADE,
    SEEDS,
    csv_rows,
    denoising_command,
    json_of,
    metrics_of,
    names,
    save_metrics,
    stamps,
    tables_of,
)
from score_embedding import atomic_files
from score_embedding.comparison import compare as comparisons
from score_embedding.comparison import spec, variants
from score_embedding.config.sections import DataLoader
from score_embedding.data import crops
from score_embedding.data import datasets as data
from score_embedding.errors import ConfigError
from score_embedding.evaluation import held_out
from score_embedding.restoration import rivals

# Pictures are looked at in the comparison of `compared_denoising`, which another process has made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:FPDF.preload_image:DeprecationWarning"),
    pytest.mark.usefixtures("undrawn"),
]


@pytest.fixture
def folder(denoising_folder):
    return denoising_folder


# Files and tables


def test_a_denoising_comparison_leaves_its_runs_tables_and_pictures(compared_denoising):
    folder, stdout = compared_denoising.folder, compared_denoising.stdout
    assert set(os.listdir(folder)) == MADE | DENOISING_PICTURES | {"runs"}
    assert set(os.listdir(folder / "runs")) == set(names(DENOISING_METHODS))
    last = stdout.splitlines()[-1]
    assert last == "comparison: c, with table.md and psnr_over_time.png in it"
    assert "PSNR in dB at the end" in stdout
    assert "Never behind plain?" in stdout
    for name in DENOISING_PICTURES:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 5
    for name in ("noise 0.125", "gaussian\\_alone", "wavelets"):
        assert name in (folder / "table.tex").read_text()


def test_every_table_says_what_was_measured_on_what(folder):
    titles = [title for title, _, _ in tables_of(folder)]
    assert titles[0] == "Photographs denoised, at the end"
    assert titles[-2:] == ["Never behind plain?", "Time to the PSNR of plain"]
    for _, note, _ in tables_of(folder):
        for part in ("crops of 8 x 8 x 3 (sample, astronaut)", "held out: china 24 x 24, flower"):
            assert part in note
        for part in ("noise 0.125, 0.5;", "network unet, ch 8", "seeds 2, 5", "1 thread(s)"):
            assert part in note
        assert "Heun" not in note
        assert "RK45" not in note


def test_the_end_of_each_method_is_the_median_of_the_last_rows(folder):
    _, note, rows = tables_of(folder)[0]
    of = {row["method"]: row for row in rows}
    assert list(of) == [*DENOISING_METHODS, *rivals.available()]
    scatter = 0.0
    for method in DENOISING_METHODS:
        ends = [metrics_of(folder, f"{method}_seed{seed}")[-1] for seed in SEEDS]
        for level in LEVELS:
            psnr, ssim = ([end[f"{name}_{level:g}"] for end in ends] for name in ("psnr", "ssim"))
            assert of[method][f"noise {level:g}"] == f"{np.mean(psnr):.2f} / {np.mean(ssim):.3f}"
            scatter = max(scatter, max(psnr) - min(psnr))
        seconds, steps = np.mean([end["training_seconds"] for end in ends]), ends[0]["step"]
        assert of[method]["trained: s (steps)"] == f"{seconds:.1f} ({steps:.0f})"
    assert f"differ by at most {scatter:.2f} dB" in note
    assert of["gaussian_alone"]["trained: s (steps)"].endswith("(0)")


def test_each_run_is_a_row_with_what_its_own_folder_says(folder):
    rows = csv_rows(folder)
    assert len(rows) == len(DENOISING_METHODS) * len(SEEDS)
    for row in rows:
        last = metrics_of(folder, f"{row['method']}_seed{row['seed']}")[-1]
        assert float(row["training_seconds"]) == last["training_seconds"]
        assert float(row["steps"]) == last["step"]
        for name in held_out.columns(LEVELS):
            assert float(row[name]) == last[name]


def test_the_classical_denoisers_are_given_the_same_noise_and_measured_in_the_same_way(folder):
    arrays = atomic_files.read_arrays(folder / "runs" / "plain_seed2" / "denoised.npz")
    values = {entry["method"]: entry for entry in json_of(folder)["classical"]}
    rows = {row["method"]: row for row in tables_of(folder)[0][2]}
    for name in ("wavelets", "total_variation"):
        for k, level in enumerate(LEVELS):
            found = []
            for i in range(2):
                answer = rivals.denoise(name, torch.from_numpy(arrays[f"noisy_{i}"][k]), level)
                mse = np.mean((answer.clamp(0, 1).numpy() - arrays[f"photograph_{i}"]) ** 2)
                found.append(-10 * np.log10(mse))
            assert values[name][f"psnr_{level:g}"] == pytest.approx(np.mean(found), abs=1e-4)
            assert rows[name][f"noise {level:g}"].startswith(f"{np.mean(found):.2f} / ")
        assert values[name]["seconds_a_photograph"] > 0


# Runs made by hand


def write_metrics(folder, method, seed, *rows, steps=100):
    """A run's evaluations: (seconds, PSNR at 0.125, PSNR at 0.5), `steps` apart."""
    names = ("psnr_0.125", "psnr_0.5")
    trained = not method.endswith("_alone")
    lines = [
        {"step": steps * k if trained else 0, "training_seconds": seconds, "loss": 1.0}
        | dict(zip(names, psnr, strict=True))
        | {"ssim_0.125": 0.5, "ssim_0.5": 0.25}
        for k, (seconds, *psnr) in enumerate(rows, start=1)
    ]
    save_metrics(folder / "runs" / f"{method}_seed{seed}", lines)


def by_hand(folder, steps=100):
    """Seed 2 is always 2 dB above seed 5, and both are evaluated at the same times, but for the
    fit. Plain gains 1 dB in 20 s; the residual starts high and stays there."""
    for seed, more in ((2, 2.0), (5, 0.0)):
        plain = [(20.0 * k, 20.0 + k + more, 10.0 + k + more) for k in range(1, 9)]
        write_metrics(folder, "plain", seed, *plain, steps=steps)
        residual = [(20.0 + 20 * k, 26.0 + more, 14.0 + more) for k in range(1, 8)]
        write_metrics(folder, "gaussian_residual", seed, *residual)
        write_metrics(folder, "gaussian_alone", seed, (10.0 + seed, 30.0 + more, 9.0 + more))
    return spec.read(folder)


def test_the_tables_of_runs_made_by_hand_are_those_worked_out_by_hand(folder):
    comparisons.collect(by_hand(folder), folder, {})
    (_, _, end), (title, note, equal), (_, _, never), (_, _, to) = tables_of(folder)
    assert [row["noise 0.125"] for row in end[:3]] == [
        "29.00 / 0.500",
        *["27.00 / 0.500"],
        "31.00 / 0.500",
    ]
    assert title == "Against plain at equal times"
    assert "linear between evaluations" in note
    # shortest run 160 s; the residual is there from 40 s on, the one without training from 15 s
    assert [tuple(row.values()) for row in equal] == [
        ("gaussian_residual", "40.0", "+4.00", "+2.00"),
        ("gaussian_residual", "80.0", "+2.00", "+0.00"),
        ("gaussian_residual", "160.0", "-2.00", "-4.00"),
        ("gaussian_alone", "20.0", "+9.00", "-2.00"),
        ("gaussian_alone", "40.0", "+8.00", "-3.00"),
        ("gaussian_alone", "80.0", "+6.00", "-5.00"),
        ("gaussian_alone", "160.0", "+2.00", "-9.00"),
    ]
    verdicts = [list(row.values()) for row in never]
    behind = (
        "noise 0.125: 140.0 to 160.0 s, by up to 2 dB; noise 0.5: 100.0 to 160.0 s, by up to 4 dB"
    )
    assert verdicts[0] == ["gaussian_residual", "40.0 to 160.0", f"no ({behind})"]
    behind = "noise 0.5: 20.0 to 160.0 s, by up to 9 dB"
    assert verdicts[1] == ["gaussian_alone", "20.0 to 160.0", f"no ({behind})"]
    # plain after 400 steps: 24 and 26, the lower counts; seed 2 has it after 40 s, seed 5 after 80
    plain, residual, alone = (list(row.values())[1:] for row in to)
    assert list(to[0])[1:3] == ["noise 0.125, 24.00 dB: s (steps)", "0.125: plain / method"]
    assert plain == ["60.0 [50.0, 70.0] (300)", "1.00"] * 2
    assert residual == ["40.0 (100)", "1.50"] * 2
    assert alone == ["13.5 [12.8, 14.2] (0)", "4.44", "not reached", "-"]


def test_between_evaluations_psnr_is_interpolated_and_times_go_on_doubling(folder):
    comparison = by_hand(folder)
    for seed in SEEDS:
        write_metrics(folder, "gaussian_residual", seed, (4, 22, 0), (12, 24, 0), (40, 27, 0))
    comparisons.collect(comparison, folder, {})
    rows = [row for row in tables_of(folder)[1][2] if row["method"] == "gaussian_residual"]
    # 40 s and its shares; plain is not there before 20 s: 24 + 3 * 8 / 28 against 22
    assert [list(row.values())[1:3] for row in rows] == [["20.0", "+2.86"], ["40.0", "+4.00"]]
    (_, _, never), (_, _, to) = tables_of(folder)[2:]
    assert never[0]["both evaluated: s"] == "20.0 to 40.0"
    assert to[1]["0.5: plain / method"] == "-"
    alone = [row for row in tables_of(folder)[1][2] if row["method"] == "gaussian_alone"]
    assert [row["s"] for row in alone] == ["20.0", "40.0", "80.0", "160.0"]


def test_a_reference_of_few_steps_sets_its_end_and_the_note_says_so(folder):
    comparisons.collect(by_hand(folder, steps=10), folder, {})
    _, note, rows = tables_of(folder)[-1]
    assert "where it made fewer than 400, at its end (steps, seed by seed: 80, 80)" in note
    assert list(rows[0])[1] == "noise 0.125, 28.00 dB: s (steps)"
    assert rows[1]["noise 0.125, 28.00 dB: s (steps)"] == "not reached (1 of 2 did)"


def test_never_behind_is_said_of_one_that_never_is(folder):
    comparison = by_hand(folder)
    for seed, more in ((2, 2.0), (5, 0.0)):
        high = [(20.0 * k, 20.0 + k + more, 10.0 + k + more) for k in range(1, 9)]
        write_metrics(folder, "gaussian_residual", seed, *high)
    comparisons.collect(comparison, folder, {})
    row = tables_of(folder)[2][2][0]
    assert list(row.values()) == ["gaussian_residual", "20.0 to 160.0", "yes"]
    for seed in SEEDS:
        write_metrics(folder, "gaussian_residual", seed, (200.0, 1.0, 1.0))
    comparisons.collect(comparison, folder, {})
    row = tables_of(folder)[2][2][0]
    assert list(row.values()) == ["gaussian_residual", "never", "-"]


def test_without_the_reference_there_is_the_end_alone_and_the_note_says_why(folder):
    comparison = spec.read(folder)
    configs = {m: comparison.configs[m] for m in DENOISING_METHODS if m != "plain"}
    comparisons.collect(dataclasses.replace(comparison, configs=configs), folder, {})
    ((_, note, rows),) = tables_of(folder)
    assert "No run of plain is finished" in note
    assert [row["method"] for row in rows][:2] == list(configs)


# Continuing, and what is missing


def test_again_needs_no_task_makes_the_tables_again_and_runs_nothing(folder, call):
    before, when = tree(folder), stamps(folder / "runs")
    for name in (MADE | DENOISING_PICTURES) - {"comparison.yml"}:
        (folder / name).unlink()
    done = call("compare", "--again", "c")
    assert done.returncode == 0, done.stderr
    assert "6 runs, 6 of them there already" in done.stderr
    assert stamps(folder / "runs") == when
    assert set(tree(folder)) == set(before)
    assert_mistake(call("compare", "--again", "c", "--task", "denoising"), "--again takes all")


@pytest.mark.usefixtures("folder")
def test_the_config_decides_and_names_the_default_methods(call):
    asked = [
        part for part in denoising_command(DENOISING_METHODS) if part not in ("--task", "denoising")
    ]
    done = call(*asked, "--config", "photographs")
    assert done.returncode == 0, done.stderr
    assert "6 runs, 6 of them there already" in done.stderr
    sets = ["held_out.image=[china]", "held_out.shrink=4", "training.target_ssim=False"]
    for config, override, methods in (
        ("photographs", [], variants.DEFAULT_OF_DENOISING),
        ("photographs", ["input.training.lr=0.5"], variants.DEFAULT_OF_DENOISING),
        ("photographs", ["held_out=null"], variants.DEFAULT),
    ):
        found = spec.default_methods(config, override)
        assert found == list(methods)
    assert spec.default_methods("quickstart", sets) == list(variants.DEFAULT_OF_DENOISING)


def test_damaged_and_unfinished_runs_are_named_and_count_in_no_figure(folder):
    path = folder / "runs" / "gaussian_residual_seed2" / "metrics.csv"
    path.write_text("\n".join(path.read_text().splitlines())[:-60])
    (folder / "runs" / "plain_seed5" / "denoised.npz").write_bytes(b"not an archive")
    for name in ("timing.json", "report.html", "report.pdf"):
        (folder / "runs" / "gaussian_alone_seed5" / name).unlink()
    comparison = spec.read(folder)
    result = comparisons.collect(comparison, folder, {"gaussian_alone_seed5": "it diverged"})
    assert set(result.missing) == {
        *("gaussian_residual_seed2", "plain_seed5", "gaussian_alone_seed5")
    }
    title, _, rows = tables_of(folder)[-1]
    assert title == "Missing runs"
    reasons = {row["run"]: row["reason"] for row in rows}
    assert "metrics.csv: damaged" in reasons["gaussian_residual_seed2"]
    assert "denoised.npz: truncated or damaged" in reasons["plain_seed5"]
    assert reasons["gaussian_alone_seed5"] == "it diverged"
    assert len(csv_rows(folder)) == 3


def test_a_run_that_diverges_is_named_and_the_others_go_on(call, tmp_path):
    asked = denoising_command(
        ("plain", "gaussian_alone"), "--set", "plain.training.lr=1e30", seeds=[2]
    )
    done = call(*asked)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "1 runs are missing: plain_seed2 (" in done.stderr
    (_, note, rows), (title, _, missing) = tables_of(tmp_path / "c")
    assert "No run of plain is finished" in note
    assert rows[0]["method"] == "gaussian_alone"
    assert (title, missing[0]["run"]) == ("Missing runs", "plain_seed2")
    with (tmp_path / "c" / "runs.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["gaussian_alone"]


def test_without_any_finished_run_there_is_nothing_but_the_list_of_them(folder):
    for name in ("timing.json", "report.html", "report.pdf"):
        for run in (folder / "runs").iterdir():
            (run / name).unlink()
    result = comparisons.collect(spec.read(folder), folder, {})
    assert len(result.missing) == 6
    assert [title for title, _, _ in tables_of(folder)] == ["Missing runs"]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--task denoise", ["--task 'denoise'", "must be samples or denoising"]),
        ("--task denoising --config quickstart", ["quickstart", "held_out", "photographs"]),
        ("--task denoising --targets 0.5", ["--targets", "photographs has held_out"]),
        ("--config photographs --targets 0.5", ["--targets", "photographs has held_out"]),
        ("--task samples", ["--config or --again is needed"]),
        (
            "--task denoising --methods plain,input --set input.held_out.crop=8",
            ["method input", "held_out is not that of plain"],
        ),
        ("--task denoising --set ddim.training.lr=1", ["ddim", "unknown key"]),
    ],
)
def test_a_mistake_in_what_to_compare_is_named_and_nothing_is_created(call, arguments, parts):
    done = call("compare", *arguments.split())
    assert_mistake(done, *parts)
    assert os.listdir() == []


# The classical denoisers


def training_picture(channels, side=64):
    options = DataLoader(dataset="sample", image=["astronaut"], crops=True, shrink=2)
    options = options.model_copy(update={"channels": channels})
    return crops.middle(data.load_photographs(options)[0], side)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [name for name in rivals.DENOISERS if name != "bm3d"])
def test_a_classical_denoiser_gains_at_every_level_that_it_is_tuned_for(name, channels):
    picture = training_picture(channels)
    for level, least in zip(rivals.LEVELS, (2.0, 3.5, 5.0, 6.0), strict=True):
        noisy = held_out.with_noise(picture, level, 0)
        before = noisy.clone()
        answer = rivals.denoise(name, noisy, level)
        assert torch.equal(noisy, before)
        assert (answer.shape, answer.dtype, answer.device) == (
            *(noisy.shape, noisy.dtype, noisy.device),
        )
        mse = [float(((x.clamp(0, 1) - picture) ** 2).mean()) for x in (noisy, answer)]
        assert 10 * np.log10(mse[0] / mse[1]) > least, level


def test_bm3d_gains_where_it_is_installed():
    pytest.importorskip("bm3d")
    picture = training_picture(1, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = rivals.denoise("bm3d", held_out.with_noise(picture, 0.25, 0), 0.25)
    assert answer.shape == picture.shape
    assert float(((answer.clamp(0, 1) - picture) ** 2).mean()) < 0.25**2 / 4


def test_without_bm3d_it_is_not_offered_and_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda _: None)
    assert rivals.available() == ["wavelets", "total_variation", "non_local_means"]
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(ConfigError, match=r"pip install bm3d; free for non-commercial use only"):
        rivals.denoise("bm3d", torch.zeros(1, 16, 16), 0.1)
    with pytest.raises(ConfigError, match=r"median: no classical denoiser; .* wavelets"):
        rivals.denoise("median", torch.zeros(1, 16, 16), 0.1)


@pytest.mark.parametrize("size", [(1, 1), (2, 19), (16, 7)])
@pytest.mark.parametrize("name", [name for name in rivals.DENOISERS if name != "bm3d"])
def test_a_picture_smaller_than_a_patch_keeps_its_shape(name, size, generator):
    noisy = torch.rand(3, *size, generator=generator)
    answer = rivals.denoise(name, noisy, 0.2)
    assert answer.shape == noisy.shape
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize("name", ["wavelets", "total_variation", "non_local_means"])
def test_other_multiples_are_no_better_on_one_picture_of_the_search(name):
    tuned = rivals.DENOISERS[name][1]
    for level, multiple in list(zip(rivals.LEVELS, tuned, strict=True))[::2]:
        near = [multiple - 0.3, multiple, multiple + 0.3]
        gives = [
            rivals.best_multiples(name, [training_picture(3)], [level], [each])[0][1]
            for each in near
        ]
        assert gives[1] > max(gives) - 0.2


def test_a_strength_between_two_levels_lies_between_theirs(monkeypatch):
    seen = []

    def note(noisy, _, multiple):
        seen.append(multiple)
        return noisy

    monkeypatch.setitem(rivals.DENOISERS, "x", (note, (0.6, 0.8, 1.0, 1.2)))
    picture = torch.rand(1, 16, 16)
    for level in (0.001, 0.05, (0.05 * 0.125) ** 0.5, 0.5, 3.0):
        assert torch.equal(rivals.denoise("x", picture, level), picture)
    assert seen == pytest.approx([0.6, 0.6, 0.7, 1.2, 1.2])
