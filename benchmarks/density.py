"""The pixel log-density, alone and with the Fokker-Planck solve, on one core.

    OMP_NUM_THREADS=1 python benchmarks/density.py                # about 5 minutes
    OMP_NUM_THREADS=1 python benchmarks/density.py --only sizes   # or: chain

chain : scipy.stats.gaussian_kde and the published discretisation against `exact` and `spectral`, in
        turns within one process, on the same photograph, with the parameters of cifar1 (32x32) and
        celeb1 (64x64). Two rivals: `official` factorises the sparse matrix of every step, as the
        official program does, and should take at least 400 and 250 times as long; `published` is
        this package's iteration for the same fields. The same for 1,000 images, where the rivals
        are measured on FEW images and multiplied, and `spectral` is in float32, as in a run with
        that many. `exact` alone, and its difference from gaussian_kde on photographs. Writes
        results/density.*
sizes : seconds of each density for one photograph of three channels over its size, and how they
        grow. What would take longer than PATIENCE is left empty. Writes results/density_sizes.*
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.sparse import dia_array
from scipy.sparse.linalg import spsolve
from scipy.stats import gaussian_kde
from threadpoolctl import threadpool_limits
from torch import Tensor

from _common import crops, environment, in_turns, photographs, ratios, spread, write
from score_embedding.config import loading
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solve import solve
from score_embedding.methods.precomputation import time_grid
from score_embedding.sde import VarianceExploding

FEW = 2  # images of 1,000 that the rivals compute
CHAINS = (("cifar1", 400, 0.003), ("celeb1", 250, 0.012))  # config, least ratio, seconds of exact
SIZES = (16, 32, 64, 128, 256, 512)
PATIENCE = 30.0  # seconds of one call

Row = dict[str, Any]
Estimate = Callable[[Tensor], Tensor]


def by_scipy(images: Tensor) -> Tensor:
    """gaussian_kde of the pairs, (n, c, h, w): the sum of all D^2 kernels."""
    m0 = []
    for channel in images.flatten(0, 1).numpy():
        pairs = np.stack([channel.flatten(order="F"), channel.flatten()])
        m0.append(gaussian_kde(pairs).logpdf(pairs).reshape(channel.shape))
    return torch.from_numpy(np.stack(m0)).view_as(images)


ESTIMATES: dict[str, Estimate] = {
    "scipy": by_scipy,
    "histogram": lambda images: log_density(images, method="histogram"),
    "sklearn": lambda images: log_density(images, method="sklearn"),
    "exact": lambda images: log_density(images, method="exact"),
}


def row(measured: str, values: list[float], target: str = "", met: bool | None = None) -> Row:
    return {"measured": measured, **spread(values), "target": target, "met": met}


# With the solve


def chain(name: str, least: float, most: float) -> list[Row]:
    """Of one photograph, with the parameters of a config."""
    config = loading.load(name)
    diffusion, size = config.diffusion, config.data_loader.image_size[0]
    sde = VarianceExploding(diffusion.sigma)
    times = time_grid(diffusion.num_timesteps, config.misc.eps)
    tolerance = diffusion.solve_tolerance

    def official(images: Tensor) -> Tensor:
        return by_factorisations(by_scipy(images), sde, times, tolerance)

    def published(images: Tensor) -> Tensor:
        m0 = by_scipy(images)
        return solve(m0, sde, times, scheme="published", tolerance=tolerance).log_density

    def spectral(images: Tensor, dtype: torch.dtype = torch.float64) -> None:
        solve(log_density(images).to(dtype), sde, times)

    what = f"{size}x{size}x3, N = {diffusion.num_timesteps}"
    one, few, many = photographs(size)[:1], crops(FEW, size), crops(1000, size)
    if not torch.allclose(official(one), published(one), rtol=0, atol=1e-6):
        raise RuntimeError("the two rivals do not compute the same fields")
    alone = in_turns(
        {
            "official": lambda: official(one),
            "published": lambda: published(one),
            "spectral": lambda: spectral(one),
            "exact": lambda: log_density(one),
        },
        rounds=5,
        calls={"spectral": 50, "exact": 50},
    )
    batch = in_turns(
        {
            "official": lambda: official(few),
            "published": lambda: published(few),
            "spectral": lambda: spectral(many, torch.float32),  # as a run has many
        },
        rounds=3,
    )
    rows = []
    for images, seconds, times_n in (("", alone, 1), (", 1,000 images", batch, 1000 / FEW)):
        rows.append(row(f"exact + spectral, {what}{images}, s", seconds["spectral"]))
        for rival, target in (("official", least), ("published", 0)):
            of_rival = [times_n * s for s in seconds[rival]]
            gain = ratios(of_rival, seconds["spectral"])
            rows += [
                row(f"gaussian_kde + {rival}, {what}{images}, s", of_rival),
                of_least(f"{rival} / spectral with density, {what}{images}", gain, target),
            ]
    exact, target = alone["exact"], f"<= {most}"
    return [*rows, row(f"exact, {size}x{size}x3, s", exact, target, median(exact) <= most)]


def of_least(measured: str, values: list[float], least: float) -> Row:
    return row(measured, values, *(f">= {least}", median(values) >= least) if least else ())


def by_factorisations(
    m0: Tensor, sde: VarianceExploding, times: Tensor, tolerance: float
) -> Tensor:
    """The published log-densities (n, N, c, h, w) with dh = 1, by scipy's sparse direct solver."""
    n, c, h, w = m0.shape
    N, half_g2 = len(times), (sde.g(times) ** 2 / 2).tolist()
    fields = np.empty((n * c, N, h * w))
    for m, start in zip(fields, m0.reshape(n * c, h * w).numpy(), strict=True):
        score, previous, m[0] = np.ones((N, h * w)), np.ones((N, h * w)), start
        change = math.inf
        while change > tolerance:
            for i in range(1, N):
                beta = half_g2[i] / N
                alpha = -beta / 2 * score[i]
                diagonals = [np.full(h * w, 1 + 4 * beta), *[alpha + beta, alpha - beta] * 2]
                A = dia_array((np.stack(diagonals), (0, 1, -1, h, -h)), shape=(h * w, h * w))
                m[i] = spsolve(A.tocsc(), m[i - 1])
            padded = np.pad(m, ((0, 0), (1, 1)))
            score = (padded[:, 2:] - padded[:, :-2]) / 2
            change = np.linalg.norm(m - previous) / np.linalg.norm(previous)
            previous = m.copy()
    return torch.from_numpy(fields).reshape(n, c, N, h, w).transpose(1, 2)


def difference() -> Row:
    """The largest difference from gaussian_kde for each photograph at each size."""
    differences = []
    for size in (32, 64):
        images = photographs(size)
        found = (log_density(images) - by_scipy(images)).abs()
        differences += found.amax(dim=(1, 2, 3)).tolist()
    measured = "difference of the logarithm from gaussian_kde, 32x32 and 64x64"
    return row(measured, differences, "<= 1e-08", max(differences) <= 1e-8)


# Over the size of the image


def sizes() -> list[Row]:
    rows: list[Row] = []
    seconds: dict[str, dict[int, float]] = {name: {} for name in ESTIMATES}
    for size in SIZES:
        image = photographs(size)[:1]
        for name, estimate in ESTIMATES.items():
            last = seconds[name].get(size // 2)
            # brute force grows as the square of the pixels
            if size > SIZES[0] and (last is None or 16 * last > PATIENCE):
                continue
            quick = last is not None and last < 0.1
            of_rounds = in_turns(
                {name: lambda of=estimate, image=image: of(image)}, rounds=7 if quick else 3
            )
            seconds[name][size] = median(of_rounds[name])
        found = {f"{name}, s": seconds[name].get(size) for name in ESTIMATES}
        rows.append({"size": f"{size}x{size}x3", **found})
    growth = {f"{name}, s": f"pixels^{exponent(of):.2f}" for name, of in seconds.items()}
    return [*rows, {"size": "growth from 32x32", **growth}]


def exponent(seconds: dict[int, float]) -> float:
    """k of seconds ~ pixels^k, from 32x32 to the largest size."""
    largest = max(seconds)
    return math.log(seconds[largest] / seconds[32]) / (2 * math.log(largest / 32))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("chain", "sizes"))
    only = parser.parse_args().only
    torch.set_num_threads(1)
    machine = environment()
    with threadpool_limits(1):
        if only in (None, "chain"):
            rows = [one for arguments in CHAINS for one in chain(*arguments)]
            write("density", [*rows, difference()], machine)
        if only in (None, "sizes"):
            write("density_sizes", sizes(), machine)


if __name__ == "__main__":
    main()
