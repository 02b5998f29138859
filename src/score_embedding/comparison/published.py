"""The claims of the papers, and the configs that they were published with.

A claim is that score embedding reaches an SSIM (of the min-max scaled sample, from the paper's own
start) in a stated number of seconds and, where there is a baseline, that the baseline takes longer.
Sources: Na, Gao, Wan 2024 (arXiv 2404.06661) and Lau, Na, Wan 2025 (arXiv 2511.17634).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The config of each method in each case, as published.
CASES: dict[str, dict[str, str]] = {
    "cifar1": {"score_embedding": "cifar1", "ddpm": "cifar1_ddpm", "ddim": "cifar1_ddim"},
    "celeb1": {"score_embedding": "celeb1", "ddpm": "celeb1_ddpm"},
    "cifar3": {"score_embedding": "cifar3_conditional", "ddpm": "cifar3_ddpm"},
    "inet3": {"score_embedding": "inet3_conditional"},
    "celeb3": {"score_embedding": "celeb3_unconditional"},
}

# The published ablations of cifar1 (bundled sweeps), with seeds 9, 42 and 123.
ABLATIONS = (
    "cifar1_sweep_dh",
    "cifar1_sweep_num_timesteps",
    "cifar1_sweep_solve_tolerance",
    "cifar1_sweep_sigma",
)

# `full` changes nothing. `small` is a smoke run: minutes on a laptop, far from converged.
SCALES: dict[str, list[str]] = {
    "small": ["model.ch=16", "training.epochs=20", "misc.profile_freq=1"],
    "full": [],
}
SMALL_CHAIN = "sample.steps=50"  # of the baselines at small scale


@dataclass(frozen=True)
class Claim:
    """Published seconds of score embedding, and of a baseline, to an SSIM."""

    case: str
    year: int
    target: float
    seconds: float
    baseline: str | None = None
    baseline_seconds: float = math.nan

    @property
    def ratio(self) -> float:
        return self.baseline_seconds / self.seconds


CLAIMS = (
    Claim("cifar1", 2024, 0.99, 26.98, "ddpm", 139.63),
    Claim("cifar1", 2024, 0.98, 16.07, "ddpm", 136.91),
    Claim("cifar1", 2024, 0.95, 9.75, "ddpm", 131.09),
    Claim("cifar1", 2024, 0.99, 26.98, "ddim", 182.53),
    Claim("cifar1", 2024, 0.98, 16.07, "ddim", 182.29),
    Claim("cifar1", 2024, 0.95, 9.75, "ddim", 181.57),
    Claim("celeb1", 2024, 0.95, 105.41, "ddpm", 601.27),
    Claim("celeb1", 2024, 0.90, 71.68, "ddpm", 342.61),
    Claim("cifar3", 2024, 0.95, 46.80, "ddpm", 155.16),
    Claim("cifar3", 2024, 0.90, 37.58, "ddpm", 149.72),
    Claim("inet3", 2024, 0.95, 111.87),
    Claim("celeb3", 2024, 0.95, 289.45),
    Claim("cifar1", 2025, 0.99, 60.27, "ddpm", 1634.93),
    Claim("celeb1", 2025, 0.99, 122.45, "ddpm", 14131.53),
)
