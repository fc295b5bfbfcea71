"""Benchmarks run; what they measure is not asserted here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gradient_variance


@pytest.fixture
def recipe(flickr_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(f'[data]\nroot = "{flickr_folder}"\n[encoder]\nname = "resnet18"\n')
    return path


def test_gradient_variance_prints_its_table(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(recipe), "--photos", "1", "--draws", "2", "--device", "cpu"]
    assert gradient_variance.main(arguments) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "trained" in line]
    assert [row[1].strip() for row in rows] == ["paper", "paper", "per_word"] * 2
    assert all(float(row[3]) > 0 for row in rows)


@pytest.mark.parametrize("wrong", [["--photos", "0"], ["--draws", "1"], ["--photos", "24"]])
def test_gradient_variance_refuses_what_cannot_be_measured(
    recipe: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradient_variance.main(["--data", str(recipe), "--device", "cpu", *wrong]) == 1
    assert wrong[0] in capsys.readouterr().err
