"""Loads the fixtures where tests run: xdist's controller runs none and need not import torch."""

import os
import signal

import pytest

# One thread to a worker: two workers with two threads each get in each other's way. The libraries
# read this when they are imported, child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test needs two threads, one that waits for the other must not keep a core from it: waiting
# in a loop made these tests several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ctrl-C stays what it is where the tests run in the background of a shell, which ignores it there.
signal.signal(signal.SIGINT, signal.default_int_handler)
pytest.register_assert_rewrite("shared_fixtures", "command_line", "comparison_helpers")


def pytest_configure(config):
    is_worker = hasattr(config, "workerinput")
    if is_worker or config.option.dist == "no":
        config.pluginmanager.import_plugin("shared_fixtures")
