"""Finding and opening the files of a data set; every error names the file, the line and the cure.

A path may hold `{split}`, which stands for the name the data set gives a split: `dev` goes by `dev`, `val`, `valid`
or `validation`.
"""

from __future__ import annotations

import glob
import json
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captioner.errors import DatasetError, MissingSplitError
from captioner.paths import exists, is_file, is_folder
from captioner.plain_json import is_text, parse_json

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
    if found is None or not is_folder(found):
        looked = dict.fromkeys(pattern.replace(SPLIT, name) for name in names_of(split))
        raise DatasetError(
            f"{root}: no folder of the {split} photos: looked for {' or '.join(looked)}; put it there, or name yours "
            "with data.images"
        )
    return found


def missing_split(path: Path, split: str, found: set[str]) -> MissingSplitError:
    """Make the error of a file that names its splits, but not this one."""
    there = ", ".join(sorted(found)[:_SHOWN])[:200] or "none"
    return MissingSplitError(f"{path}: no {split} split in it; there are {there}")


def _find(root: Path, pattern: str, split: str) -> Path | None:
    paths = (root / pattern.replace(SPLIT, name) for name in names_of(split))
    return next((path for path in paths if exists(path)), None)


def _matches(root: Path, pattern: str) -> list[str]:
    # Path.glob refuses absolute patterns.
    return sorted(glob.glob(glob.escape(pattern).replace(SPLIT, "*"), root_dir=root))  # noqa: PTH207


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark, its line ends untouched.

    Raises
    ------
    DatasetError
        If it cannot be read, or is not text in UTF-8.
    """
    try:
        if exists(path) and not is_file(path):
            raise DatasetError(f"{path}: not a file; is the data set complete?")
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); is the data set complete?") from error
    try:
        text = content.decode("utf-8-sig")
        fault, where = "a zero byte", content.find(0)  # as UTF-16 has them, which may pass for UTF-8
    except UnicodeDecodeError as error:
        fault, where = error.reason, error.start
    if where >= 0:
        line = content.count(b"\n", 0, where) + 1
        raise DatasetError(f"{path}:{line}: not UTF-8 ({fault}); save the file as UTF-8")
    return text


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line that is not blank.

    Raises
    ------
    DatasetError
        If the file cannot be read, or its lines end as no system's have for twenty years.
    """
    # str.splitlines would also cut at characters that may stand inside a caption, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if "\r" in line:
            raise DatasetError(f"{path}:{number}: a carriage return inside the line; save the file with LF or CR LF")
        if line.strip():
            yield number, line


def read_json(path: Path, keys: set[str]) -> Any:
    """Read a JSON file, of every object only the given keys, for the files of COCO hold much else.

    Raises
    ------
    DatasetError
        If it cannot be read, or is not JSON.
    """
    try:
        return parse_json(read_text(path), keys)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno}: not JSON ({error.msg}); get a whole copy") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON that can be read ({error}); get a whole copy") from error


def field(record: Any, key: str, kind: type, where: str) -> Any:
    """Take a value out of a JSON object.

    Raises
    ------
    DatasetError
        If it is absent or of another kind, or text that is blank or cannot be written as UTF-8.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        found = "nothing" if value is None else reprlib.repr(value)
        raise DatasetError(
            f"{where}: expected {key} to be a {_KINDS[kind]}, found {found}; docs/data.md has the format"
        )
    if isinstance(value, str) and not value.strip():
        raise DatasetError(f"{where}: {key} is empty; fill it in, or delete the entry")
    if isinstance(value, str) and not is_text(value):
        raise DatasetError(f"{where}: {key} holds half a surrogate pair, {value[:80]!a}; write it whole")
    return value


_KINDS = {str: "text", int: "whole number", list: "list"}
