from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import evaluate
from captioner.config import DecodingOptions
from captioner.data.annotations import DATA_VARIABLE
from captioner.images import ImageSource
from captioner.pipeline import BUNDLED, Caption, Captioner


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
    assert re.search(r"^CIDEr +\d+\.\d\d$", output, re.MULTILINE)
    bits, elsewhere = re.findall(r"attention: ([\d.]+) of 7\.17 bits, ([\d.]+) of it elsewhere", output)[0]
    assert 0 < float(bits) < 7.17
    assert 0 < float(elsewhere) < 1


def test_a_wrong_split_is_one_clear_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--data", str(recipe), "--split", "val"]) == 1
    assert "Flickr_8k.valImages.txt" in capsys.readouterr().err


def test_soft_attention_cannot_look_at_one_cell(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--data", str(recipe), "--device", "cpu", "--context", "argmax"]) == 1
    assert "evaluate.py: context = 'argmax' needs a model with hard attention" in capsys.readouterr().err


def test_hard_attention_is_scored_by_any_context(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DecodingOptions] = []
    caption_many = Captioner.caption_many

    def spy(self: Captioner, images: Iterable[ImageSource], options: DecodingOptions) -> Iterator[Caption]:
        asked.append(options)
        return caption_many(self, images, options)

    monkeypatch.setattr(Captioner, "caption_many", spy)
    for context in ("argmax", "sample"):
        checkpoint = str(BUNDLED.with_name("flickr8k-hard"))
        options = ["--data", str(recipe), "--device", "cpu", "--context", context, "--seed", "1"]
        assert evaluate.main([checkpoint, *options]) == 0
        assert f"beam 3, context: {context}\n" in capsys.readouterr().out
    assert asked == [DecodingOptions(context="argmax", seed=1), DecodingOptions(context="sample", seed=1)]


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason=f"real data: set {DATA_VARIABLE} to its folder")
@pytest.mark.parametrize(("name", "at_least"), [("soft", 24.0), ("hard", 23.3)])
def test_the_bundled_models_score_what_the_readme_says(
    name: str, at_least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(BUNDLED.with_name(f"flickr8k-{name}")), "--device", "cpu"]) == 0
    scores = [
        float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line.startswith(("BLEU-", "CIDEr"))
    ]
    readme = (Path(evaluate.__file__).parent / "README.md").read_text()
    row = next(line for line in readme.splitlines() if line.startswith(f"| {name} attention"))
    stated = [float(cell) for cell in row.split("|")[2:7]]
    assert scores == pytest.approx(stated, abs=0.1)
    assert scores[3] >= at_least
