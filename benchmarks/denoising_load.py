"""`denoise` beside other busy processes, and the memory of a large photograph.

    python benchmarks/denoising_load.py busy      # two minutes; nothing else may run
    python benchmarks/denoising_load.py memory    # ten minutes, at most 4 GB of memory
    python benchmarks/denoising_load.py memory --megapixels 6

busy : seconds of one call on a photograph of 512 x 512 pixels, alone and next to two processes that
    each keep a core busy, in turns. With two cores and as many threads a ratio of 2 is the fair
    share; the aim is 3 at most. Writes results/denoising_busy.md.
memory : the largest resident memory of the command `score-embedding denoise` for a colour JPEG of
    24 megapixels whose noise it estimates, in a process of its own; the aim is 4 GB at most. Writes
    results/denoising_memory.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

from _common import environment, ratios, spread, table, write
from score_embedding.restoration.denoising import denoise

MODELS = ("fit", "fast")
BUSY, ROUNDS = 2, 5  # processes; measurements, alone and next to them
SIGMA = 25 / 255
ENDLESS = [sys.executable, "-c", "while True: pass"]
MEGAPIXELS = 24


def busy() -> None:
    machine, rows = environment(), []
    image = skimage.data.astronaut() / 255
    noisy = image + SIGMA * np.random.default_rng(0).normal(size=image.shape)
    for model in MODELS:
        call = partial(denoise, noisy.astype(np.float32), sigma=SIGMA, model=model)
        call()
        alone, beside = [], []
        for _ in range(ROUNDS):
            alone.append(_seconds(call))
            with busy_processes():
                beside.append(_seconds(call))
        found = spread(ratios(beside, alone))
        rows.append(
            {
                "model": f"`{model}`",
                "alone, s": spread(alone)["median"],
                f"next to {BUSY} busy processes, s": spread(beside)["median"],
                "ratio": f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})",
            }
        )
    write("denoising_busy", rows, machine)


def _seconds(call: partial[Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def busy_processes() -> Iterator[None]:
    started = [subprocess.Popen(ENDLESS) for _ in range(BUSY)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def memory(megapixels: float) -> None:
    machine, rows = environment(), []
    with tempfile.TemporaryDirectory() as place:
        photograph = Path(place) / "photograph.jpg"
        width, height = large_photograph(photograph, megapixels)
        for model in MODELS:
            options = ["--fast"] if model == "fast" else ["--model", model]
            started = time.perf_counter()
            peak = peak_memory([str(photograph), "--out", f"{place}/{model}", *options])
            rows.append(
                {
                    "model": f"`{model}`",
                    "photograph": f"{width} x {height}",
                    "peak memory, GB": f"{peak / 1e9:.2f}",
                    "seconds": f"{time.perf_counter() - started:.0f}",
                }
            )
            print(rows[-1], flush=True)
    if megapixels == MEGAPIXELS:
        write("denoising_memory", rows, machine)
    else:
        print(table("denoising_memory", rows, machine))


def large_photograph(path: Path, megapixels: float) -> tuple[int, int]:
    """A noisy colour JPEG, 3 : 2, of a photograph continued by its mirror image; its size."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(1.5 * height)
    small = skimage.data.coffee()
    around = ((0, height - small.shape[0]), (0, width - small.shape[1]), (0, 0))
    pixels = np.pad(small, around, mode="symmetric").astype(np.float32)
    pixels += 255 * SIGMA * np.random.default_rng(0).normal(size=pixels.shape).astype(np.float32)
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return width, height


def peak_memory(arguments: list[str]) -> int:
    """The largest resident memory in bytes of the command denoise. Linux counts the start of the
    process, which is a copy of this one, too: a few hundred MB at most."""
    command = [sys.executable, "-m", "score_embedding", "denoise", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return used.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["busy", "memory"])
    parser.add_argument("--megapixels", type=float, default=MEGAPIXELS)
    given = parser.parse_args()
    if given.part == "busy":
        busy()
    else:
        memory(given.megapixels)


if __name__ == "__main__":
    main()
