"""At which scale the published configs are run, on which images, and how often they are evaluated.

`full` changes nothing but the interval between evaluations, where the published one is too long to
resolve the published times. `laptop` and `small` are smaller in every respect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from score_embedding.comparison.reproduction.published import CASES, CLAIMS, OWN, Claim
from score_embedding.comparison.spec import Comparison
from score_embedding.comparison.sweeps import settings
from score_embedding.config import loading
from score_embedding.config.schema import AnyConfig
from score_embedding.errors import ConfigError

# The longest interval between evaluations at full scale, as a share of the method's shortest
# published time: times are then known to a tenth.
RESOLUTION = 0.1
PICTURES = ("astronaut", "chelsea", "coffee")  # of --data sample
PUBLISHED, SAMPLE = "published", "sample"
DATA = (PUBLISHED, SAMPLE)
_METHODS = {method for case in CASES.values() for method in case.configs}


@dataclass(frozen=True)
class Scale:
    """What changes in the published configs.

    Attributes
    ----------
    note : one sentence for the tables; "" where the verdicts are on the published scale.
    every, own, baseline : section.key=value of all methods, of score embedding, of a baseline.
    shrink : the factor by which a batch gets smaller; the learning rate is multiplied by `lr`.
    targets : SSIM that are shown beside the published ones, which are out of reach at the scale.
    left_out : cases that are run only when they are asked for, with the reason.
    grid, images, steps : of the solves that are timed.
    sides : of the images whose densities are timed.
    """

    note: str = ""
    every: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    shrink: int = 1
    lr: float = 1.0
    targets: tuple[float, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    grid: int = 32
    images: int = 12
    steps: int = 20
    sides: tuple[int, ...] = (8, 16, 24, 28, 32, 48, 64, 96)


_TOO_LARGE = (("celeb1_128", "too large for this scale; --cases celeb1_128 runs it"),)
SCALES = {
    "small": Scale(
        "SMALL SCALE: a narrow network and few epochs, to test the programs. "
        "These verdicts say nothing about the published claims.",
        ("model.ch=16", "training.epochs=10", "misc.profile_freq=10"),
        ("sample.solver=heun", "sample.steps=10"),
        ("sample.steps=20",),
        left_out=_TOO_LARGE,
        grid=8,
        images=3,
        steps=3,
        sides=(8, 16),
    ),
    # The rate of Adam is inversely proportional to the width of the network (Yang et al. 2022).
    "laptop": Scale(
        "LAPTOP SCALE: ch 32 instead of 128, half the batch, four times the learning rate, Heun "
        "with 10 steps and chains of 50, and at most 60 s (64 x 64: 80 s) of training for score "
        "embedding, 90 s for a baseline. These verdicts are on this scale, not on the published "
        "one.",
        ("model.ch=32",),
        ("sample.solver=heun", "sample.steps=10", "training.seconds=60", "misc.profile_freq=3"),
        ("sample.steps=50", "training.seconds=90", "misc.profile_freq=10"),
        shrink=2,
        lr=4.0,
        targets=(0.7, 0.8),
        left_out=_TOO_LARGE,
    ),
    "full": Scale(),
}


def comparison_of(
    case: str, scale: str, seeds: Iterable[int], data: str, overrides: list[str]
) -> Comparison:
    """The published configs of a case, at a scale; its targets are those of its claims. An override
    `section.key=value` changes all methods, `method.section.key=value` one of them. Raises
    ConfigError."""
    configs = {
        method: loading.load(name, _overrides(case, method, scale, data, overrides))
        for method, name in CASES[case].configs.items()
    }
    targets = sorted({claim.target for claim in claims_of(case, scale)})
    return Comparison(case, configs, tuple(seeds), tuple(targets))


def sweep_of(
    name: str, scale: str, seeds: Iterable[int], data: str, overrides: list[str]
) -> Comparison:
    """A published ablation, at a scale, with the targets of cifar1. Raises ConfigError."""
    changes = _overrides("cifar1", OWN, scale, data, overrides)
    targets = sorted({claim.target for claim in claims_of("cifar1", scale)})
    return settings.read(name, seeds=list(seeds), targets=targets, overrides=changes)


def claims_of(case: str, scale: str) -> list[Claim]:
    """The claims of a case, and those that the scale shows beside them, without a figure."""
    own = [claim for claim in CLAIMS if claim.case == case]
    baselines: list[str | None] = [name for name in CASES[case].configs if name != OWN]
    lower = [
        Claim(case, own[0].year, target, baseline=baseline)
        for target in SCALES[scale].targets
        for baseline in baselines or [None]
    ]
    return [*own, *lower]


def check_overrides(overrides: list[str], cases: list[str]) -> None:
    """Raise ConfigError where an override is of a method that no case has."""
    methods = {OWN, *(m for case in cases if case in CASES for m in CASES[case].configs)}
    for override in overrides:
        method = override.split(".")[0]
        if method in _METHODS - methods:
            raise ConfigError(f"--set {override}: no case that is run has the method {method}")


def interval(case: str, method: str, published: float) -> float:
    """Training seconds between the evaluations at full scale: the published ones, or fewer, so that
    they are at most RESOLUTION of the shortest published time. A case whose config was not
    published has no interval of its own, and gets the longest."""
    times = [
        claim.seconds if method == OWN else claim.baseline_seconds
        for claim in CLAIMS
        if claim.case == case and method in (OWN, claim.baseline)
    ]
    finite = [seconds for seconds in times if math.isfinite(seconds)]
    if not finite:
        return published
    longest = round(RESOLUTION * min(finite), 3)
    return longest if CASES[case].overrides else min(published, longest)


def _overrides(case: str, method: str, scale: str, data: str, overrides: list[str]) -> list[str]:
    """All that changes in the bundled config of a method."""
    published = loading.load(CASES[case].configs[method], list(CASES[case].overrides))
    changes = [*CASES[case].overrides, *_changes(case, method, published, scale)]
    changes += _sample_pictures(published) if data == SAMPLE else []
    return [*changes, *_of_method(method, overrides)]


def _changes(case: str, method: str, published: AnyConfig, scale: str) -> list[str]:
    chosen = SCALES[scale]
    changes = [*chosen.every, *(chosen.own if method == OWN else chosen.baseline)]
    if chosen.shrink > 1:
        changes.append(
            f"data_loader.batch_size={published.data_loader.batch_size // chosen.shrink}"
        )
    if chosen.lr != 1:
        changes.append(f"training.lr={published.training.lr * chosen.lr:g}")
    if scale == "laptop" and method == OWN and max(published.data_loader.image_size) >= 64:
        changes += ["training.seconds=80", "misc.profile_freq=8"]
    if scale == "full":
        changes.append(f"misc.profile_freq={interval(case, method, published.misc.profile_freq)}")
    return changes


def _sample_pictures(published: AnyConfig) -> list[str]:
    names = PICTURES[: published.data_loader.num_images or 1]
    return ["data_loader.dataset=sample", f"data_loader.image=[{','.join(names)}]"]


def _of_method(method: str, overrides: list[str]) -> list[str]:
    """The overrides of all methods, and those of this one without its name."""
    return [
        override.removeprefix(f"{method}.")
        for override in overrides
        if override.split(".")[0] == method or override.split(".")[0] not in _METHODS
    ]
