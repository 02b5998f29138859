"""benchmarks/gpu.py: parts that fail or take too long do not end the others."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

from score_embedding.config import loading
from score_embedding.methods.network import build

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("gpu", "_steps", "_common", "_data_set"):
        sys.modules.pop(name, None)


@pytest.fixture
def gpu(benchmarks):  # noqa: ARG001
    import gpu

    return gpu


def worker(path: Path, then: str) -> Path:
    """A program that writes a row as a part does, and then something else."""
    path.write_text(
        "import sys, time\n"
        "with open(sys.argv[2], 'a') as file:\n"
        "    file.write('{\"ms\": 1.5}\\n')\n"
        f"{then}\n"
    )
    return path


OPTIONS = argparse.Namespace(device=torch.device("cpu"), density="white", data=None, tiny=True)


def test_a_part_that_fails_keeps_its_rows_and_names_its_error(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "WORKER", worker(tmp_path / "part.py", "raise OSError('no kernel')"))
    part = gpu.run("solvers", 20.0, OPTIONS)
    assert part["outcome"] == "failed (exit status 1)"
    assert part["rows"] == [{"ms": 1.5}]
    assert "no kernel" in part["messages"]


def test_a_part_is_ended_at_its_limit_with_what_it_has_measured(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "WORKER", worker(tmp_path / "part.py", "time.sleep(60)"))
    part = gpu.run("solvers", 0.5, OPTIONS)
    assert part["outcome"] == "ended at its limit of 0 s"
    assert part["rows"] == [{"ms": 1.5}]
    assert part["seconds"] < 5


def test_the_table_counts_tests_and_names_those_that_failed(gpu, tmp_path):
    rows = [{"test": name, "outcome": "passed", "seconds": 0.1} for name in ("a", "b")]
    rows.append({"test": "c", "outcome": "failed", "message": "too far off", "seconds": 0.1})
    parts = {"tests": {"outcome": "complete", "seconds": 3.0, "rows": rows}}
    gpu.write(tmp_path, {"device": "a GPU"}, parts)
    table = (tmp_path / "gpu.md").read_text()
    assert "### tests (a GPU)" in table
    assert "| all | 2 passed |" in table
    assert "| c | failed | too far off |" in table
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"] == parts


@pytest.mark.parametrize("config", ["cifar1", "quickstart"])
def test_the_network_of_plain_diffusers_has_the_size_of_this_packages(benchmarks, config):  # noqa: ARG001
    import _steps

    model = loading.load(config, ["model.ch=32", "model.network=unet"]).model
    plain = _steps.plain_unet(model, torch.zeros(1, 3, 32, 32))
    own = build(model, (32, 32), 1, 1.0, seed=0, device=torch.device("cpu"))
    assert sum(p.numel() for p in plain.parameters()) == own.num_parameters
