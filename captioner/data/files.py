"""Finding and opening the files of a data set; every error names the file, the line and the cure.

A path may hold `{split}`, which stands for the name the data set gives a split: `dev` goes by `dev`, `val`, `valid`
or `validation`.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captioner.errors import DatasetError, MissingSplitError

SPLIT = "{split}"
_DEV = ("dev", "val", "valid", "validation")
_SHOWN = 8


def names_of(split: str) -> tuple[str, ...]:
    """All names under which a data set may have the split."""
    return _DEV if split == "dev" else (split,)


def choose(root: Path, setting: str, given: str | None, usual: Sequence[str]) -> str:
    """Take the path that was given, or else the first usual one of which anything is there.

    Raises
    ------
    DatasetError
        If none was given and none is there.
    """
    if given is not None:
        return given
    for pattern in usual:
        if _matches(root, pattern):
            return pattern
    raise DatasetError(f"{root}: none of {', '.join(usual)} is there; name yours with data.{setting}")


def find_split(root: Path, pattern: str, split: str) -> Path:
    """Find what holds a split: its file of captions or names, or its folder.

    Raises
    ------
    DatasetError
        If it is not there; `MissingSplitError` if the path holds `{split}`.
    """
    found = _find(root, pattern, split)
    if found is not None:
        return found
    if SPLIT not in pattern:
        raise DatasetError(f"{root / pattern}: no such file; put it there, or name yours with data.captions")
    there = _matches(root, pattern)
    shown = ", ".join(there[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
    looked = " or ".join(pattern.replace(SPLIT, name) for name in names_of(split))
    raise MissingSplitError(f"{root}: no {split} split: looked for {looked}; there is {shown or 'nothing like it'}")


def photo_folder(root: Path, pattern: str, split: str) -> Path:
    """Find the folder of a split's photos.

    Raises
    ------
    DatasetError
        If it is not there.
    """
    found = _find(root, pattern, split)
    if found is None or not found.is_dir():
        raise DatasetError(f"{root / pattern}: no such folder of photos; put it there, or name yours with data.images")
    return found


def missing_split(path: Path, split: str, found: set[str]) -> MissingSplitError:
    """Make the error of a file that names its splits, but not this one."""
    there = ", ".join(sorted(found)) or "none"
    return MissingSplitError(f"{path}: no {split} split in it; there are {there}")


def _find(root: Path, pattern: str, split: str) -> Path | None:
    paths = (root / pattern.replace(SPLIT, name) for name in names_of(split))
    return next((path for path in paths if path.exists()), None)


def _matches(root: Path, pattern: str) -> list[str]:
    # Path.glob refuses absolute patterns.
    return sorted(glob.glob(glob.escape(pattern).replace(SPLIT, "*"), root_dir=root))  # noqa: PTH207


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark, its line ends untouched.

    Raises
    ------
    DatasetError
        If it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); is the data set complete?") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{path}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not blank."""
    # str.splitlines would also cut at characters that may stand inside a caption, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def read_json(path: Path, keys: set[str]) -> Any:
    """Read a JSON file, of every object only the given keys, for the files of COCO hold much else.

    Raises
    ------
    DatasetError
        If it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path), object_hook=lambda values: {k: v for k, v in values.items() if k in keys})
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno}: not JSON ({error.msg}); get a whole copy") from error


def field(record: Any, key: str, kind: type, where: str) -> Any:
    """Take a value out of a JSON object.

    Raises
    ------
    DatasetError
        If it is absent or of another kind, or text that is blank.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        found = "nothing" if value is None else repr(value)[:80]
        raise DatasetError(
            f"{where}: expected {key} to be a {_KINDS[kind]}, found {found}; docs/data.md has the format"
        )
    if isinstance(value, str) and not value.strip():
        raise DatasetError(f"{where}: {key} is empty; fill it in, or delete the entry")
    return value


_KINDS = {str: "text", int: "whole number", list: "list"}
