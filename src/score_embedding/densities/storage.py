"""A density as a safetensors file: its tensors, and what they are as metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from score_embedding import atomic_files
from score_embedding.densities.density import SIDE, Density
from score_embedding.densities.empirical import Empirical
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.stationary import Stationary
from score_embedding.errors import CheckpointError

_MODELS = {"GaussianMixture": GaussianMixture, "Empirical": Empirical, "Stationary": Stationary}


def save(density: Density, path: str | Path) -> None:
    """Write the density to a file, whole or not at all."""
    values = vars(density.model)
    tensors = {
        k: v.detach().cpu().contiguous() for k, v in values.items() if isinstance(v, torch.Tensor)
    }
    about = {
        "model": type(density.model).__name__,
        "kind": density.kind,
        "stride": density.stride,
        "shape": values.get("shape"),
    }
    with atomic_files.replacing(Path(path)) as partial:
        save_file(tensors, partial, {"density": json.dumps(about)})


def load(path: str | Path) -> Density:
    """The density of a file of `save`, as it was saved.

    Raises
    ------
    CheckpointError : missing, truncated, or no density.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["density"])
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        shape = {} if about["shape"] is None else {"shape": tuple(about["shape"])}
        density = Density(
            about["kind"], _MODELS[about["model"]](**shape, **tensors), about["stride"]
        )
        _check(density)
        return density
    except (
        *(OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError),
        *(RuntimeError, RecursionError),
    ) as error:
        raise CheckpointError(f"{path}: not a density that can be read ({error})") from None


def _check(density: Density) -> None:
    """Raise ValueError where the parts do not fit together."""
    model = density.model
    tensors = {name: v for name, v in vars(model).items() if name != "shape"}
    if density.kind not in SIDE or type(density.stride) is not int or density.stride < 1:
        raise ValueError(f"kind {density.kind}, stride {density.stride}")
    if not all(value.is_floating_point() and value.isfinite().all() for value in tensors.values()):
        raise ValueError("values that are no finite numbers")
    if isinstance(model, Stationary):
        c, grid = len(model.mean), model.variances.shape[-1]
        wanted = {"mean": (c,), "colours": (c, c), "variances": (c, grid, grid)}
        positive = [model.variances]
    else:
        c, h, w = model.shape
        if min(c, h, w) < 1 or density.stride > min(h, w):
            raise ValueError(f"shape {model.shape}, stride {density.stride}")
        d = c * h * w
        if isinstance(model, Empirical):
            wanted, positive = {"points": (len(model.points), d)}, []
        else:
            K, r = model.variances.shape
            wanted = {
                "weights": (K,),
                "means": (K, d),
                "axes": (K, d, r),
                "variances": (K, r),
                "rest": (K,),
            }
            positive = [model.weights, model.variances, model.rest]
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if shapes != wanted or any(shape[0] == 0 for shape in wanted.values()):
        raise ValueError(f"shapes {shapes} where {wanted} are needed")
    if not all((value >= 0).all() for value in positive):
        raise ValueError("a weight or variance below 0")
