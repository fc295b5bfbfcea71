"""The model card and its page: numbers that agree with the other documents, and nothing fetched from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from app import model_card, models
from captioner import description
from captioner.checkpoint_files import BUNDLED, read_config
from captioner.description import DEV_SCORES
from captioner.errors import CheckpointError
from tests.batch.conftest import save_tiny

ROOT = Path(__file__).parent.parent.parent
TEXT = model_card.CARD.read_text(encoding="utf-8")
SCORES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "CIDEr-D"]


def table(text: str, head: str) -> list[list[str]]:
    """Rows, the first one included, of the Markdown table whose first row begins so."""
    lines = text[text.index(f"\n{head}") + 1 :].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|---")]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "it's [mine](x)"
    folder.mkdir()
    shutil.copy(BUNDLED / "config.json", folder)
    (folder / "model.safetensors").write_bytes(b"weights" * 300_000)
    return folder


def change(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _page() -> None:
    from app import about_page

    about_page.show()


def open_page(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["streamlit_app.py", *arguments])
    return AppTest.from_function(_page, default_timeout=60).run()


def test_the_scores_are_those_of_the_other_documents() -> None:
    (_, soft, hard), *rows = table(TEXT, "| | soft attention")
    assert (soft[:4], hard[:4]) == ("soft", "hard")
    assert [name for name, *_ in rows] == SCORES
    names, *models = table((ROOT / "README.md").read_text(encoding="utf-8"), "| model | BLEU-1")
    assert [model[0][:4] for model in models] == ["soft", "hard"]
    readme = dict(zip(names, zip(*models, strict=True), strict=True))
    pair = r"(\S+) and (\S+)"
    results = " ".join((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split())
    found = re.search(rf"score {pair} BLEU-4, {pair} METEOR, {pair} CIDEr-D", results)
    assert found
    assert {name: (a, b) for name, a, b in rows} == {name: readme[name] for name in names[1:]} | {
        "METEOR": found.group(3, 4)
    }


def test_what_people_score_is_what_the_results_say() -> None:
    results = table((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), "| | people | soft | hard |")
    bleu, cider = ([cell.split(" ")[0] for cell in row[1:]] for row in results if row[0] in ("BLEU-4", "CIDEr-D"))
    sentence = " ".join(TEXT.split())
    assert f"people have BLEU-4 {bleu[0]} and CIDEr-D {cider[0]}, " in sentence
    assert f"soft attention {bleu[1]} and {cider[1]}, hard attention {bleu[2]} and {cider[2]}" in sentence


def test_the_documents_and_commands_the_card_names_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", TEXT)
    assert "results.md" in links
    assert not [link for link in links if not (model_card.CARD.parent / link).is_file()]
    files = re.findall(r"(?<![\w/.])(?:recipes|docs)/\S+\.(?:toml|py)|evaluate\.py|train\.py", TEXT)
    assert {"evaluate.py", "docs/count_words.py", "recipes/flickr8k-soft.toml"} <= set(files)
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_the_page_needs_no_file_beside_it() -> None:
    assert not re.search(r"!\[|<img|<iframe|<script", TEXT)
    card = model_card.card()
    assert re.findall(r"\]\((?!https://)", card) == []
    assert "`docs/results.md`" in card
    assert "`examples/README.md`" in card
    assert not re.search("^# ", card, flags=re.M)
    assert card.count("\n## ") == TEXT.count("\n## ") > 5


def test_where_the_model_looked_is_never_why() -> None:
    section = model_card.section(model_card.LOOKING)
    assert section.count("\n## ") == 0
    assert "where the model looked" in section
    assert "does not say *why*" in section


def test_the_facts_are_those_of_the_files() -> None:
    weights = (BUNDLED / "model.safetensors").read_bytes()
    assert description.facts(BUNDLED) == {
        "Encoder": "efficientnet_lite2",
        "Input": "384 × 384 pixels",
        "Grid": "12 × 12 cells",
        "Attention": "soft",
        "Score": "additive",
        "Word embedding, E": "384",
        "Hidden state, H": "512",
        "Attention layer, A": "192",
        "Vocabulary": "2,540 entries",
        "Weights": f"{len(weights) / 1e6:.1f} MB",
        "SHA-256": f"{hashlib.sha256(weights).hexdigest()[:12]}…",
    }
    assert f"the {2540 - 4:,} words" in TEXT  # four entries are no words


def test_what_a_recipe_leaves_to_the_encoder_is_said(own: Path) -> None:
    model = json.loads((own / "config.json").read_text())["model"]
    change(own, model=model | {"encoder": {"name": "resnet18"}})
    facts = description.facts(own)
    assert (facts["Encoder"], facts["Input"], facts["Grid"]) == ("resnet18", "the encoder's own", "the encoder's own")
    assert facts["Weights"] == "2.1 MB"


def test_a_checkpoint_of_ones_own_is_told_by_its_config(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(monkeypatch, "--checkpoint", str(own))
    assert not page.exception
    assert r"\[mine\]\(x\)" in page.markdown[0].value
    assert (
        page.markdown[0]
        .value.replace("\\", "")
        .endswith(
            "Trained on flickr8k by self-critical training from runs/flickr8k-soft-finetune/best and kept at epoch 10."
        )
    )
    assert page.table[1].value.to_dict("records") == [
        {DEV_SCORES[name]: f"{score:.2f}" for name, score in read_config(BUNDLED)["notes"]["dev"].items()}
    ]
    assert page.code[0].value == f""".venv/bin/python evaluate.py '{own.parent}/it'"'"'s [mine](x)'"""
    assert json.loads(page.code[1].value)["train"]["objective"] == "self_critical"
    shown = " ".join(markdown.value for markdown in page.markdown)
    assert "does not say *why*" in shown
    assert "## Limits" not in shown
    page.segmented_control[0].set_value("Hard attention").run()
    assert "## Limits" in page.markdown[0].value
    assert page.table[0].value.iloc[3].tolist() == ["Attention", "hard"]


def test_a_model_that_was_trained_on_since_is_told_from_the_one_that_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = save_tiny(tmp_path / "mine", 0)
    page = open_page(monkeypatch, "--checkpoint", str(mine))
    assert not page.info, "nothing is loaded yet"
    models.captioner(mine)
    assert not page.run().info
    save_tiny(mine, 1)
    assert page.run().info[0].value.endswith("Start the app again to caption with this one.")


def test_a_best_checkpoint_is_shown_by_the_name_of_its_run(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(monkeypatch, "--checkpoint", str(own.rename(own.parent / "best")))
    assert page.segmented_control[0].options[0] == own.parent.name.replace("_", r"\_")


@pytest.mark.parametrize("notes", [{}, None, [], {"recipe": {"train": 3}, "dev": {"bleu4": "high"}, "epoch": 1}])
def test_a_checkpoint_may_tell_nothing_of_its_training(
    own: Path, monkeypatch: pytest.MonkeyPatch, notes: object
) -> None:
    change(own, notes=notes)
    page = open_page(monkeypatch, "--checkpoint", str(own))
    assert not page.exception
    assert len(page.table) == 1
    assert page.code[0].value.startswith(".venv/bin/python evaluate.py ")


def test_a_broken_checkpoint_is_named(own: Path) -> None:
    change(own, model={"encoder": {}})
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        description.facts(own)
    (own / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        description.facts(own)
    shutil.copy(BUNDLED / "config.json", own)
    (own / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        description.facts(own)


def test_the_bundled_models_are_known_by_their_folder() -> None:
    assert model_card.is_bundled(BUNDLED)
    assert model_card.is_bundled(BUNDLED.parent / "flickr8k-hard")
    assert not model_card.is_bundled(BUNDLED.parent)
    assert not model_card.is_bundled(Path("runs") / "flickr8k-soft")


def test_the_card_is_on_the_page(page: Page) -> None:
    page.get_by_role("link", name="About the model").click()
    expect(page.get_by_role("heading", name="Limits")).to_be_visible()
    bleu = next(soft for name, soft, _ in table(TEXT, "| | soft attention") if name == "BLEU-4")
    expect(page.get_by_role("cell", name=bleu)).to_be_visible()
    main = page.get_by_test_id("stMain")
    links = [link.get_attribute("href") or "" for link in main.locator("a[href]").all()]
    assert links
    assert all(link.startswith(("https://", "#")) for link in links)
    assert main.locator("img").count() == 0
    soft, hard = (
        hashlib.sha256((BUNDLED.parent / name / "model.safetensors").read_bytes()).hexdigest()[:12]
        for name in ("flickr8k-soft", "flickr8k-hard")
    )
    expect(main.get_by_text(soft)).to_be_visible()
    page.get_by_role("radio", name="Hard attention").click()
    expect(main.get_by_text(hard)).to_be_visible()
    page.set_viewport_size({"width": 400, "height": 800})
    page.get_by_role("heading", name="Scores").scroll_into_view_if_needed()
    outside = "() => [...document.querySelectorAll('[data-testid=stMain] table')].some(e => e.scrollWidth > innerWidth)"
    assert not page.evaluate(outside)
