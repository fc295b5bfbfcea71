"""The mechanism of settings: frozen dataclasses that check their values and turn into JSON and back.

Every class turns into plain JSON values with `to_dict` and back with `from_dict`, which refuses
unknown names and wrong types; impossible values are refused on construction. All faults of one
class are reported together.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from typing import Any, Self

from captioner.errors import CaptionerError


def _matches(value: Any, annotation: Any) -> bool:
    """Whether a JSON or TOML value is one the annotated field can hold."""
    origin = typing.get_origin(annotation)
    if origin is types.UnionType:
        return any(_matches(value, option) for option in typing.get_args(annotation))
    if origin is typing.Literal:
        return value in typing.get_args(annotation)
    if origin is tuple:
        items = typing.get_args(annotation)
        if isinstance(value, tuple) and items[-1] is Ellipsis:
            items = items[:1] * len(value)
        return isinstance(value, tuple) and len(value) == len(items) and all(map(_matches, value, items))
    if annotation is float:
        return math.isfinite(value) if isinstance(value, float) else _matches(value, int)
    if annotation is int:
        # More than 64 bits no library below takes, nor always Python's own floats.
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, annotation)


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in items}


class Settings:
    """JSON round trip and checking, shared by every settings class."""

    def __post_init__(self) -> None:
        annotations = typing.get_type_hints(type(self))
        faults = [
            f"{name} = {reprlib.repr(getattr(self, name))} is not {annotation}"
            for name, annotation in annotations.items()
            if not _matches(getattr(self, name), annotation)
        ]
        # Values are compared only once their types are known to be right.
        faults = faults or list(self._faults())
        if faults:
            raise CaptionerError(f"{type(self).__name__}: " + "; ".join(faults))

    def _faults(self) -> typing.Iterator[str]:
        yield from ()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, just as they come back from JSON."""
        return dataclasses.asdict(self, dict_factory=_plain)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Build the settings from plain values.

        Raises
        ------
        CaptionerError
            If a name is unknown or missing, or a value is of the wrong type or out of range.
        """
        if not isinstance(values, dict):
            raise CaptionerError(f"{cls.__name__}: expected a table of settings, found {reprlib.repr(values)}")
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(fields))
        if unknown:
            shown = ", ".join(unknown)[:200]
            raise CaptionerError(f"{cls.__name__}: unknown setting {shown}; known are {', '.join(fields)}")
        absent = [
            name
            for name, f in fields.items()
            if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if absent:
            raise CaptionerError(f"{cls.__name__}: missing setting {', '.join(absent)}")
        hints = typing.get_type_hints(cls)
        built = {}
        for name, value in values.items():
            if isinstance(hints[name], type) and issubclass(hints[name], Settings):
                value = hints[name].from_dict(value)
            elif isinstance(value, list):
                value = tuple(value)
            built[name] = value
        return cls(**built)
