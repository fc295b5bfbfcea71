"""Many photos: what a visitor brought, what has become of each, and the files it can be taken away as."""

from __future__ import annotations

import io
import shlex
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.photos import TURN, Upload, open_photo, to_jpeg
from captioner.batch.formats import comma_separated, jsonl
from captioner.batch.listing import natural
from captioner.batch.records import Record, describe
from captioner.checkpoint_files import BUNDLED
from captioner.config import DecodingOptions
from captioner.errors import ImageReadError

if TYPE_CHECKING:
    from captioner.pipeline import Captioner

MAX_FILES = 500
CHUNK = 16  # photos captioned before other visitors get their turn; about a second on one core
_HERE = Path(__file__).parent.parent
_THUMBNAIL_SIDE = 320  # pixels
_MOST_RESULTS = 2 * MAX_FILES  # kept of photos that have been taken away again


@dataclass(frozen=True)
class Task:
    """How photos are to be captioned.

    Attributes
    ----------
    checkpoint : Path
    options : DecodingOptions
    """

    checkpoint: Path
    options: DecodingOptions

    def command(self) -> str:
        """Give the command that captions a folder in this way, in the project's folder."""
        place = self.checkpoint.relative_to(_HERE) if self.checkpoint.is_relative_to(_HERE) else self.checkpoint
        options = "" if self.checkpoint == BUNDLED else f" --checkpoint {shlex.quote(str(place))}"
        if self.options.context != DecodingOptions().context:
            options += f" --context {self.options.context}"
        return f".venv/bin/captioner caption FOLDER --recursive --output captions.csv --format csv{options}"


@dataclass(frozen=True)
class Result:
    """What became of a photo.

    Attributes
    ----------
    record : dict, optional
        Its caption, as `captioner caption` writes it, but for the name; None if it could not be read.
    thumbnail : bytes
        JPEG, upright.
    error : str
        Why it could not be read.
    """

    record: Record | None
    thumbnail: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class Row:
    """A photo and what became of it; photos of the same bytes, or of the same name, have a row each.

    Attributes
    ----------
    place : int
        Of the photo among all, whether they are done or not.
    upload : Upload
    result : Result
    """

    place: int
    upload: Upload
    result: Result


@dataclass
class Album:
    """The photos of a visitor. Results outlast a run that is cut, and a change of page, model or photos.

    Attributes
    ----------
    uploads : list of Upload
        In natural order, as the command line has it: a browser gives a folder in any.
    kept : list of Upload
        Those of them that the page's uploader no longer holds; others come to them.
    refused : int
        How many photos it would be if that is too many; nothing changes then.
    captioned : int
        Photos captioned since others came, or another model was chosen.
    seconds : float
        How long that took.
    """

    uploads: list[Upload] = field(default_factory=list)
    kept: list[Upload] = field(default_factory=list)
    refused: int = 0
    captioned: int = 0
    seconds: float = 0.0
    _results: dict[tuple[str, Task], Result] = field(default_factory=dict)

    def take(self, uploads: Sequence[Upload]) -> None:
        """Exchange the photos, but for those that are kept; of these none comes twice."""
        new = {(upload.name, upload.digest) for upload in uploads}
        together = [*(upload for upload in self.kept if (upload.name, upload.digest) not in new), *uploads]
        self.refused = len(together) if len(together) > MAX_FILES else 0
        if not self.refused:
            self.uploads = sorted(together, key=_by_name)
        self.restart_clock()
        if len(self._results) > _MOST_RESULTS:
            here = {upload.digest for upload in self.uploads}
            self._results = {key: result for key, result in list(self._results.items()) if key[0] in here}

    def restart_clock(self) -> None:
        """Forget how fast it went."""
        self.captioned, self.seconds = 0, 0.0

    def rows(self, task: Task) -> list[Row]:
        """Give the photos that are done."""
        found = ((upload, self._results.get((upload.digest, task))) for upload in self.uploads)
        return [Row(place, upload, result) for place, (upload, result) in enumerate(found) if result]

    def caption_some(self, captioner: Captioner, task: Task) -> None:
        """Caption the next few photos.

        Raises
        ------
        CaptionerError
            If the model cannot follow the options.
        """
        started, captioned = time.monotonic(), 0
        with TURN:
            # Chosen only now: a click starts another run of the page while the last one is still at its photos.
            left = {upload.digest: upload for upload in self.uploads if (upload.digest, task) not in self._results}
            chunk = list(left.values())[:CHUNK]
            for upload, result in _caption(chunk, captioner, task.options):
                self._results[upload.digest, task] = result
                captioned += result.record is not None
        # The time first, for another run of the page divides by it.
        self.seconds += time.monotonic() - started
        self.captioned += captioned


def _by_name(upload: Upload) -> list[tuple[bool, str]]:
    *folders, name = upload.name.split("/")
    # A folder's photos stand before the folders in it.
    return [*((True, natural(folder)) for folder in folders), (False, natural(name))]


def _caption(
    uploads: Sequence[Upload], captioner: Captioner, options: DecodingOptions
) -> Iterator[tuple[Upload, Result]]:
    """Caption photos in one batch, giving each beside what became of it, in any order."""
    readable: list[tuple[Upload, bytes]] = []
    for upload in uploads:
        try:
            readable.append((upload, to_jpeg(open_photo(upload, _THUMBNAIL_SIDE), _THUMBNAIL_SIDE)))
        except ImageReadError as error:
            yield upload, Result(None, error=str(error).removeprefix(f"{upload.name}: "))
    attempts = captioner.attempt_many((upload.data for upload, _ in readable), options)
    for (upload, thumbnail), (_, caption) in zip(readable, attempts, strict=True):
        if isinstance(caption, ImageReadError):
            yield upload, Result(None, error=str(caption).removeprefix("image: "))
        else:
            yield upload, Result(describe(upload.name, caption), thumbnail)


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Tell photos that have a caption from those that could not be read."""
    return [row for row in rows if row.result.record], [row for row in rows if not row.result.record]


def to_csv(rows: Sequence[Row]) -> bytes:
    """Lay out captions as `captioner caption --format csv` does."""
    return b"".join(comma_separated().lay_out(_records(rows)))


def to_jsonl(rows: Sequence[Row]) -> bytes:
    """Lay out captions as JSON lines, with the fields that `captioner caption` writes of any photo."""
    return b"".join(jsonl().lay_out(_records(rows)))


def to_zip(rows: Sequence[Row]) -> bytes:
    """Pack both, and what could not be read. No name in it is one that came with a photo."""
    files = {"captions.csv": to_csv(rows), "captions.jsonl": to_jsonl(rows)}
    _, failed = split(rows)
    if failed:
        failures = ({"image": row.upload.name, "error": row.result.error} for row in failed)
        files["failures.csv"] = b"".join(comma_separated(("image", "error")).lay_out(failures))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _records(rows: Sequence[Row]) -> Iterator[Record]:
    # The same bytes may have come under another name when they were captioned.
    return (row.result.record | {"image": row.upload.name} for row in rows if row.result.record)
