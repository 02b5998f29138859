"""A density as a safetensors file: its tensors, with kind, stride and shape as metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from score_embedding import atomic_files, kinds
from score_embedding.densities.density import Density
from score_embedding.errors import CheckpointError


def save(density: Density, path: str | Path) -> None:
    """Write the density to a file, whole or not at all."""
    tensors, shapes = density.model.tensors(), density.model.array_shapes()
    about = {
        "model": type(density.model).__name__,
        "kind": density.kind,
        "stride": density.stride,
        "shape": shapes.pop(""),
        **({"parts": shapes} if shapes else {}),
    }
    with atomic_files.replacing(Path(path)) as partial:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            partial,
            {"density": json.dumps(about)},
        )


def load(path: str | Path) -> Density:
    """The density of a file of `save`, on the CPU and in the dtype that it was saved in.

    Raises
    ------
    CheckpointError : missing, truncated, or not a density.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about = json.loads((file.metadata() or {})["density"])
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        shapes = {"": about["shape"], **about.get("parts", {})}
        return _density(about["kind"], about["model"], about["stride"], shapes, tensors)
    except (
        *(OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError),
        *(RuntimeError, RecursionError),
    ) as error:
        raise CheckpointError(f"{path}: not a density that can be read ({error})") from None


def _density(kind: str, model: str, stride: int, shapes: Any, tensors: Any) -> Density:
    """Raises ValueError, or TypeError for parameters that are missing, where the parts do not fit
    together."""
    family = kinds.named(kinds.DENSITIES, kind, "kind").load().Model
    if model != family.__name__ or type(stride) is not int or stride < 1:
        raise ValueError(f"kind {kind}, model {model}, stride {stride}")
    known = family.read(tensors, shapes)
    known.check(stride)
    return Density(kind, known, stride)
