"""Everything that is known before training: log-density, Fokker-Planck solve, score, embedding.

Few images are computed at once and kept. A data set's worth is computed block by block: into a
file that can be mapped into memory, or inside the training loop, where the spectral solve costs
next to nothing beside a step (benchmarks/solvers.py), so that only the log-densities are kept.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_embedding import atomic_files, kinds, progress
from score_embedding.config.sections import Diffusion, Misc
from score_embedding.errors import DataError, DivergenceError
from score_embedding.fokker_planck.embedding import embed
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solution import merged
from score_embedding.fokker_planck.solve import AffineDrift, Diagnostics, solve
from score_embedding.sde import VarianceExploding

IN_MEMORY = 2**30  # bytes of fields that are computed at once and kept
SHOWN = 16  # images whose fields are kept where not all are
BLOCK_BYTES = 4 * 2**20  # of one float32 field in a block: its stages stay in the cache


@dataclass(frozen=True)
class Precomputed:
    """Of n images: the log-density and the score (n, N, c, h, w) in the solver's dtype, the
    embedded images (n, N, c, h, w) in float32, the N times, diagnostics and stage seconds."""

    times: Tensor
    log_density: Tensor
    scores: Tensor
    embedded: Tensor
    diagnostics: Diagnostics
    seconds: dict[str, float]


def time_grid(num_timesteps: int, eps: float) -> Tensor:
    """The N times of the solve, linspace(eps, 1, N), in float64."""
    return torch.linspace(eps, 1, num_timesteps, dtype=torch.float64)


def fits_in_memory(images: Tensor, diffusion: Diffusion) -> bool:
    """Whether `precompute` of all images keeps to IN_MEMORY bytes."""
    values = images.numel() * diffusion.num_timesteps
    return values * (8 + 8 + 4) <= IN_MEMORY  # log-density, score, embedded


def check(images: Tensor, diffusion: Diffusion) -> None:
    """Raise DataError where the images cannot be pre-computed for training as asked."""
    if diffusion.embedding == "shuffled" and len(images) < 2:
        raise DataError("diffusion.embedding shuffled needs two images or more, there is one")
    if not kinds.SCHEMES[diffusion.scheme].fast and not fits_in_memory(images, diffusion):
        raise DataError(
            f"{len(images)} images at {diffusion.num_timesteps} times are too many to be kept in "
            f"memory, and the {diffusion.scheme} scheme is too slow to be computed during "
            f"training; take diffusion.scheme spectral, or fewer images"
        )


def precompute(
    images: Tensor, diffusion: Diffusion, misc: Misc, sources: Tensor | None = None
) -> Precomputed:
    """Log-density, Fokker-Planck solve, score and embedding of images (n, c, h, w). `sources`: the
    images whose log-densities they are given, by default as `score_sources` has it."""
    started = time.perf_counter()
    if sources is None:
        sources = score_sources(images, diffusion)
    m0 = log_density(sources, method=diffusion.density)
    density = time.perf_counter() - started
    precomputed = evolve(images, m0, diffusion, misc)
    return replace(precomputed, seconds={"density": density, **precomputed.seconds})


def evolve(images: Tensor, m0: Tensor, diffusion: Diffusion, misc: Misc) -> Precomputed:
    """What follows from the log-densities m0 (n, c, h, w), in their dtype."""
    sde = VarianceExploding(diffusion.sigma)
    times = time_grid(diffusion.num_timesteps, misc.eps).to(images.device)
    clock = [time.perf_counter()]
    solution = solve(
        m0,
        sde,
        times,
        scheme=diffusion.scheme,
        dh=diffusion.dh,
        tolerance=diffusion.solve_tolerance,
        boundary=diffusion.boundary,
        drift=AffineDrift(diffusion.drift) if diffusion.drift else None,
    )
    if not solution.log_density.isfinite().all():
        raise DivergenceError(
            f"the log-density is not finite with diffusion.sigma {diffusion.sigma:g}, drift "
            f"{diffusion.drift:g}; smaller values may help"
        )
    scores = solution.score()
    clock.append(time.perf_counter())
    moving = torch.zeros_like(scores) if diffusion.embedding == "none" else scores
    embedded = embed(images, moving, sde, times, dt=solution.dt).to(torch.float32)
    clock.append(time.perf_counter())
    solve_and_score, embedding = (b - a for a, b in pairwise(clock))
    return Precomputed(
        times=times,
        log_density=solution.log_density,
        scores=scores,
        embedded=embedded,
        diagnostics=solution.diagnostics,
        seconds={"solve": solve_and_score, "embedding": embedding},
    )


def score_sources(images: Tensor, diffusion: Diffusion) -> Tensor:
    """The images (n, c, h, w) whose log-density each image is given: its own, or with embedding
    "shuffled" that of the image before it, so that every score is another image's."""
    return images.roll(1, dims=0) if diffusion.embedding == "shuffled" else images


class EmbeddedImages:
    """The embedded images of a data set, computed when they are asked for.

    Indexed like a tensor (n, N, c, h, w) on `device`, in float32; computed on the device of the
    images (n, c, h, w). Images that follow each other are computed together, in blocks of
    `block_bytes` of a field in float32, and those of the last block are kept.
    """

    def __init__(
        self,
        images: Tensor,
        diffusion: Diffusion,
        misc: Misc,
        device: torch.device,
        *,
        block_bytes: int = BLOCK_BYTES,
    ):
        self.device = device
        self._block_size = block_size(images, diffusion, block_bytes)
        self._images, self._diffusion, self._misc = images, diffusion, misc
        self._m0 = torch.empty_like(images, dtype=torch.float32)
        sources = score_sources(images, diffusion)
        for block in blocks(len(images), self._block_size, "log-density"):
            m0 = log_density(sources[block], method=diffusion.density)
            self._m0[block] = m0.to(torch.float32)
        self._block, self._embedded = slice(0, 0), torch.empty(0)

    def __len__(self) -> int:
        return len(self._images)

    def fields(self, count: int) -> Precomputed:
        """All fields of the first `count` images, as training sees them."""
        images, m0 = self._images[:count], self._m0[:count]
        return evolve(images, m0, self._diffusion, self._misc)

    def __getitem__(self, index: int) -> Tensor:
        """The N states (N, c, h, w) of image `index`."""
        if not self._block.start <= index < self._block.stop:
            start = index // self._block_size * self._block_size
            self._block = slice(start, min(start + self._block_size, len(self)))
            self._embedded = evolve(
                self._images[self._block], self._m0[self._block], self._diffusion, self._misc
            ).embedded.to(self.device)
        return self._embedded[index - self._block.start]


def block_size(images: Tensor, diffusion: Diffusion, block_bytes: int) -> int:
    """How many images are computed together."""
    return max(1, block_bytes // (4 * images[0].numel() * diffusion.num_timesteps))


def blocks(n: int, size: int, description: str) -> Iterator[slice]:
    """Slices of n images, `size` at a time, one after another, with a progress bar."""
    with progress.stage(description, total=n) as stage:
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))
            stage.to(min(start + size, n))


def save(path: Path, images: Tensor, precomputed: Precomputed) -> None:
    """An .npz file: images (n, c, h, w), fields in float32 of all or of the first of them, times,
    and the solver's diagnostics as JSON."""
    arrays = {
        "images": images.detach().cpu().numpy(),
        "times": precomputed.times.cpu().numpy(),
        "diagnostics": np.array(json.dumps(dataclasses.asdict(precomputed.diagnostics))),
    }
    for name in ("log_density", "scores", "embedded"):
        field = getattr(precomputed, name)
        arrays[name] = field.detach().cpu().to(torch.float32).contiguous().numpy()
    atomic_files.write_arrays(path, arrays)


def field_bytes(shape: tuple[int, ...], num_timesteps: int, num_images: int) -> tuple[int, int]:
    """Bytes that the fields of N images of a shape (c, h, w) take in memory at the peak, and those
    of the file of `save`."""
    each = 4 * math.prod(shape) * num_timesteps
    many = 5 * each * num_images > IN_MEMORY
    kept = each * (min(num_images, SHOWN) if many else num_images)
    rest = IN_MEMORY if many else 0  # log-densities, and a block of all fields
    return 8 * kept + rest, 3 * kept  # in float64 with their intermediates; three in float32


def write_all_scores(
    images: Tensor,
    diffusion: Diffusion,
    misc: Misc,
    path: Path,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> Diagnostics:
    """The scores of all images as a .npy file, float32 (n, N, c, h, w), one block in memory at a
    time (as in EmbeddedImages); `numpy.load(path, mmap_mode="r")` opens it.

    Raises
    ------
    DataError : the file would not fit on the disk.
    """
    n, *pixels = images.shape
    shape = (n, diffusion.num_timesteps, *pixels)
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"{path}: the scores of {n} images take {needed / 2**30:.1f} GiB, the disk has "
            f"{free / 2**30:.1f} GiB left; take fewer images or times (num_timesteps)"
        )
    scores = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    diagnostics = []
    sources = score_sources(images, diffusion)
    for block in blocks(n, block_size(images, diffusion, block_bytes), "scores"):
        m0 = log_density(sources[block], method=diffusion.density).to(torch.float32)
        precomputed = evolve(images[block], m0, diffusion, misc)
        scores[block] = precomputed.scores.cpu().numpy()
        diagnostics.append(precomputed.diagnostics)
    scores.flush()
    return merged(diagnostics)
