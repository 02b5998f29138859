"""Runs that are interrupted and resumed end as if nothing had happened."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line import ENV, assert_mistake, sets, start, start_calling, tree, undrawn
from damaged_files import damage
from score_embedding import atomic_files, pipeline
from score_embedding.config import loading
from score_embedding.errors import CheckpointError, DivergenceError, Interrupted, RunFolderError
from score_embedding.methods import ddpm, embedded
from score_embedding.methods.base import method_of
from score_embedding.methods.precomputation import precompute
from score_embedding.runs import folder as run_folder
from score_embedding.runs import resources
from score_embedding.runs.folder import RunFolder
from score_embedding.training import tensor_files
from score_embedding.training.checkpoints import MAX_RESTARTS, Checkpoints
from score_embedding.training.loop import NotFiniteError, train
from score_embedding.training.signals import Signals
from score_embedding.training.warm_up import warm_up
from test_training import network_for, tiny_config

EVERYTHING = {"epochs": 8, "ema": 0.99, "warmup": 5, "grad_clip": 1.0}


class Interrupting:
    """An objective that sends this process a signal while it draws the batch of one step."""

    def __init__(self, objective, step, number=signal.SIGTERM):
        self.objective, self.left, self.number = objective, step, number
        self.device = objective.device

    def __len__(self):
        return len(self.objective)

    def draw_batch(self, index, generator):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return self.objective.draw_batch(index, generator)

    def loss(self, network, batch):
        return self.objective.loss(network, batch)


@pytest.fixture
def setting(photographs):
    """The config, with dropout, average and warm-up, and the objective on two images."""

    def make(ch=8, method="score_embedding"):
        config = tiny_config(**EVERYTHING)
        # Few tensors: most of these tests is writing checkpoints.
        smaller = {"ch": ch, "ch_mult": (1,), "attention_resolutions": (8,)}
        model = config.model.model_copy(update={"dropout": 0.2, **smaller})
        config = config.model_copy(update={"model": model})
        images = photographs(8, 8, 2).float()
        if method == "score_embedding":
            states = precompute(images, config.diffusion, config.misc).embedded
            return config, embedded.objective(states, config)
        values = config.model_dump(exclude={"image_density"})
        values |= {"sample_method": "ddpm", "sample": {}, "diffusion": {}}
        config = loading.validate(values, "test")
        return config, ddpm.objective(images, config)

    return make


def trained(config, objective, folder=None, every=1e-9):
    network = network_for(config, images=2)
    checkpoints = Checkpoints(RunFolder(folder), every) if folder else None
    return network, train(network, objective, config, {"solve": 1.0}, None, checkpoints)


@pytest.fixture(scope="module")
def uninterrupted():
    """The same training without an interruption: once for each config and objective."""
    results = {}

    def train_once(config, objective):
        key = config.model_dump_json()
        if key not in results:
            results[key] = trained(config, objective)
        return results[key]

    return train_once


def assert_same(first, second):
    (network, history), (other, other_history) = first, second
    rows, other_rows = (
        [(repr(row["step"]), repr(row["loss"])) for row in each.rows]
        for each in (history, other_history)
    )
    assert rows == other_rows
    weights, others = network.state_dict(), other.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("ch", "method", "steps"),
    [
        *((8, "score_embedding", steps) for steps in ([1], [16], [3, 2, 6])),
        pytest.param(64, "ddpm", [3, 2, 6], marks=pytest.mark.slow),
    ],
)
def test_training_resumes_bit_for_bit(setting, uninterrupted, tmp_path, ch, method, steps):
    config, objective = setting(ch, method)  # from ch 64 on the weights are in channels-last
    expected = uninterrupted(config, objective)
    for step in steps:
        with pytest.raises(Interrupted, match="SIGTERM"):
            trained(config, Interrupting(objective, step), tmp_path)
    assert_same(trained(config, objective, tmp_path), expected)


def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(setting, tmp_path):
    config, objective = setting()
    with pytest.raises(Interrupted) as stopped:
        trained(config, Interrupting(objective, 3, signal.SIGINT), tmp_path, every=1e9)
    assert stopped.value.exit_code == 130
    _, _, rows = Checkpoints(RunFolder(tmp_path), 1.0).latest()
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_a_second_signal_while_the_checkpoint_is_written_waits_for_it(
    setting, tmp_path, monkeypatch
):
    config, objective = setting()
    write = tensor_files.write

    def slowly(*given):
        time.sleep(1.5)  # later than what counts as the same request
        os.kill(os.getpid(), signal.SIGTERM)
        return write(*given)

    monkeypatch.setattr(tensor_files, "write", slowly)
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 3, signal.SIGINT), tmp_path, every=1e9)
    _, _, rows = Checkpoints(RunFolder(tmp_path), 1.0).latest()
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_two_signals_at_once_leave_a_checkpoint(setting, tmp_path, monkeypatch):
    """Ctrl-C reaches a comparison and its runs, to which the comparison then sends SIGTERM."""
    config, objective = setting()
    checkpoints = Checkpoints(RunFolder(tmp_path), 1e9)
    postponed, stopped = Signals.postponed, []

    def stop(_):
        stopped.append(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    def after_the_second(signals):
        if len(stopped) == 1:  # on the way to the checkpoint
            stopped.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return postponed(signals)

    monkeypatch.setattr(Signals, "postponed", after_the_second)
    with pytest.raises(Interrupted):
        train(network_for(config, images=2), objective, config, {}, stop, checkpoints)
    assert len(stopped) == 2
    assert checkpoints.steps() == [1]


def test_a_signal_while_evaluating_comes_at_once_and_the_evaluation_is_made_again(
    setting, uninterrupted, tmp_path
):
    config, objective = setting()
    checkpoints = Checkpoints(RunFolder(tmp_path), 1e9)

    def stopping(_):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal came late")

    with pytest.raises(Interrupted):
        train(network_for(config, images=2), objective, config, {}, stopping, checkpoints)

    def evaluate(_):
        return {"ssim_minmax": 0.5, "ssim_clipped": 0.25}

    network = network_for(config, images=2)
    history = train(network, objective, config, {}, evaluate, checkpoints)
    assert ["ssim_minmax" in row for row in history.rows] == 16 * [True]
    assert_same((network, history), uninterrupted(config, objective))


def test_signals_have_their_old_handlers_again_after_training(setting, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    config, objective = setting()
    trained(config, objective, tmp_path)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_clock_and_the_seconds_before_it_continue(setting, tmp_path):
    config, objective = setting()
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 9), tmp_path)
    _, _, rows = Checkpoints(RunFolder(tmp_path), 1.0).latest()
    stopped_at = rows[-1]["training_seconds"]
    network = network_for(config, images=2)
    history = train(
        network, objective, config, {"solve": 99.0}, None, Checkpoints(RunFolder(tmp_path), 1e9)
    )
    clock = [row["training_seconds"] for row in history.rows]
    assert clock == sorted(clock)
    assert clock[8] == stopped_at > 1.0
    assert clock[-1] < 99
    assert history.precompute_seconds == {"solve": 1.0}


ROWS = "checkpoint_rows.jsonl"


def test_the_last_two_checkpoints_are_kept(setting, tmp_path):
    config, objective = setting()
    trained(config, objective, tmp_path)
    names = [f"checkpoint_{step:08d}.safetensors" for step in (15, 16)]
    assert sorted(os.listdir(tmp_path)) == [*names, ROWS]


@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    setting, uninterrupted, tmp_path, caplog, how
):
    config, objective = setting()
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 10), tmp_path)
    path = tmp_path / "checkpoint_00000010.safetensors"
    damage(path, how)
    with caplog.at_level(logging.WARNING):
        result = trained(config, objective, tmp_path, every=1e9)
    assert how == "gone" or path.stem in caplog.text
    assert_same(result, uninterrupted(config, objective))


@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_damaged_rows_are_named_and_nothing_is_loaded(setting, tmp_path, caplog, how):
    config, objective = setting()
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 10), tmp_path)
    damage(tmp_path / ROWS, how)
    with pytest.raises(CheckpointError, match="no checkpoint can be read; --overwrite"):
        trained(config, objective, tmp_path)
    assert ROWS in caplog.text


def test_rows_that_the_last_checkpoint_has_lost_are_those_of_the_one_before(
    setting, uninterrupted, tmp_path
):
    config, objective = setting()
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 10), tmp_path)
    content = (tmp_path / ROWS).read_bytes()
    (tmp_path / ROWS).write_bytes(content[:-20])  # within the row of step 10
    assert_same(trained(config, objective, tmp_path), uninterrupted(config, objective))


@pytest.mark.slow
@pytest.mark.parametrize("rest", [b'{"step": 11, "loss"', b'{"step": 11, "loss": 0.5}\n', b"\0"])
def test_rows_without_their_checkpoint_are_written_again(setting, uninterrupted, tmp_path, rest):
    config, objective = setting()
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 10), tmp_path)
    with (tmp_path / ROWS).open("ab") as file:
        file.write(rest)  # killed between the rows and the checkpoint
    result = trained(config, objective, tmp_path)
    assert_same(result, uninterrupted(config, objective))
    _, _, rows = Checkpoints(RunFolder(tmp_path), 1.0).latest()
    assert rows == result[1].rows
    lines = (tmp_path / ROWS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_rows_before_the_first_checkpoint_are_written_again(setting, uninterrupted, tmp_path):
    config, objective = setting()
    (tmp_path / ROWS).write_bytes(b'{"step": 1, "loss": 0.5}\n')
    assert_same(trained(config, objective, tmp_path), uninterrupted(config, objective))


def test_a_row_that_was_evaluated_after_its_checkpoint_is_written_again(tmp_path):
    checkpoints, rows = Checkpoints(RunFolder(tmp_path), 1.0), []
    for step in (1, 2, 3):
        rows.append({"step": step, "loss": 0.5})
        checkpoints.save(step, {}, {}, rows)
    rows[-1]["ssim_minmax"] = 0.25
    checkpoints.save(3, {}, {}, rows)
    assert (tmp_path / ROWS).read_text().count("\n") == 4
    again = Checkpoints(RunFolder(tmp_path), 1.0)
    assert again.latest()[2] == rows
    assert again.read(2)[2] == rows[:2]  # as it was then
    assert again.latest()[2] == rows


def test_a_checkpoint_has_the_same_size_after_any_number_of_rows(tmp_path):
    checkpoints, sizes, written = Checkpoints(RunFolder(tmp_path), 1.0), [], []
    rows = [{"step": 1000 + i, "training_seconds": i / 7, "loss": 1 / (i + 1)} for i in range(2000)]
    for count in (10, 2000):
        before = (tmp_path / ROWS).stat().st_size if written else 0
        checkpoints.save(1000 + count, {"weights": torch.ones(3)}, {}, rows[:count])
        sizes.append(checkpoints.path(1000 + count).stat().st_size)
        written.append((tmp_path / ROWS).stat().st_size - before)
    assert abs(sizes[1] - sizes[0]) <= 8  # the digits of a number
    expected = [sum(len(json.dumps(row)) + 1 for row in part) for part in (rows[:10], rows[10:])]
    assert written == expected


def test_only_damaged_checkpoints_are_an_error(setting, tmp_path):
    config, objective = setting()
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 5), tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be read; --overwrite"):
        trained(config, objective, tmp_path)


def test_a_checkpoint_of_another_network_is_refused(setting, tmp_path):
    config, objective = setting()
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, 5), tmp_path)
    other, _ = setting(ch=16)
    with pytest.raises(CheckpointError, match="not one of this config"):
        trained(other, objective, tmp_path)


# Divergence


def diverging(setting, **training):
    """The setting with a rate that is far too high."""
    config, objective = setting()
    values = {"lr": 50.0, "grad_clip": None, "ema": None, "warmup": None, "epochs": 4, **training}
    return config.model_copy(
        update={"training": config.training.model_copy(update=values)}
    ), objective


def with_lr(config, lr):
    return config.model_copy(update={"training": config.training.model_copy(update={"lr": lr})})


def test_a_divergence_stops_the_training_unless_it_is_to_start_again(setting, tmp_path):
    config, objective = diverging(setting)
    with pytest.raises(NotFiniteError, match=r"training.on_divergence: restart"):
        trained(config, objective, tmp_path, every=1e9)
    config, objective = diverging(setting, on_divergence="restart")
    with pytest.raises(NotFiniteError):  # nowhere to go back to
        trained(config, objective)


def test_a_divergence_goes_back_to_the_last_checkpoint_with_half_the_rate(
    setting, tmp_path, caplog
):
    config, objective = diverging(setting, on_divergence="restart")
    with caplog.at_level(logging.WARNING):
        network, history = trained(config, objective, tmp_path, every=1e9)
    k = len(history.restarts)
    assert 1 < k < 10
    assert {restart.back_to for restart in history.restarts} == {0}
    assert f"back to step 0, lr {50 / 2**k:.3g}" in caplog.text
    clock = [row["training_seconds"] for row in history.rows]
    lost = clock[0] - 1.0  # what was undone has been paid for
    assert lost > clock[1] - clock[0] > 0
    # Nothing of the steps undone is left: it is the training with the smaller rate.
    assert_same((network, history), trained(with_lr(config, 50 / 2**k), objective))


def test_a_restart_outlives_an_interruption(setting, tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    config, objective = diverging(setting, on_divergence="restart")
    expected = trained(config, objective, tmp_path / "whole", every=1e9)
    undone = sum(restart.step for restart in expected[1].restarts)
    with pytest.raises(Interrupted):
        trained(config, Interrupting(objective, undone + 2), tmp_path / "cut", every=1e9)
    result = trained(config, objective, tmp_path / "cut", every=1e9)
    assert result[1].restarts == expected[1].restarts
    assert_same(result, expected)


def test_a_rate_that_no_halving_can_mend_stops_in_the_end(setting, tmp_path):
    config, objective = diverging(setting, lr=1e30, on_divergence="restart")
    with pytest.raises(NotFiniteError):
        trained(config, objective, tmp_path, every=1e9)
    _, values, _ = Checkpoints(RunFolder(tmp_path), 1.0).latest()
    assert len(values["history"]["restarts"]) == MAX_RESTARTS


def test_weights_that_are_not_finite_are_no_checkpoint(setting, tmp_path):
    config, objective = diverging(setting, lr=3e38, epochs=1)
    with pytest.raises(DivergenceError):
        trained(config, objective, tmp_path, every=1e-9)
    for step in Checkpoints(RunFolder(tmp_path), 1.0).steps():
        tensors = load_file(tmp_path / f"checkpoint_{step:08d}.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())


# Whole runs, killed


RUN = {"training__epochs": 40, "training__ema": 0.9, "model__dropout": 0.1}


def run_killed(path, values):
    """A run with a config's values in a folder, by a child that is killed up to twenty times and
    started again; says how often it was. In a process that has started no threads."""
    config = loading.validate(json.loads(values), "test")
    # What it knows its children know too, so that each comes to its training sooner.
    resources.need(config, 1)
    warm_up(method_of(config), torch.device("cpu"))
    path, moments, kills = Path(path), random.Random(0), 0
    while not run_folder.is_finished(path):
        child = os.fork()
        if child == 0:
            resume = (path / run_folder.CONFIG).exists()
            with undrawn():
                pipeline.run(config, path, torch.device("cpu"), False, not resume, resume)
            os._exit(0)
        if kills < 20:
            time.sleep(moments.uniform(0.02, 0.5))
            os.kill(child, signal.SIGKILL)
            kills += 1
        os.waitpid(child, 0)
        checkpoints = Checkpoints(RunFolder(path), 1.0)
        for step in checkpoints.steps():  # each of them can be read
            checkpoints.read(step)
    print(kills)


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_ends_as_if_it_had_not_been(call, tmp_path):
    changes = sets(misc__checkpoint_freq=1e-6, **RUN)
    assert call("run", "--config", "quickstart", "--folder-ext", "whole", *changes).returncode == 0
    whole = tmp_path / "saves" / "quickstart_whole"
    killed = tmp_path / "killed"
    config = loading.load("quickstart", changes[1::2])
    with start_calling(run_killed, str(killed), config.model_dump_json()) as run:
        stdout, stderr = run.communicate(timeout=300)
    assert run.returncode == 0, stderr
    assert int(stdout) >= 5  # it may end before all twenty
    first, second = tree(whole), tree(killed)
    assert sorted(name for name in first) == sorted(name for name in second if name != ".lock")
    for name in ("model.safetensors", "config.yml"):
        assert first[name] == second[name]
    rows = [atomic_files.read_rows(path / "metrics.csv") for path in (whole, killed)]
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if k != "training_seconds"} == {
            k: v for k, v in other.items() if k != "training_seconds"
        }


def test_an_interrupted_run_says_how_to_resume_it(call, tmp_path):
    changes = sets(training__epochs=100_000, misc__checkpoint_freq=1e-6)
    asked = ("run", "--config", "quickstart", *changes)
    run = start(tmp_path, *asked)
    folder = tmp_path / "saves" / "quickstart"
    while not list(folder.glob("checkpoint_*.safetensors")):
        assert run.poll() is None
        time.sleep(0.01)
    assert_mistake(call(*asked, "--overwrite"), "another process is writing")
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143
    assert "stopped by SIGTERM: what was done is kept, --resume continues" in said
    assert "Traceback" not in said
    assert_mistake(call(*asked), "did not finish", "--resume continues")
    other = ("--set", "training.lr=0.5", "--resume")
    assert_mistake(call(*asked, *other), "another config (other values of training.lr)")
    assert_mistake(call(*asked, "--resume", "--overwrite"), "only one of them")


def test_a_finished_run_and_no_run_cannot_be_resumed(call, tmp_path):
    asked = ("run", "--config", "quickstart", *sets())
    assert_mistake(call(*asked, "--resume"), "not a run folder")
    assert not (tmp_path / "saves").exists()
    assert call(*asked).returncode == 0
    assert_mistake(call(*asked, "--resume"), "its run is finished")


def test_one_folder_is_one_process_alone(tmp_path):
    with run_folder.locked(tmp_path):
        code = (
            "from pathlib import Path; from score_embedding.runs import folder\n"
            f"with folder.locked(Path({json.dumps(str(tmp_path))})): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert RunFolderError.__name__ in done.stderr
    assert os.listdir(tmp_path) == []
