"""Captioning many photos while the machine fails: kills, full disks, signals, photos that change under way."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.batch.run import journal_path
from tests.batch.conftest import names, rows, save_tiny
from tests.conftest import noise_photo, write_flickr
from tests.stress.machine import (
    become_nobody,
    contents,
    end,
    everybodys_folder,
    full_output,
    ignore_hangup,
    lay_out,
    limit_files,
    mount,
    small_disk,
    take_terminal,
    turn_clock_back,
    unread_output,
    wait_until,
)
from tests.training.runs import CAPTIONER, Run, nothing, start_program

Effort = Callable[..., int]
Tally = Callable[[str], None]
# What is written, and the files that a run with these options makes of it.
KINDS = {
    "jsonl": ["--output", "out/c.jsonl"],
    "csv": ["--format", "csv", "--output", "out/c.csv"],
    "coco": ["--format", "coco", "--output", "out/c.json"],
    "hf": ["--format", "hf", "--output", "photos/metadata.jsonl"],
    "txt": ["--format", "txt"],
    "jsonl, npz": ["--output", "out/c.jsonl", "--attention", "npz"],
    "csv, png": ["--format", "csv", "--output", "out/c.csv", "--attention", "png"],
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    # The first takes seconds, the others what their work takes.
    start_program(folder, CAPTIONER, "--help").communicate()
    return save_tiny(folder / "tiny", 0)


def start(folder: Path, tiny: Path, *options: str, prepare: Callable[[], object] = nothing) -> Run:
    arguments = ["photos", "--checkpoint", str(tiny), "--device", "cpu", "--precision", "float32", "--batch-size", "1"]
    return start_program(folder, CAPTIONER, "caption", *arguments, *options, prepare=prepare, log=folder.parent)


def finish(folder: Path, tiny: Path, *options: str) -> str:
    code, output = end(start(folder, tiny, *options))
    assert code == 0, output
    return output


def done(folder: Path, kind: str) -> int:
    """How many photos are captioned so far; what there is of each is whole."""
    if kind == "txt":
        texts = [path.read_text() for path in (folder / "photos").glob("*.txt")]
        assert all(text.endswith("\n") for text in texts)
        return len(texts)
    output = folder / KINDS[kind][KINDS[kind].index("--output") + 1]
    journal = journal_path(output, kind.split(",")[0])
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    records = [json.loads(line) for line in lines if line.endswith(b"\n")]
    assert len(records) >= len(lines) - 1
    for record in records:
        if "attention" in record:
            file = output.parent / record["attention"]
            if file.suffix == ".npz":
                assert len(np.load(file)["attention"])
            else:
                Image.open(file).load()
    if output != journal and output.exists():
        _read_whole(output)
    return len(records)


def _read_whole(output: Path) -> None:
    if output.suffix == ".json":
        assert all("caption" in row for row in json.loads(output.read_text()))
    elif output.suffix == ".csv":
        with output.open(newline="") as file:
            assert all(len(row) == 5 for row in csv.reader(file))
    else:
        rows(output)


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob("*.partial"))


@pytest.mark.timeout(3000)
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path, tiny: Path, effort: Effort, tally: Tally) -> None:
    draw = random.Random(0)
    found: Counter[str] = Counter()
    kinds = list(KINDS)[:: effort(4, 1)]
    for kind in kinds:
        whole = lay_out(tmp_path / kind / "whole", 80)
        begun = time.monotonic()
        finish(whole, tiny, *KINDS[kind])
        seconds = time.monotonic() - begun
        for turn in range(effort(1, 4)):
            killed = lay_out(tmp_path / kind / str(turn), 80)
            before = 0
            for number in range(effort(2, 3)):
                run = start(killed, tiny, *KINDS[kind])
                if number == 0:
                    wait_until(lambda: done(killed, kind) > 0, run)  # noqa: B023
                else:
                    time.sleep(draw.uniform(0.1, 0.7) * seconds)
                run.send_signal(signal.SIGKILL)
                run.communicate()
                count = done(killed, kind)
                assert count >= before, "a caption that was written is lost"
                found["after all" if count == 80 else "amid the work" if count else "before any caption"] += 1
                before = count
            finish(killed, tiny, *KINDS[kind])
            assert done(killed, kind) == 80
            assert contents(whole) == contents(killed)
            assert not leftovers(killed)
    assert found["amid the work"]
    tally(f"batch captioning killed -9, {len(kinds)} formats: {dict(found)}; each ended as an undisturbed run")


def test_a_run_killed_right_after_a_row_has_it(tmp_path: Path, tiny: Path, effort: Effort, tally: Tally) -> None:
    kills = effort(2, 20)
    # More than are captioned before the last kill.
    total = 400 * kills
    folder = lay_out(tmp_path / "run", total)
    journal = folder / "out" / "c.csv.jsonl"
    draw = random.Random(0)
    count = 0
    for kill in range(kills):
        run = start(folder, tiny, *KINDS["csv"])
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > count, run)  # noqa: B023
        time.sleep(draw.uniform(0, 0.1))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        now = journal.read_bytes().count(b"\n")
        assert now > count, "a row that was finished is lost, or none was"
        count = now
        # A write that the machine, not the process, was stopped in.
        with journal.open("ab") as file:
            file.write(b'{"image": "' + b"x" * kill)
    assert count < total, "all was done before the kills"
    finish(folder, tiny, *KINDS["csv"], "--limit", str(count + 1))
    assert len(set(names(journal))) == len(names(journal)) == count + 1
    tally(f"batch captioning killed -9 right after a row, its line torn: {kills} of {kills} runs went on")


@pytest.mark.timeout(3000)
def test_a_full_disk_is_one_line_and_a_second_run_ends_the_work(
    tmp_path: Path, tiny: Path, effort: Effort, tally: Tally
) -> None:
    """By a limit on the size of files, in which a run as anybody can be caught."""
    full = 0
    kinds = [kind for kind in KINDS if kind != "txt"][:: effort(6, 1)]
    for kind in kinds:
        whole, short = (lay_out(tmp_path / kind / name, 30) for name in ("whole", "short"))
        finish(whole, tiny, *KINDS[kind])
        for size in [900, 300, 3000, 6000][: effort(1, 4)]:
            code, output = end(start(short, tiny, *KINDS[kind], prepare=partial(limit_files, size)))
            assert code == 1
            assert "cannot be written (File too large)" in output
            assert len(output.splitlines()) == 1
            assert done(short, kind) < 30
            full += 1
        finish(short, tiny, *KINDS[kind])
        assert contents(whole) == contents(short)
        assert not leftovers(short)
    tally(f"batch captioning, files that may not grow: {full} of {full} runs were one line and exit 1, then went on")


@pytest.mark.timeout(3000)
def test_a_disk_that_is_full_for_real(tmp_path: Path, tiny: Path, effort: Effort, tally: Tally) -> None:
    full = 0
    kinds = list(KINDS)[effort(4, 0) : effort(5, 7)]
    for kind in kinds:
        whole = lay_out(tmp_path / kind / "whole", 30)
        finish(whole, tiny, *KINDS[kind])
        for kilobytes in [24, 4, 40][: effort(1, 3)]:
            short = lay_out(tmp_path / kind / f"short{kilobytes}", 30)
            # Text files lie among the photos, and these take room, too.
            place = short / ("photos" if kind in {"txt", "hf"} else "out")
            room = sum(4 for photo in (short / "photos").iterdir()) if place.name == "photos" else 0
            with small_disk(tmp_path / "disk", kilobytes + room) as disk:
                shutil.copytree(place, disk, dirs_exist_ok=True)
                shutil.rmtree(place)
                place.symlink_to(disk)
                code, output = end(start(short, tiny, *KINDS[kind]))
                if code != 0:
                    assert code == 1
                    assert "cannot be written (No space left on device)" in output
                    assert len(output.splitlines()) == 1
                    assert done(short, kind) < 30 or kind in {"csv", "coco", "hf"}
                    full += 1
                assert mount("-o", "remount,size=64m", str(disk))
                finish(short, tiny, *KINDS[kind])
                assert done(short, kind) == 30
                assert not leftovers(disk)
                place.unlink()
                shutil.copytree(disk, place)
            if kind != "hf":
                assert contents(whole) == contents(short)
    assert full
    tally(f"batch captioning on a full disk, {len(kinds)} formats: {full} of {full} one line and exit 1, then ended")


@pytest.mark.timeout(3000)
def test_a_signal_keeps_the_rows_makes_the_format_and_leaves_nothing_else(
    tmp_path: Path, tiny: Path, effort: Effort, tally: Tally
) -> None:
    draw = random.Random(1)
    found: Counter[str] = Counter()
    for kind in list(KINDS)[effort(1, 0) : effort(2, 7)]:
        photos = effort(1000, 400)
        folder = lay_out(tmp_path / kind, photos)
        before = 0
        for number in SIGNALS * effort(1, 5):
            run = start(folder, tiny, *KINDS[kind])
            with contextlib.suppress(pytest.fail.Exception):  # all may be done
                wait_until(lambda: done(folder, kind) > before, run)  # noqa: B023
            time.sleep(draw.uniform(0, 0.1))
            run.send_signal(number)
            code, output = end(run)
            assert code in {0, 128 + number}
            assert not leftovers(folder)
            count = done(folder, kind)
            assert count >= before
            if code:
                assert output.startswith(f"{count - before} captioned, {before} skipped, 0 failed")
            if kind == "csv":
                assert len((folder / "out" / "c.csv").read_text().splitlines()) == count + 1
            before = count
            found[f"exit {code}"] += 1
        finish(folder, tiny, *KINDS[kind])
        assert done(folder, kind) == photos
    assert {"exit 129", "exit 130", "exit 143"} <= set(found)
    tally(f"batch captioning, SIGINT, SIGTERM and SIGHUP: {dict(sorted(found.items()))}; all rows kept")


def test_the_end_of_the_terminal_ends_the_run_but_not_under_nohup(tmp_path: Path, tiny: Path) -> None:
    folder = lay_out(tmp_path / "run", 2000)
    ours, terminal = os.openpty()
    run = start(folder, tiny, *KINDS["csv"], prepare=partial(take_terminal, os.ttyname(terminal)))
    os.close(terminal)
    wait_until(lambda: done(folder, "csv"), run)
    os.close(ours)
    run.communicate()
    assert run.returncode == 129
    count = done(folder, "csv")
    assert len((folder / "out" / "c.csv").read_text().splitlines()) == count + 1
    run = start(folder, tiny, *KINDS["csv"], prepare=ignore_hangup)
    wait_until(lambda: done(folder, "csv") > count, run)
    run.send_signal(signal.SIGHUP)
    assert end(run)[0] == 0
    assert done(folder, "csv") == 2000


def test_nobody_is_told_what_may_not_be_read_or_written(tiny: Path, tally: Tally) -> None:
    with everybodys_folder() as place:
        shutil.copytree(tiny, place / "tiny")
        run = lay_out(place / "run", 6)
        for path in (run, *run.rglob("*")):
            path.chmod(0o777)
        secret = run / "photos" / "photo9.jpg"
        noise_photo(9).save(secret)
        secret.chmod(0)
        (run / "photos" / "closed").mkdir(mode=0)
        code, output = end(start(run, place / "tiny", *KINDS["jsonl"], "--recursive", prepare=become_nobody))
        assert code == 3
        assert "photos/photo9.jpg: cannot be opened (Permission denied)" in output
        assert "photos/closed: the folder cannot be listed (Permission denied)" in output
        assert len(rows(run / "out" / "c.jsonl")) == 6
        (run / "out").chmod(0o555)
        for kind in KINDS:
            (run / "photos").chmod(0o555)
            code, output = end(start(run, place / "tiny", *KINDS[kind], "--limit", "3", prepare=become_nobody))
            if kind in {"jsonl", "jsonl, npz"}:
                continue  # what is there already may be written
            assert code == (3 if kind == "txt" else 1)
            assert "cannot be written" in output
            assert len(output.splitlines()) == (4 if kind == "txt" else 1), output
    tally("photos and folders that may not be read, outputs that may not be written: all told, exit 3 and 1")


def test_a_disk_that_may_only_be_read(tmp_path: Path, tiny: Path) -> None:
    run = lay_out(tmp_path / "run", 3)
    finish(run, tiny, *KINDS["jsonl"])
    with small_disk(tmp_path / "disk", 256) as disk:
        shutil.copytree(run / "out", disk, dirs_exist_ok=True)
        shutil.rmtree(run / "out")
        (run / "out").symlink_to(disk)
        before = contents(disk)
        if not mount("-o", "remount,ro", str(disk)):
            pytest.skip("no disk may be mounted here")
        for kind in ("jsonl", "csv"):
            code, output = end(start(run, tiny, *KINDS[kind], "--existing", "overwrite"))
            assert code == 1
            assert "cannot be written (Read-only file system)" in output
        assert contents(disk) == before


PRINTING = [
    ["caption", "photos"],
    ["caption", "photos", "--format", "csv"],
    ["caption", "photos", "--dry-run"],
    ["data", "check", "recipe.toml"],
]


@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_standard_output_that_is_full_or_that_nobody_reads(tmp_path: Path, tiny: Path, command: list[str]) -> None:
    run = lay_out(tmp_path / "run", 3)
    write_flickr(run / "flickr8k")
    (run / "recipe.toml").write_text('[data]\nroot = "flickr8k"\n[encoder]\nname = "resnet18"\n')
    options = ["--checkpoint", str(tiny), "--device", "cpu"] if command[0] == "caption" else []
    code, output = end(start_program(run, CAPTIONER, *command, *options, prepare=full_output))
    assert code == 1
    assert output.splitlines()[-1] == "captioner: standard output: cannot be written (No space left on device)"
    code, output = end(start_program(run, CAPTIONER, *command, *options, prepare=unread_output))
    assert code == 0
    assert "captioner:" not in output


def test_a_clock_that_jumps_back_changes_nothing(tmp_path: Path, tiny: Path) -> None:
    steady, jumping = (lay_out(tmp_path / name, 12) for name in ("steady", "jumping"))
    finish(steady, tiny, *KINDS["csv"])
    run = start(jumping, tiny, *KINDS["csv"], "--limit", "5", prepare=turn_clock_back)
    code, output = end(run)
    assert code == 0
    assert output.startswith("5 captioned, 0 skipped, 0 failed, ")
    assert float(output.split()[-2]) > 0
    run = start(jumping, tiny, *KINDS["csv"], prepare=turn_clock_back)
    assert "7 captioned, 5 skipped, 0 failed, " in end(run)[1]
    assert contents(steady) == contents(jumping)


def test_two_runs_that_write_text_files_beside_the_same_photos(tmp_path: Path, tiny: Path) -> None:
    together, alone = (lay_out(tmp_path / name, 60) for name in ("together", "alone"))
    finish(alone, tiny, *KINDS["txt"])
    options = [*KINDS["txt"], "--existing", "overwrite"]
    runs = [start(together, tiny, *options) for _ in range(2)]
    assert [end(run)[0] for run in runs] == [0, 0]
    assert contents(together) == contents(alone)
