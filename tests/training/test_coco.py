"""The commands of docs/coco.md, on a few real photos of COCO: the committed recipes, smaller and without weights."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import evaluate
import train
from captioner import cli
from captioner.checkpoint import load_checkpoint
from captioner.checkpoint_files import read_config
from captioner.data.annotations import DATA_VARIABLE
from captioner.recipe import Recipe
from tests.conftest import needs_data
from tests.training.runs import ROOT
from tests.training.test_training import metrics

DATA = Path(os.environ.get(DATA_VARIABLE, "")) / "coco-mini"
# No weights, for the library's are a download; the smallest of the ResNets.
SMALLER = {
    "root": '"coco-mini"',
    "name": '"resnet18"\nweights = "none"',
    "input_size": "96",
    "grid": "3",
    "embedding_dim": "16",
    "hidden_dim": "24",
    "attention_dim": "16",
    "epochs": "1",
    "images_per_batch": "16",
}


def cut_down(folder: Path, name: str) -> Recipe:
    """Write the committed recipe into the folder, smaller, and return it."""
    text = (ROOT / "recipes" / f"{name}.toml").read_text()
    for setting, value in SMALLER.items():
        text, count = re.subn(rf"(?m)^{setting} = .*$", f"{setting} = {value}", text)
        assert count == 1, setting
    path = folder / "recipes" / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return Recipe.read(path)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, name: str) -> Recipe:
    recipe = cut_down(folder, name)
    assert train.main([f"recipes/{name}.toml", "--device", "cpu"]) == 0
    assert len([row for row in metrics(folder / "runs" / name) if "dev/cider" in row]) == 1
    return recipe


@needs_data("coco-mini")
def test_soft_attention_from_the_files_to_the_score(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut_down(workplace, "coco-soft")
    assert cli.main(["data", "check", "recipes/coco-soft.toml"]) == 0
    report = capsys.readouterr().out
    assert re.search(r"(?m)^photos +80 +79$", report)
    assert re.search(r"(?m)^captions +400 +395$", report)
    assert "nothing wrong" in report
    run(workplace, "coco-soft")
    run(workplace, "coco-soft-finetune")
    recipe = run(workplace, "coco-soft-scst")
    soft, words = load_checkpoint(workplace / "runs" / "coco-soft" / "best")
    model, same_words = load_checkpoint(workplace / "runs" / "coco-soft-scst" / "best")
    assert model.decoder.config == recipe.decoder
    assert same_words.words == words.words
    assert soft.decoder.config.dropout > model.decoder.config.dropout == 0
    assert "cider" in read_config(workplace / "runs" / "coco-soft-scst" / "best")["notes"]["dev"]
    capsys.readouterr()
    assert evaluate.main(["runs/coco-soft-scst/best", "--data", "recipes/coco-soft.toml", "--split", "dev"]) == 0
    scores = capsys.readouterr().out
    assert "dev split of coco-soft: 79 photos" in scores
    assert re.search(r"(?m)^BLEU-4 +\d+\.\d\d ± ", scores)
    if shutil.which("java"):
        assert re.search(r"(?m)^METEOR +\d+\.\d\d ± ", scores)


@needs_data("coco-mini")
def test_hard_attention_and_self_critical_training_from_it(workplace: Path) -> None:
    run(workplace, "coco-hard")
    recipe = run(workplace, "coco-hard-scst")
    model, _ = load_checkpoint(workplace / "runs" / "coco-hard-scst" / "best")
    assert model.decoder.config == recipe.decoder
    assert model.decoder.config.attention == "hard"


def test_recipes_with_a_frozen_encoder_share_their_stored_features() -> None:
    recipes = [Recipe.read(path) for path in sorted((ROOT / "recipes").glob("coco-*.toml"))]
    assert len(recipes) == 5
    frozen = [recipe for recipe in recipes if recipe.train.fine_tune_from is None]
    assert len({repr((recipe.data, recipe.encoder, recipe.train.precision)) for recipe in frozen}) == 1
    assert {recipe.train.features for recipe in frozen} == {"stored"}
