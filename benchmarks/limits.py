"""Memory and disk that are estimated before a run starts, compared with those of real runs.

    python benchmarks/limits.py      # about 4 minutes on one thread; nothing else may run

Each run is a process of its own: a few steps, then samples. Memory: the largest resident set minus
that before the run. Disk: the largest size of the run folder, sampled every 0.02 s. Writes
results/limits.json and .md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from _common import environment, resident, write
from score_embedding import pipeline
from score_embedding.config import loading
from score_embedding.runs import resources

CASES = {
    "quickstart": ("quickstart", ["training.epochs=60"]),
    "quickstart, ch 64, batch 40": (
        "quickstart",
        ["training.epochs=8", "model.ch=64", "data_loader.batch_size=40"],
    ),
    "cifar1's network on a photograph": (  # unet, as quickstart has it, with cifar1's sizes
        "quickstart",
        ["training.epochs=4", "model.ch=128", "model.ch_mult=[1,2,2,2]", "model.num_res_blocks=2"],
    ),
    "the same as DDPM, with EMA": (
        "cifar1_ddpm",
        [
            *("training.epochs=4", "data_loader.dataset=sample", "data_loader.image=[astronaut]"),
            *("data_loader.batch_size=10", "sample.steps=10", "model.network=unet"),
        ],
    ),
}


def one(name: str) -> dict[str, Any]:
    """One case, in this process."""
    config = loading.load(*CASES[name])
    needed = resources.need(config, 1)
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as place:
        folder, largest, done = Path(place) / "run", [0], threading.Event()

        def watch() -> None:
            while not done.is_set():
                sizes = [path.stat().st_size for path in folder.glob("*") if path.exists()]
                largest.append(sum(sizes))
                time.sleep(0.02)

        watching = threading.Thread(target=watch)
        watching.start()
        config = config.model_copy(
            update={"misc": config.misc.model_copy(update={"checkpoint_freq": 1e-6})}
        )
        pipeline.run(config, folder, torch.device("cpu"), profile=False)
        done.set()
        watching.join()
    memory, disk = resident("VmHWM") - before, max(largest)
    return {
        "run": name,
        "memory estimated, MiB": round(sum(needed.memory.values()) / 2**20),
        "memory used": round(memory / 2**20),
        "memory, estimated / used": round(sum(needed.memory.values()) / memory, 2),
        "disk estimated, MiB": round(sum(needed.disk.values()) / 2**20),
        "disk used": round(disk / 2**20),
    }


def main() -> None:
    machine = environment()
    rows = []
    for name in CASES:
        command = [sys.executable, __file__, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    write("limits", rows, machine)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(one(sys.argv[1])))
    else:
        main()
