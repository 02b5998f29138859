"""What a process does only once, done before the clock of its first run starts.

Imports, the libraries' own initialisation and the first allocations take seconds, which are no
method's. Without this the first run of a comparison would pay for all others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from score_embedding import kinds
from score_embedding.config.schema import AnyConfig
from score_embedding.errors import ScoreEmbeddingError
from score_embedding.methods.base import Method, method_of
from score_embedding.methods.model import build_network
from score_embedding.training.loop import train

_IMAGES = 2  # `shuffled` needs two
# What makes the work of a config small, where it has the key.
_SMALL: dict[str, dict[str, Any]] = {
    "data_loader": {"batch_size": 2, "crops": False},
    "diffusion": {"num_timesteps": 2},
    "image_density": {"side": 4, "arrays": 64, "components": 2, "rank": 2, "em_steps": 1},
    "training": {"epochs": 1, "seconds": None, "compile": False, "seed": 0},
}
# What the work depends on, beside the device.
_KIND: dict[str, Any] = {
    **dict.fromkeys(("sample_method", "diffusion", "image_density", "model"), True),
    "training": {"precision", "target", "ema"},
    "data_loader": {"channels"},
}
_done: set[str] = set()


def warm_up(method: Method, device: torch.device) -> None:
    """Pre-compute and train on a few tiny images as the method will: the same scheme, density,
    network and optimiser. Once for each kind of config in a process; the global random generators
    are left unchanged."""
    config = _small(method.config)
    kind = f"{device} {config.model_dump_json(include=_KIND)}"
    if kind in _done:
        return
    _done.add(kind)
    data = config.data_loader
    generator = torch.Generator("cpu").manual_seed(0)
    count = _images(config)
    shape = (count, data.channels, *data.image_size)
    images = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
    small = method_of(config)
    # An error, such as a divergence, is the run's to raise on its own images.
    with _quiet(), suppress(ScoreEmbeddingError):
        known = small.precompute(images, device)
        if method.trained:
            labels = torch.zeros(count, dtype=torch.long, device=device)
            objective = small.objective(images.to(device), known, labels)
            train(build_network(small, count, device), objective, config)


def _images(config: AnyConfig) -> int:
    """Two, or as many as the density needs."""
    options = getattr(config, "image_density", None)
    return max(_IMAGES, kinds.DENSITIES[options.kind].least) if options else _IMAGES


def _small(config: AnyConfig) -> AnyConfig:
    side = 2 * config.model.divisor
    changes = _SMALL | {"data_loader": _SMALL["data_loader"] | {"image_size": (side, side)}}
    sections = {}
    for name, values in changes.items():
        section = getattr(config, name, None)
        if section is not None:
            known = {key: value for key, value in values.items() if hasattr(section, key)}
            sections[name] = section.model_copy(update=known)
    return config.model_copy(update=sections)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of a run."""
    logger = logging.getLogger("score_embedding")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
