"""Photos from strangers: whatever their bytes, each becomes an RGB picture or an error that names it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner import pipeline
from captioner.errors import ImageReadError
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Captioner
from captioner.vocabulary import Vocabulary
from tests.stress.mutants import mutant
from tests.stress.reader import MOST_MEGABYTES, MOST_SECONDS, ROOT, read_apart


def test_mutants_are_read_or_refused(
    tmp_path: Path, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    count = effort(400, 10_000)
    found = list(read_apart(range(count), tmp_path / "mutant"))
    assert len(found) == count
    assert [one for one in found if one["end"] not in ("read", "refused")] == []
    slowest, largest = (max(one[cost] for one in found) for cost in ("seconds", "megabytes"))
    assert slowest < MOST_SECONDS
    assert largest < MOST_MEGABYTES
    ends = Counter(one["end"] for one in found)
    assert min(ends["read"], ends["refused"]) > count / 5  # or the damage is too small or too great to tell anything
    tally(
        f"images, loader: {count:,} mutants, {ends['read']:,} read and {ends['refused']:,} refused, none otherwise; "
        f"at most {slowest:.1f} s and {largest} MB"
    )


def test_mutants_on_the_command_line(
    tmp_path: Path, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    count = effort(150, 10_000)
    photos, output, errors = tmp_path / "photos", tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    photos.mkdir()
    for seed in range(count):
        # Others than those above.
        found = mutant(10**6 + seed)
        (photos / f"{seed}.{found.suffix}").write_bytes(found.data)
    command = [sys.executable, "-c", _WITH_PEAK, "caption", str(photos), "--output", str(output)]
    result = subprocess.run([*command, "--errors", str(errors)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 3, result.stderr
    captioned, failed = (
        [Path(json.loads(line)["image"]).name for line in file.read_text().splitlines()] for file in (output, errors)
    )
    assert sorted(captioned + failed) == sorted(path.name for path in photos.iterdir())
    *noise, summary, peak = result.stderr.splitlines()
    assert summary.startswith(f"{len(captioned)} captioned, 0 skipped, {len(failed)} failed")
    # What libtiff says of a damaged TIFF, two threads at once now and then, cannot be hushed; nothing else is said.
    assert [line for line in noise if any(map(str.isalpha, line)) and not _LIBTIFF.search(line)] == []
    assert int(peak) < 2500
    tally(
        f"images, command line: {count:,} mutants, {len(captioned):,} captioned and {len(failed):,} in --errors, "
        f"none in both or lost; {peak} MB, {summary.rpartition(', ')[2]}"
    )


_WITH_PEAK = """
import re, sys
from pathlib import Path
from captioner.cli import main
code = main(sys.argv[1:])
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024, file=sys.stderr)
sys.exit(code)
"""
_LIBTIFF = re.compile(r"scanline|strip|Decode|TIFF|JPEGLib|Not a JPEG file|^tempfile\.tif: ")


def test_errors_that_wait_for_their_turn_hold_no_pictures(
    tiny_model: ShowAttendTell, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of damaged photos would else be in memory all at once."""

    class Picture:
        pass

    pictures: weakref.WeakSet[Picture] = weakref.WeakSet()

    def damaged(source: object, config: object) -> None:
        picture = Picture()
        pictures.add(picture)
        try:
            raise OSError("cut short")
        except OSError as error:
            raise ImageReadError(f"{source}: {error}") from error

    monkeypatch.setattr(pipeline, "load_pixels", damaged)
    found = [error for _, error in Captioner(tiny_model, vocabulary).attempt_many(["a.jpg", "b.jpg", "c.jpg"])]
    assert [str(error) for error in found] == ["a.jpg: cut short", "b.jpg: cut short", "c.jpg: cut short"]
    assert not pictures
