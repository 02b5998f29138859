"""Processes that denoise after their parent did: by fork, which takes no threads along, and by
spawn."""

import faulthandler
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import score_embedding as se

LIMIT = 60  # seconds for what takes one: a deadlock has no end
SCRIPT = """
import sys
import test_denoising_processes as own

if __name__ == "__main__":
    own.denoise_in_a_child(sys.argv[1])
"""


def denoised():
    # So large that torch would share the work of copying it between its threads.
    y = 0.5 + 0.1 * np.random.default_rng(0).normal(size=(128, 192, 3))
    return se.denoise(y, model="fast")


def check(expected):
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    np.testing.assert_allclose(denoised(), expected, rtol=0, atol=1e-5)


def denoise_in_a_child(method):
    """In this process, with two threads of torch, and then in a child."""
    torch.set_num_threads(2)
    context = multiprocessing.get_context(method)
    child = context.Process(target=check, args=(denoised(),))
    child.start()
    child.join(3 * LIMIT)
    if child.exitcode is None:
        child.kill()
    sys.exit(f"{method}: {child.exitcode}" if child.exitcode != 0 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_worker_denoises_after_its_parent_did(tmp_path, method):
    (tmp_path / "script.py").write_text(SCRIPT)
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", method],
        env={**os.environ, "PYTHONPATH": places},
        timeout=5 * LIMIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
