"""The share of the closed-form density in a training step of a residual model, on the CPU.

    python benchmarks/density_share.py             # 3 minutes

Images of 32 x 32 in grey and in colour, batches of 16 and 64 with a noise level for each image, the
network of the config `photographs` (ch 32) and of cifar1's width (ch 128). The density is a patch
mixture of 20 components, windows of 8 x 8 every 2 pixels. The posterior mean of a batch and a whole
step are timed in turns, in CPU seconds of one thread, which other processes disturb least; the step
at ch 128 is timed for a batch of 16 only. Writes results/density_share.json and .md.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Any

import torch

import _data_set
from _common import crops, environment, in_turns, ratios, write
from _steps import Variant, package_step
from score_embedding.densities import Density
from score_embedding.methods.base import method_of
from score_embedding.methods.residual import KnownDensity, ResidualMatching

SIDE, ROUNDS = 32, 5
NARROW = ["model.ch=32", "model.ch_mult=[1,2,2]", "model.num_res_blocks=1"]
NETWORKS = {"ch 32": [*NARROW, "model.attention_resolutions=[]"], "ch 128": []}


def share(name: str, channels: int, batch: int) -> dict[str, Any]:
    """A row of the table."""
    changes = [*NETWORKS[name], f"data_loader.batch_size={batch}", "image_density.arrays=8000"]
    config = _data_set.config("patch_mixture", channels, changes)
    images = crops(256, SIDE).float()[:, :channels]
    method = method_of(config)
    known = method.precompute(images, images.device)
    assert isinstance(known, KnownDensity)
    objective = method.objective(images, known)
    assert isinstance(objective, ResidualMatching)
    drawn = objective.draw_batch(0, torch.Generator().manual_seed(0))
    density: Density = known.precomputed.density
    timed = {
        "density": partial(density.denoise, drawn.x, drawn.condition),
        "step": package_step(config, images, Variant(package=True)),
    }
    seconds = in_turns(timed, ROUNDS, {"density": 3}, clock=time.process_time)
    return {
        "network": name,
        "channels": channels,
        "batch": batch,
        "density, ms": 1e3 * median(seconds["density"]),
        "step, ms": 1e3 * median(seconds["step"]),
        "share of a step, %": 100 * median(ratios(seconds["density"], seconds["step"])),
    }


def main() -> None:
    torch.set_num_threads(1)
    machine = environment()
    cases = [("ch 32", c, batch) for c in (1, 3) for batch in (16, 64)]
    rows = []
    for case in (*cases, ("ch 128", 1, 16), ("ch 128", 3, 16)):
        rows.append(share(*case))
        print(rows[-1], flush=True)
    write("density_share", rows, machine)


if __name__ == "__main__":
    main()
