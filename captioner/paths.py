"""What lies at a path; unlike the methods of `Path`, no error where names are too long or nothing may be looked at."""

from __future__ import annotations

import os
from pathlib import Path


def exists(path: str | Path) -> bool:
    """Whether it is there."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: str | Path) -> bool:
    """Whether it is a file, or a link to one; a named pipe, which would be waited for, is none."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether it is a folder, or a link to one."""
    return os.path.isdir(path)  # noqa: PTH112


def printable(text: str) -> str:
    """Spell out the bytes of files' names that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()
