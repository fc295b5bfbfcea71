"""A caption as a text file beside its photo."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from captioner.batch.hashes import HashSet, hash64
from captioner.batch.job import ImageFile, Outcome
from captioner.batch.records import Record
from captioner.errors import CaptionerError
from captioner.files import lock, replacing
from captioner.paths import exists, is_folder


class Sidecars:
    """The text files of a run.

    Parameters
    ----------
    skip : bool
        Whether a photo that has its text file is done.
    """

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._seen = HashSet()

    def done(self, file: ImageFile) -> bool:
        """Whether the photo has its text file and is to keep it.

        Raises
        ------
        CaptionerError
            If it can have none.
        """
        place = _place(file.path)
        if place == Path(file.path):
            raise CaptionerError(
                f"{file.path}: its text file would take its place; name the folder, of which photos alone are taken, "
                "or give a photo the suffix of an image"
            )
        if not self._seen.add(hash64(os.path.realpath(place.parent) + "/" + place.name)):
            raise CaptionerError(f"{file.path}: {place} is the caption of another photo; rename this one")
        if self._skip and exists(place):
            return True
        if is_folder(place.parent) and not os.access(place.parent, os.W_OK):
            raise CaptionerError(f"{file.path}: {place} cannot be written; make its folder writable")
        return False

    def write(self, file: ImageFile, record: Record) -> None:
        """Write a photo's text file.

        Raises
        ------
        CaptionerError
            If it cannot be written, as on a full disk.
        """
        place = _place(file.path)
        with _alone_in(place.parent), replacing(place, sync=False) as text:
            text.write(record["caption"].encode() + b"\n")

    def finish(self) -> None:
        """Do nothing: each file is whole."""

    def close(self) -> None:
        """Do nothing: no file is open."""


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make other runs over the same photos wait: theirs would be the same unfinished file."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # writing will say why, if that cannot be done either
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            lock(handle, wait=True)
        yield


def refuse_existing(files: Iterable[ImageFile | Outcome]) -> None:
    """Refuse photos that have a text file.

    Raises
    ------
    CaptionerError
        Naming the first.
    """
    for file in files:
        if isinstance(file, ImageFile) and exists(_place(file.path)):
            raise CaptionerError(
                f"{_place(file.path)}: exists already; --existing skip passes such photos over, overwrite replaces it"
            )


def _place(image: str) -> Path:
    return Path(image).with_suffix(".txt")
