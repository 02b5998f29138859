"""What waiting costs: the quickstart network's forward pass with and without a busy neighbour.

Idle OpenMP threads spin by default. When another program wants the core, every parallel region
waits for the spinner's time slice to end. The command line therefore sets OMP_WAIT_POLICY=PASSIVE.

    python benchmarks/threads.py
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from statistics import median

from _common import environment, write

FORWARD = """
import time, torch
from score_embedding import configuration, network
model = configuration.load("quickstart").model
net = network.build(model, (32, 32), 1, 1.0, 0, torch.device("cpu")).eval()
x, t = torch.randn(1, 3, 32, 32), torch.rand(1)
with torch.no_grad():
    net(x, t)
    started = time.perf_counter()
    for _ in range(20):
        net(x, t)
print((time.perf_counter() - started) / 20)
"""
ROUNDS = 3


def forward_seconds(policy: str) -> float:
    """Mean seconds of a forward pass in a fresh process under an OMP_WAIT_POLICY."""
    result = subprocess.run(
        [sys.executable, "-c", FORWARD],
        env={**os.environ, "OMP_WAIT_POLICY": policy},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


def spin() -> None:
    while True:
        pass


def main() -> None:
    rows = []
    for neighbour in (False, True):
        process = multiprocessing.Process(target=spin, daemon=True)
        if neighbour:
            process.start()
        runs = [(forward_seconds("ACTIVE"), forward_seconds("PASSIVE")) for _ in range(ROUNDS)]
        if neighbour:
            process.terminate()
        spinning, sleeping = (median(column) for column in zip(*runs, strict=True))
        rows.append(
            {
                "busy neighbour": "yes" if neighbour else "no",
                "spinning, ms": spinning * 1e3,
                "sleeping (ours), ms": sleeping * 1e3,
                "spinning / sleeping": median(a / b for a, b in runs),
            }
        )
    write("threads", rows, environment())


if __name__ == "__main__":
    main()
