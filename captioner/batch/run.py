"""A run from the photos found to the file written: what is left to do, what became of it, and the count."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, Protocol

from captioner.batch.formats import Layout, coco, comma_separated, hugging_face, jsonl
from captioner.batch.job import Engine, ImageFile, Job, Outcome
from captioner.batch.journal import Journal
from captioner.batch.listing import Listing
from captioner.batch.records import Record, to_line
from captioner.batch.sidecars import Sidecars, refuse_existing
from captioner.ending import standard_output, tell, unstoppable
from captioner.errors import CaptionerError
from captioner.files import cannot_write, where, write_all
from captioner.paths import exists, is_file, is_folder
from captioner.progress import Bar

_FAILURE = re.compile(
    rb'\{"image": "(?:[^"\\]|\\.)*", "error": "'
)  # what a line of failures begins with, and no caption


@dataclass(frozen=True)
class Request:
    """What a run is to do.

    Attributes
    ----------
    listing : Listing
        The photos.
    job : Job
        How they are captioned.
    format : {"jsonl", "csv", "txt", "coco", "hf"}
        What is written.
    output : Path, optional
        Where to; None for standard output, or beside the photos.
    existing : {"skip", "overwrite", "error"}
        What happens to captions that are there.
    errors : Path, optional
        Where failures are written, as JSON lines; None for standard error.
    fail_fast : bool
        Whether the first failure ends the run.
    dry_run : bool
        Whether only to say what would be captioned.
    quiet : bool
        Whether to leave out the progress bar.
    """

    listing: Listing
    job: Job
    format: str
    output: Path | None = None
    existing: Literal["skip", "overwrite", "error"] = "skip"
    errors: Path | None = None
    fail_fast: bool = False
    dry_run: bool = False
    quiet: bool = False


class Destination(Protocol):
    """Where captions go."""

    def done(self, file: ImageFile) -> bool:
        """Whether the photo's caption is there; an error if it can have none."""

    def write(self, file: ImageFile, record: Record) -> None:
        """Write a caption."""

    def finish(self) -> None:
        """Leave a whole file behind, after the last caption."""

    def close(self) -> None:
        """Let go of it, whatever has happened."""


class Report:
    """Counts what becomes of photos, and says it.

    Parameters
    ----------
    bar : Bar
        Moved on with each photo.
    fail_fast : bool
        Whether one failure is enough.

    Attributes
    ----------
    errors : binary file, optional
        Where failures are written; None for standard error.
    """

    def __init__(self, bar: Bar, fail_fast: bool = False) -> None:
        self.errors: FileIO | None = None
        self.captioned = self.skipped = self.failed = self.left_out = 0
        self.interruption: KeyboardInterrupt | None = None
        self._bar, self._fail_fast = bar, fail_fast
        self._started = self._ended = 0.0

    @property
    def stop(self) -> bool:
        """Whether to go no further."""
        return self._fail_fast and self.failed > 0

    def timed(self, files: Iterable[ImageFile]) -> Iterator[ImageFile]:
        """Start the clock when the first file is taken."""
        self._started = time.monotonic()
        yield from files

    def caption(self) -> None:
        """Count a caption written."""
        self.captioned += 1
        self._ended = time.monotonic()
        self._bar.update()

    def skip(self) -> None:
        """Count a photo done before."""
        self.skipped += 1
        self._bar.update()

    def fail(self, image: str, error: str) -> None:
        """Count a photo, or a folder, that cannot be read, and say why."""
        self.failed += 1
        if self.errors:
            try:
                write_all(self.errors, to_line({"image": image, "error": error}))
            except OSError as fault:
                raise cannot_write(Path(self.errors.name), fault) from fault
        else:
            self.say(f"failed: {error}")
        self._bar.update()

    def leave_out(self, text: str) -> None:
        """Count a caption that the format has no room for, and say why."""
        self.left_out += 1
        self.say(text)

    def say(self, text: str) -> None:
        """Write a line to standard error, above the bar."""
        with Bar.external_write_mode(file=sys.stderr):
            tell(text)

    def __str__(self) -> str:
        left_out = f", {self.left_out} left out" if self.left_out else ""
        counts = f"{self.captioned} captioned, {self.skipped} skipped, {self.failed} failed{left_out}"
        rate = self.captioned / max(self._ended - self._started, 1e-9) if self.captioned else 0.0
        return f"{counts}, {rate:.1f} photos/s"


def run(request: Request, engine: Engine) -> Report:
    """Caption what is not done yet.

    Raises
    ------
    CaptionerError
        If it cannot be begun, or not gone on with: no photos, an output that cannot be written, no model.
    """
    request.listing.check()
    if request.errors and is_file(request.errors):
        _refuse_to_replace(request.errors)
    with contextlib.ExitStack() as stack:
        shown = not request.quiet and not request.dry_run and sys.stderr is not None and sys.stderr.isatty()
        total = request.listing.count() if shown else None
        bar = stack.enter_context(Bar(total=total, unit="photo", disable=not shown))
        report = Report(bar, request.fail_fast)
        destination = stack.enter_context(contextlib.closing(_destination(request, report)))
        if not request.dry_run:
            # Only now: another run may be writing both.
            report.errors = stack.enter_context(_errors(request.errors))
        files = _undone(request.listing, destination, report)
        if request.dry_run:
            _show(files, report, request.quiet)
        else:
            try:
                _caption(files, request.job, engine, destination, report)
            except KeyboardInterrupt as interruption:
                # Its traceback would keep the engine at work.
                report.interruption = interruption.with_traceback(None)
            # A run stopped before its first caption leaves what is there.
            if report.captioned or not (report.interruption or report.stop):
                destination.finish()
    if request.listing.links:
        report.say(
            f"warning: {request.listing.links} symbolic links in folders were not followed; name what they point to"
        )
    if request.listing.unread:
        report.say(
            f"warning: HEIC, JPEG XL and raw files are not read, {request.listing.unread} passed over; "
            "save them as JPEG to have them captioned"
        )
    return report


def _undone(listing: Listing, destination: Destination, report: Report) -> Iterator[ImageFile]:
    for found in listing:
        if isinstance(found, Outcome):
            report.fail(found.file.path, found.error or "")
        else:
            try:
                done = destination.done(found)
            except CaptionerError as error:
                report.fail(found.path, str(error))
            else:
                if not done:
                    yield found
                else:
                    report.skip()
        if report.stop:
            return


def _caption(files: Iterator[ImageFile], job: Job, engine: Engine, destination: Destination, report: Report) -> None:
    first = next(files, None)
    if first is None:
        return  # no model needs to be loaded for it
    # Closed here, whatever ends the run: left to the garbage collector, one of its threads may have to wait for itself.
    with contextlib.closing(engine(report.timed(itertools.chain([first], files)), job)) as outcomes:
        for outcome in outcomes:
            if outcome.record is None:
                report.fail(outcome.file.path, outcome.error or "")
            else:
                with unstoppable():
                    destination.write(outcome.file, outcome.record)
                    report.caption()
            if report.stop:
                return


def _show(files: Iterator[ImageFile], report: Report, quiet: bool) -> None:
    count = 0
    with standard_output() as output:
        for file in files:
            count += 1
            # As bytes: names need not be text.
            output.buffer.write(os.fsencode(file.path) + b"\n")
    if not quiet:
        report.say(f"{count} to caption, {report.skipped} skipped, {report.failed} failed; nothing written")


def _destination(request: Request, report: Report) -> Destination:
    if request.format == "txt":
        if request.existing == "error":
            refuse_existing(request.listing)
        return Sidecars(skip=request.existing == "skip")
    layouts: dict[str, Callable[[], Layout]] = {
        "jsonl": jsonl,
        "csv": comma_separated,
        "coco": lambda: coco(report.leave_out),
        "hf": lambda: hugging_face((request.output or Path()).parent),
    }
    layout = layouts[request.format]()
    if request.output is None:
        return _Stream(layout)
    return _open_journal(request, request.output, layout, report.say)


def _open_journal(request: Request, output: Path, layout: Layout, warn: Callable[[str], None]) -> Journal:
    path = journal_path(output, request.format)
    if request.format == "hf":
        _refuse_outside(request.listing.paths, output)
    if request.existing == "error":
        for there in (output, path):
            if exists(there):
                raise CaptionerError(
                    f"{there}: exists already; --existing skip goes on with it, overwrite replaces it, or choose "
                    "another --output"
                )
    if path != output and is_folder(output):
        raise CaptionerError(f"{output}: is a folder; name a file")
    if path != output and exists(output) and not exists(path) and request.existing == "skip":
        raise CaptionerError(
            f"{output}: exists already, but not {path.name}, the records it would be gone on with from; choose another "
            "--output, or replace it with --existing overwrite"
        )
    return Journal(
        path,
        request.job,
        fresh=request.existing == "overwrite",
        dry=request.dry_run,
        warn=warn,
        make=None if path == output else lambda records: layout.save(records, output),
    )


def journal_path(output: Path, format: str) -> Path:
    """Where the records are kept that an output is made from; for JSON lines that is the output itself."""
    if format == "jsonl":
        return output
    # Among images, those who load the folder should not see it.
    return output.with_name(f"{'.' if format == 'hf' else ''}{output.name}.jsonl")


def _refuse_outside(paths: Iterable[Path], output: Path) -> None:
    home = Path(os.path.realpath(output.parent))
    for path in paths:
        if not where(path).is_relative_to(home):
            raise CaptionerError(
                f"{path}: not below {output.parent}, the folder of {output.name}; put --output into a folder that "
                "holds all photos"
            )


class _Stream:
    """Standard output: every photo is captioned, and nothing is gone on with."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._begun, self._any = layout, False, False

    def done(self, file: ImageFile) -> bool:
        return False

    def write(self, file: ImageFile, record: Record) -> None:
        row = self._layout.row(record)
        if row is not None:
            self._put((self._layout.between if self._any else b"") + row)
            self._any = True

    def finish(self) -> None:
        self._put(self._layout.closing)

    def close(self) -> None:
        """Leave it open: it is not ours."""

    def _put(self, data: bytes) -> None:
        opening = b"" if self._begun else self._layout.opening
        self._begun = True
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(standard_output())
            if output.isatty():
                # Above the bar, which is on the same terminal.
                stack.enter_context(Bar.external_write_mode(file=output))
            output.buffer.write(opening + data)
            output.buffer.flush()


def _refuse_to_replace(path: Path) -> None:
    """Refuse what is no file of failures: a photo, most likely, put there by the shell for a pattern such as *.jpg."""
    try:
        with path.open("rb") as before:
            line = before.readline(2**20)
    except OSError as error:
        raise cannot_write(path, error) from error
    if line and not _FAILURE.match(line):
        raise CaptionerError(f"{path}: holds something else than failures of an earlier run; choose another --errors")


@contextlib.contextmanager
def _errors(path: Path | None) -> Iterator[FileIO | None]:
    if path is None:
        yield None
        return
    try:
        # Unbuffered, so that each line is there once it is known.
        file = path.open("wb", buffering=0)
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        yield file
