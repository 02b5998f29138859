"""Which keys of a config have no effect, because the kinds that it chooses do not read them.

What a kind does not read stands in its line of the tables in kinds.py. A key that is not named
there is taken to be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from score_embedding import kinds
from score_embedding.config.schema import AnyConfig, Config

# The same for values that are no kinds.
_UNREAD_OF_VALUES: dict[str, dict[Any, tuple[str, ...]]] = {
    "sample.type": {
        "unconditional": ("sample.conditional_weight",),
        "conditional": ("sample.prior", "sample.gaussian_above"),
    },
    "model.image_conditioning": {
        "index": (),
        "time_interval": (),
        "class": ("model.num_images",),
        "none": ("model.num_images",),
    },
    # Crops keep the contrast of their photograph.
    "data_loader.crops": {True: ("data_loader.contrast",), False: ()},
    "model.embedding_method": {"linear": ("model.max_positions",), "fourier": ()},
}
_TABLES: dict[str, Mapping[str, kinds.Kind]] = {
    "diffusion.scheme": kinds.SCHEMES,
    "sample.solver": kinds.SAMPLERS,
    "image_density.kind": kinds.DENSITIES,
    "data_loader.dataset": kinds.DATASETS,
}
_SEED = "data_loader.seed"


def keys(kind: type[AnyConfig]) -> list[str]:
    """All keys of the sections of a config, as `section.key`, that a resolved config has."""
    return [
        f"{name}.{key}"
        for name, field in kind.model_fields.items()
        for key, value in getattr(field.annotation, "model_fields", {}).items()
        if not value.exclude
    ]


def why_unread(config: AnyConfig, key: str) -> str:
    """Why a key (`section.key`) of the config has no effect, and which other choice reads it, in
    words; "" where it has one."""
    if _covers(kinds.METHODS[config.method].unread, key):
        return f"method {config.method} does not read it"
    if key == _SEED and config.data_loader.crops:  # it draws the crops
        return ""
    for choice in (*_TABLES, *_UNREAD_OF_VALUES):
        chosen = _chosen(config, choice)
        unread = _unread_by_choice(choice)
        if chosen is not None and _covers(unread[chosen], key):
            others = [str(name) for name, not_read in unread.items() if not _covers(not_read, key)]
            there = f" ({', '.join(others)} would)" if others else ""
            return f"{choice} {chosen} does not read it{there}"
    return ""


def _unread_by_choice(choice: str) -> dict[Any, tuple[str, ...]]:
    """What each value of the key `choice` does not read."""
    if choice in _UNREAD_OF_VALUES:
        return _UNREAD_OF_VALUES[choice]
    return {name: kind.unread for name, kind in _TABLES[choice].items()}


def _chosen(config: AnyConfig, choice: str) -> Any:
    """The value that the config chooses; None where it has no such key."""
    section, key = choice.split(".")
    if section == "image_density" and not isinstance(config, Config):
        return None
    return getattr(getattr(config, section), key, None)


def _covers(keys: tuple[str, ...], key: str) -> bool:
    """Whether a key is one of these, or in a section that is."""
    return key in keys or key.partition(".")[0] in keys
