"""Photos that change while they are captioned, or are none."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from captioner.batch.job import ImageFile, Job, Outcome
from captioner.batch.local import run_local
from captioner.cli import main
from tests.batch.conftest import names, save_tiny
from tests.stress.machine import lay_out

Effort = Callable[..., int]
Tally = Callable[[str], None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", 0)


def vanish(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.unlink()
    path.touch()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def listen(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have some hundred characters only
        server.bind(path.name)
        os.chdir(here)


def zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def all_gone(path: Path) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)


def sabotaging(
    files: Iterable[ImageFile], job: Job, *, fate: Mapping[str, Callable[[Path], None]]
) -> Iterator[Outcome]:
    """The engine, which lets photos meet their fate after they were listed."""

    def handed() -> Iterator[ImageFile]:
        for file in files:
            path = Path(file.path)
            if path.name in fate:
                fate[path.name](path)
            yield file

    yield from run_local(handed(), job)


SABOTAGES = (vanish, cut, empty, pipe, listen, zeros, folder, nowhere)


@pytest.mark.timeout(600)
def test_photos_that_change_between_listing_and_reading_fail_alone(
    tmp_path: Path,
    tiny: Path,
    effort: Effort,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw = random.Random(2)
    count = 0
    for turn in range(effort(1, 25)):
        run = lay_out(tmp_path / str(turn), 24)
        fate: dict[str, Callable[[Path], None]] = {f"photo{index}.jpg": SABOTAGES[index] for index in range(8)}
        fate |= {f"photo{index}.jpg": draw.choice(SABOTAGES) for index in range(8, 16)}
        if turn % 2:
            fate["photo20.jpg"] = all_gone  # and with it those after it

        monkeypatch.setattr("captioner.batch.local.run_local", partial(sabotaging, fate=fate))
        output = run / "out" / "c.jsonl"
        arguments = [str(run / "photos"), "--output", str(output), "--checkpoint", str(tiny), "--device", "cpu"]
        assert main(["caption", *arguments, "--batch-size", "1", "--workers", "1"]) == 3
        errors = capsys.readouterr().err.splitlines()
        failed = [line for line in errors if line.startswith("failed: ")]
        assert {name for line in failed for name in fate if f"/{name}: " in line} >= {*fate} - {"photo20.jpg"}
        kept = names(output)
        assert not {*kept} & ({*fate} - {"photo20.jpg"})
        assert len(kept) == 24 - len(failed)
        count += len(failed)
    tally(f"photos that vanished, changed or became a pipe, socket or device when read: {count}, each failed alone")


@pytest.mark.parametrize("sabotage", [pipe, listen, zeros, folder, nowhere, vanish, empty])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, tiny: Path, sabotage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = lay_out(tmp_path / "run", 2)
    photo = run / "photos" / "photo1.jpg"
    sabotage(photo)
    if sabotage is folder:
        (photo / "x.txt").touch()
    arguments = ["caption", str(run / "photos" / "photo0.jpg"), str(photo), "--checkpoint", str(tiny)]
    assert main([*arguments, "--device", "cpu"]) == (1 if sabotage is folder else 3)
    assert str(photo) in capsys.readouterr().err
