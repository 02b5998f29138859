"""The claims of the papers, and the configs that they were published with.

Sources: Na, Gao, Wan 2024 (arXiv 2404.06661) and Lau, Na, Wan 2025 (arXiv 2511.17634).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OWN = "score_embedding"
# Groups of runs: score embedding and what needs no training; DDPM and DDIM; the ablations.
MAIN, BASELINES, ABLATION = "main", "baselines", "ablations"
GROUPS = (MAIN, BASELINES, ABLATION)
DEFAULT_GROUPS = (MAIN, BASELINES)


@dataclass(frozen=True)
class Case:
    """Runs on the same images: the bundled config of each method, and `section.key=value` that the
    published config differs in, where it is not bundled."""

    configs: dict[str, str]
    overrides: tuple[str, ...] = ()


# Those that are trained.
CASES: dict[str, Case] = {
    "cifar1": Case({OWN: "cifar1", "ddpm": "cifar1_ddpm", "ddim": "cifar1_ddim"}),
    "cifar3": Case({OWN: "cifar3_conditional", "ddpm": "cifar3_ddpm", "ddim": "cifar3_ddim"}),
    "cifar3_unconditional": Case({OWN: "cifar3_unconditional"}),
    "celeb1": Case({OWN: "celeb1", "ddpm": "celeb1_ddpm", "ddim": "celeb1_ddim"}),
    "celeb1_128": Case({OWN: "celeb1", "ddpm": "celeb1_ddpm"}, ("data_loader.image_size=128",)),
    "celeb3": Case({OWN: "celeb3_unconditional"}),
    "inet3": Case({OWN: "inet3_conditional", "ddpm": "inet3_ddpm"}),
}
KRYLOV, DENSITIES = "krylov", "densities"  # cases without training, timed in this process
ALL_CASES = (*CASES, KRYLOV, DENSITIES)

# The published ablations of cifar1: bundled sweeps. They have no claims.
ABLATIONS = (
    "cifar1_sweep_dh",
    "cifar1_sweep_num_timesteps",
    "cifar1_sweep_solve_tolerance",
    "cifar1_sweep_sigma",
)


@dataclass(frozen=True)
class Claim:
    """Published seconds of score embedding, pre-computation included, and of a baseline, to an SSIM
    of the min-max scaled sample from the paper's own start. NaN: the config was published without a
    figure, or the claim has no baseline."""

    case: str
    year: int
    target: float
    seconds: float = math.nan
    baseline: str | None = None
    baseline_seconds: float = math.nan

    @property
    def ratio(self) -> float:
        return self.baseline_seconds / self.seconds

    @property
    def has_figure(self) -> bool:
        """Whether there is a published figure to compare with."""
        return math.isfinite(self.ratio if self.baseline else self.seconds)


CLAIMS = (
    Claim("cifar1", 2024, 0.99, 26.98, "ddpm", 139.63),
    Claim("cifar1", 2024, 0.98, 16.07, "ddpm", 136.91),
    Claim("cifar1", 2024, 0.95, 9.75, "ddpm", 131.09),
    Claim("cifar1", 2024, 0.99, 26.98, "ddim", 182.53),
    Claim("cifar1", 2024, 0.98, 16.07, "ddim", 182.29),
    Claim("cifar1", 2024, 0.95, 9.75, "ddim", 181.57),
    Claim("cifar3", 2024, 0.95, 46.80, "ddpm", 155.16),
    Claim("cifar3", 2024, 0.90, 37.58, "ddpm", 149.72),
    Claim("cifar3", 2024, 0.95, 46.80, "ddim"),
    Claim("cifar3", 2024, 0.90, 37.58, "ddim"),
    Claim("cifar3_unconditional", 2024, 0.95),
    Claim("cifar3_unconditional", 2024, 0.90),
    Claim("celeb1", 2024, 0.95, 105.41, "ddpm", 601.27),
    Claim("celeb1", 2024, 0.90, 71.68, "ddpm", 342.61),
    Claim("celeb1", 2024, 0.95, 105.41, "ddim"),
    Claim("celeb1", 2024, 0.90, 71.68, "ddim"),
    Claim("celeb3", 2024, 0.95, 289.45),
    Claim("inet3", 2024, 0.95, 111.87),
    Claim("inet3", 2024, 0.95, 111.87, "ddpm"),
    Claim("cifar1", 2025, 0.99, 60.27, "ddpm", 1634.93),
    Claim("celeb1", 2025, 0.99, 122.45, "ddpm", 14131.53),
    Claim("celeb1_128", 2025, 0.90, 186.09, "ddpm", 11319.86),
)

# Lau, Na, Wan 2025: the Krylov projection takes this share of the seconds of a sparse direct solve
# less, in percent.
KRYLOV_SAVES = (15.8, 43.7)
# The program's table of seconds over the image's side: from about this side on, its histogram takes
# less time than scipy's kernel density estimate.
HISTOGRAM_FROM = 28
