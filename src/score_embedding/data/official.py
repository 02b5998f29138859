"""The pickles of images of the official code: celeb_data.pkl and imagenet_data.pkl."""

from __future__ import annotations

import numpy as np

from score_embedding.config.sections import DataLoader
from score_embedding.data import pickles
from score_embedding.data.files import listed, places
from score_embedding.data.image_files import Named
from score_embedding.errors import DataError

FILES = {"celeb": "celeb_data.pkl", "imagenet": "imagenet_data.pkl"}


def read(options: DataLoader) -> list[Named]:
    """num_images (default 1) images, those that the official loader takes: of several the first
    ones, of one a fixed choice.

    Raises
    ------
    DataError : no such file, one that is not a pickle of images, or too few images in it.
    """
    dataset, n = options.dataset, options.num_images or 1
    candidates = [p if p.is_file() else p / FILES[dataset] for p in places(options)]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise DataError(
            f"{FILES[dataset]}, the images of dataset {dataset}, was looked for at "
            f"{listed(candidates)}; put it there or name it with --set data_loader.path=PATH"
        )
    content = pickles.read(path.read_bytes(), path)
    is_collection = isinstance(content, list | tuple) or (
        isinstance(content, np.ndarray) and (content.dtype == object or content.ndim == 4)
    )
    if not is_collection or not all(isinstance(item, np.ndarray) for item in content):
        raise DataError(f"{path}: expected an array of images (h, w, 3), found {_kind(content)}")
    one = {"celeb": len(content) - 3, "imagenet": 1}[dataset]
    chosen = [one] if n == 1 else list(range(n))
    if not 0 <= max(chosen) < len(content):
        raise DataError(f"{path}: {len(content)} images, too few for num_images: {n}")
    return [(f"{path}[{i}]", content[i]) for i in chosen]


def _kind(content: object) -> str:
    if isinstance(content, np.ndarray):
        return f"an array of shape {content.shape}, dtype {content.dtype}"
    return f"a {type(content).__name__}"
