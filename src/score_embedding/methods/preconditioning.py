"""The closed-form denoiser of a residual model, and the scale of its residual.

A density is fitted to the photographs; the standard deviation of x_0 - D_pre(x, s) is measured at
noise levels s of the diffusion and in rings of spatial frequency. Both are saved with the run.

A density knows the images that it was fitted to, the more so the more parameters it has, and its
residual is larger on others. It is measured on others where there are enough images. Training is on
all of them.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_embedding import atomic_files, densities, frequencies, kinds
from score_embedding.arrays import normal
from score_embedding.config.schema import Config
from score_embedding.config.sections import ImageDensity
from score_embedding.data import crops
from score_embedding.dct import dct, inverse_dct
from score_embedding.densities import Density, fit, splitting
from score_embedding.densities.density import number_of_arrays
from score_embedding.densities.fitting import FLOOR
from score_embedding.errors import CheckpointError, ConfigError
from score_embedding.methods.base import Network
from score_embedding.sde import VarianceExploding

_LEVELS = 9  # noise levels at which c_out is measured, even in their logarithm
_MEASURED = 32  # crops at each of them, at least
_DIVIDED_FROM = 100  # images on, some are held out from the density, and the residual is theirs
_HELD_OUT = 256  # of them, at most
_BLOCK = 1000  # photographs
_LEAST_STD = 1e-3  # smallest residual over the noise: a density may be exact


@dataclass(frozen=True)
class Precomputed:
    """All that is known before training.

    Attributes
    ----------
    density : its posterior mean D_pre is the skip path.
    mean, sigma_data : mean and standard deviation of the data.
    levels : (L,), noise levels from the lowest to the highest of the diffusion.
    residual_std : (L, R), the standard deviation of x_0 - D_pre at these levels, in R rings of
        spatial frequency.
    """

    density: Density
    mean: float
    sigma_data: float
    levels: Tensor
    residual_std: Tensor

    @property
    def uses_density_input(self) -> bool:
        """Whether the network is given D_pre beside x."""
        return not kinds.DENSITIES[self.density.kind].pointwise

    def c_out(self, s: Tensor, h: int = 1, w: int = 1) -> Tensor:
        """(b, 1, h, w) at noise levels s (b,) and the frequencies of an h x w DCT; one ring is all
        of them, (b, 1, 1, 1). Linear between the measured ones, noise and c_out in the logarithm;
        beyond them it is that of the nearest."""
        known, values = self.levels.log().to(s), self.residual_std.log().to(s)
        x = s.log().clamp(known[0], known[-1])
        i = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
        share = (x - known[i - 1]) / (known[i] - known[i - 1])
        rings = torch.lerp(values[i - 1], values[i], share[:, None])
        if rings.shape[1] == 1:
            h = w = 1
        return frequencies.at_frequencies(rings, h, w).exp()[:, None]

    def scaled(self, x: Tensor, s: Tensor, power: int = 1) -> Tensor:
        """Images x (b, c, h, w) times c_out(s, f)^power at each frequency f; s (b,)."""
        c_out = self.c_out(s, *x.shape[-2:])
        if c_out.shape[-2:] == (1, 1):
            return c_out**power * x
        return inverse_dct(c_out**power * dct(x))

    def denoise(
        self, network: Network | None, x: Tensor, s: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """D(x, s) of images x (b, c, h, w) at noise levels s (b,); without a network D_pre. index
        (b,): what the network is conditioned on, by default 0."""
        prior = self.density.denoise(x, s)
        if network is None:
            return prior
        c_in = (s**2 + self.sigma_data**2).rsqrt()[:, None, None, None]
        inputs = c_in * (x - self.mean)
        if self.uses_density_input:
            inputs = torch.cat([inputs, (prior - self.mean) / self.sigma_data], dim=1)
        if index is None:
            index = torch.zeros(len(x), dtype=torch.long, device=x.device)
        residual = network(inputs, s.log() / 4, index).to(prior.dtype)
        return prior + self.scaled(residual, s)


def check(images: Tensor, options: ImageDensity) -> None:
    """Raise ConfigError where the density cannot be fitted to images (n, c, h, w)."""
    kind = kinds.DENSITIES[options.kind]
    side = kind.side_of(options.side, min(images.shape[2:]))
    count = number_of_arrays(list(images), side, options.arrays)
    if count < kind.least:
        raise ConfigError(
            f"image_density.kind: {options.kind} needs {kind.least} images or windows, of which "
            f"some are held out, there are {count}; patch_mixture needs fewer"
        )
    if kind.mixture and count < max(2, options.components):
        raise ConfigError(
            f"image_density.components: {options.components} cannot be fitted to {count} window(s) "
            f"of side {side} from {len(images)} image(s); fewer components, a smaller "
            f"image_density.side or more images are needed"
        )


def check_gaussian(density: Density, config: Config) -> None:
    """Raise ConfigError where sample.gaussian_above is too low, or the density has no Gaussian of
    whole images."""
    level, size = config.sample.gaussian_above, config.data_loader.image_size
    if level is None:
        return
    least = float(VarianceExploding(config.diffusion.sigma).std(config.misc.eps))
    if level <= least:
        raise ConfigError(
            f"sample.gaussian_above: {level:g} is not above the noise at misc.eps, {least:.3g}; "
            f"the flow is nearly that of a Gaussian above some 20 standard deviations of the pixels"
        )
    try:
        density.gaussian_flow(torch.zeros(1, density.channels, *size), level, level)
    except ValueError as error:
        raise ConfigError(
            f"sample.gaussian_above: {error}; use image_density.kind combined, image_mixture, "
            f"gaussian or low_rank with image_density.side of the images, or stationary"
        ) from None


def precompute(photographs: list[Tensor], config: Config) -> tuple[Precomputed, dict[str, float]]:
    """The density of photographs (c, h, w) with its residual at each noise level, and the seconds
    that both took. Raises ConfigError where the density cannot be fitted to them."""
    clock = [time.perf_counter()]
    options, seed = config.image_density, config.training.seed
    fitted, others = divided(photographs, seed)
    # On the CPU, wherever the images are: not every device knows float64 and eigenvectors.
    here = [photograph.cpu() for photograph in fitted]
    try:
        density = fit(images=here, seed=seed, **options.model_dump()).to(photographs[0])
    except ValueError as error:
        raise ConfigError(f"image_density: {error}") from error
    check_gaussian(density, config)
    clock.append(time.perf_counter())
    sde = VarianceExploding(config.diffusion.sigma)
    ends = sde.std(torch.tensor([config.misc.eps, 1.0], dtype=torch.float64)).log()
    first, last = (float(end) for end in ends)
    levels = torch.linspace(first, last, _LEVELS, dtype=torch.float32, device="cpu").exp()
    size = config.data_loader.image_size
    rings = 1 if kinds.DENSITIES[options.kind].pointwise else frequencies.count(*size)
    residual_std = measure_residual(density, others, levels, size, rings, seed)
    clock.append(time.perf_counter())
    mean, std = _mean_and_std(photographs)
    sigma_data = max(std, FLOOR**0.5)  # 0 of a constant image
    precomputed = Precomputed(density, mean, sigma_data, levels, residual_std)
    return precomputed, {"density": clock[1] - clock[0], "preconditioning": clock[2] - clock[1]}


def divided(photographs: list[Tensor], seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """The photographs that the density is fitted to, and those that its residual is measured on:
    others where there are at least _DIVIDED_FROM, else the same."""
    if len(photographs) < _DIVIDED_FROM:
        return photographs, photographs
    fitted, others = splitting.split(len(photographs), seed, _HELD_OUT)
    return [photographs[i] for i in fitted.tolist()], [photographs[i] for i in others.tolist()]


def _mean_and_std(photographs: list[Tensor]) -> tuple[float, float]:
    """Of all pixels, block by block: a data set is not copied."""
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(photographs), _BLOCK):
        block = torch.cat([x.flatten() for x in photographs[start : start + _BLOCK]]).cpu().double()
        count += len(block)
        total += float(block.sum())
        squares += float(block.square().sum())
    mean = total / count
    return mean, max(0.0, squares / count - mean**2) ** 0.5


def measure_residual(
    density: Density,
    photographs: list[Tensor],
    levels: Tensor,
    size: tuple[int, int],
    rings: int,
    seed: int,
) -> Tensor:
    """The standard deviation of x_0 - D_pre at noise levels (L,) in `rings` rings of
    spatial frequency, on crops of this size: (L, rings)."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = crops.draw(photographs, size, max(_MEASURED, len(photographs)), generator)
    measured = []
    for s in levels.tolist():
        z = normal(x_0.shape, generator).to(x_0)
        residual = frequencies.power(density.denoise(x_0 + s * z, s) - x_0, rings).sqrt()
        measured.append(residual.clamp_min(_LEAST_STD * s))
    return torch.stack(measured).cpu()


def save(folder: Path, known: Precomputed) -> None:
    """density.safetensors, and preconditioning.json: the residual, with one SHA-256 of both."""
    densities.save(known.density, folder / kinds.DENSITY)
    values = {
        "mean": known.mean,
        "sigma_data": known.sigma_data,
        "levels": known.levels.tolist(),
        "spread": known.residual_std.tolist(),
    }
    atomic_files.write_json(
        folder / kinds.PRECONDITIONING, {**values, "sha256": _digest(values, folder)}
    )


def load(folder: Path, device: torch.device) -> Precomputed:
    """What `save` has written, on the device.

    Raises
    ------
    RunFolderError, CheckpointError : a file is missing, damaged or changed.
    """
    path = folder / kinds.PRECONDITIONING
    needed = ("mean", "sigma_data", "levels", "spread", "sha256")
    values = atomic_files.read_json(path, *needed)
    density = densities.load(folder / kinds.DENSITY)
    _check_unchanged(folder, values)
    levels = torch.tensor(values["levels"], dtype=torch.float32)
    spread = torch.tensor(values["spread"], dtype=torch.float32)
    return Precomputed(
        density.to(torch.empty(0, dtype=torch.float32, device=device)),
        float(values["mean"]),
        float(values["sigma_data"]),
        levels,
        spread.reshape(len(levels), -1),  # the first versions had one number a level
    )


def _check_unchanged(folder: Path, values: dict[str, Any]) -> None:
    """Raise CheckpointError where one of the two files is not as it was written."""
    stored = values.pop("sha256")
    own = values.pop("sha256_of_this", None)  # of version 0.1.0, which had a digest of each file
    if own is None:
        if stored != _digest(values, folder):
            raise CheckpointError(
                f"{folder / kinds.PRECONDITIONING} or {folder / kinds.DENSITY}: changed since it "
                f"was written; nothing was loaded"
            )
        return
    if own != atomic_files.digest_of({**values, "sha256": stored}):
        raise CheckpointError(
            f"{folder / kinds.PRECONDITIONING}: changed since it was written; nothing was loaded"
        )
    if stored != atomic_files.sha256_of(folder / kinds.DENSITY):
        raise CheckpointError(
            f"{folder / kinds.DENSITY}: changed since it was written; nothing was loaded"
        )


def _digest(values: dict[str, Any], folder: Path) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update((folder / kinds.DENSITY).read_bytes())
    return digest.hexdigest()
