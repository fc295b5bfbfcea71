"""Evaluation while the machine fails: kills, full disks, signals, two runs at once, nobody to print to."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from captioner.evaluation.results import Evaluation
from captioner.files import in_use
from tests.batch.conftest import save_tiny
from tests.conftest import write_flickr
from tests.stress.machine import (
    contents,
    end,
    full_output,
    limit_files,
    mount,
    small_disk,
    stopped,
    unread_output,
    wait_until,
)
from tests.training.runs import EVALUATE, Run, nothing, start_program

Effort = Callable[..., int]
Tally = Callable[[str], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a model, and what an undisturbed run finds."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_flickr(folder / "flickr8k")
    save_tiny(folder / "tiny", 0)
    (folder / "recipe.toml").write_text('[data]\nroot = "flickr8k"\n[encoder]\nname = "resnet18"\n')
    code, output = end(start(folder, "whole"))
    assert code == 0, output
    return folder


def start(folder: Path, output: str, prepare: Callable[[], object] = nothing) -> Run:
    options = ["--data", "recipe.toml", "--beam", "1", "2", "--device", "cpu", "--output", output]
    # Without Java, which takes its seconds and has tests of its own.
    return start_program(folder, EVALUATE, "tiny", *options, prepare=prepare, PATH=str(folder))


def whole(folder: Path) -> int:
    """How many files there are, of which none is a half."""
    files = [path for path in folder.glob("*") if not path.name.startswith(".")]
    for path in files:
        if path.suffix == ".json":
            Evaluation.load(path)
        else:
            assert path.read_text().rstrip().endswith("</html>")
    return len(files)


@pytest.mark.timeout(3000)
def test_a_killed_or_stopped_run_leaves_whole_files_and_another_ends_the_work(
    workplace: Path, effort: Effort, tally: Tally
) -> None:
    begun = time.monotonic()
    assert end(start(workplace, "again"))[0] == 0
    seconds = time.monotonic() - begun
    draw = random.Random(0)
    found: Counter[str] = Counter()
    for turn in range(effort(1, 10)):
        output = f"found{turn}"
        for number in (signal.SIGKILL, *SIGNALS)[:: effort(2, 1)]:
            (workplace / output / ".lock").unlink(missing_ok=True)
            left = set((workplace / output).glob("*.partial"))  # by a run that was killed
            run = start(workplace, output)
            wait_until((workplace / output / ".lock").exists, run)
            time.sleep(draw.uniform(0, 0.3 * seconds))
            run.send_signal(number)
            if number == signal.SIGKILL:
                run.communicate()
                code = run.returncode
            else:
                code, _ = end(run)
                assert set((workplace / output).glob("*.partial")) <= left
            assert code in {0, -9 if number == signal.SIGKILL else 128 + number}
            found[f"exit {code}, files {'all' if whole(workplace / output) == 3 else 'some'}"] += 1
        assert end(start(workplace, output))[0] == 0
        assert contents(workplace / output) == contents(workplace / "whole")
    assert [ending for ending in found if not ending.startswith(("exit 0,", "exit -9,"))]
    tally(f"evaluation, SIGKILL, SIGINT, SIGTERM and SIGHUP: {dict(sorted(found.items()))}; then as an undisturbed one")


@pytest.mark.timeout(3000)
def test_a_full_disk_is_one_line_and_a_second_run_ends_the_work(workplace: Path, effort: Effort, tally: Tally) -> None:
    found = 0
    sizes = [len(content) for content in contents(workplace / "whole").values()]
    for size in [max(sizes) - 1, 100, sorted(sizes)[1] - 1][: effort(1, 3)]:
        code, printed = end(start(workplace, f"limited{size}", partial(limit_files, size)))
        assert code == 1
        assert re.match(r"evaluate\.py: limited.*: cannot be written \(File too large\)$", printed.splitlines()[-1])
        assert whole(workplace / f"limited{size}") < 3
        found += 1
    kilobytes = sum(sizes) // 1024
    for room in [kilobytes - 8, 4, kilobytes // 4, kilobytes // 2][: effort(1, 4)]:
        with small_disk(workplace / "disk", room) as disk:
            code, printed = end(start(workplace, "disk/found"))
            assert code == 1
            assert "cannot be written (No space left on device)" in printed.splitlines()[-1]
            assert whole(disk / "found") < 3
            assert mount("-o", "remount,size=64m", str(disk))
            assert end(start(workplace, "disk/found"))[0] == 0
            assert contents(disk / "found") == contents(workplace / "whole")
            found += 1
    tally(f"evaluation on a full disk: {found} of {found} one line and exit 1, then as an undisturbed one")


def test_a_second_run_on_one_output_is_refused(workplace: Path) -> None:
    first = start(workplace, "shared")
    wait_until(partial(in_use, workplace / "shared"), first)
    with stopped(first):
        code, printed = end(start(workplace, "shared"))
    assert code == 1
    assert printed == "evaluate.py: shared: another run is writing it; wait for its end, or choose another --output\n"
    assert end(first)[0] == 0
    assert contents(workplace / "shared") == contents(workplace / "whole")


def test_standard_output_that_is_full_or_that_nobody_reads(workplace: Path) -> None:
    code, printed = end(start(workplace, "full", full_output))
    assert code == 1
    assert printed.splitlines()[-1] == "evaluate.py: standard output: cannot be written (No space left on device)"
    assert end(start(workplace, "unread", unread_output))[0] == 0
    # All is kept before any of it is shown.
    assert contents(workplace / "unread") == contents(workplace / "whole")
    assert whole(workplace / "full") == 3
