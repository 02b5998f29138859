"""What a process does once is done before the clock of its first run starts."""

import json
import subprocess
import sys

import pytest
import torch

from score_embedding import kinds, pipeline
from score_embedding.comparison import spec
from score_embedding.comparison.variants import VARIANTS
from score_embedding.config import loading
from score_embedding.kinds import DensityKind
from score_embedding.methods.base import method_of
from score_embedding.training import warm_up

CPU = torch.device("cpu")
NARROW = ["model.ch=8", "model.ch_mult=[1,2]", "model.num_res_blocks=1"]
TINY = [
    *NARROW,
    "model.attention_resolutions=[]",
    "training.epochs=3",
    "data_loader.image_size=8",
    "data_loader.batch_size=4",
    "sample.solver=heun",
    "sample.steps=2",
]


@pytest.fixture
def cold(monkeypatch):
    """As in a process that has not warmed up anything."""
    monkeypatch.setattr(warm_up, "_done", set())


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_slow_first_import_is_not_on_the_clock(tmp_path, monkeypatch):
    (tmp_path / "slow_at_first.py").write_text(
        "import time; time.sleep(3); from score_embedding.densities.gaussian import *"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(kinds.DENSITIES, "gaussian", DensityKind("slow_at_first"))
    density = ["diffusion.embedding=residual", "image_density.kind=gaussian"]
    odd = ["image_density.side=3", "image_density.rank=7"]  # of no other test
    config = loading.load("quickstart", [*TINY, *density, *odd])
    pipeline.run(config, tmp_path / "run", CPU, profile=False)
    assert "slow_at_first" in sys.modules
    seconds = json.loads((tmp_path / "run" / "timing.json").read_text())
    assert seconds["total"] > 3
    assert seconds["density"] + seconds["preconditioning"] + seconds["training"] < 2


def configs():
    """Every bundled config, every method of a comparison, every scheme and density."""
    for name in loading.bundled():
        yield loading.load(name, NARROW)
    for method in VARIANTS:
        base = "photographs" if "_alone" in method or "_residual" in method else "quickstart"
        yield spec.build(base, [method], [0], None, NARROW).configs[method]
    for scheme in kinds.SCHEMES:
        yield loading.load("quickstart", [*NARROW, f"diffusion.scheme={scheme}"])


@pytest.mark.slow
@pytest.mark.usefixtures("cold")
def test_every_kind_of_config_can_be_warmed_up_and_no_generator_is_advanced(monkeypatch):
    """Without the errors that a run would repeat: there are none."""
    monkeypatch.setattr(warm_up, "ScoreEmbeddingError", ())
    before = torch.random.get_rng_state()
    for config in configs():
        warm_up.warm_up(method_of(config), CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("cold")
def test_a_kind_of_config_is_warmed_up_once():
    for changes in ([], ["training.lr=0.5", "name=other"], ["training.seed=4"]):
        warm_up.warm_up(method_of(loading.load("quickstart", [*TINY, *changes])), CPU)
    assert len(warm_up._done) == 1
    warm_up.warm_up(method_of(loading.load("quickstart", [*TINY, "model.ch=12"])), CPU)
    assert len(warm_up._done) == 2


THRICE = """
import json, os, sys, torch
from pathlib import Path
from score_embedding import pipeline
from score_embedding.config import loading
from score_embedding.report import pictures, render
# Neither is on the clock.
pictures.write = render.write = lambda *given: None
for number, options in enumerate(json.loads(sys.argv[1])):
    child = os.fork()  # as new as this process, which has called nothing yet
    if child == 0:
        for i in range(3):
            config = loading.load("quickstart", options)
            path = Path(f"{number}_{i}")
            pipeline.run(config, path, torch.device("cpu"), profile=False)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_the_first_run_of_a_process_has_the_clock_of_the_later_ones(tmp_path):
    embeddings = [[], ["diffusion.embedding=residual", "image_density.side=4"]]
    options = json.dumps([[*TINY, *embedding] for embedding in embeddings])
    command = [sys.executable, "-c", THRICE, options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    for number, embedding in enumerate(embeddings):
        clocks = []
        for i in range(3):
            seconds = json.loads((tmp_path / f"{number}_{i}" / "timing.json").read_text())
            del seconds["total"], seconds["sampling"]
            clocks.append(sum(seconds.values()))
        assert clocks[0] < 3 * max(clocks[1:]) + 0.3, (embedding, clocks)
