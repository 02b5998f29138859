"""Comparisons as a user meets them: runs, tables and pictures of one folder."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from command_line import SHIPPED, tree
from comparison_helpers import (
    FINAL,
    MADE,
    METHODS,
    PICTURES,
    PRIORS,
    SEEDS,
    TARGETS,
    csv_rows,
    first_at,
    json_of,
    metrics_of,
    names,
    tables_of,
    write_metrics,
)
from score_embedding import atomic_files
from score_embedding.comparison import compare as comparisons
from score_embedding.comparison import spec
from score_embedding.comparison.description import describe
from score_embedding.methods import model as models
from score_embedding.methods.base import method_of

pytestmark = pytest.mark.filterwarnings("ignore:FPDF.preload_image:DeprecationWarning")


# The whole command


def test_a_comparison_leaves_a_run_folder_for_each_run_and_the_tables(compared):
    left = tree(compared.cwd)
    assert {path.split("/")[2] for path in left if path.startswith("c/runs/")} == set(names())
    outside = {path for path in left if not path.startswith("c/runs/")}
    assert outside == {f"c/{name}" for name in MADE | PICTURES}
    for name in names():
        lacks = {"model.safetensors", "state.json"} if "closed_form" in name else set()
        lacks |= set() if "embedding" in name or "none" in name else {"scores.npz", "scores.png"}
        shipped = {f"c/runs/{name}/{file}" for file in set(SHIPPED) - lacks}
        assert {path for path in left if path.startswith(f"c/runs/{name}/")} == shipped


def test_a_comparison_says_where_it_is_and_shows_the_medians(compared):
    last = compared.stdout.splitlines()[-1]
    assert last == "comparison: c, with table.md and ssim_over_time.png in it"
    for prior in PRIORS:
        assert f"Seconds to an SSIM, {prior} prior" in compared.stdout
    for row in tables_of(compared.folder)[0][2]:
        median = row["final SSIM"].split()[0]
        assert re.search(rf"{row['method']} .* {re.escape(median)} *\n", compared.stdout)


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_the_pictures_of_a_comparison_open_and_show_something(compared, name):
    with Image.open(compared.folder / name) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200
        assert np.asarray(picture.convert("L")).std() > 5


def test_each_run_is_a_row_under_each_prior_with_what_its_own_folder_says(compared):
    rows = csv_rows(compared.folder)
    assert len(rows) == len(METHODS) * len(SEEDS) * 2
    seen = {(row["method"], row["seed"], row["prior"]) for row in rows}
    assert len(seen) == len(rows)
    for row in rows:
        name, prefix = f"{row['method']}_seed{row['seed']}", PRIORS[row["prior"]]
        last = metrics_of(compared.folder, name)[-1]
        assert float(row["training_seconds"]) == last["training_seconds"]
        assert float(row["steps"]) == last["step"]
        assert {key: float(row[key]) for key in FINAL} == {k: last[prefix + k] for k in FINAL}
        for target in TARGETS:
            hit = first_at(compared.folder, name, prefix, target)
            cells = row[f"seconds_to_{target:g}"], row[f"steps_to_{target:g}"]
            assert cells == ("", "") if hit is None else tuple(map(float, cells)) == hit
    assert {row["nfe"] for row in rows} == {"4.0"}


def test_the_json_holds_the_runs_their_curves_and_quartiles_that_numpy_agrees_with(compared):
    values = json_of(compared.folder)
    assert values["missing"] == {}
    assert values["targets"] == list(TARGETS)
    assert len(values["runs"]) == len(csv_rows(compared.folder))
    for run in values["runs"]:
        prefix = PRIORS[run["prior"]]
        rows = metrics_of(compared.folder, f"{run['method']}_seed{run['seed']}")
        curve = [[row["training_seconds"], row[f"{prefix}ssim_minmax"]] for row in rows]
        assert run["curve"] == curve
    assert len(values["summaries"]) == len(METHODS) * 2
    for summary in values["summaries"]:
        own = [metrics_of(compared.folder, name) for name in names([summary["method"]])]
        assert summary["runs"] == 2
        for key in FINAL:
            last = [rows[-1][PRIORS[summary["prior"]] + key] for rows in own]
            expected = np.quantile(last, [0.25, 0.5, 0.75])
            np.testing.assert_allclose(list(summary["final"][key].values()), expected, rtol=1e-12)


def test_the_times_of_the_tables_are_the_runs_own(compared):
    tables = tables_of(compared.folder)
    assert [title for title, _, _ in tables] == [
        "Time to quality, unit prior N(0, I)",
        "Time to quality, matched prior N(0, std² I)",
        "Ratio to each baseline",
    ]
    summaries = {(s["method"], s["prior"]): s for s in json_of(compared.folder)["summaries"]}
    for (_, note, rows), (prior, prefix) in zip(tables, PRIORS.items(), strict=False):
        assert "seeds 2, 5" in note
        assert "Missing" not in note
        assert [row["method"] for row in rows] == list(METHODS)
        for row in rows:
            for target in TARGETS:
                own = names([row["method"]])
                hits = [first_at(compared.folder, name, prefix, target) for name in own]
                hits = [hit for hit in hits if hit]
                cell = row[f"SSIM {target:.2f}: s (steps)"]
                time_to = summaries[row["method"], prior]["time_to"][str(target)]
                assert summaries[row["method"], prior]["reached"][str(target)] == len(hits)
                if len(hits) < 2:
                    assert cell == "not reached" + (" (1 of 2 did)" if hits else "")
                    assert time_to["median"] is None
                    continue
                seconds, steps = np.array(hits).T
                lower, median, upper = np.quantile(seconds, [0.25, 0.5, 0.75])
                np.testing.assert_allclose(list(time_to.values()), [lower, median, upper])
                shown = f"{median:.1f} [{lower:.1f}, {upper:.1f}] ({np.median(steps):.0f})"
                assert cell == (shown if lower < upper else f"{median:.1f} (0)")


def test_these_runs_show_a_target_reached_by_all_by_some_and_by_none(compared):
    rows = {row["method"]: row for row in tables_of(compared.folder)[0][2]}
    column = "SSIM 0.02: s (steps)"
    assert rows["score_embedding"][column].endswith("(1)")
    assert rows["closed_form"][column] == "0.0 (0)"
    assert rows["ddpm_plain"][column] == "not reached (1 of 2 did)"
    assert {row["SSIM 0.99: s (steps)"] for row in rows.values()} == {"not reached"}


def test_the_ratio_to_a_baseline_that_ended_before_is_a_bound(compared):
    (_, _, rows) = tables_of(compared.folder)[-1]
    keys = [(row["method"], row["prior"], row["target"]) for row in rows]
    trained = ("score_embedding", "none")
    assert keys == [(method, prior, "0.02") for prior in PRIORS for method in trained]
    ended = np.median(
        [metrics_of(compared.folder, n)[-1]["training_seconds"] for n in names(["ddpm_plain"])]
    )
    for row in rows:
        first = [
            first_at(compared.folder, name, PRIORS[row["prior"]], 0.02)[0]
            for name in names([row["method"]])
        ]
        assert row["ddpm_plain / method"] == f"> {ended / np.median(first):.2f}"


def test_runs_of_one_seed_start_from_the_same_weights_and_the_same_noise(compared):
    jobs = {job.path.name: job for job in spec.jobs(spec.read(compared.folder), compared.folder)}
    weights, starts = {}, {}
    for name in names():
        arrays = atomic_files.read_arrays(compared.folder / "runs" / name / "samples.npz")
        starts[name] = arrays["path"][0]
        built = models.build_network(method_of(jobs[name].config), 1, torch.device("cpu"))
        weights[name] = torch.cat([p.flatten() for p in built.parameters()])
    for seed in SEEDS:
        first = f"score_embedding_seed{seed}"
        for method in ("none", "ddpm_plain"):
            assert torch.equal(weights[first], weights[f"{method}_seed{seed}"])
        for method in ("none", "closed_form"):
            np.testing.assert_array_equal(starts[first], starts[f"{method}_seed{seed}"])
        of_baseline = 2 * starts[f"ddpm_plain_seed{seed}"] - 1  # its images lie in [-1, 1]
        np.testing.assert_allclose(of_baseline, starts[first], rtol=0, atol=1e-6)
    first, second = (f"score_embedding_seed{seed}" for seed in SEEDS)
    assert not torch.equal(weights[first], weights[second])
    assert np.abs(starts[first] - starts[second]).max() > 0.1


def test_methods_that_train_differently_end_with_other_weights(compared):
    for seed in SEEDS:
        ends = [
            load_file(compared.folder / "runs" / f"{method}_seed{seed}" / "model.safetensors")
            for method in ("score_embedding", "none", "ddpm_plain")
        ]
        ends = [np.concatenate([end[key].ravel() for key in sorted(end)]) for end in ends]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(ends[i] - ends[j]).max() > 1e-6


# Tables of runs made by hand


def by_hand(folder):
    """What is there of two seeds of score_embedding and of DDPM, with times that are known."""
    write_metrics(folder, "score_embedding_seed2", [(10, 0.5), (20, 0.9), (40, 0.99), (50, 0.8)])
    write_metrics(folder, "score_embedding_seed5", [(14, 0.9), (28, 0.97), (60, 0.985)])
    write_metrics(folder, "ddpm_plain_seed2", [(30, 0.91), (120, 0.95), (200, 0.96)])
    write_metrics(folder, "ddpm_plain_seed5", [(50, 0.92), (90, 0.8), (320, 0.7)])
    comparison = spec.read(folder)
    configs = {name: comparison.configs[name] for name in ("score_embedding", "ddpm_plain")}
    return dataclasses.replace(comparison, configs=configs, targets=(0.9, 0.95, 0.98, 0.99))


def test_the_tables_of_runs_made_by_hand_are_those_worked_out_by_hand(folder):
    comparisons.collect(by_hand(folder), folder, {})
    (_, _, rows), (_, _, matched), (_, _, ratios) = tables_of(folder)
    assert rows == matched
    # score_embedding to 0.9: 20 and 14 s, 0.95: 40 and 28, 0.98: 40 and 60, 0.99: 40 and never
    own, baseline = (list(row.values()) for row in rows)
    times = ["17.0 [15.5, 18.5] (15)", "34.0 [31.0, 37.0] (25)", "50.0 [45.0, 55.0] (30)"]
    assert own[:5] == ["score_embedding", *times, "not reached (1 of 2 did)"]
    assert own[5:] == ["0.8925 [0.8463, 0.9387]", "20.00", "1.00e-02", "8", "55.0 (40)"]
    times = ["40.0 [35.0, 45.0] (10)", "not reached (1 of 2 did)", "not reached", "not reached"]
    assert baseline[:5] == ["ddpm_plain", *times]
    assert baseline[5:] == ["0.8300 [0.7650, 0.8950]", "20.00", "1.00e-02", "8", "260.0 (30)"]
    unit = [list(row.values())[2:] for row in ratios if row["prior"] == "unit"]
    assert unit == [["0.90", "2.35"], ["0.95", "> 7.65"], ["0.98", "> 5.20"]]  # over 17, 34, 50


def test_a_run_that_did_not_finish_is_listed_and_counts_in_no_median(folder):
    comparison = by_hand(folder)
    for name in ("timing.json", "report.html", "report.pdf"):  # the last ones of a run
        (folder / "runs" / "score_embedding_seed5" / name).unlink()
    result = comparisons.collect(comparison, folder, {})
    assert result.missing == {"score_embedding_seed5": "not run"}
    (_, _, rows), _, _, (title, _, missing) = tables_of(folder)
    assert title == "Missing runs"
    assert missing == [{"run": "score_embedding_seed5", "reason": "not run"}]
    assert list(rows[0].values())[1:5] == ["20.0 (20)", "40.0 (30)", "40.0 (30)", "40.0 (30)"]
    assert rows[0]["final SSIM"] == "0.8000"
    assert json_of(folder)["missing"] == result.missing
    assert "score\\_embedding\\_seed5 & not run" in (folder / "table.tex").read_text()


def test_times_of_unlike_machines_are_said_not_to_be_comparable(folder):
    comparison = spec.read(folder)
    assert "MIXED" not in describe(comparison, spec.jobs(comparison, folder))
    path = folder / "runs" / "none_seed5" / "environment.json"
    values = json.loads(path.read_text())
    assert (values["device"], values["threads"]) == ("cpu", 1)
    path.write_text(json.dumps(values | {"threads": 3}))
    said = describe(comparison, spec.jobs(comparison, folder))
    assert "MIXED machines, times are not comparable" in said
    assert "1 thread(s) / " in said
    assert said.endswith("3 thread(s)")


def test_infinities_are_null_in_the_json(folder):
    summaries = json_of(folder)["summaries"]
    never = [summary["time_to"]["0.99"] for summary in summaries]
    assert never == [{"lower": None, "median": None, "upper": None}] * 8
    values = {0.5: [math.inf, -math.inf, math.nan, 1.5, None], "a": (True, {"b": math.inf})}
    assert comparisons.finite(values) == {
        "0.5": [None, None, None, 1.5, None],
        "a": [True, {"b": None}],
    }
