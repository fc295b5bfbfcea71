from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from captioner.errors import MetricUnavailableError
from captioner.metrics import spice as spice_room
from captioner.metrics.scoring import COMBINE, score_captions
from captioner.metrics.spice import spice
from tests.metrics.conftest import Corpus
from tests.metrics.test_meteor import fake_java

ALWAYS = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "CIDEr-D"]


def test_without_java_the_others_are_scored_and_the_reason_given(
    made_up: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    scores, missing = score_captions(*made_up)
    assert list(scores) == ALWAYS == [score.name for score in scores.values()]
    assert missing == {"METEOR": "needs Java", "SPICE": "needs Java"}
    assert all(score.value > 0 and len(score.per_image) == 60 for score in scores.values())
    for name, score in scores.items():
        assert COMBINE[name](score.statistics.sum(0)) == score.value


@pytest.mark.parametrize(("references", "hypotheses"), [([], []), ([[["a"]]], [["a"]]), ([[], [["a"]]], [["a"], []])])
def test_what_cannot_be_scored_is_refused(references: list[list[list[str]]], hypotheses: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="one hypothesis and at least one reference"):
        score_captions(references, hypotheses)


def test_spice_never_downloads_its_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download() -> None:
        raise AssertionError("SPICE was about to download its models")

    fake_java(tmp_path, "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(spice_room, "_MODELS", [tmp_path / "absent.jar"])
    monkeypatch.setattr(spice_room, "Spice", download)
    with pytest.raises(MetricUnavailableError, match=r"^needs the CoreNLP models of SPICE$"):
        spice([[["a"]]], [["a"]])


def test_spice_scores_go_to_their_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Stand:
        """Answers as SPICE's wrapper does, with a score that tells the image."""

        def compute_score(self, gts: dict[int, list[str]], res: dict[int, list[str]]) -> tuple[float, list[Any]]:
            assert gts == {0: ["a dog", "dog"], 2: ["two cats"]}
            assert res == {0: ["dog"], 2: ["cats"]}
            return 0.3, [{"All": {"f": 0.2}}, {"All": {"f": 0.4}}]

    fake_java(tmp_path, "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(spice_room, "_MODELS", [])
    monkeypatch.setattr(spice_room, "Spice", Stand)
    score = spice([[["a", "dog"], ["dog"]], [["x"]], [["two", "cats"]]], [["dog"], [], ["cats"]])
    assert score.per_image == pytest.approx([20, 0, 40])
    assert score.value == pytest.approx(20)


@pytest.mark.parametrize("error", [PermissionError("tmp"), ValueError("no JSON")])
def test_spice_that_cannot_work_costs_no_other_metric(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    class Stand:
        def compute_score(self, gts: object, res: object) -> None:
            raise error

    fake_java(tmp_path, "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(spice_room, "_MODELS", [])
    monkeypatch.setattr(spice_room, "Spice", Stand)
    with pytest.raises(MetricUnavailableError, match=f"^its Java program failed: {error}$"):
        spice([[["a", "dog"]]], [["dog"]])
