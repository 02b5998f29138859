"""The values that keys of a config take, as pydantic types: numbers in ranges, names of a table.

Numbers may be written as strings (YAML 1.1 reads "2e-8" as one) and False means "off".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from score_embedding import kinds

Prior = Literal["unit", "matched"]  # N(0, I), the paper's, or N(0, std^2 I) of the SDE's end


def number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, not {str(value).lower()}")
    return value


def _off(value: Any) -> Any:
    return None if value is False else value


def height_width(value: Any) -> Any:
    """One number is the side of a square."""
    return (value, value) if isinstance(value, int | str) else value


def one_of(table: Mapping[str, Any]) -> BeforeValidator:
    """A name of the table; the error is the one that pydantic has for a Literal."""
    *others, last = (repr(name) for name in table)
    expected = f"{', '.join(others)} or {last}" if others else last

    def check(value: Any) -> Any:
        if not (isinstance(value, str) and value in table):
            raise PydanticCustomError(
                "literal_error", "Input should be {expected}", {"expected": expected}
            )
        return value

    return BeforeValidator(check)


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """Numbers, as YAML reads the names of digits, are names."""
    listed = value if isinstance(value, list | tuple) else [value]
    return [str(each) if type(each) is int else each for each in listed]


Int = Annotated[int, BeforeValidator(number)]
Count = Annotated[int, BeforeValidator(number), Field(ge=1, le=10**12)]
Positive = Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1, allow_inf_nan=False)]
NoiseLevel = Annotated[Positive, Field(ge=1e-6, le=1e6)]
PositiveOrOff = Annotated[Positive | None, BeforeValidator(_off)]
Decay = Annotated[float, BeforeValidator(number), Field(ge=0, lt=1, allow_inf_nan=False)]
ShareOrOff = Annotated[Share | None, BeforeValidator(_off)]
DecayOrOff = Annotated[Decay | None, BeforeValidator(_off)]
CountOrOff = Annotated[Count | None, BeforeValidator(_off)]
Strings = Annotated[list[str], BeforeValidator(_list), Field(min_length=1)]
Names = Annotated[list[str], BeforeValidator(_names), Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
# Values of the official key diffusion.kde_method, and those of diffusion.density that they stand
# for. The key is checked and not kept: a config is written with `density`.
OFFICIAL_DENSITIES = {
    kind.kde_method: name
    for name, kind in reversed(kinds.PIXEL_DENSITIES.items())  # the first of two names is kept
    if kind.kde_method
}
KdeMethod = Annotated[
    None, BeforeValidator(lambda _: None), one_of(OFFICIAL_DENSITIES), Field(exclude=True)
]
