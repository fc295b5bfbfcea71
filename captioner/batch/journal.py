"""A file of records that a run appends to and the next one goes on with."""

from __future__ import annotations

import contextlib
import itertools
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from captioner.batch.hashes import hash64
from captioner.batch.job import ImageFile, Job
from captioner.batch.records import Record, identity, read_records, to_line, wanted
from captioner.errors import CaptionerError
from captioner.files import cannot_write, lock, replacing, write_all
from captioner.paths import exists, is_file

if TYPE_CHECKING:
    from captioner.devices import Precision


class Index:
    """What a file of records holds, in 20 bytes a photo.

    Parameters
    ----------
    lines : binary file
        Its lines.
    name : str
        Of the file, for errors.
    precision : {"auto", "float32", "bfloat16"}, optional
        That the records are to have been made in; `auto` takes any.

    Attributes
    ----------
    length : int
        Bytes of its whole lines; what follows is torn.
    superseded : bool
        Whether a photo has several records; the last one counts.
    """

    def __init__(self, lines: Iterable[bytes], name: str, precision: Precision = "auto") -> None:
        paths, identities, models = array("Q"), array("Q"), array("I")
        numbers: dict[str, int] = {}
        self.length = 0
        for line, record in read_records(lines, name):
            paths.append(hash64(record["image"]))
            identities.append(identity(record, precision))
            models.append(numbers.setdefault(record["model"], len(numbers)))
            self.length += len(line)
        hashes = np.array(paths, np.uint64)
        order = np.argsort(hashes, kind="stable")
        order = order[np.append(np.diff(hashes[order]) != 0, True)[: len(order)]]
        self._paths, self._models = hashes[order], np.array(models, np.uint32)[order]
        self._identities = np.array(identities, np.uint64)[order]
        self._names = list(numbers)
        self.superseded = len(order) < len(hashes)

    def find(self, path: str) -> tuple[int, str] | None:
        """Identity and model of a photo's last record, if it has one."""
        key = np.uint64(hash64(path))
        position = int(np.searchsorted(self._paths, key))
        if position == len(self._paths) or self._paths[position] != key:
            return None
        return int(self._identities[position]), self._names[self._models[position]]


class Journal:
    """The records of one run and those before it; a kill loses none that is written.

    Parameters
    ----------
    path : Path
        Of the file; created, and barred to other runs until `close`.
    job : Job
        What a record must be of for its photo to be done.
    fresh : bool
        Whether to start anew. What is there is given up only once the first row is written.
    dry : bool
        Whether nothing is to be written: the file is read only.
    warn : callable
        Told, once, that photos are there by another model.
    make : callable, optional
        Turns the records, one by one, into the file that was asked for, at the end.

    Raises
    ------
    CaptionerError
        If it cannot be written, is in use, or is no file of records; it is as it was, then.
    """

    def __init__(
        self,
        path: Path,
        job: Job,
        *,
        fresh: bool,
        dry: bool,
        warn: Callable[[str], None],
        make: Callable[[Iterator[Record]], None] | None = None,
    ) -> None:
        self._path, self._job, self._fresh, self._warn, self._make = path, job, fresh, warn, make
        existed = exists(path)
        if existed and not is_file(path):
            raise CaptionerError(f"{path}: not a file; name one, or leave --output out for standard output")
        self._file = None if dry else _open_locked(path)
        self._remove = not existed and not dry
        try:
            self._index = Index([], "")
            if not fresh and exists(path):
                with _reading(path) as file:
                    self._index = Index(file, str(path), self._job.precision)
        except BaseException:
            self.close()
            raise
        self._end = self._index.length
        self._superseded = self._index.superseded
        if self._file and not fresh and os.fstat(self._file.fileno()).st_size > self._end:
            self._file.truncate(self._end)

    def done(self, file: ImageFile) -> bool:
        """Whether the photo, as it is now, has a record by this model and these options."""
        found = self._index.find(file.path)
        if found is None:
            return False
        known, model = found
        if known == wanted(file, self._job):
            return True
        if model != self._job.model:
            self._warn(
                f"warning: {self._path}: {file.path} was captioned by model {model}, this is model {self._job.model}; "
                "such photos are captioned again"
            )
            self._warn = lambda _: None
        return False

    def write(self, file: ImageFile, record: Record) -> None:
        """Append a row.

        Raises
        ------
        CaptionerError
            If it cannot be written, as on a full disk; the rows before it are whole.
        """
        assert self._file is not None, "a dry run writes nothing"
        self._start_anew()
        line = to_line(record)
        try:
            write_all(self._file, line)
        except OSError as error:
            self._file.truncate(self._end)
            raise cannot_write(self._path, error) from error
        self._end, self._remove = self._end + len(line), False
        self._superseded |= self._index.find(file.path) is not None

    def finish(self) -> None:
        """Leave every photo in the file once, and make of it what was asked for."""
        if self._fresh:
            return  # no row came to take the place of what is there
        self._remove = False
        if self._superseded:
            self._drop_superseded()
        if self._make:
            with _reading(self._path) as file:
                self._make(record for _, record in read_records(file, str(self._path)))

    def close(self) -> None:
        """Let other runs have the file; remove it, if this run created it and has come to nothing."""
        if self._remove:
            self._path.unlink(missing_ok=True)
        if self._file:
            self._file.close()

    def _start_anew(self) -> None:
        if self._fresh and self._file:
            self._file.truncate(0)
            self._fresh = False

    def _drop_superseded(self) -> None:
        with _reading(self._path) as file:
            records = (record for _, record in read_records(file, str(self._path)))
            paths = np.fromiter((hash64(record["image"]) for record in records), np.uint64)
        kept = np.zeros(len(paths), bool)
        kept[len(paths) - 1 - np.unique(paths[::-1], return_index=True)[1]] = True
        with _reading(self._path) as file, replacing(self._path) as whole:
            lock(whole.fileno())  # before it takes the place of the file that is locked
            whole.writelines(itertools.compress(file, kept))
            whole.flush()
            successor = os.dup(whole.fileno())
        assert self._file is not None, "a dry run leaves all as it is"
        self._file.close()
        self._file = FileIO(successor, "r+")


def _open_locked(path: Path) -> FileIO:
    try:
        while True:
            file = FileIO(str(path), "a")
            if not lock(file.fileno()):
                file.close()
                raise CaptionerError(f"{path}: another run is writing it; wait for its end, or choose another --output")
            # A run that has just ended may have put another file in its place.
            with contextlib.suppress(FileNotFoundError):  # or have removed it
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            file.close()
    except OSError as error:
        raise cannot_write(path, error) from error


def _reading(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CaptionerError(f"{path}: cannot be read ({error.strerror or error})") from error
