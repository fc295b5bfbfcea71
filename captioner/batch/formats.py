"""What records are turned into: rows of JSON, CSV, COCO's results, Hugging Face's metadata."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.batch.hashes import HashSet, hash64
from captioner.batch.records import Record, to_line
from captioner.files import replacing, where
from captioner.paths import exists

_COLUMNS = ("image", "caption", "log_prob", "width", "height")


@dataclass(frozen=True)
class Layout:
    """A file format.

    Attributes
    ----------
    row : callable
        Turns a record into its row; None if it has none.
    opening, between, closing : bytes
        What stands before, between and after the rows.
    order : callable
        Puts the records of a whole file in the order of its rows.
    """

    row: Callable[[Record], bytes | None]
    opening: bytes = b""
    between: bytes = b""
    closing: bytes = b""
    order: Callable[[Iterable[Record]], Iterable[Record]] = iter

    def lay_out(self, records: Iterable[Record]) -> Iterator[bytes]:
        """Give the file in pieces."""
        yield self.opening
        between = b""
        for record in self.order(records):
            row = self.row(record)
            if row is not None:
                yield between + row
                between = self.between
        yield self.closing

    def save(self, records: Iterable[Record], path: Path) -> None:
        """Write the file, in the place of one that may be there.

        Raises
        ------
        CaptionerError
            If it cannot be written.
        """
        with replacing(path) as file:
            file.writelines(self.lay_out(records))


def jsonl() -> Layout:
    """Give every field, as the records are."""
    return Layout(to_line)


def comma_separated(columns: Sequence[str] = _COLUMNS) -> Layout:
    """Give CSV; no cell is one that a spreadsheet would run as a formula."""
    return Layout(lambda record: _csv(_harmless(record[name]) for name in columns), opening=_csv(columns))


def _csv(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    # Lines end as RFC 4180 has it; with "\n" alone, the writer would leave a name that holds "\r" unquoted.
    csv.writer(text).writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def coco(left_out: Callable[[str], None]) -> Layout:
    """Give the array of results that COCO's scorers read.

    A photo that is not there any more gives its id up to one that is: it may have been renamed for that.

    Parameters
    ----------
    left_out : callable
        Told of each photo whose id is another one's already: the scorers refuse two captions for an id.
    """
    seen = HashSet()

    def row(record: Record) -> bytes | None:
        image_id = coco_id(record["image"])
        if not seen.add(hash64(repr(image_id))):
            if exists(Path(record["image"])):
                left_out(
                    f"left out: {record['image']}: image_id {image_id} is another photo's already; rename this one"
                )
            return None
        return to_line({"image_id": image_id, "caption": record["caption"]}).rstrip(b"\n")

    return Layout(row, opening=b"[\n", between=b",\n", closing=b"\n]\n", order=_present_first)


def _present_first(records: Iterable[Record]) -> Iterator[Record]:
    with tempfile.TemporaryFile() as gone:  # not in memory: all are, if a disk is not there
        for record in records:
            if exists(Path(record["image"])):
                yield record
            else:
                gone.write(to_line(record))
        gone.seek(0)
        yield from map(json.loads, gone)


def coco_id(image: str) -> int | str:
    """Give the number at the end of the file's stem, as in COCO_val2014_000000391895; without one, the whole stem."""
    stem = Path(image).stem
    number = re.search(r"[0-9]+$", stem)
    return int(number[0]) if number else stem


def hugging_face(folder: Path) -> Layout:
    """Give the `metadata.jsonl` of a folder of images.

    Rows of photos that are not below the folder (any more) are left out: the folder may have been moved.

    Parameters
    ----------
    folder : Path
        Where the file lies.
    """
    home = Path(os.path.realpath(folder))

    def row(record: Record) -> bytes | None:
        place = where(Path(record["image"]))
        if not place.is_relative_to(home) or not exists(place):
            return None
        return to_line({"file_name": place.relative_to(home).as_posix(), "text": record["caption"]})

    return Layout(row)
