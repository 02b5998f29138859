"""Comparisons that are interrupted, changed, spread over processes, or asked for wrongly."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time

import pytest
import torch
import yaml

from command_line import FORKS, assert_mistake, empty, null, sets, start, tree
from comparison_helpers import (
    MADE,
    METHODS,
    PICTURES,
    command,
    csv_rows,
    json_of,
    metrics_of,
    names,
    stamps,
    tables_of,
    without_times,
)
from score_embedding import pipeline
from score_embedding.comparison import execution, spec
from score_embedding.comparison.compare import compare
from score_embedding.comparison.variants import VARIANTS
from score_embedding.config import loading
from score_embedding.errors import Interrupted

pytestmark = pytest.mark.filterwarnings("ignore:FPDF.preload_image:DeprecationWarning")

# Continuing


def test_a_comparison_killed_in_the_middle_goes_on_where_it_was(compared, call, tmp_path):
    methods = ("closed_form", "ddpm_plain")
    asked = command(methods, seeds=[2])
    complete, begun = (tmp_path / "c" / "runs" / name for name in names(methods, [2]))
    with start(tmp_path, *asked) as going:
        until = time.monotonic() + 100
        while not (begun / "config.yml").is_file() and time.monotonic() < until:
            time.sleep(0.005)
        going.send_signal(signal.SIGKILL)
        going.wait()
    assert begun.is_dir()
    assert not (begun / "timing.json").exists()
    assert not (tmp_path / "c" / "table.md").exists()
    before, when = tree(complete), stamps(complete)
    assert {"timing.json", "report.html", "report.pdf"} <= set(before)

    done = call(*asked)
    assert done.returncode == 0, done.stderr
    assert "2 runs, 1 of them there already" in done.stderr
    assert (tree(complete), stamps(complete)) == (before, when)
    whole = compared.folder / "runs" / begun.name
    for file in ("config.yml", "model.safetensors"):
        assert (begun / file).read_bytes() == (whole / file).read_bytes()
    rows = [metrics_of(path, begun.name) for path in (tmp_path / "c", compared.folder)]
    for row in (*rows[0], *rows[1]):
        del row["training_seconds"]
    assert rows[0] == rows[1]
    parts = [without_times(path, methods, 2) for path in (tmp_path / "c", compared.folder)]
    assert len(parts[0]) == 4
    assert parts[0] == parts[1]


@pytest.mark.slow
def test_a_run_that_another_process_has_finished_since_is_kept(folder):
    comparison = spec.read(folder)
    job = spec.jobs(comparison, folder)[0]
    before, when = tree(job.path), stamps(job.path)
    assert execution.execute([job], torch.device("cpu")) == {}
    assert (tree(job.path), stamps(job.path)) == (before, when)
    assert execution.execute([job], torch.device("cpu"), overwrite=True) == {}
    assert stamps(job.path) != when


def test_again_makes_the_tables_again_and_runs_nothing(folder, call):
    before, when = tree(folder), stamps(folder / "runs")
    for name in (MADE | PICTURES) - {"comparison.yml"}:
        (folder / name).unlink()
    done = call("compare", "--again", "c")
    assert done.returncode == 0, done.stderr
    assert "8 runs, 8 of them there already" in done.stderr
    assert stamps(folder / "runs") == when
    after = tree(folder)
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} <= {f"{n}" for n in PICTURES}


def test_missing_samples_cost_their_picture_and_no_table(folder, call):
    before = tree(folder)
    for samples in (folder / "runs").glob("*/samples.npz"):
        samples.unlink()
    done = call("compare", "--again", "c")
    assert done.returncode == 0, done.stderr
    assert "samples.png could not be drawn" in done.stderr
    after = tree(folder)
    assert not (folder / "samples.png").exists()
    tables = ("table.md", "table.tex", "runs.csv", "comparison.json")
    assert {name: after[name] for name in tables} == {name: before[name] for name in tables}


def test_a_method_or_a_seed_more_keeps_the_runs_that_are_there(folder, call):
    for name in names():  # a comparison of one method and seed
        if name != "closed_form_seed2":
            shutil.rmtree(folder / "runs" / name)
    comparison = spec.read(folder)
    one = {"closed_form": comparison.configs["closed_form"]}
    spec.write(dataclasses.replace(comparison, configs=one, seeds=(2,)), folder)
    before, when = tree(folder / "runs"), stamps(folder / "runs")
    done = call(*command(("closed_form_denoised", "closed_form"), seeds=[2]))
    assert done.returncode == 0, done.stderr
    assert "2 runs, 1 of them there already" in done.stderr
    done = call(*command(("closed_form_denoised", "closed_form"), seeds=[7, 2]))
    assert done.returncode == 0, done.stderr
    assert "4 runs, 2 of them there already" in done.stderr
    after = tree(folder / "runs")
    assert {name: after[name] for name in before} == before
    assert {path: stamp for path, stamp in stamps(folder / "runs").items() if path in when} == when
    added = {name.split("/")[0] for name in set(after) - set(before)}
    assert added == {
        *("closed_form_denoised_seed2", "closed_form_seed7", "closed_form_denoised_seed7")
    }
    assert [row["seed"] for row in csv_rows(folder)] == [*(4 * ["7"]), *(4 * ["2"])]


@pytest.mark.parametrize(
    ("methods", "seeds", "lost"),
    [
        (METHODS, [2], "seed 5"),
        (METHODS[1:], [2, 5, 7], "score_embedding"),
        (METHODS[:2], [5], "closed_form, ddpm_plain, seed 2"),
    ],
)
def test_tables_lose_no_method_and_no_seed_unasked(folder, call, methods, seeds, lost):
    before = tree(folder)
    refused = call(*command(methods, seeds=seeds))
    assert_mistake(refused, f"c: its tables compare {lost} too", "--out", "--overwrite")
    assert tree(folder) == before


def test_runs_of_another_config_are_neither_replaced_nor_mixed_in_unasked(folder, call):
    before = tree(folder)
    refused = call(*command(METHODS, training__lr=1e-4))
    assert_mistake(
        refused, "c/runs/score_embedding_seed2", "another config", "--overwrite", "--out"
    )
    assert tree(folder) == before
    done = call(*command(("closed_form",), "--overwrite", seeds=[5], sample__steps=3))
    assert done.returncode == 0, done.stderr
    after = tree(folder)
    changed = {name for name in before if before[name] != after[name] and name.startswith("runs/")}
    assert {name.split("/")[1] for name in changed} == {"closed_form_seed5"}
    assert [row["nfe"] for row in csv_rows(folder)] == ["6.0", "6.0"]


# Failures


def test_a_run_that_fails_is_listed_and_does_not_stop_the_others(call, tmp_path):
    asked = command(("none", "closed_form"), "--set", "none.training.lr=1e30", seeds=[2])
    done = call(*asked)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "1 runs are missing: none_seed2 (" in done.stderr
    assert "not finite" in done.stderr.splitlines()[-1]
    folder = tmp_path / "c"
    (_, _, rows), (_, _, _), (title, _, missing) = tables_of(folder)
    assert [row["method"] for row in rows] == ["closed_form"]
    assert (title, missing[0]["run"]) == ("Missing runs", "none_seed2")
    assert "not finite" in missing[0]["reason"]
    assert {row["method"] for row in csv_rows(folder)} == {"closed_form"}
    assert list(json_of(folder)["missing"]) == ["none_seed2"]
    assert (folder / "runs" / "none_seed2" / "divergence.npz").is_file()
    lr = {m: spec.read(folder).configs[m].training.lr for m in ("none", "closed_form")}
    assert lr == {"none": 1e30, "closed_form": 7e-4}


def test_an_error_that_nobody_foresaw_does_not_stop_the_others(call, tmp_path, monkeypatch):
    run = pipeline.run

    def failing(config, *given, **options):
        if config.name == "none_seed2":
            raise ValueError("of a new kind")
        run(config, *given, **options)

    monkeypatch.setattr(pipeline, "run", failing)
    done = call(*command(("none", "closed_form"), seeds=[2]))
    assert done.returncode == 1
    assert "1 runs are missing: none_seed2 (ValueError: of a new kind)" in done.stderr
    assert list(json_of(tmp_path / "c")["missing"]) == ["none_seed2"]
    assert {row["method"] for row in csv_rows(tmp_path / "c")} == {"closed_form"}


# Several processes


def checkpointed(runs):
    return {path.parent.name for path in runs.glob("*/checkpoint_*.safetensors")}


def when_training(runs, count, act):
    """Call `act` as soon as `count` runs have a checkpoint."""

    def watch():
        until = time.monotonic() + 100
        while len(checkpointed(runs)) < count and time.monotonic() < until:
            time.sleep(0.02)
        act()

    threading.Thread(target=watch, daemon=True).start()


def endless(seeds):
    changes = {"training__epochs": 1_000_000, "misc__checkpoint_freq": 0.2}
    options = sets(diffusion__num_timesteps=2, **changes)[1::2]
    return spec.build("quickstart", ["none"], seeds, [0.9], options)


@pytest.fixture
def forked_runs(monkeypatch):
    """The processes of runs come from the server that has imported all."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORKS)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn", "forked_runs")
def test_an_interrupted_comparison_ends_its_own_processes_only_and_starts_no_other(tmp_path):
    runs = tmp_path / "c" / "runs"
    foreign = FORKS.Process(target=time.sleep, args=(300,))
    foreign.start()
    try:
        when_training(runs, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            compare(endless([0, 1, 2]), tmp_path / "c", torch.device("cpu"), processes=2)
        assert foreign.is_alive()
        assert multiprocessing.active_children() == [foreign]
    finally:
        foreign.kill()
        foreign.join()
    assert sorted(path.name for path in runs.iterdir()) == ["none_seed0", "none_seed1"]
    assert checkpointed(runs) == {"none_seed0", "none_seed1"}

    shutil.rmtree(runs.parent)  # its checkpoints would count as those of the next comparison

    def kill():
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGKILL)

    when_training(runs, 1, kill)
    result = compare(endless([0]), tmp_path / "c", torch.device("cpu"), processes=2)
    assert result.missing == {"none_seed0": "its process ended with exit code -9"}


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads here, and two by default in a process that this one starts."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_two_processes_share_the_threads_and_give_the_same_runs(compared, call, tmp_path):
    methods = ("closed_form", "ddpm_plain")
    done = call(*command(methods, "--processes", 2, seeds=[5]))
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs: c/runs/" in done.stderr
    folders = [path / "runs" / "ddpm_plain_seed5" for path in (tmp_path / "c", compared.folder)]
    first, second = ((path / "model.safetensors").read_bytes() for path in folders)
    assert first == second
    parts = [without_times(path, methods, 5) for path in (tmp_path / "c", compared.folder)]
    assert len(parts[0]) == 4
    assert parts[0] == parts[1]
    for name in names(methods, [5]):
        text = (tmp_path / "c" / "runs" / name / "environment.json").read_text()
        assert json.loads(text)["threads"] == 1  # 2 threads for 2 processes
    assert "1 thread(s)" in json_of(tmp_path / "c")["description"]


@pytest.mark.slow
def test_a_run_can_be_a_job_of_a_cluster(compared, call, tmp_path):
    pytest.importorskip("submitit")
    local = ("--slurm", "cluster=local", "--slurm", "timeout_min=5")
    done = call(*command(("closed_form",), *local, seeds=[5]))
    assert done.returncode == 0, done.stderr
    assert "1 jobs submitted" in done.stderr
    parts = [without_times(path, ["closed_form"], 5) for path in (tmp_path / "c", compared.folder)]
    assert len(parts[0]) == 2
    assert parts[0] == parts[1]
    assert len(list((tmp_path / "c" / "slurm").glob("*_result.pkl"))) == 1


def test_a_cluster_without_submitit_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)  # what makes an import fail
    done = call(*command(("closed_form",), "--slurm", "timeout_min=5", seeds=[5]))
    assert_mistake(done, "--slurm needs submitit", "score-embedding[slurm]")
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--slurm", "cluster=local", "--slurm", "timeout=5"), "--slurm: "),
        (("--slurm", "cluster=locl"), "--slurm: "),
        (("--slurm", "local"), "--slurm 'local': expected key=value"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused_before_anything_is_created(call, options, part):
    pytest.importorskip("submitit")
    assert_mistake(call(*command(("closed_form",), *options, seeds=[5])), part)
    assert os.listdir() == []


def test_a_finished_comparison_has_nothing_to_submit(compared, call, tmp_path):
    pytest.importorskip("submitit")
    shutil.copytree(compared.folder, tmp_path / "c")
    done = call("compare", "--again", "c", "--slurm", "cluster=local")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "c" / "slurm").exists()


# Mistakes


def test_a_method_with_the_name_of_a_section_is_refused(call, tmp_path):
    shutil.copy(loading.bundled()["quickstart"], tmp_path / "training.yml")
    done = call("compare", "--config", "quickstart", "--methods", "none,training.yml")
    assert_mistake(done, "--methods: training: the name of a section")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--config quickstart --methods closed_from", ["closed_from", *VARIANTS]),
        ("--config quikstart", ["'quikstart'", "did you mean 'quickstart'"]),
        ("--config quickstart --methods none,none", ["--methods", "only once"]),
        ("--config quickstart --methods ,", ["methods: one or more"]),
        ("--config quickstart --seeds 1,2,1", ["seeds: [1, 2, 1]", "twice"]),
        ("--config quickstart --seeds 1,01", ["seeds: [1, 1]", "twice"]),
        ("--config quickstart --seeds 1,x", ["--seeds", "'x'", "int"]),
        ("--config quickstart --seeds 1.5", ["--seeds", "'1.5'", "int"]),
        ("--config quickstart --seeds -1", ["seeds: [-1]", "2^32"]),
        ("--config quickstart --seeds ,", ["seeds: []", "one or more"]),
        ("--config quickstart --targets 0.9,high", ["--targets", "'high'"]),
        ("--config quickstart --targets=", ["targets: []", "one or more"]),
        ("--config quickstart --seeds=", ["seeds: []", "one or more"]),
        ("--config quickstart --targets 0", ["targets: [0.0]", "above 0"]),
        ("--config quickstart --targets 1.01", ["targets:", "at most 1"]),
        ("--config quickstart --targets nan", ["targets:", "at most 1"]),
        ("--config quickstart --targets 0.9,0.90", ["targets: [0.9, 0.9]", "twice"]),
        ("--config quickstart --methods none,celeb1", ["method celeb1", "images", "quickstart"]),
        (
            "--config quickstart --methods none --set none.data_loader.image=coffee",
            ["method none", "images", "quickstart"],
        ),
        ("--methods none", ["--config", "--again"]),
        ("--again nowhere", ["nowhere", "comparison.yml"]),
        ("--config quickstart --methods none --set ddpm.training.lr=1", ["ddpm", "unknown key"]),
        (
            "--config quickstart --methods none --set none.training.epoch=1",
            ["method none", "training.epoch", "did you mean 'epochs'"],
        ),
        ("--config quickstart --set training.epoch=1", ["training.epoch", "did you mean 'epochs'"]),
        ("--config quickstart --set epochs", ["--set 'epochs'", "key=value"]),
        ("--config quickstart --slurm local", ["'local'", "expected"]),
        ("--config quickstart --device tpu", ["--device tpu", "auto"]),
    ],
)
def test_a_mistake_in_what_to_compare_is_named_and_nothing_is_created(
    call, tmp_path, arguments, parts
):
    assert_mistake(call("compare", *arguments.split()), *parts)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_run_on_these_images_is_refused_before_anything_is_created(call, tmp_path):
    done = call(*command(("closed_form", "shuffled")))
    assert_mistake(done, "diffusion.embedding shuffled", "two images or more")
    assert os.listdir(tmp_path) == []


def test_two_methods_of_one_name_are_refused(call, tmp_path):
    text = loading.find("quickstart").read_text(encoding="utf-8")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.yml").write_text(text)
    (tmp_path / "a" / "none.yml").write_text(text)
    for methods in ("a/own.yml,b/own.yml", "score_embedding,a/none.yml"):
        done = call("compare", "--config", "quickstart", "--methods", methods)
        assert_mistake(done, "--methods", "only once")


def test_a_folder_of_other_files_is_left_alone(call, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "table.md").write_text("mine")
    assert_mistake(call(*command(("closed_form",))), "c: holds other files", "--out")
    assert os.listdir(tmp_path / "c") == ["table.md"]


@pytest.mark.parametrize(
    "option",
    ["--targets 0.5", "--seeds 1", "--methods none", "--set training.lr=1", "--out elsewhere"],
)
def test_again_takes_no_option_that_its_folder_answers(compared, call, option):
    done = call("compare", "--again", compared.folder, *option.split())
    assert_mistake(done, "--again takes all from its folder")


@pytest.mark.parametrize("keep", [pytest.param(0, marks=pytest.mark.slow), 1, -3])
def test_damaged_metrics_of_a_finished_run_are_listed_not_counted(compared, call, tmp_path, keep):
    shutil.copytree(compared.folder, tmp_path / "c")
    path = tmp_path / "c" / "runs" / "none_seed2" / "metrics.csv"
    lines = path.read_text().splitlines()
    if keep == -3:  # cut inside the last row
        path.write_text("\n".join(lines)[:-60])
    else:
        path.write_text("\n".join(lines[: keep + 1]))
    done = call("compare", "--again", "c")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert list(json_of(tmp_path / "c")["missing"]) == ["none_seed2"]
    assert "metrics.csv: damaged" in (tmp_path / "c" / "table.md").read_text()


def test_methods_that_start_differently_share_a_sheet(call, tmp_path):
    methods = ("closed_form", "closed_form_denoised")
    for prior in ("sample.prior=matched", "sample.type=conditional"):
        weight = ("--set", "closed_form_denoised.sample.conditional_weight=0.5")
        options = ("--set", f"closed_form_denoised.{prior}", *weight, "--overwrite")
        done = call(*command(methods, *options, seeds=[2]))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "c" / "samples.png").is_file()


def test_a_file_where_the_comparison_should_go_is_a_mistake(call, tmp_path):
    (tmp_path / "c").write_text("mine")
    assert_mistake(call(*command(("closed_form",))), "c: a file is in the way")
    assert (tmp_path / "c").read_text() == "mine"


def change(**values):
    def apply(path):
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        empty,
        null,
        lambda path: path.write_text("name: [x"),
        lambda path: path.write_bytes(path.read_bytes()[:850]),  # within a key
        lambda path: path.write_text("name: x\n"),
        change(methods=None),
        change(methods=[1, 2]),
        change(methods={"none": 3}),
        change(methods={"none": {"name": "x"}}),
        change(seeds=3),
        change(seeds=["x"]),
        change(seeds="01"),
        change(seeds=[1.7]),
        change(seeds=[]),
        change(targets=[7.0]),
        change(targets=[]),
        change(methods={}),
        change(targets=0.9),
        change(targets=["x"]),
    ],
)
def test_a_damaged_description_of_a_comparison_is_named_and_nothing_is_touched(
    call, tmp_path, damage
):
    comparison = spec.build("quickstart", ["none", "ddpm"], [0, 1], [0.9], sets()[1:4:2])
    spec.write(comparison, tmp_path)
    assert spec.read(tmp_path) == comparison
    damage(tmp_path / "comparison.yml")
    before = tree(tmp_path)
    assert_mistake(call("compare", "--again", "."), "comparison.yml")
    assert tree(tmp_path) == before
