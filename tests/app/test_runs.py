"""The page of training runs: which it finds, what it draws of them, and what it says of those it cannot draw."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from app import runs, runs_page
from captioner.checkpoint_files import BUNDLED, read_config
from captioner.errors import CaptionerError
from captioner.files import sole_use
from captioner.history import Panel, Row, panels, read_metrics
from tests.app.browsing import settle

BUNDLED_NAMES = ["bundled: flickr8k-soft", "bundled: flickr8k-hard"]


def training(steps: int) -> list[Row]:
    return [{"step": 10 * n, "train/cross_entropy": 2 + 3 / n} for n in range(1, steps + 1)]


def scored(*bleu: float) -> list[Row]:
    return [{"step": 100 * n, "epoch": n, "dev/bleu1": 60.0, "dev/bleu4": score} for n, score in enumerate(bleu, 1)]


def write(folder: Path, rows: list[Row], age: float = 1e6, torn: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    then = time.time() - age
    os.utime(file, (then, then))


def run_of(folder: Path) -> runs.Run:
    return runs.Run(folder.name, folder / "metrics.jsonl", (folder / "metrics.jsonl").stat().st_mtime)


def written(folder: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / "metrics.jsonl").stat().st_mtime))


def _page() -> None:
    from app import runs_page

    runs_page.show()


def open_page(monkeypatch: pytest.MonkeyPatch, folder: Path) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["streamlit_app.py", "--runs", str(folder)])
    return AppTest.from_function(_page, default_timeout=60).run()


def charts(page: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in page.get("vega_lite_chart")]


def values(panel: Panel, names: list[str]) -> list[dict[str, Any]]:
    spec = runs.chart(panel, names).to_dict()
    found: list[dict[str, Any]] = spec["datasets"][spec["data"]["name"]]
    return found


def drawn_runs(page: AppTest) -> list[list[str]]:
    return [chart["layer"][0]["encoding"]["color"]["scale"]["domain"] for chart in charts(page)]


def test_runs_are_found_at_any_depth_the_newest_first(tmp_path: Path) -> None:
    write(tmp_path / "old", training(3), age=3000)
    write(tmp_path / "many" / "of" / "them", training(3), age=1000)
    write(tmp_path / "many" / "newer", training(3), age=500)
    write(tmp_path / "too" / "deep" / "to" / "find", training(3))
    (tmp_path / "no-run").mkdir()
    (tmp_path / "folder" / "metrics.jsonl").mkdir(parents=True)
    (tmp_path / "latest").symlink_to(tmp_path / "many" / "of" / "them")
    assert [run.name for run in runs.own_runs(tmp_path)] == ["many/newer", "latest", "old"]
    write(tmp_path, training(3), age=0)
    assert runs.own_runs(tmp_path)[0].name == tmp_path.name
    assert runs.own_runs(tmp_path / "nowhere") == []


def test_a_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/run-\xff")), training(3))
    (run,) = runs.own_runs(tmp_path)
    assert run.name == "run-?"
    assert len(runs.read(run)) == 3


def test_a_run_is_in_progress_while_its_process_is_at_it_however_long_it_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "going", training(3), age=1e4)
    write(tmp_path / "over", training(3), age=2e4)
    with sole_use(tmp_path / "over"):
        pass
    with sole_use(tmp_path / "going"):
        found = runs.own_runs(tmp_path)
        assert {run.name: run.in_progress for run in found} == {"going": True, "over": False}
        assert [runs.summary(run, training(3))["Last written"] for run in found] == [
            "in progress",
            written(tmp_path / "over"),
        ]
    with sole_use(tmp_path / "going"):  # looking did not leave it barred
        assert runs.own_runs(tmp_path)[0].in_progress
    assert not any(run.in_progress for run in runs.own_runs(tmp_path))


def test_the_table_has_the_epoch_that_training_kept(tmp_path: Path) -> None:
    rows = training(30) + scored(10.0, 12.0, 11.0)
    write(tmp_path, rows)
    epoch_2 = {"Best epoch": 2, "BLEU-1": 60.0, "BLEU-4": 12.0}
    assert runs.summary(run_of(tmp_path), rows) == {
        "Run": tmp_path.name,
        "Last written": written(tmp_path),
        "Steps": 300,
        **epoch_2,
    }
    (tmp_path / "best").mkdir()
    for text, expected in (
        ('{"format": 1, "model": {}, "notes": {"epoch": 3}}', {"Best epoch": 3, "BLEU-1": 60.0, "BLEU-4": 11.0}),
        ('{"format": 1, "model": {}, "notes": {"epoch": 9}}', epoch_2),
        ('{"format": 1, "model": {}, "notes": null}', epoch_2),
        ("{", epoch_2),
    ):
        (tmp_path / "best" / "config.json").write_text(text)
        assert runs.summary(run_of(tmp_path), rows).items() >= expected.items()


def test_the_table_has_a_row_for_a_run_without_scores(tmp_path: Path) -> None:
    write(tmp_path, training(4))
    row = runs.summary(run_of(tmp_path), training(4))
    assert (row["Steps"], row["Best epoch"]) == (40, None)
    assert not any("BLEU" in name for name in row)


def test_a_chart_holds_the_values_of_its_panel() -> None:
    rows = {"a": training(3) + scored(1.0, 3.0, 3.0), "b": training(2) + scored(2.0)}
    loss, bleu = (values(panel, list(rows)) for panel in panels(rows))
    averages = {run: curve.average or [] for run, curve in panels(rows)[0].curves.items()}
    assert loss == [
        {"run": run, "x": 10 * n, "y": 2 + 3 / n, "line": averages[run][n - 1], "best": n == 1}
        for run, steps in (("a", 3), ("b", 2))
        for n in range(1, steps + 1)
    ]
    assert [(v["run"], v["x"], v["y"]) for v in bleu if v["best"]] == [("a", 2, 3.0), ("b", 1, 2.0)]
    assert [v["y"] for v in bleu] == [1.0, 3.0, 3.0, 2.0]


def test_a_run_has_one_colour_in_all_charts() -> None:
    rows = {"a": training(3), "b": training(2) + scored(2.0)}
    colours = [
        runs.chart(panel, list(rows)).to_dict()["layer"][0]["encoding"]["color"]["scale"] for panel in panels(rows)
    ]
    assert colours == [
        {"domain": ["a", "b"], "range": list(runs.COLOURS[:2])},
        {"domain": ["b"], "range": [runs.COLOURS[1]]},
    ]


def test_of_a_long_run_every_score_is_drawn_but_not_every_step() -> None:
    rows = {"long": training(20_000) + scored(*range(600))}
    loss, bleu = (values(panel, ["long"]) for panel in panels(rows))
    assert len(loss) == 500
    assert loss[-1]["x"] > 199_000
    assert len(bleu) == 600


def test_the_bundled_histories_end_with_the_scores_of_the_bundled_models() -> None:
    found = runs.bundled_runs()
    assert [run.name for run in found] == BUNDLED_NAMES
    assert not any(run.in_progress for run in found)
    for run, epochs in zip(found, (13, 4), strict=True):
        scores = [row for row in read_metrics(run.metrics) if "epoch" in row]
        kept = read_config(run.metrics.parent)["notes"]["dev"]
        assert [row["epoch"] for row in scores] == list(range(1, epochs + 1))
        last = {"step": 188 * epochs, "epoch": epochs}
        assert scores[-1] == last | {f"dev/{name}": round(kept[name], 3) for name in kept}
        assert runs.summary(run, read_metrics(run.metrics))["Best epoch"] == epochs
    assert found[0].metrics.parent == BUNDLED


def test_without_runs_the_page_says_what_makes_one_and_shows_the_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(monkeypatch, tmp_path / "no_runs")
    assert not page.exception
    command = page.code[0].value
    assert command == f".venv/bin/python train.py recipes/flickr8k-soft.toml --output {tmp_path}/no_runs/flickr8k-soft"
    assert Path(command.split()[2]).is_file()
    assert r"no\_runs" in page.markdown[0].value
    assert page.multiselect[0].value == BUNDLED_NAMES
    assert drawn_runs(page) == [BUNDLED_NAMES[:1], *[BUNDLED_NAMES] * 3]  # the hard one has not known cross-entropy
    kept = [read_config(run.metrics.parent)["notes"]["dev"]["cider"] for run in runs.bundled_runs()]
    assert page.dataframe[0].value["CIDEr-D"].round(1).tolist() == [round(score, 1) for score in kept]


def test_the_first_run_that_begins_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(monkeypatch, tmp_path)
    assert page.multiselect[0].value == BUNDLED_NAMES
    write(tmp_path / "run", training(3))
    with sole_use(tmp_path / "run"):
        page.run()
    assert page.multiselect[0].value == ["run"]
    assert drawn_runs(page) == [["run"]]
    assert any("In progress" in caption.value for caption in page.caption)


def test_the_newest_run_is_shown_and_others_can_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "old", training(30) + scored(1.0, 2.0), age=3000)
    write(tmp_path / "new", training(3), age=1000, torn='{"step": 40, "train/cro')
    page = open_page(monkeypatch, tmp_path)
    assert page.multiselect[0].options == ["new", "old", *BUNDLED_NAMES]
    assert not page.code
    assert drawn_runs(page) == [["new"]]
    page.multiselect[0].set_value(["old", "new"]).run()
    assert drawn_runs(page) == [["old", "new"], ["old"]]
    assert page.dataframe[0].value["Steps"].tolist() == [300, 30]
    # A run that begins meanwhile is listed, and what was chosen stays.
    write(tmp_path / "newer", training(3), age=10)
    page.run()
    assert page.multiselect[0].options[0] == "newer"
    assert page.multiselect[0].value == ["old", "new"]
    page.multiselect[0].set_value([]).run()
    assert not page.exception
    assert not charts(page)


def test_what_cannot_be_drawn_is_told_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "a $x$ [link](http) *b* `c` <i>"
    write(tmp_path / odd, training(3))
    write(tmp_path / "text", [], torn="step,loss\n")
    write(tmp_path / "empty", [])
    write(tmp_path / "foreign_[x](y)", [{"loss": 1.0, "step": 1}])
    page = open_page(monkeypatch, tmp_path)
    page.multiselect[0].set_value(["text", odd, "empty", "foreign_[x](y)"]).run()
    assert not page.exception
    assert [warning.value.replace("\\", "") for warning in page.warning] == [
        f"{tmp_path}/text/metrics.jsonl: not the metrics of a run, line 1 (Expecting value: line 1 column 1 (char 0)); "
        "delete it, or name the folder of one",
        f"{tmp_path}/empty/metrics.jsonl: no metrics in it yet; wait for the first steps of the run",
        "foreign_[x](y): nothing to draw; rows need a step and train/cross_entropy or train/cider, or an epoch and "
        "dev/bleu4 or dev/cider",
    ]
    assert r"\[x\]\(y\)" in page.warning[2].value
    assert drawn_runs(page) == [[odd]]
    assert page.dataframe[0].value["Run"].tolist() == [odd]
    with pytest.raises(CaptionerError, match="nothing to draw"):
        runs.read(runs.Run("foreign", tmp_path / "foreign_[x](y)" / "metrics.jsonl"))


@pytest.mark.parametrize(("process", "seconds"), [(sole_use, 10), (contextlib.nullcontext, None)])
def test_only_runs_in_progress_are_followed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    process: Callable[[Path], AbstractContextManager[Any]],
    seconds: int | None,
) -> None:
    timers = []
    fragment = st.fragment

    def spy(function: Any, *, run_every: int | None) -> Any:
        if function is runs_page._show_runs:
            timers.append(run_every)
        return fragment(function, run_every=run_every)

    monkeypatch.setattr(st, "fragment", spy)
    write(tmp_path / "run", training(3), 1000)
    write(tmp_path / "other", training(3), 5000)
    with process(tmp_path / "run"):
        page = open_page(monkeypatch, tmp_path)
        assert timers == [seconds]
        assert any("In progress" in caption.value for caption in page.caption) == (seconds is not None)
        page.multiselect[0].set_value(["other"]).run()
        assert timers[-1] is None


def test_a_run_that_begins_or_ends_lays_the_page_out_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []
    monkeypatch.setattr(sys, "argv", ["streamlit_app.py", "--runs", str(tmp_path)])
    monkeypatch.setattr(st, "rerun", lambda: again.append(1))
    runs_page._watch(set())
    assert not again
    write(tmp_path / "run", training(3))
    with sole_use(tmp_path / "run"):
        runs_page._watch(set())
        assert len(again) == 1
        runs_page._watch({("run", True)})
        assert len(again) == 1
    runs_page._watch({("run", True)})
    assert len(again) == 2


def test_a_chart_tells_its_values_to_the_pointer(page: Page) -> None:
    page.get_by_role("link", name="Training runs").click()
    expect(page.get_by_role("heading", name="Training runs")).to_be_visible()
    box = page.get_by_role("combobox")
    expect(box).to_be_visible()
    box.click()
    # Those in the folder that the server was told of: one is chosen already, the other can be.
    for name in ("first", "second"):
        expect(page.get_by_text(name, exact=True)).to_be_visible()
    page.get_by_role("option", name=BUNDLED_NAMES[0]).click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="CIDEr-D on dev")).to_be_visible()
    settle(page)
    chart = page.locator("[data-testid=stVegaLiteChart]").last
    expect(chart.locator("canvas, svg").first).to_be_visible()
    bounds = chart.bounding_box()
    assert bounds
    tooltip = page.locator("#vg-tooltip-element")
    for _ in range(20):  # a chart that is drawn anew has forgotten the pointer
        chart.hover(position={"x": bounds["width"] * 0.5, "y": 90})
        chart.hover(position={"x": bounds["width"] * 0.97, "y": 40})
        if tooltip.is_visible():
            break
        page.wait_for_timeout(250)
    expect(tooltip).to_contain_text("epoch")
    expect(tooltip).to_contain_text(f"{read_config(BUNDLED)['notes']['dev']['cider']:.3f}")
