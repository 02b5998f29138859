"""The benchmark of training on data sets: configs, times and ratios, and a tiny run of it."""

import argparse
import json
import math
import sys

import pytest

import idx_files
from score_embedding import kinds
from score_embedding.methods.base import method_of


@pytest.fixture
def benchmark(benchmark_named):
    return benchmark_named("dataset_training")


def options_of(**changes):
    values = {"seconds": 5.0, "first": 1.0, "changes": []}
    return argparse.Namespace(**{**values, **changes})


def evaluations(*pairs):
    return [{"training_seconds": seconds, "frechet": distance} for seconds, distance in pairs]


def test_all_methods_have_the_same_network_batches_seed_and_clock(benchmark):
    names = [
        name
        for name, own in benchmark.METHODS.items()
        if own.get("image_density", {}).get("kind", "white") in kinds.DENSITIES
    ]
    configs = [benchmark.config_of(name, 3, options_of()) for name in names]
    assert len({config.method for config in configs}) > 1
    for config in configs:
        assert config.data_loader == configs[0].data_loader
        assert config.training.model_copy(update={"loss_weight": "standard"}) == configs[0].training
        assert (config.training.seed, config.training.seconds) == (3, 5.0)
        assert config.model == configs[0].model
        assert method_of(config).uses_index is False
    weights = {config.training.loss_weight for config in configs}
    assert weights == {"standard", "min_snr"}


def test_changes_are_made_after_all_sections(benchmark):
    config = benchmark.config_of("plain", 0, options_of(changes=["model.ch=8"]))
    assert config.model.ch == 8


def test_a_distance_is_reached_between_two_evaluations(benchmark):
    rows = evaluations((0.0, 500.0), (40, 100.0), (160, 50.0), (640, 60.0))
    assert benchmark.seconds_to(rows, 100.0) == pytest.approx(40)
    assert benchmark.seconds_to(rows, 75.0) == pytest.approx(80)  # half-way in log(seconds)
    assert benchmark.seconds_to(rows, 600.0) == 1e-3
    assert benchmark.seconds_to(rows, 49.0) == math.inf
    assert benchmark.at(rows, 80) == pytest.approx(75)


def test_ratios_are_those_of_each_seed(benchmark):
    plain = evaluations((1, 100.0), (100, 10.0))
    runs = {"plain": [plain, plain], "other": [evaluations((1, 50.0), (25, 10.0)), plain]}
    assert benchmark.ratios(runs, "other", 100.0) == pytest.approx([4, 1])
    assert benchmark.ratios(runs, "plain", 10.0) == pytest.approx([1, 1])


@pytest.mark.slow
def test_a_tiny_run_is_measured_and_continues_where_it_was_stopped(
    benchmark, tmp_path, monkeypatch, capsys
):
    data = idx_files.write(tmp_path / "idx")
    out = tmp_path / "out"
    changes = [f"data_loader.path={data}", "model.ch=8", "model.ch_mult=[1,2]", "sample.steps=2"]
    numbers = ["--seconds", "2", "--first", "0.5", "--samples", "4", "--held-out", "2"]

    def run(*more):
        arguments = [str(out), "--methods", "plain", "--seeds", "0", *numbers, *more]
        monkeypatch.setattr(sys, "argv", ["dataset_training.py", *arguments, "--set", *changes])
        benchmark.main()
        return (out / "plain_seed0.json").read_bytes()

    first = run()
    rows = json.loads(first)["rows"]
    assert rows[0]["step"] == 0
    assert len(rows) >= 3
    assert all(row["samples"] == 4 and row["error_0.5"] > 0 for row in rows)
    assert run() == first
    assert {path.name for path in out.iterdir()} == {
        *("plain_seed0.json", "plain_seed0.png", "curves.png", "table.md", "summary.json")
    }
    assert "times faster to plain's distance at the end" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="a run of other settings"):
        run("--samples", "5")
