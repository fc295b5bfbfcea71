"""Runs whose state, notes or log are damaged or of another kind: `--resume` refuses them in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from captioner.checkpoint import load_checkpoint
from captioner.checkpoint_files import CONFIG, TRAINING, read_config
from captioner.description import facts, history
from tests.conftest import write_flickr
from tests.stress.hostile import NONE, TABLE, set_in
from tests.training.test_training import write_recipe

Effort = Callable[[int, int], int]
Tally = Callable[[str], None]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a recipe, with a run of one epoch in it."""
    folder = tmp_path_factory.mktemp("workplace")
    write_flickr(folder / "flickr8k")
    write_recipe(folder, epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPTIONER_DATA", str(folder))
        assert train.main(["recipe.toml", "--output", "run", "--device", "cpu"]) == 0
        yield folder


def resumed(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = train.main(["recipe.toml", "--output", "run", "--device", "cpu", "--resume"])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py:")]
    return code, "".join(said)


def test_a_state_of_another_kind_is_refused_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], effort: Effort, tally: Tally
) -> None:
    path = run / "run" / "last" / TRAINING
    before = path.read_bytes()
    state = torch.load(path, weights_only=True)
    moments = next(key for key, value in state["optimizer"]["state"].items() if value["exp_avg"].dim() == 2)
    groups = state["optimizer"]["param_groups"]
    changes: list[tuple[Any, ...]] = [
        *((name, None) for name in state),
        *((name, value) for name in ("optimizer", "scheduler", "progress") for value in (3, NONE, "x", TABLE)),
        *(("progress", "step", value) for value in (None, "3", -1, 1.5, [1], True)),
        *(("progress", "best_score", value) for value in ("high", float("nan"), 1)),
        *(("scheduler", "last_epoch", value) for value in (None, "3", [0])),
        ("optimizer", "param_groups", groups[:-1]),
        ("optimizer", "param_groups", [*groups, groups[0]]),
        ("optimizer", "param_groups", 0, "lr", "fast"),
        ("optimizer", "state", []),
        ("optimizer", "state", moments, 7),
        ("optimizer", "state", moments, {}),
        ("optimizer", "state", moments, "exp_avg", None),
        ("optimizer", "state", moments, "exp_avg", torch.ones(3)),
        ("optimizer", "state", moments, "exp_avg_sq", "x"),
        ("optimizer", "state", moments, "exp_avg", 0, 0, float("nan")),
        ("optimizer", "state", moments, "step", torch.ones(2)),
    ]
    changes = changes[:: effort(7, 1)]
    for change in changes:
        torch.save(set_in(state, *change), path)
        code, line = resumed(capsys)
        assert code == 1, change
        assert TRAINING in line, change
    # What is there besides is passed over, and so is what would take the place of a method.
    torch.save({**state, "more": 1, "scheduler": {**state["scheduler"], "step": "x"}}, path)
    assert resumed(capsys) == (0, "")
    path.write_bytes(before)
    tally(f"states of another kind: {len(changes)}, all refused in one line by train.py --resume")


def test_notes_and_metrics_of_another_kind_are_refused_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], effort: Effort, tally: Tally
) -> None:
    path, metrics = run / "run" / "last" / CONFIG, run / "run" / "metrics.jsonl"
    before, rows = path.read_bytes(), metrics.read_bytes()
    config = json.loads(before)
    recipe = config["notes"]["recipe"]
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    notes = [[], 3, "x", {}, {"recipe": []}, {"recipe": 3}, {"recipe": {}}, {"recipe": set_in(recipe, "data", None)}]
    notes += [{"recipe": set_in(recipe, "train", "epochs", "x")}, {"recipe": {**recipe, "more": deep}}, None]
    notes = notes[:: effort(5, 1)]
    for value in notes:
        path.write_text(json.dumps(set_in(config, "notes", value)))
        code, line = resumed(capsys)
        assert code == 1, value
        assert CONFIG in line, value
        # The page about a model and the model itself do without them.
        facts(path.parent)
        history(path.parent)
        load_checkpoint(path.parent)
        read_config(path.parent)
    path.write_bytes(before)
    lines = [
        b"[]",
        b"x",
        b"1" * 9999,
        b"[" * 99_999,
        b'{"step": "x"}',
        b'{"epoch": []}',
        b'{"step": null}',
        b"\xff",
        b"\0",
    ]
    lines = lines[:: effort(4, 1)]
    for wrong in lines:
        metrics.write_bytes(rows + wrong + b"\n" + rows)
        code, line = resumed(capsys)
        assert code == 1, wrong[:99]
        assert "metrics.jsonl" in line, wrong[:99]
    metrics.write_bytes(rows + b"torn" * 9)
    assert resumed(capsys) == (0, "")
    tally(f"notes and metrics of another kind: {len(notes) + len(lines)}, all refused in one line by train.py --resume")
