"""One step of training of cifar1's size (batch 20, 3x32x32) on the CPU, beside plain diffusers.

    python benchmarks/training_step.py                      # ch 128, as published: 10 minutes
    python benchmarks/training_step.py --ch 32 --rounds 9
    python benchmarks/training_step.py --threads 2 --wall

_steps.py says what a step consists of. The variants are timed in turns; ratios to plain eager
diffusers are those of each round. Seconds are those of the process (CPU seconds), which other
processes disturb least; with several threads use --wall, for threads that wait count as busy. The
network of this package is `unet` (as diffusers has it) or `published`. benchmarks/gpu.py times the
same steps on a GPU.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch

from _common import CPU, environment, in_turns, photographs, ratios, spread, write
from _steps import EAGER, PLAIN, Variant, prepared
from score_embedding.config.loading import load

SIZE = 32


def compare(ch: int, rounds: int, wall: bool) -> list[dict[str, Any]]:
    """A row for each variant."""
    image = photographs(SIZE)[:1].float()
    config = load("cifar1", [f"model.ch={ch}"])
    unet = load("cifar1", [f"model.ch={ch}", "model.network=unet"])
    steps = {name: prepared(variant, unet, image) for name, variant in EAGER.items()}
    steps["this package, network published"] = prepared(Variant(package=True), config, image)
    clock = time.perf_counter if wall else time.process_time
    seconds = in_turns(steps, rounds, device=CPU, clock=clock)
    rows = []
    for name in steps:
        gain = spread(ratios(seconds[name], seconds[PLAIN]))
        row = {"variant": name, "ch": ch, "seconds": median(seconds[name])}
        rows.append(
            row | {"seconds / plain": gain["median"], "min": gain["min"], "max": gain["max"]}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ch", type=int, default=128, help="model.ch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="wall-clock instead of CPU seconds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = environment()
    rows = compare(options.ch, options.rounds, options.wall)
    write(f"training_step_ch{options.ch}", rows, machine)


if __name__ == "__main__":
    main()
