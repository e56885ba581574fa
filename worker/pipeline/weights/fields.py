"""The fields of a config that a model is built by, each within bounds; no other is believed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_WIDE = 2**20  # numbers in a row, or words
_REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Field:
    """What a value has to be, in words and as a rule, and what it is where a config has none."""

    expected: str
    fits: Callable[[Any], bool]
    default: Any = _REQUIRED


def read_fields(config: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Read these fields and leave out all others; raises ValueError, naming the first wrong one."""
    found = {}
    for name, field in fields.items():
        value = config.get(name, field.default)
        if value is _REQUIRED:
            raise ValueError(f"it has no {name}")
        if value is not field.default and not field.fits(value):
            raise ValueError(f"{name} is {value!r:.60}, expected {field.expected}")
        found[name] = value
    return found


def whole(least: int = 1, most: int = MOST_WIDE, default: Any = _REQUIRED) -> Field:
    """Expect a whole number."""
    return Field(
        f"a whole number from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
        default,
    )


def number(least: float, most: float, default: Any = _REQUIRED) -> Field:
    """Expect a number."""
    return Field(
        f"a number from {least:g} to {most:g}",
        lambda value: (
            type(value) in (int, float) and math.isfinite(value) and least <= value <= most
        ),
        default,
    )


def flag(default: Any = _REQUIRED) -> Field:
    """Expect true or false."""
    return Field("true or false", lambda value: type(value) is bool, default)


def only(*values: Any, default: Any = _REQUIRED) -> Field:
    """Expect one of a few values."""
    return Field(
        " or ".join(map(repr, values)),
        lambda value: any(type(value) is type(each) and value == each for each in values),
        default,
    )


def several(field: Field, *counts: int, default: Any = _REQUIRED) -> Field:
    """Expect a list of one of these lengths, of whose values each is expected to be the same."""
    lengths = " or ".join(map(str, counts))
    return Field(
        f"a list of {lengths}, each {field.expected}",
        lambda value: type(value) is list and len(value) in counts and all(map(field.fits, value)),
        default,
    )
