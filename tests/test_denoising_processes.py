"""Processes that denoise or inpaint after their parent did: by fork, which takes no threads along,
and by spawn."""

import faulthandler
import multiprocessing
import sys

import numpy as np
import pytest
import torch

import score_embedding as se

LIMIT = 60  # seconds for what takes one: a deadlock has no end


def denoised():
    # So large that torch would share the work of copying it between its threads.
    y = 0.5 + 0.1 * np.random.default_rng(0).normal(size=(128, 192, 3))
    return se.denoise(y, model="fast")


def filled_in():
    x = np.linspace(0, 1, 128 * 192 * 3).reshape(128, 192, 3)
    missing = np.zeros((128, 192), bool)
    missing[60:64, 80:90] = True
    return se.inpaint(x, missing)


def check(what, expected):
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    np.testing.assert_allclose(what(), expected, rtol=0, atol=1e-5)


def restore_in_a_child(what, method):
    """In this process, with two threads of torch, and then in a child."""
    torch.set_num_threads(2)
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["score_embedding.restoration.denoising"])
    child = context.Process(target=check, args=(what, what()))
    child.start()
    child.join(3 * LIMIT)
    if child.exitcode is None:
        child.kill()
    sys.exit(f"{method}: {child.exitcode}" if child.exitcode != 0 else 0)


METHODS = multiprocessing.get_all_start_methods()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "method"), [*((denoised, method) for method in METHODS), (filled_in, "fork")]
)
def test_a_worker_restores_after_its_parent_did(what, method):
    from command_line import start_calling  # whose many imports the children need not repeat

    with start_calling(restore_in_a_child, what, method) as parent:
        _, said = parent.communicate(timeout=5 * LIMIT)
    assert parent.returncode == 0, said
