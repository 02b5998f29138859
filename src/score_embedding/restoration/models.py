"""What the argument `model` of denoising and inpainting names, resolved in one place.

"fit" adapts the patch mixture of the package to the image itself, "fast" does so with less,
"bundled" is that mixture unchanged; a path is the folder of a run, and a Density is used directly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from score_embedding import densities
from score_embedding.densities import Density, fitting
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.errors import DataError, RunFolderError
from score_embedding.methods.base import Method, method_of
from score_embedding.restoration import adaptive
from score_embedding.restoration.adaptive import Estimate
from score_embedding.restoration.noise import Stationary
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder
from score_embedding.runs.loading import load_model

Model = str | Path | Density

FIT, BUNDLED, FAST = "fit", "bundled", "fast"
OF_MIXTURES = (FIT, BUNDLED, FAST)  # those that need no run folder


@dataclass(frozen=True)
class Denoiser:
    """A resolved model.

    Attributes
    ----------
    name : for messages.
    channels : of the images that it denoises; None: both grey and colour.
    estimate : its posterior mean for an image x (c, h, w) with noise of a covariance; with `refine`
        a trained model is also evaluated at several image sizes and its answer refined by
        neighbourhoods (adaptive.py). The model itself takes the noise as white, of the same level.
    caution : what the user must know about this model; empty: nothing.
    mixture : the Gaussian mixture of windows of images of that many channels, where the model is
        one: inpainting uses it in closed form.
    adapted : whether that mixture is adapted to the image.
    draft : as `estimate`, sooner, for results that are only steps to another; None: `estimate`.
    """

    name: str
    channels: int | None
    estimate: Callable[[Tensor, Stationary, bool], Estimate]
    caution: str = ""
    mixture: Callable[[int], GaussianMixture] | None = None
    adapted: bool = False
    draft: Callable[[Tensor, Stationary, bool], Estimate] | None = None

    def check_channels(self, channels: int) -> None:
        """Raise DataError where it does not denoise images of this number of channels."""
        if self.channels not in (None, channels):
            raise DataError(
                f"model {self.name}: of {self.channels} channel(s), the image has {channels}; "
                f"{BUNDLED} and {FIT} take both"
            )


def resolve(model: Model, device: torch.device) -> Denoiser:
    """The denoiser that `model` names, on `device`. The network of a run folder is loaded once,
    when it is first needed.

    Raises
    ------
    DataError : a run folder whose model denoises only the images that it was trained on.
    RunFolderError : not a run folder, or a damaged one.
    ValueError : neither a name, a path nor a density.
    """
    if not isinstance(model, Density | str | Path):
        raise ValueError(f"model must be {FIT}, {BUNDLED}, a folder or a Density, got {model!r}")
    if isinstance(model, Density):
        return _of_density(model)
    if model in (FIT, FAST):
        fast = partial(_fitted, fast=True)
        if model == FAST:
            return Denoiser(FAST, None, fast, mixture=_bundled_mixture)
        fit = partial(_fitted, fast=False)
        return Denoiser(FIT, None, fit, mixture=_bundled_mixture, adapted=True, draft=fast)
    if model == BUNDLED:
        return Denoiser(BUNDLED, None, _bundled_alone, mixture=_bundled_mixture)
    return _of_run(Path(model), device)


def resolve_for_user(
    model: Model | None, channels: int, device: torch.device, stacklevel: int
) -> Denoiser:
    """What `denoise` and `inpaint` do with their argument `model`, None for FIT: its denoiser, for
    images of these channels. Errors as `resolve` and `Denoiser.check_channels`; its caution becomes
    a UserWarning `stacklevel` calls above."""
    found = resolve(FIT if model is None else model, device)
    found.check_channels(channels)
    if found.caution:
        warnings.warn(found.caution, UserWarning, stacklevel=stacklevel + 1)
    return found


@cache
def bundled(channels: int) -> Density:
    """The patch mixture of the package, of colour images or (channels 1) of their luminance."""
    path = resources.files("score_embedding") / "densities" / "photographs.safetensors"
    density = densities.load(Path(str(path)))
    if channels == 3:
        return density
    return Density(density.kind, fitting.luminance(_mixture_of(density)), density.stride)


def _bundled_mixture(channels: int) -> GaussianMixture:
    return _mixture_of(bundled(channels))


def _mixture_of(density: Density) -> GaussianMixture:
    assert isinstance(density.model, GaussianMixture)
    return density.model


def _bundled_alone(x: Tensor, *_: object) -> Estimate:
    return adaptive.of_mixture(bundled(len(x)))


def _fitted(x: Tensor, noise: Stationary, refine: bool, fast: bool) -> Estimate:
    del refine  # it always is
    return adaptive.denoiser(bundled(len(x)), x, noise, adapt=not fast, fast=fast)


def _of_density(density: Density) -> Denoiser:
    if isinstance(density.model, GaussianMixture):
        return Denoiser(
            "density",
            density.channels,
            lambda *_: adaptive.of_mixture(density),
            mixture=lambda _: _mixture_of(density),
        )

    def at_level(x: Tensor, noise: Stationary) -> Tensor:
        return density.denoise(x[None], noise.level)[0]

    return Denoiser("density", density.channels, lambda *_: at_level)


def _of_run(path: Path, device: torch.device) -> Denoiser:
    folder, config = run_folder.open_existing(path)
    method = method_of(config)
    count = _images_in(folder, method)
    if not method.denoises_others or (method.uses_index and count != 1):
        raise DataError(
            f"{path}: a model of its own images only; one with held_out photographs, as of "
            f"the config photographs, denoises others"
        )
    caution = ""
    if count == 1:
        caution = (
            f"{path}: trained on one image, and a model of that image alone: it may change any "
            f"other image beyond recognition; {FIT} and {BUNDLED} denoise all photographs"
        )

    @cache
    def network() -> Estimate:
        model = load_model(folder, config, 1, device)
        return lambda x, noise: model.denoise(x[None], x.new_full((1,), noise.level))[0]

    def estimate(x: Tensor, noise: Stationary, refine: bool) -> Estimate:
        del x, noise  # one model for all images and noise levels
        return adaptive.refined(network()) if refine else network()

    return Denoiser(str(path), config.data_loader.channels, estimate, caution)


def _images_in(folder: RunFolder, method: Method) -> int | None:
    """The number of images that a run was trained on: of those stored in its folder or, where none
    are, of the config. None: unknown."""
    path, data = folder / method.images_file, method.config.data_loader
    if method.config.held_out or not path.is_file():  # with held_out they are not stored
        unknown = data.rotate_augment or (data.num_images is None and data.takes_all)
        return None if unknown else data.num_images or 1
    try:
        with np.load(path, allow_pickle=False) as content:
            return len(content["images"])
    except Exception as error:  # a damaged zip can raise nearly anything
        raise RunFolderError(f"{path}: truncated or damaged ({error})") from error
