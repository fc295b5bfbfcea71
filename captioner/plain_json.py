"""JSON from files that anyone may have written: whatever is wrong with it is one type of error."""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any


def parse_json(text: str, keys: Set[str] | None = None) -> Any:
    """Parse JSON.

    Parameters
    ----------
    text : str
    keys : set of str, optional
        What to keep of every object; all of it if not given.

    Raises
    ------
    ValueError
        If it is not JSON (`json.JSONDecodeError`, which knows the line), is nested too deep for Python, has a number of
        thousands of digits, or names something twice in one object, of which the first would be lost.
    """

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        kept = pairs if keys is None else [pair for pair in pairs if pair[0] in keys]
        values = dict(kept)
        if len(values) != len(kept):
            names = [name for name, _ in kept]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice[:80]!r} is there twice in one object")
        return values

    try:
        return json.loads(text, object_pairs_hook=to_object)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8, which halves of surrogate pairs, as JSON may hold them, cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
