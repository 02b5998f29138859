"""Resolved configs of earlier versions: what a key means that such a file does not have."""

from __future__ import annotations

import copy
from typing import Any

from score_embedding import kinds
from score_embedding.config.schema import BaselineConfig, Config

# Key -> its meaning in version 0.1.0, which had no such key, where the default now is another one.
# A resolved config has every key that its version knew, so one without such a key is of 0.1.0.
MEANING_IN_0_1_0: dict[str, Any] = {
    "model.network": "unet",
    "sample.chain": "clipped",
    "training.steps_per_epoch": "images",
}
# Not in the official layout, and in every resolved config of 0.1.0; the first has another name now.
_RESOLVED = ("model.image_index", "misc.checkpoint_freq", "training.on_divergence")


def is_resolved(values: dict[Any, Any]) -> bool:
    """Whether a config's values, not validated, are a resolved config of 0.1.0."""
    return all(_has(values, *path.split(".")) for path in _RESOLVED)


def _has(values: dict[Any, Any], name: str, key: str) -> bool:
    section = values.get(name)
    return isinstance(section, dict) and key in section


def completed(values: dict[Any, Any]) -> dict[Any, Any]:
    """The values of a resolved config, not validated, with the keys of MEANING_IN_0_1_0 that it
    lacks and its kind of config has."""
    values = copy.deepcopy(values)
    sections = (BaselineConfig if is_baseline(values) else Config).model_fields
    for path, meaning in MEANING_IN_0_1_0.items():
        name, key = path.split(".")
        field, section = sections.get(name), values.get(name)
        known = getattr(field.annotation, "model_fields", {}) if field else {}
        if isinstance(section, dict) and key in known:
            section.setdefault(key, meaning)
    return values


def is_baseline(values: dict[Any, Any]) -> bool:
    """Whether a config's values, not validated, are those of a BaselineConfig."""
    method = values.get("sample_method")
    kind = kinds.METHODS.get(method) if isinstance(method, str) else None
    return kind is not None and kind.diffusion == "steps"
