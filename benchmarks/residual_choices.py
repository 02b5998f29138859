"""Ablation of the residual embedding: the config photographs trained with one c_out for all spatial
frequencies, and with that or another choice made differently.

    python benchmarks/residual_choices.py      # half an hour; two at a time, one thread each

All have the same number of steps, so that other work on the machine changes nothing. PSNR is of
the held-out photographs of the config, the median over the seeds; in brackets the smallest and the
largest difference to the first row of the same group, seed by seed. Writes
results/residual_choices.json and .md.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from torch import Tensor

from _common import environment, write
from score_embedding.config import loading
from score_embedding.config.schema import Config
from score_embedding.data.crops import Crops
from score_embedding.data.datasets import load_photographs
from score_embedding.evaluation import held_out
from score_embedding.evaluation import samples as evaluation
from score_embedding.methods import preconditioning
from score_embedding.methods.base import Batch, Network, method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.methods.preconditioning import Precomputed
from score_embedding.methods.residual import KnownDensity, ResidualMatching
from score_embedding.training.loop import train

STEPS = 400
SEEDS = (0, 1, 2)
CPU = torch.device("cpu")

# ------------------------------------------------------------------------------ the choices


class Blind(Precomputed):
    """F is not given D_pre."""

    @property
    def uses_density_input(self) -> bool:
        return False


class KarrasWeighted(ResidualMatching):
    """Karras et al.'s weight of the loss, whatever the residual of the density."""

    def loss(self, network: Network, batch: Batch) -> Tensor:
        error = self.precomputed.denoise(network, batch.x, batch.condition) - batch.target
        data = self.precomputed.sigma_data
        weight = (batch.condition**2 + data**2) / (batch.condition * data) ** 2
        return (weight * error.square().mean(dim=(1, 2, 3))).mean()


# ------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Choice:
    """A change of the config, of what is computed before training, or of the loss."""

    name: str
    change: str | None = None
    known: Callable[[Precomputed, list[Tensor], Config], Precomputed] | None = None
    matching: type[ResidualMatching] = ResidualMatching


def one_ring(known: Precomputed, photographs: list[Tensor], config: Config) -> Precomputed:
    """c_out is the same for all frequencies."""
    size, seed = config.data_loader.image_size, config.training.seed
    residual_std = preconditioning.measure_residual(
        known.density, photographs, known.levels, size, 1, seed
    )
    return replace(known, residual_std=residual_std)


def blind(known: Precomputed, photographs: list[Tensor], config: Config) -> Precomputed:
    return Blind(**vars(one_ring(known, photographs, config)))


WHITE = "image_density.kind=white"
NORMAL = "training.noise_levels=log_normal"
GROUPS: dict[str, tuple[str | None, tuple[Choice, ...]]] = {
    "residual": (
        None,
        (
            Choice("one c_out for all frequencies", known=one_ring),
            Choice("noise levels log-normal", NORMAL, one_ring),
            Choice("F is not given D_pre", known=blind),
            Choice("Karras et al.'s weight", known=one_ring, matching=KarrasWeighted),
            Choice("c_out at each frequency, as configured"),
        ),
    ),
    "plain": (
        WHITE,
        (
            Choice("as configured"),
            Choice("noise levels log-normal", NORMAL),
        ),
    ),
}


def measured(group: str, choice: Choice, seed: int) -> dict[str, float]:
    """PSNR at each level after STEPS steps."""
    torch.set_num_threads(1)
    changes = [GROUPS[group][0], choice.change, f"training.seed={seed}", "training.epochs=1"]
    changes.append(f"data_loader.num_images={STEPS}")
    config = loading.load("photographs", [change for change in changes if change])
    assert isinstance(config, Config)
    assert config.held_out
    photographs = load_photographs(config.data_loader)
    known, _ = preconditioning.precompute(photographs, config)
    if choice.known:
        known = choice.known(known, photographs, config)
    crops = Crops.of(photographs, config.data_loader.image_size)
    objective = choice.matching(crops, known, config, num_images=STEPS)
    method = method_of(config)
    # The kind `white` is built without the channels of D_pre.
    white = method_of(loading.load("photographs", [WHITE, f"training.seed={seed}"]))
    network = build_network(method if known.uses_density_input else white, 1, CPU)
    train(network, objective, config)
    test = evaluation.held_out_of(config, CPU)
    denoise = TrainedModel(method, network, KnownDensity({}, known, photographs)).denoise
    return held_out.measure(denoise, test, config.held_out.levels).means()


def main() -> None:
    machine = environment()
    jobs = [
        (g, choice, seed)
        for g, (_, choices) in GROUPS.items()
        for choice in choices
        for seed in SEEDS
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = []
        for job, means in zip(jobs, pool.map(measured, *zip(*jobs, strict=True)), strict=True):
            found.append(means)
            print(job[0], job[1].name, job[2], means, flush=True)
    of: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (group, choice, _), means in zip(jobs, found, strict=True):
        of.setdefault((group, choice.name), []).append(means)
    rows = []
    for (group, name), runs in of.items():
        row: dict[str, Any] = {"network": group, "choice": name}
        first = of[group, GROUPS[group][1][0].name]
        for column in (key for key in runs[0] if key.startswith("psnr_")):
            values = [run[column] for run in runs]
            gains = [a - b[column] for a, b in zip(values, first, strict=True)]
            difference = "" if runs is first else f" ({min(gains):+.2f} to {max(gains):+.2f})"
            row[f"noise {column.removeprefix('psnr_')}"] = f"{median(values):.2f}{difference}"
        rows.append(row)
    write(
        "residual_choices",
        rows,
        {"PSNR in dB after": f"{STEPS} steps", "seeds": len(SEEDS), **machine},
    )


if __name__ == "__main__":
    main()
