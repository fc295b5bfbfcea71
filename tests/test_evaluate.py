from __future__ import annotations

import os
from pathlib import Path

import pytest

import evaluate
from captioner.data.annotations import DATA_VARIABLE


@pytest.fixture
def recipe(flickr_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(f'[data]\nroot = "{flickr_folder}"\n[encoder]\nname = "resnet18"\n')
    return path


def test_scores_are_printed_with_their_protocol(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--data", str(recipe), "--split", "dev", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert "dev split of recipe: 6 photos\nbeam 3, context: expectation\n" in output
    assert "tokenised, lower case" in output
    for order in (1, 2, 3, 4):
        assert f"BLEU-{order}" in output


def test_a_wrong_split_is_one_clear_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--data", str(recipe), "--split", "val"]) == 1
    assert "Flickr_8k.valImages.txt" in capsys.readouterr().err


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason=f"real data: set {DATA_VARIABLE} to its folder")
def test_the_bundled_model_scores_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--device", "cpu"]) == 0
    scores = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line.startswith("BLEU-")]
    readme = (Path(evaluate.__file__).parent / "README.md").read_text()
    row = next(line for line in readme.splitlines() if line.startswith("| soft attention"))
    stated = [float(cell) for cell in row.split("|")[2:6]]
    assert scores == pytest.approx(stated, abs=0.1)
    assert scores[3] >= 21.5
