"""Seconds of the pixel log-density over the side of the image, for each estimate that there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from scipy.stats import gaussian_kde
from torch import Tensor

from score_embedding import kinds
from score_embedding.comparison.reproduction import findings
from score_embedding.comparison.reproduction.findings import Finding, seconds_text
from score_embedding.comparison.reproduction.published import DENSITIES, HISTOGRAM_FROM
from score_embedding.comparison.reproduction.scales import PICTURES, Scale
from score_embedding.config.sections import DataLoader
from score_embedding.data.datasets import load_dataset
from score_embedding.fokker_planck import pixel_density
from score_embedding.report.parts import Table

SCIPY = "scipy.stats.gaussian_kde"
HISTOGRAM = "histogram"
ROUNDS = 3
NAME = f"{DENSITIES} (2025)"
PUBLISHED = f"{HISTOGRAM} faster than {SCIPY} from a side of about {HISTOGRAM_FROM} on"

Seconds = dict[str, dict[int, float]]  # by estimate, then by side


def estimates() -> dict[str, Callable[[Tensor], object]]:
    """scipy's own estimate, and each kind of the table under its first name."""
    found: dict[str, Callable[[Tensor], object]] = {SCIPY: of_scipy}
    seen: list[object] = []
    for name, kind in kinds.PIXEL_DENSITIES.items():
        if kind not in seen:
            seen.append(kind)
            found[name] = partial(pixel_density.log_density, method=name)
    return found


def of_scipy(images: Tensor) -> np.ndarray:
    """The log-density (n, c, h, w) by scipy, channel by channel."""
    channels = images.cpu().double().numpy()
    m0 = np.empty_like(channels)
    for place in np.ndindex(channels.shape[:2]):
        pairs = np.stack([channels[place].ravel("F"), channels[place].ravel()])
        m0[place] = np.log(gaussian_kde(pairs)(pairs)).reshape(channels[place].shape)
    return m0


def seconds(scale: Scale, device: torch.device) -> Seconds:
    """Of one colour picture of each side: the median of ROUNDS, after one that prepares the
    libraries."""
    measured: Seconds = {name: {} for name in estimates()}
    for side in scale.sides:
        options = DataLoader(dataset="sample", image=list(PICTURES[:1]), image_size=(side, side))
        images = load_dataset(options).to(device)
        for name, estimate in estimates().items():
            estimate(images)
            measured[name][side] = median(_timed(estimate, images) for _ in range(ROUNDS))
    return measured


def judge(measured: Seconds) -> list[Finding]:
    """Reproduced: from a side within a factor TOLERANCE of the published one on the histogram takes
    less time."""
    if HISTOGRAM not in measured:
        return not_run(f"there is no estimate {HISTOGRAM}")
    sides = sorted(measured[SCIPY])
    slower = [side for side in sides if measured[HISTOGRAM][side] >= measured[SCIPY][side]]
    after = max(slower, default=0)
    first = next((side for side in sides if side > after), None)
    if first is None:
        here, verdict = f"none up to {sides[-1]}", findings.NOT_REPRODUCED
    else:
        here = f"from {first} (after {after})" if after else f"from {first}, the smallest"
        least, most = HISTOGRAM_FROM / findings.TOLERANCE, HISTOGRAM_FROM * findings.TOLERANCE
        outside = first < least or after >= most
        inside = after >= least and first <= most
        verdict = findings.REPRODUCED if inside else findings.NOT_RESOLVED
        verdict = findings.NOT_REPRODUCED if outside else verdict
    reason = "the crossing lies between two sides" if verdict == findings.NOT_RESOLVED else ""
    values = {} if first is None else {"side": float(first), "after": float(after)}
    brief = (f"from {HISTOGRAM_FROM}", here)
    return [Finding(DENSITIES, NAME, PUBLISHED, here, "-", verdict, reason, brief, values)]


def not_run(reason: str) -> list[Finding]:
    return [Finding(DENSITIES, NAME, PUBLISHED, reason=reason)]


def table(measured: Seconds) -> Table:
    """A row for each side, a column for each estimate."""
    header = ("side", *measured)
    rows = [
        (str(side), *(seconds_text(of_side[side]) for of_side in measured.values()))
        for side in sorted(measured[SCIPY])
    ]
    note = (
        "Seconds for one colour picture that installed packages ship, the median of "
        f"{ROUNDS}; {SCIPY} itself, and the values of diffusion.density."
    )
    return Table("Seconds of the pixel log-density", header, rows, note)


def _timed(estimate: Callable[[Tensor], object], images: Tensor) -> float:
    started = time.perf_counter()
    estimate(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started
