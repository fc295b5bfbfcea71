"""Training and the extraction of features while the machine fails: kills, full disks, signals, two runs at once."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch

from captioner.checkpoint import is_checkpoint, load_checkpoint, load_training_state
from captioner.checkpoint_files import read_config
from captioner.data.features import FeatureStore
from captioner.errors import DatasetError
from captioner.files import in_use
from tests.conftest import noise_photo
from tests.data.test_features import CPU, build_in_a_process, make_encoder, make_photos
from tests.stress.machine import (
    become_nobody,
    contents,
    end,
    everybodys_folder,
    limit_files,
    mount,
    small_disk,
    stopped,
    turn_clock_back,
    wait_until,
)
from tests.training.runs import TRAIN, Run, forkserver, nothing, start_program
from tests.training.test_at_scale import launch, losses
from tests.training.test_training import finish, metrics, start, wait_for_step, workplace, write_recipe

__all__ = ["workplace"]
Effort = Callable[..., int]
Tally = Callable[[str], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def begin(
    folder: Path, run: str, *options: str, prepare: Callable[[], object] = nothing, log: Path | None = None
) -> Run:
    arguments = ["recipe.toml", "--output", run, "--device", "cpu", *options]
    return start_program(folder, TRAIN, *arguments, prepare=prepare, log=log)


def go_on(folder: Path, run: str, *options: str, prepare: Callable[[], object] = nothing) -> Run:
    """Start a run, or go on with it, as whoever finds it would."""
    resume = ["--resume"] if is_checkpoint(folder / run / "last") else []
    return begin(folder, run, *resume, *options, prepare=prepare)


def assert_same(folder: Path, *runs: str) -> None:
    whole, other = (safetensors.torch.load_file(folder / run / "last" / "model.safetensors") for run in runs)
    assert whole.keys() == other.keys()
    assert all(torch.equal(whole[name], other[name]) for name in whole)
    assert metrics(folder / runs[0]) == metrics(folder / runs[1])
    best = [read_config(folder / run / "best")["notes"] for run in runs]
    assert best[0] == best[1]
    assert {path.name for path in (folder / runs[1]).iterdir() if "tfevents" not in path.name} == {
        *("best", "last", "metrics.jsonl", ".lock")
    }


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    workplace: Path, attention: str, effort: Effort, tally: Tally
) -> None:
    kills = effort(2 if attention == "soft" else 0, 20)
    if not kills:
        pytest.skip("in the long form only")
    write_recipe(workplace, images_per_batch=1, attention=attention, epochs=3 * kills)  # of 24 steps each
    finish(start(workplace, "whole"))
    process = start(workplace, "killed")
    draw = random.Random(0)
    positions: list[int] = []
    for _ in range(kills):
        # At some moment past the next checkpoint: in a step, in the writing of a checkpoint, in validation.
        wait_for_step(workplace / "killed", positions[-1] + 1 if positions else 1, process)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        load_checkpoint(workplace / "killed" / "last")
        if is_checkpoint(workplace / "killed" / "best"):
            load_checkpoint(workplace / "killed" / "best")
        positions.append(load_training_state(workplace / "killed" / "last")["progress"]["step"])
        process = start(workplace, "killed", "--resume")
    finish(process)
    amid = sum(step % 24 != 0 for step in positions)
    assert amid or kills < 3, "no kill left a run in the middle of an epoch"
    assert_same(workplace, "whole", "killed")
    tally(f"training ({attention}) killed -9: {kills} times, {amid} amid an epoch; weights and history to the bit")


@pytest.mark.timeout(3000)
def test_features_killed_again_and_again_are_those_of_an_undisturbed_run(
    tmp_path: Path, effort: Effort, tally: Tally
) -> None:
    paths = [tmp_path / f"{index}.jpg" for index in range(effort(300, 600))]
    for index, path in enumerate(paths):
        noise_photo(index % 50).save(path)
    build = partial(forkserver().Process, target=build_in_a_process)
    whole = build(args=(tmp_path / "whole", paths))
    whole.start()
    whole.join()
    expected = (tmp_path / "whole" / "features.f16").read_bytes()
    draw = random.Random(0)
    found: Counter[str] = Counter()
    file = tmp_path / "store" / "features.f16"
    done = 0
    for _ in range(effort(3, 40)):
        process = build(args=(tmp_path / "store", paths))
        process.start()
        wanted = draw.randrange(done, len(expected))
        while process.is_alive() and not (file.exists() and file.stat().st_size > wanted):
            time.sleep(0.001)
        process.kill()
        process.join()
        stored = file.read_bytes() if file.exists() else b""
        row = len(expected) // len(paths)
        stored = stored[: len(stored) // row * row]
        assert len(stored) >= done, "a row that was finished is lost"
        assert expected.startswith(stored)
        done = len(stored)
        try:
            FeatureStore(tmp_path / "store")
            assert stored == expected
            found["whole"] += 1
            shutil.rmtree(tmp_path / "store")  # there is nothing left to kill
            done = 0
        except DatasetError:
            found["amid the rows" if stored else "before any row"] += 1
    assert found["amid the rows"]
    store = FeatureStore.build(tmp_path / "store", make_photos(paths), make_encoder(), CPU).read(range(len(paths)))
    # Another number of threads rounds differently.
    assert torch.allclose(store, FeatureStore(tmp_path / "whole").read(range(len(paths))), 0.01, 0.01)
    tally(f"feature extraction killed -9: {dict(found)}; every row kept, the store that of an undisturbed run")


@pytest.mark.timeout(3000)
def test_a_full_disk_is_one_line_and_a_second_run_ends_the_work(workplace: Path, effort: Effort, tally: Tally) -> None:
    """By a limit on the size of files: smallest first, so that each kind of file is the one that fails."""
    write_recipe(workplace, epochs=2)
    finish(start(workplace, "whole"))
    found: Counter[str] = Counter()
    for size in [500, 1000, 3000, 20_000, 100_000, 700_000, 1_500_000][effort(4, 0) : effort(5, 7)]:
        for cache in ("cache", f"cache{size}"):
            run = f"run{size}{cache}"
            options = ["--cache", cache]
            code, output = end(begin(workplace, run, *options, prepare=partial(limit_files, size)))
            if code:
                assert code == 1
                line = output.splitlines()[-1]
                assert re.match(r"train\.py: .*: cannot be written \(", line), line
                found[re.sub(r".*/|\d+", "", line.split(":")[1].strip()).split("-")[0]] += 1
            finish(go_on(workplace, run, *options))
            assert_same(workplace, "whole", run)
            if (workplace / f"cache{size}").exists():
                assert contents(workplace / f"cache{size}") == contents(workplace / "cache")
    assert found
    tally(f"training, files that may not grow: {dict(found)} failed in one line, then ended as an undisturbed run")


@pytest.mark.timeout(3000)
def test_a_disk_that_is_full_for_real(workplace: Path, effort: Effort, tally: Tally) -> None:
    write_recipe(workplace, epochs=2)
    finish(start(workplace, "whole"))
    size = sum(len(content) for content in contents(workplace / "whole").values()) // 1024
    found = 0
    draw = random.Random(0)
    for kind in ["output", "cache"] * effort(1, 12):
        whole = size if kind == "output" else sum(len(c) for c in contents(workplace / "cache").values()) // 1024
        with small_disk(workplace / "disk", max(4, int(draw.uniform(0, 0.9) * whole))) as disk:
            run, options = ("disk/run", []) if kind == "output" else (f"run{found}", ["--cache", "disk/cache"])
            code, output = end(begin(workplace, run, *options, log=workplace))
            assert code == 1
            assert re.match(r"train\.py: .*cannot be written \(", output.splitlines()[-1]), output
            if is_checkpoint(workplace / run / "last"):
                load_checkpoint(workplace / run / "last")
            assert mount("-o", "remount,size=256m", str(disk))
            code, output = end(go_on(workplace, run, *options))
            assert code == 0, output
            assert_same(workplace, "whole", run)
            found += 1
    tally(f"training and features on a full disk: {found} of {found} one line and exit 1, then as an undisturbed run")


@pytest.mark.timeout(3000)
def test_a_signal_at_any_moment_loses_nothing(workplace: Path, effort: Effort, tally: Tally) -> None:
    write_recipe(workplace, epochs=4, images_per_batch=1)
    begun = time.monotonic()
    finish(start(workplace, "whole"))
    seconds = time.monotonic() - begun
    draw = random.Random(3)
    found: Counter[str] = Counter()
    for turn in range(effort(1, 6)):
        run, cache = f"run{turn}", ["--cache", f"cache{turn}"]
        for number in SIGNALS[effort(2, 0) :] * effort(1, 2):
            (workplace / run / ".lock").unlink(missing_ok=True)
            process = go_on(workplace, run, *cache)
            wait_until((workplace / run / ".lock").exists, process)
            time.sleep(draw.uniform(0, seconds / 2))
            process.send_signal(number)
            code, output = end(process)
            assert code in {0, 128 + number}, output
            assert not code or re.search(r"train\.py: interrupted.*go on with --resume", output.splitlines()[-1])
            found[f"exit {code}"] += 1
        finish(go_on(workplace, run, *cache))
        assert_same(workplace, "whole", run)
    assert set(found) - {"exit 0"}
    tally(f"training, SIGINT, SIGTERM and SIGHUP at any moment: {dict(sorted(found.items()))}; weights to the bit")


@pytest.mark.timeout(3000)
def test_a_second_run_on_one_output_is_refused(workplace: Path, effort: Effort, tally: Tally) -> None:
    write_recipe(workplace, epochs=4, images_per_batch=1)
    finish(start(workplace, "whole"))
    refused = 0
    first = start(workplace, "run")
    wait_until(partial(in_use, workplace / "run"), first)
    for options in ([], ["--resume"]) * effort(1, 4):
        with stopped(first):
            code, output = end(start(workplace, "run", *options))
        assert code == 1
        assert output == "train.py: run: another run is writing it; wait for its end, or choose another --output\n"
        assert first.poll() is None
        refused += 1
        if refused == 1:
            wait_for_step(workplace / "run", 5, first)
    # However the first ends.
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finish(go_on(workplace, "run"))
    assert_same(workplace, "whole", "run")
    tally(f"a second training on one output: {refused} of {refused} refused, the first's files untouched")


@pytest.mark.timeout(3000)
def test_the_other_processes_end_with_one_that_is_killed(workplace: Path, effort: Effort, tally: Tally) -> None:
    if effort(1, 0):
        pytest.skip("in the long form only: Python starts anew for every process of torchrun")
    write_recipe(workplace, epochs=10, images_per_batch=4, attention_dim="16\ndropout = 0.0")
    finish(launch(workplace, "whole"))
    killed = 0
    for rank in [1, 0, 1, 0]:
        run = f"run{killed}"
        process = launch(workplace, run, processes=2)
        wait_for_step(workplace / run, 5, process)
        workers = workers_of(process)
        assert sorted(workers) == [0, 1]
        os.kill(workers[rank], signal.SIGKILL)
        process.communicate(timeout=100)
        assert process.returncode not in {0, None}
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers.values()), "a process was left behind"
        step = load_training_state(workplace / run / "last")["progress"]["step"]
        assert 5 <= step < 60
        finish(launch(workplace, run, "--resume"))
        assert losses(workplace, run) == pytest.approx(losses(workplace, "whole"), abs=1e-4)
        killed += 1
    tally(f"torchrun, a process of two killed -9: {killed} times the other ended, and --resume went on")


def workers_of(process: Run) -> dict[int, int]:
    """Ids of torchrun's processes by their ranks."""
    pid = process.process.pid if hasattr(process, "process") else process.pid
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pairs = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        environment = dict(pair.split(b"=", 1) for pair in pairs if pair)
        if b"RANK" in environment:
            found[int(environment[b"RANK"])] = int(child)
    return found


def test_a_clock_that_jumps_back_changes_nothing(workplace: Path) -> None:
    write_recipe(workplace, epochs=8)
    finish(start(workplace, "whole"))
    process = begin(workplace, "jumping", prepare=turn_clock_back)
    wait_for_step(workplace / "jumping", 5, process)
    process.send_signal(signal.SIGTERM)
    end(process)
    code, output = end(go_on(workplace, "jumping", prepare=turn_clock_back))
    assert code == 0
    assert_same(workplace, "whole", "jumping")
    assert not re.search(r"-\d[\d.]*(s/it|it/s)", output), "a rate below nothing"


def test_nobody_is_told_what_may_not_be_written(workplace: Path) -> None:
    with everybodys_folder() as place:
        shutil.copytree(workplace, place, dirs_exist_ok=True)
        for path in (place, *place.rglob("*")):
            path.chmod(0o777)
        (place / "closed").mkdir(mode=0o555)
        for options, named in ((["closed/run"], "closed/run"), (["run", "--cache", "closed/cache"], "closed/cache")):
            code, output = end(begin(place, *options, prepare=become_nobody))
            assert code == 1
            assert re.match(rf"train\.py: {named}.*: cannot be written \(Permission denied\)", output.splitlines()[-1])
        (place / "flickr8k" / "images" / "photo3.jpg").chmod(0)
        code, output = end(begin(place, "run", prepare=become_nobody))
        assert code == 1
        assert re.match(r"train\.py: .*photo3.jpg: cannot be opened \(Permission denied\)", output.splitlines()[-1])
