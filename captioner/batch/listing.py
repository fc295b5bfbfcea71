"""Captioning whole folders as a stream of records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from captioner.config import DecodingOptions
from captioner.errors import CaptionerError, ImageReadError
from captioner.images import SUFFIXES
from captioner.pipeline import Caption, Captioner


@dataclass
class BatchReport:
    """What became of the photos."""

    captioned: int = 0
    failures: list[str] = field(default_factory=list)


def find_images(paths: Iterable[Path]) -> list[Path]:
    """List the files given, and the images of the folders given, in natural order.

    Of a folder, files with an image's suffix are taken; hidden ones and subfolders are not.

    Raises
    ------
    CaptionerError
        If a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()]
        if not inside:
            raise CaptionerError(f"{path}: no image in this folder (looked for {', '.join(SUFFIXES)})")
        found += sorted(inside, key=_natural)
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which photo2 comes before photo10."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", path.name)]


def caption_files(
    captioner: Captioner,
    images: Iterable[Path],
    output: TextIO,
    options: DecodingOptions,
    report: BatchReport,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Write one JSON line per photo, in order, as soon as it is captioned.

    Parameters
    ----------
    output : text file
        Flushed after each line, so that an interruption loses nothing.
    report : BatchReport
        Filled in as it goes.
    advance : callable
        Called after each photo, captioned or not.
    """
    for path, result in captioner.attempt_many(images, options):
        if isinstance(result, ImageReadError):
            report.failures.append(str(result))
        else:
            line = json.dumps(record(str(path), result), ensure_ascii=False) + "\n"
            try:
                output.write(line)
                output.flush()
            finally:
                # An interruption while writing leaves the line in the buffer, which closing the file still writes.
                report.captioned += 1
        advance()


def record(image: str, caption: Caption) -> dict[str, object]:
    """Put a caption as a line of the output file, `image` being the path as it was given."""
    return {
        "image": image,
        "caption": caption.text,
        "words": caption.words,
        "log_prob": round(caption.log_prob, 4),
        "word_probs": [round(p, 4) for p in caption.word_probs],
        "width": caption.width,
        "height": caption.height,
    }
