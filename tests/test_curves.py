from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from PIL import Image

from captioner.cli import main
from captioner.curves import draw_curves, save_curves
from captioner.errors import CaptionerError
from captioner.history import read_metrics, read_runs

BLEU = [12.5, 20.25, 22.0, 22.0, 21.5]


def training_rows(steps: int = 30, **more: float) -> list[dict[str, Any]]:
    losses = {"train/loss": 9.0, "train/gradient_norm": 1.0, "learning_rate": 1e-3, **more}
    return [{"step": 20 * n, "train/cross_entropy": 2 + 3 / n, **losses} for n in range(1, steps + 1)]


def dev_rows(scores: list[float], name: str = "dev/bleu4") -> list[dict[str, Any]]:
    return [
        {"step": 100 * epoch, "epoch": epoch, "dev/bleu1": 60.0, name: score, "seconds": 1.5}
        for epoch, score in enumerate(scores, 1)
    ]


def write_run(folder: Path, rows: list[dict[str, Any]], torn: str = "") -> Path:
    folder.mkdir(parents=True)
    ordered = sorted(rows, key=lambda row: int(row["step"]))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ordered) + torn)
    return folder


def panels(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in draw_curves(runs).axes}


def values(line: Line2D) -> list[tuple[float, float]]:
    return [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()]


def of_run(axes: Axes, name: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_label() == name]


def legend(axes: Axes) -> list[str]:
    shown = axes.get_legend()
    assert shown is not None
    return [text.get_text() for text in shown.get_texts()]


def test_lines_have_the_values_of_the_file(tmp_path: Path) -> None:
    rows = training_rows() + dev_rows(BLEU)
    drawn = panels(read_runs([write_run(tmp_path / "soft", rows)]))
    assert list(drawn) == ["Cross-entropy in training", "BLEU-4 on dev"]
    dots, line = of_run(drawn["Cross-entropy in training"], "soft")
    assert values(dots) == [(20 * n, 2 + 3 / n) for n in range(1, 31)]
    assert dots.get_linestyle() == "None"
    # The average reaches 2 of 30 rows to each side, with Hann's weights 1/4, 3/4, 1, 3/4, 1/4.
    x, y = np.array(values(dots)).T
    same_x, smooth = np.array(values(line)).T
    assert (same_x == x).all()
    assert smooth[10] == pytest.approx((y[8] / 4 + y[9] * 3 / 4 + y[10] + y[11] * 3 / 4 + y[12] / 4) / 3)
    assert smooth[0] == pytest.approx((y[0] + y[1] * 3 / 4 + y[2] / 4) / 2)
    assert smooth[-1] == pytest.approx((y[-1] + y[-2] * 3 / 4 + y[-3] / 4) / 2)
    (scores,) = of_run(drawn["BLEU-4 on dev"], "soft")
    assert values(scores) == list(enumerate(BLEU, 1))


def test_the_first_of_the_best_epochs_is_marked() -> None:
    axes = panels({"soft": dev_rows(BLEU)})["BLEU-4 on dev"]
    marks = [line for line in axes.lines if line.get_label() != "soft"]
    assert [values(mark) for mark in marks] == [[(3, 22.0)]]
    assert legend(axes) == ["soft: best 22.00, epoch 3"]


def test_every_run_has_one_colour_in_all_panels() -> None:
    runs = {f"run-{n}": training_rows(10 + n) + dev_rows([n, n + 1]) for n in range(9)}
    drawn = panels(runs)
    styles = {name: {str(line.get_color()) for axes in drawn.values() for line in of_run(axes, name)} for name in runs}
    assert all(len(colours) == 1 for colours in styles.values())
    assert len(set.union(*styles.values())) == 7
    lines = [of_run(drawn["BLEU-4 on dev"], name)[0] for name in runs]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9
    assert legend(drawn["Cross-entropy in training"]) == list(runs)


def test_a_run_in_progress_is_drawn_beside_a_finished_one() -> None:
    drawn = panels({"new": training_rows(1), "old": training_rows() + dev_rows(BLEU)})
    assert values(of_run(drawn["Cross-entropy in training"], "new")[1]) == [(20, 5.0)]
    assert not of_run(drawn["BLEU-4 on dev"], "new")
    assert legend(drawn["BLEU-4 on dev"]) == ["old: best 22.00, epoch 3"]
    old = of_run(drawn["Cross-entropy in training"], "old")[1]
    assert old.get_color() == of_run(drawn["BLEU-4 on dev"], "old")[0].get_color()
    assert list(panels({"new": training_rows(1)})) == ["Cross-entropy in training"]


@pytest.mark.parametrize(
    ("runs", "titles"),
    [
        ({"a": dev_rows([50.0], "dev/cider") + dev_rows(BLEU)}, ["BLEU-4 on dev", "CIDEr-D on dev"]),
        (
            {"a": training_rows(), "b": [{"step": 9, "train/loss": 1.0, "train/cider": 0.5}]},
            ["Cross-entropy in training", "CIDEr-D of samples in training"],
        ),
        ({"a": training_rows(), "b": [{"step": 9, "train/loss": 1.0}]}, ["Cross-entropy in training"]),
    ],
)
def test_panels_are_those_of_what_the_runs_logged(runs: dict[str, list[dict[str, Any]]], titles: list[str]) -> None:
    assert list(panels(runs)) == titles


def test_what_is_no_finite_number_is_left_out() -> None:
    odd: list[dict[str, Any]] = [
        {"step": 400, "epoch": 4, "dev/bleu4": None},
        {"step": 500, "epoch": "fifth", "dev/bleu4": 5.0},
    ]
    rows = [*dev_rows([1.0, float("nan"), 3.0]), *odd]
    assert values(of_run(panels({"a": rows})["BLEU-4 on dev"], "a")[0]) == [(1, 1.0), (3, 3.0)]


@pytest.mark.parametrize("torn", ['{"step": 620, "train/cro', '{"step": 620, "train/cross_entropy": 1.0}'])
def test_a_torn_line_is_ignored(tmp_path: Path, torn: str) -> None:
    rows = training_rows()
    folder = write_run(tmp_path / "soft", rows, torn)
    assert read_metrics(folder) == read_metrics(folder / "metrics.jsonl") == rows


def test_names_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, training_rows()) for name in ("x/a/soft", "y/a/soft", "y/b/soft", "y/hard")]
    assert list(read_runs(folders)) == ["x/a/soft", "y/a/soft", "b/soft", "hard"]
    assert list(read_runs([folders[0], folders[3] / "metrics.jsonl"])) == ["soft", "hard"]
    assert list(read_runs([folders[0], folders[0] / "metrics.jsonl"])) == ["soft"]
    (folders[0] / "metrics.jsonl").rename(folders[0] / "copy.jsonl")
    assert list(read_runs([folders[0] / "copy.jsonl"])) == ["copy.jsonl"]


@pytest.mark.parametrize("suffix", [".png", ".SVG", ".pdf"])
def test_the_suffix_decides_the_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curves{suffix}"
    save_curves(draw_curves({"_$\\odd$ & <name>": training_rows() + dev_rows(BLEU)}), path)
    start = {".png": b"\x89PNG", ".SVG": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


def test_the_command_draws_a_picture_in_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "soft", training_rows() + dev_rows(BLEU))
    write_run(tmp_path / "runs" / "hard", training_rows(12))
    (tmp_path / "curves.png").write_text("the last one")
    assert main(["plot", "runs/soft", "runs/hard/metrics.jsonl"]) == 0
    assert "curves.png: curves of soft, hard" in capsys.readouterr().err
    with Image.open("curves.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1800
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(-1).sum() > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no run there"),
        (["soft", "."], "metrics.jsonl: no run there"),
        (["soft/metrics.jsonl/deeper"], "no run there"),
        (["empty"], "empty/metrics.jsonl: no metrics in it yet"),
        (["text"], "text/metrics.jsonl: not the metrics of a run"),
        (["list"], "list/metrics.jsonl: not the metrics of a run"),
        (["picture.png"], "picture.png: not the metrics of a run"),
        (["other"], "other: nothing to draw"),
        (
            ["soft", "--output", "curves.gif"],
            "curves.gif: cannot be drawn; give it one of the suffixes .png, .svg, .pdf",
        ),
        (["soft", "--output", "curves"], "curves: cannot be drawn"),
        (["soft", "--output", "no/such/curves.png"], "no/such/curves.png: cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line_and_exit_code_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "soft", training_rows())
    write_run(tmp_path / "empty", [], torn='{"step": 20, ')
    write_run(tmp_path / "text", [], torn="step 20\n")
    write_run(tmp_path / "list", [], torn="[20]\n")
    write_run(tmp_path / "other", [{"step": 20, "learning_rate": 0.1}])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    assert main(["plot", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("captioner: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("row", [{"step": 20}, {"step": 20, "epoch": 1, "dev/bleu4": float("nan")}])
def test_a_figure_of_nothing_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(CaptionerError, match="nothing to draw"):
        draw_curves({"a": [row]})


def test_drawing_does_not_load_torch(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "soft", training_rows())
    arguments = ["plot", str(folder), "--output", str(tmp_path / "curves.png")]
    command = [sys.executable, "-X", "importtime", "-m", "captioner", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "captioner.curves" in result.stderr
    assert " torch" not in result.stderr
