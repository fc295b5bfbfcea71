"""Files that are there whole or not at all, and folders that one run at a time writes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

from captioner.errors import CaptionerError
from captioner.paths import is_folder

try:
    import fcntl
except ImportError:  # Windows: two runs on one output are not told from each other there
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"
_MOMENT = 0.1  # seconds


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
    # Hidden, and short whatever the length of the name. The same each time, so that what a kill leaves is used again.
    partial = target.with_name(f".{hashlib.blake2b(os.fsencode(target.name), digest_size=8).hexdigest()}.partial")
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


def write_all(file: RawIOBase, data: bytes) -> None:
    """Append to an unbuffered file: once this returns, a kill loses nothing of it, and a full disk is known."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


def lock(handle: int, *, wait: bool = False, shared: bool = False) -> bool:
    """Bar other processes from an open file until this one closes it, or ends in whatever way.

    Parameters
    ----------
    handle : int
    wait : bool
        Whether to wait until one that has barred this one lets go.
    shared : bool
        Whether to bar only those that do not share it.

    Returns
    -------
    bool
        False if another has barred this one.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network file systems know no locks
    return True


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Make a folder for a run's output, and keep other runs out of it.

    Raises
    ------
    CaptionerError
        If another run is writing it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("w")
    except OSError as error:
        raise CaptionerError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another --output"
        ) from error
    with file:
        if not lock(file.fileno()):
            time.sleep(_MOMENT)  # for which who looks whether it is in use may bar it
            if not lock(file.fileno()):
                raise CaptionerError(
                    f"{folder}: another run is writing it; wait for its end, or choose another --output"
                )
        yield


def in_use(folder: Path) -> bool:
    """Whether a run is writing a folder; never where locks are not known."""
    try:
        with (folder / _LOCK).open() as file:
            return not lock(file.fileno(), shared=True)
    except OSError:
        return False  # no run has ever written it


def where(path: Path) -> Path:
    """Find where a path lies: the real folder; or the file in its real folder, itself not followed if it is a link."""
    return Path(os.path.realpath(path)) if is_folder(path) else Path(os.path.realpath(path.parent), path.name)


def cannot_write(path: Path, error: OSError) -> CaptionerError:
    """Name the file and what the disk says."""
    if isinstance(error, FileNotFoundError):
        return CaptionerError(f"{path}: cannot be written, there is no folder {path.parent}; make it first")
    return CaptionerError(f"{path}: cannot be written ({error.strerror or error})")
