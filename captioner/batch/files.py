"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from captioner.batch.hashes import hash64
from captioner.errors import CaptionerError
from captioner.paths import is_folder


@contextlib.contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is written without an error.

    Parameters
    ----------
    path : Path
        Of a symbolic link, the file it points to is replaced.
    sync : bool
        Whether it is to be whole even if the machine, not only the process, stops. Takes milliseconds.

    Raises
    ------
    CaptionerError
        If it cannot be written, as on a full disk; what was there is still there.
    """
    target = Path(os.path.realpath(path))
    # Hidden, and short whatever the length of the name.
    partial = target.with_name(f".{hash64(target.name):016x}.partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def where(path: Path) -> Path:
    """Find where a path lies: the real folder; or the file in its real folder, itself not followed if it is a link."""
    return Path(os.path.realpath(path)) if is_folder(path) else Path(os.path.realpath(path.parent), path.name)


def cannot_write(path: Path, error: OSError) -> CaptionerError:
    """Name the file and what the disk says."""
    if isinstance(error, FileNotFoundError):
        return CaptionerError(f"{path}: cannot be written, there is no folder {path.parent}; make it first")
    return CaptionerError(f"{path}: cannot be written ({error.strerror or error})")
