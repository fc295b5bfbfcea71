"""Faults of the machine, for tests to bring about: disks that fill up, users who may do little, clocks that jump."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tqdm.std

from tests.conftest import noise_photo
from tests.training.runs import ROOT, Run

NOBODY = 65534


def become_nobody() -> None:
    """Give up all rights of root."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def limit_files(size: int) -> None:
    """Let no file grow past `size` bytes; Python ignores the signal, so that a write fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full_output() -> None:
    """Print to a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def unread_output() -> None:
    """Print to a pipe whose reader is gone, as `| head -0` is."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def turn_clock_back() -> None:
    """Have the clock on the wall jump back an hour at every tenth look at it."""
    real, looks = time.time, 0

    def jumping() -> float:
        nonlocal looks
        looks += 1
        return real() - 3600 * (looks // 10)

    time.time = tqdm.std.time = jumping  # the bar took its own hold of it


def take_terminal(name: str) -> None:
    """Belong to a terminal, and so get SIGHUP when it is closed."""
    os.setsid()
    terminal = os.open(name, os.O_RDWR)
    for number in range(3):
        os.dup2(terminal, number)


def ignore_hangup() -> None:
    """Start as `nohup` starts programs."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a disk of its own, which takes a root who may."""
    place.mkdir(exist_ok=True)
    mounted = mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))
    if not mounted:
        pytest.skip("no disk may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def everybodys_folder() -> Iterator[Path]:
    """Make a folder that nobody may write, which takes root; skip the test if nobody may not even read this code."""
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    seen = subprocess.run(["test", "-r", str(ROOT / "train.py")], user=NOBODY, check=False)
    if seen.returncode != 0:
        pytest.skip("this folder is closed to others")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def end(run: Run) -> tuple[int, str]:
    """Wait for the end: exit code and all that was printed, which holds no traceback."""
    output, _ = run.communicate(timeout=250)
    assert "Traceback" not in output, output
    assert "Exception" not in output, output
    assert run.returncode is not None
    return run.returncode, output


def wait_until(ready: object, run: Run, seconds: float = 200) -> None:
    """Wait for `ready()`, unless the run ends before."""
    assert callable(ready)
    deadline = time.monotonic() + seconds
    while not ready():
        if run.poll() is not None:
            pytest.fail(f"ended too early: {run.communicate()[0]}")
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.002)


@contextmanager
def stopped(run: Run) -> Iterator[None]:
    """Let a run stand still meanwhile: it keeps its locks, and cannot end before another has met it."""
    run.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        run.send_signal(signal.SIGCONT)


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder by their names, hidden ones, too; their own folder's name is left out of what they hold."""
    here = str(folder.resolve()).encode()
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(here, b"HERE")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lay_out(folder: Path, photos: int) -> Path:
    """A folder to run in, with photos in it and a folder for the output."""
    (folder / "photos").mkdir(parents=True)
    (folder / "out").mkdir()
    store = folder.parent / "store"
    store.mkdir(exist_ok=True)
    for index in range(photos):
        original = store / f"{index % 5}.jpg"
        if not original.exists():
            noise_photo(index % 5).save(original)
            os.utime(original, (2**31, 2**31))  # after now, of which nothing is to depend
        os.link(original, folder / "photos" / f"photo{index}.jpg")
    return folder
