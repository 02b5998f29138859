"""The tables of everything that a config chooses by name: one line for each kind.

A line names the module that has the kind, and what a config must know of it. Modules are imported
only when a kind is used, so that a config is validated without loading torch. docs/extending.md
shows what each module must define.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TypeVar


@dataclass(frozen=True)
class Kind:
    """The module that has a kind, and one line on what it is. `unread`: keys of the config, as
    `section.key` or a whole section, that have no effect on a run where this kind is chosen; a
    comparison of their values is refused (config/unread.py)."""

    module: str
    summary: str = ""
    unread: tuple[str, ...] = field(default=(), kw_only=True)

    def load(self) -> ModuleType:
        """The module, imported."""
        return import_module(self.module)


@dataclass(frozen=True)
class SchemeKind(Kind):
    """A scheme for the Fokker-Planck equation. `boundaries` that it solves, and those that it
    solves with a drift; `fast`: a solve costs little beside a training step."""

    boundaries: tuple[str, ...] = ("reflect", "zero")
    drift_boundaries: tuple[str, ...] = ("reflect", "zero")
    fast: bool = False


@dataclass(frozen=True)
class PixelDensityKind(Kind):
    """An estimate of the density of an image's pixel pairs. `differentiable`: in the image;
    `kde_method`: its name in official configs."""

    differentiable: bool = False
    kde_method: str | None = None


@dataclass(frozen=True)
class DensityKind(Kind):
    """A density of images. `side`: pixels along a side of the square arrays that it is fitted to,
    where the config gives none, or always with `fixed_side`; `largest`: the largest such side;
    `of_images`: the side is that of the images where they are no larger than `side`; `mixture`: of
    components, for each of which at least one array is needed; `least`: arrays that it needs;
    `pointwise`: its posterior mean is the image itself, rescaled, and tells a network nothing
    beside the image; `likelihood`: it has a log-density in closed form."""

    side: int = 8
    largest: int = 32
    fixed_side: bool = False
    of_images: bool = False
    mixture: bool = False
    least: int = 1
    pointwise: bool = False
    likelihood: bool = True

    def side_of(self, side: int | None, shortest: int) -> int:
        """The side of the arrays where `side` is asked for, of images with this shortest side."""
        if self.of_images and side is None:
            return min(self.side, shortest)
        return self.side if side is None or self.fixed_side else side


@dataclass(frozen=True)
class DatasetKind(Kind):
    """A data set. `of_files`: each image is a picture file, at its own size; `needs`: the key of
    data_loader, path or image, that must be given; `labelled`: each image is of a class;
    `published`: the class of which images are taken, by default one, where no classes are given."""

    of_files: bool = False
    needs: str | None = None
    labelled: bool = False
    published: str | None = None


@dataclass(frozen=True)
class MethodKind(Kind):
    """A method. `files`: what it saves in the run folder before training; `diffusion`: whether its
    config describes a continuous SDE ("sde") or a chain of steps ("steps"); `by_name`: whether
    sample_method selects it, or (False) the rest of the config does (config/schema.py)."""

    files: tuple[str, ...] = ()
    diffusion: str = "sde"
    by_name: bool = True


# Files of a run folder that a method saves before training, and that of its samples.
SCORES = "scores.npz"
SAMPLES = "samples.npz"
DENSITY = "density.safetensors"
PRECONDITIONING = "preconditioning.json"

_SCHEMES = "score_embedding.fokker_planck.schemes"
_PIXEL_DENSITIES = "score_embedding.fokker_planck.pixel_densities"
_DENSITIES = "score_embedding.densities"
_DATA = "score_embedding.data"
_METHODS = "score_embedding.methods"
_SAMPLERS = f"{_METHODS}.samplers"

# Keys that some kinds do not read.
_SOLVE = tuple(
    f"diffusion.{key}"
    for key in ("dh", "num_timesteps", "solve_tolerance", "scheme", "density", "boundary", "drift")
)
_NETWORK = ("model", "misc.profile_freq", "misc.checkpoint_freq", "data_loader.batch_size")
_LOOP = ("epochs", "steps_per_epoch", "seconds", "target_ssim", "on_divergence")
_OPTIMISER = ("lr", "grad_clip", "ema", "warmup", "precision", "compile")
_LOSS = ("target", "noise_levels", "loss_weight", "timestep_multiplier")
# All but the seed, which is also that of samples.
_TRAINING = tuple(f"training.{key}" for key in (*_LOOP, *_OPTIMISER, *_LOSS))
_OF_DENSITY = (*_SOLVE, "training.target", "model.num_images")
_OF_STEPS = ("misc.eps", "training.noise_levels")
_MIXTURE = ("image_density.components", "image_density.em_steps")
_RANK = ("image_density.rank",)
_GAUSSIAN = ("sample.gaussian_above",)
_WINDOWS = ("image_density.side", "image_density.stride")
_IMAGE, _PATH, _SEED = ("data_loader.image",), ("data_loader.path",), ("data_loader.seed",)

# diffusion.scheme: how the Fokker-Planck equation is solved.
SCHEMES = {
    "spectral": SchemeKind(
        f"{_SCHEMES}.spectral",
        "exact in time, in the cosine basis",
        drift_boundaries=("reflect",),
        fast=True,
        unread=("diffusion.solve_tolerance",),
    ),
    "implicit": SchemeKind(f"{_SCHEMES}.implicit", "the paper's semi-implicit scheme, any drift"),
    "krylov": SchemeKind(f"{_SCHEMES}.krylov", "implicit for many images, by Krylov projection"),
    "published": SchemeKind(
        f"{_SCHEMES}.published",
        "the official discretisation, for reproduction",
        boundaries=("reflect",),
        drift_boundaries=(),
    ),
}

# diffusion.density: how the pixel log-density is estimated at the start.
_EXACT = PixelDensityKind(
    f"{_PIXEL_DENSITIES}.gaussian_kernel", "scipy.stats.gaussian_kde, fast", True, "scipy"
)
PIXEL_DENSITIES = {
    "exact": _EXACT,
    "binned": _EXACT,  # its name in old configs, where it was an approximation
    "histogram": PixelDensityKind(
        f"{_PIXEL_DENSITIES}.histogram",
        "the official smoothed histogram of 2026, for reproduction",
        kde_method="histogram",
    ),
    "sklearn": PixelDensityKind(
        f"{_PIXEL_DENSITIES}.linear_kernel",
        "the manuscript's linear kernel, for reproduction",
        kde_method="sklearn",
    ),
}

# image_density.kind: the density of images whose posterior mean is known in closed form.
DENSITIES = {
    "white": DensityKind(
        f"{_DENSITIES}.white",
        "one isotropic Gaussian of pixels",
        side=1,
        largest=512,
        fixed_side=True,
        pointwise=True,
        unread=(*_WINDOWS, *_MIXTURE, *_RANK),
    ),
    "empirical": DensityKind(
        f"{_DENSITIES}.empirical", "the arrays themselves", 8, unread=(*_MIXTURE, *_RANK)
    ),
    "gaussian": DensityKind(
        f"{_DENSITIES}.gaussian", "one Gaussian, full covariance", 16, unread=(*_MIXTURE, *_RANK)
    ),
    "low_rank": DensityKind(
        f"{_DENSITIES}.low_rank", "one Gaussian, few leading axes", 16, unread=_MIXTURE
    ),
    "stationary": DensityKind(
        f"{_DENSITIES}.stationary",
        "one Gaussian, diagonal in the DCT",
        32,
        512,
        unread=("image_density.stride", *_MIXTURE, *_RANK),
    ),
    "patch_mixture": DensityKind(
        f"{_DENSITIES}.patch_mixture", "a mixture of Gaussians", 8, mixture=True, unread=_RANK
    ),
    "image_mixture": DensityKind(
        f"{_DENSITIES}.image_mixture",
        "a mixture of Gaussians of whole images",
        32,
        of_images=True,
        unread=("image_density.em_steps", *_RANK),
    ),
    "combined": DensityKind(
        f"{_DENSITIES}.combined",
        "image_mixture and patch_mixture, combined at each noise level",
        32,
        of_images=True,
        mixture=True,
        least=20,
        likelihood=False,
        unread=_RANK,
    ),
}

# data_loader.dataset: where the images come from.
DATASETS = {
    "cifar": DatasetKind(
        f"{_DATA}.cifar",
        "CIFAR-10, by default its dogs",
        labelled=True,
        published="dog",
        unread=_IMAGE,
    ),
    "fashion_mnist": DatasetKind(
        f"{_DATA}.idx", "Fashion-MNIST, 28 x 28 in grey", labelled=True, unread=_IMAGE
    ),
    "mnist": DatasetKind(f"{_DATA}.idx", "MNIST, 28 x 28 in grey", labelled=True, unread=_IMAGE),
    "celeb": DatasetKind(
        f"{_DATA}.official",
        "celeb_data.pkl in the official format",
        unread=(*_IMAGE, *_SEED),
    ),
    "imagenet": DatasetKind(
        f"{_DATA}.official",
        "imagenet_data.pkl in the official format",
        unread=(*_IMAGE, *_SEED),
    ),
    "sample": DatasetKind(
        f"{_DATA}.bundled_pictures",
        "pictures that installed packages bring",
        True,
        "image",
        unread=(*_PATH, *_SEED),
    ),
    "folder": DatasetKind(
        f"{_DATA}.files",
        "all image files of folders",
        True,
        "path",
        unread=(*_IMAGE, *_SEED),
    ),
    "files": DatasetKind(f"{_DATA}.files", "image files", True, "path", unread=(*_IMAGE, *_SEED)),
}

# sample.solver: how the probability flow is integrated.
SAMPLERS = {
    "rk45": Kind(
        f"{_SAMPLERS}.rk45",
        "adaptive Runge-Kutta of order 5(4), the paper's",
        unread=("sample.steps",),
    ),
    "heun": Kind(
        f"{_SAMPLERS}.heun",
        "Heun's method, a fixed number of steps",
        unread=("sample.tolerance",),
    ),
}

# sample_method, or what follows from diffusion.embedding: how a model is trained and sampled.
METHODS = {
    "score_embedding": MethodKind(
        f"{_METHODS}.embedded",
        "the paper's embedded images",
        (SCORES,),
        by_name=False,
        unread=("image_density", "training.noise_levels", "training.loss_weight", *_GAUSSIAN),
    ),
    "residual": MethodKind(
        f"{_METHODS}.residual",
        "a closed-form denoiser as skip path",
        (DENSITY, PRECONDITIONING),
        by_name=False,
        unread=_OF_DENSITY,
    ),
    "density": MethodKind(
        f"{_METHODS}.untrained_density",
        "a closed-form denoiser, no training",
        (DENSITY, PRECONDITIONING),
        by_name=False,
        unread=(*_OF_DENSITY, *_NETWORK, *_TRAINING, "sample.classes"),
    ),
    "ddpm": MethodKind(f"{_METHODS}.ddpm", "DDPM", diffusion="steps", unread=_OF_STEPS),
    "ddim": MethodKind(f"{_METHODS}.ddpm", "DDIM", diffusion="steps", unread=_OF_STEPS),
    "closed_form": MethodKind(
        f"{_METHODS}.exact",
        "the exact score of the images, no training",
        unread=(*_SOLVE, *_NETWORK, *_TRAINING, "image_density", *_GAUSSIAN),
    ),
}

# model.network: the architecture that is trained.
NETWORKS = {
    "published": Kind(f"{_METHODS}.published_unet", "the U-Net of the published runs"),
    "unet": Kind(f"{_METHODS}.unet", "the same U-Net as diffusers has it"),
}


K = TypeVar("K", bound=Kind)


def named(table: Mapping[str, K], name: str, what: str) -> K:
    """The kind of a name. Raises ValueError where the table has none, with the names it has."""
    if not (isinstance(name, str) and name in table):
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]
