"""The pictures that scikit-image, scikit-learn and matplotlib bring, by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from score_embedding.config.sections import DataLoader
from score_embedding.data.image_files import Named
from score_embedding.errors import DataError

PLACES = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}


def read(options: DataLoader) -> list[Named]:
    """The pictures that data_loader.image names; the first num_images of them."""
    names, n = options.image or [], options.num_images
    found = named(names, "data_loader.image")
    if n is not None and n > len(names):
        raise DataError(f"data_loader.num_images: {n}, but image names {len(names)}")
    return found[:n]


def named(names: list[str], key: str) -> list[Named]:
    """The pictures of these names. Raises DataError, with the config's key, for unknown ones."""
    pictures = available()
    unknown = [name for name in names if name not in pictures]
    if unknown:
        raise DataError(
            f"{key}: {', '.join(unknown)}: not among the pictures of the installed packages: "
            f"{', '.join(sorted(pictures))}"
        )
    return [(name, pictures[name]) for name in names]


def available() -> dict[str, Path]:
    """All pictures of the installed packages."""
    found: dict[str, Path] = {}
    for package, folder in PLACES.items():
        spec = importlib.util.find_spec(package)  # without importing it, which takes a second
        for root in (spec.submodule_search_locations or []) if spec else []:
            pictures = sorted((Path(root) / folder).glob("*"))
            found |= {p.stem: p for p in pictures if p.suffix in (".png", ".jpg")}
    return found
