"""A photo's line of output: what it holds, and how a file of such lines is read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.batch.attention_files import save_attention
from captioner.batch.hashes import hash64
from captioner.batch.job import ImageFile, Job, Outcome
from captioner.config import DecodingOptions
from captioner.errors import CaptionerError, ImageReadError

if TYPE_CHECKING:
    from captioner.devices import Precision
    from captioner.pipeline import Caption

Record = dict[str, Any]
# What a line must hold to be taken for a record; the other fields are for its readers.
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "image": str,
    "caption": str,
    "log_prob": (int, float),
    "width": int,
    "height": int,
    "size": int,
    "mtime_ns": int,
    "model": str,
    "decoding": dict,
}
_DEFAULTS = DecodingOptions().to_dict()
_START = b'{"image": "'


def outcome(file: ImageFile, result: Caption | ImageReadError, job: Job) -> Outcome:
    """Put what became of a photo as a record; its attention is written to a file first, if the job asks for one.

    Parameters
    ----------
    file : ImageFile
    result : Caption or ImageReadError
    job : Job
        Its precision is the one that was computed in.

    Raises
    ------
    CaptionerError
        If attention cannot be written.
    """
    if isinstance(result, ImageReadError):
        return Outcome(file, None, str(result))
    record = describe(file.path, result)
    if job.attention != "none":
        assert job.attention_folder is not None, "a job that asks for attention says where it goes"
        try:
            record["attention"] = save_attention(file.path, result, job.attention, job.attention_folder)
        except ImageReadError as error:
            return Outcome(file, None, str(error))
    record |= {
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "model": job.model,
        "precision": job.precision,
        "decoding": job.options.to_dict(),
    }
    return Outcome(file, record)


def describe(image: str, caption: Caption) -> Record:
    """Put a caption as the fields that do not depend on where the photo came from."""
    return {
        "image": image,
        "caption": caption.text,
        "words": list(caption.words),
        "log_prob": round(caption.log_prob, 4),
        "word_probs": [round(p, 4) for p in caption.word_probs],
        "width": caption.width,
        "height": caption.height,
    }


def to_line(record: Record) -> bytes:
    """Encode as one line of JSON."""
    # What UTF-8 cannot hold are the surrogates of file names that are no UTF-8; as \udc80 they are JSON, too.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def read_records(lines: Iterable[bytes], name: str) -> Iterator[tuple[bytes, Record]]:
    """Give each whole line and its record; a last line that a stopped run has torn is left out.

    Parameters
    ----------
    lines : binary file
        Read as it is needed.
    name : str
        Of the file, for errors.

    Raises
    ------
    CaptionerError
        At a line that is no record.
    """
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        # Only what begins like a record, or is one but for its end, is taken for a torn one: it is going to be cut off.
        begun = record is None and (line.startswith(_START) or _START.startswith(line))
        if not line.endswith(b"\n") and (begun or _is_record(record)):
            return
        if not _is_record(record):
            raise CaptionerError(
                f"{name}:{number}: not a line that this command has written; nothing was changed. Mend or delete the "
                "line, choose another --output, or start anew with --existing overwrite"
            )
        yield line, record


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), kind) for name, kind in _NEEDED.items())
        and isinstance(value.get("attention", ""), str)
        and _is_path(value["image"])
    )


def _is_path(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half a surrogate pair that stands for no byte of a name
        return False


def identity(record: Record, precision: Precision) -> int:
    """Hash of what makes a record good for a file of a job, which asks for a precision; see `wanted`."""
    kind = Path(record["attention"]).suffix[1:] if "attention" in record else "none"
    # A record that is older than a setting was made with what is now its default.
    decoding = _DEFAULTS | record["decoding"]
    made_in = "auto" if precision == "auto" else record.get("precision")
    return _identity(record["image"], record["size"], record["mtime_ns"], record["model"], made_in, decoding, kind)


def wanted(file: ImageFile, job: Job) -> int:
    """Hash that the record of this file has, if it is done: same file, unchanged, same model and options.

    A job that asks for no precision takes either.
    """
    return _identity(
        file.path, file.size, file.mtime_ns, job.model, job.precision, job.options.to_dict(), job.attention
    )


def _identity(*parts: object) -> int:
    return hash64(json.dumps(parts, sort_keys=True))
