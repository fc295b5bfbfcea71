"""What an engine is asked for, and what it answers; no engine is named here."""

from __future__ import annotations

import typing
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.config import DecodingOptions

if TYPE_CHECKING:
    from captioner.devices import Precision  # which brings torch, seconds that the beginning of a command would wait


@dataclass(frozen=True)
class ImageFile:
    """A file as it was when it was listed.

    Attributes
    ----------
    path : str
        As it was given, or below the folder that was given.
    size : int
        Bytes; 0 if it was not there.
    mtime_ns : int
        When it was last changed, nanoseconds since 1970; 0 if it was not there.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Job:
    """How files are to be captioned. Plain values, so that it can be sent to another process.

    Attributes
    ----------
    checkpoint : Path
        Folder of the model.
    model : str
        The first 12 digits of its weights' hash, by which a record names it.
    options : DecodingOptions
        How words are searched for.
    device, precision
        See `Captioner.load`.
    batch_size, workers : int, optional
        See `Captioner.attempt_many`.
    attention : {"none", "npz", "png"}
        What is written of where the model looked.
    attention_folder : Path, optional
        Where it is written.
    """

    checkpoint: Path
    model: str
    options: DecodingOptions
    device: str = "auto"
    precision: Precision = "auto"
    batch_size: int | None = None
    workers: int | None = None
    attention: typing.Literal["none", "npz", "png"] = "none"
    attention_folder: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes
    ----------
    file : ImageFile
        The file.
    record : dict, optional
        Its line of output; None if it could not be read.
    error : str, optional
        Why it could not.
    """

    file: ImageFile
    record: dict[str, Any] | None
    error: str | None = None


# Takes files as they are needed and gives each one's outcome, in any order, as soon as it is known.
Engine = Callable[[Iterable[ImageFile], Job], Generator[Outcome, None, None]]
