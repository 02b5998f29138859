"""Names of release 0.1, which work until 0.3 with a DeprecationWarning.

The modules of this folder stand for modules that have moved: the package finds them under their
old names (`score_embedding.scores` and so on). Delete the folder and its uses with the release.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import Parameter, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def warn(message: str, stacklevel: int = 3) -> None:
    """A DeprecationWarning at the line that called the caller."""
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def positional_options(function: Callable[P, R]) -> Callable[P, R]:
    """`function` whose keyword-only parameters may still be given by position, in their order."""
    parameters = signature(function).parameters.values()
    options = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    leading = len(parameters) - len(options)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        given: tuple[Any, ...] = args[leading:]
        if not given or len(given) > len(options):
            return function(*args, **kwargs)
        named = dict(zip(options, given, strict=False))
        listed = ", ".join(f"{name}=..." for name in named)
        warn(f"{function.__name__}: options by position are deprecated; write {listed}")
        twice = next((name for name in named if name in kwargs), None)
        if twice:
            raise TypeError(f"{function.__name__}() got multiple values for argument {twice!r}")
        return function(*args[:leading], **named, **kwargs)  # type: ignore[arg-type]

    return wrapper


def moved(old: str, new: str = "", **names: str) -> Callable[[str], Any]:
    """The `__getattr__` of the module `old`: its names are in the module `new`, or each of `names`
    in the module given with it; modules are named within this package."""

    def find(name: str) -> Any:
        if name == "__all__":  # of `import *`
            return list(names) or _public(import_module(f"score_embedding.{new}"))
        place = names.get(name, new)
        if not place or name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        path = f"score_embedding.{place}"
        found = getattr(import_module(path), name)
        warn(f"{old}.{name} has moved to {path}.{name}")
        return found

    return find


def _public(module: ModuleType) -> list[str]:
    """The public names that a module defines."""
    named: list[str] | None = getattr(module, "__all__", None)
    return named or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def score(log_density: Any, dh: float = 1.0, boundary: Any = "reflect", dims: int = 2) -> Tensor:
    """Deprecated: `solution.score()`, which knows the dh and the boundary of its solve."""
    from score_embedding.fokker_planck.operators import differences

    warn(
        "se.score is deprecated: use solution.score(), which has the dh and the boundary of the "
        "solve; for a log-density from elsewhere, sum(se.gradient(log_density))"
    )
    return differences.score(log_density, dh=dh, boundary=boundary, dims=dims)
