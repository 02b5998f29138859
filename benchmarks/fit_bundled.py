"""Fit the bundled patch mixture, densities/photographs.safetensors.

    python benchmarks/fit_bundled.py

Its photographs are scikit-image's, all free to redistribute: astronaut and rocket are in the public
domain, coffee, chelsea, brick, grass and gravel are CC0. Each is halved in size, which reduces its
own noise. Only statistics of 8 x 8 windows are kept. No photograph that is held out for a
measurement of denoising is among them. A few minutes on two cores.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from score_embedding import densities
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import load_photographs

PICTURES = ["astronaut", "rocket", "coffee", "chelsea", "brick", "grass", "gravel"]
COMPONENTS, WINDOWS, STEPS = 30, 60_000, 20
RANK = 96  # axes kept of each component; the others have their mean variance
TARGET = Path(densities.__file__).parent / "photographs.safetensors"


def main() -> None:
    options = DataLoader(dataset="sample", image=PICTURES, crops=True, shrink=2)
    started = time.perf_counter()
    density = densities.fit(
        "patch_mixture",
        load_photographs(options),
        components=COMPONENTS,
        arrays=WINDOWS,
        em_steps=STEPS,
    )
    densities.save(replace(density, model=density.model.truncated(RANK)), TARGET)
    size = TARGET.stat().st_size / 2**20
    print(f"{TARGET}: {size:.2f} MiB, fitted in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
