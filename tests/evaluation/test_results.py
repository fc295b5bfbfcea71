from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.config import DecodingOptions
from captioner.errors import CaptionerError, DatasetError
from captioner.evaluation.evaluator import against_all_but_one
from captioner.evaluation.results import Evaluation, PhotoResult
from captioner.evaluation.scores import COMBINE, PERPLEXITY
from captioner.evaluation.table import evaluation_table, score_table
from captioner.metrics.score import CorpusScore, interval, probability_better
from captioner.metrics.scoring import score_captions

pytestmark = pytest.mark.usefixtures("no_java")
CAPTIONS = ["a dog runs in the grass", "two men sit on a bench", "a girl jumps", "it 's a red car"]
REFERENCES = [
    ("A dog runs through grass .", "the brown dog is running"),
    ("Two men sit on a bench .", "men on a bench in a park"),
    ("A girl is jumping high .", "the girl jumps over a rope"),
    ("A red car .", "a car on the road"),
]

SETTINGS = {
    "protocol": "coco",
    "data": "flickr8k",
    "split": "dev",
    "checkpoint_sha256": "0" * 64,
    "words": "lower case",
}


def made(system: str = "first", captions: list[str] = CAPTIONS, **settings: Any) -> Evaluation:
    photos = tuple(
        PhotoResult(f"{number}.jpg", caption, -1.5 * number, references)
        for number, (caption, references) in enumerate(zip(captions, REFERENCES, strict=True))
    )
    references = [[reference.lower().split() for reference in photo.references] for photo in photos]
    scores, missing = score_captions(references, [caption.split() for caption in captions])
    rows = np.array([[-10.0, 4], [-8, 5], [-9, 6], [-20, 6]])
    scores[PERPLEXITY] = CorpusScore(PERPLEXITY, rows, COMBINE[PERPLEXITY])
    options = DecodingOptions(beam_size=5).to_dict()
    return Evaluation(system, {**SETTINGS, **options, **settings}, photos, scores, missing, {"words": 5.25})


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    evaluation = made()
    evaluation.save(tmp_path / "result.json")
    back = Evaluation.load(tmp_path / "result.json")
    assert (back.system, back.settings, back.photos) == (evaluation.system, evaluation.settings, evaluation.photos)
    assert (back.not_computed, back.style) == (evaluation.not_computed, evaluation.style)
    assert back.decoding == DecodingOptions(beam_size=5)
    assert list(back.scores) == list(evaluation.scores)
    for name, score in evaluation.scores.items():
        assert back.scores[name].value == pytest.approx(score.value, nan_ok=True)
        assert interval(back.scores[name]) == pytest.approx(interval(score), nan_ok=True)
        assert probability_better(score, back.scores[name]) == pytest.approx(0.5)
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["photos"][1]["scores"]["CIDEr-D"] == pytest.approx(evaluation.scores["CIDEr-D"].per_image[1])
    assert content["scores"]["BLEU-1"]["value"] == pytest.approx(evaluation.scores["BLEU-1"].value)


def test_a_result_that_is_older_than_a_setting_has_its_default(tmp_path: Path) -> None:
    evaluation = made()
    for name in ("prefix", "top_words", "temperature"):
        del evaluation.settings[name]
    evaluation.save(tmp_path / "result.json")
    assert Evaluation.load(tmp_path / "result.json").decoding == DecodingOptions(beam_size=5)


def test_a_result_that_lacks_what_another_measures_of_style_stands_beside_it() -> None:
    first, second = made(), dataclasses.replace(made("second"), style={"vocabulary": 12.0})
    rows = [line.split() for line in evaluation_table([first, second]).splitlines()]
    assert ["words", "5.25", "-"] in rows
    assert ["vocabulary", "-", "12.00"] in rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "not a result that evaluate.py wrote"),
        ("[]", "not a result that evaluate.py wrote"),
        ('{"version": 1}', "not a result that evaluate.py wrote (KeyError('photos'))"),
        ('{"version": 99}', "version 99, not 1; evaluate again"),
    ],
)
def test_what_is_no_result_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DatasetError) as caught:
        Evaluation.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_only_evaluations_of_the_same_photos_and_references_stand_side_by_side() -> None:
    first = made()
    made("second").require_data(first.data)
    fewer = dataclasses.replace(first, system="fewer", photos=first.photos[:3])
    with pytest.raises(CaptionerError, match=r"fewer was evaluated on different data \(3 photos against 4\)"):
        fewer.require_data(first.data)
    for change in ({"name": "other.jpg"}, {"references": ("a cat",)}):
        photos = (*first.photos[:2], dataclasses.replace(first.photos[2], **change), first.photos[3])  # type: ignore[arg-type]
        with pytest.raises(CaptionerError, match=r"2\.jpg is not among the others, or has other references there"):
            first.require_data(dataclasses.replace(first, photos=photos).data)


def test_a_table_has_values_intervals_and_who_is_better() -> None:
    first, second = made(), made("second", ["a dog runs through grass", *CAPTIONS[1:]])
    lines = evaluation_table([first, second]).splitlines()
    assert lines[0].split() == ["first", "second"]
    row = next(line for line in lines if line.startswith("CIDEr-D"))
    low, high = interval(first.scores["CIDEr-D"])
    better = probability_better(first.scores["CIDEr-D"], second.scores["CIDEr-D"])
    assert better > 0.6
    assert f"{first.scores['CIDEr-D'].value:.2f} ± {(high - low) / 2:.2f}" in row
    assert row.endswith(f"({better:4.0%})")
    assert any(line.startswith("SPICE: not computed: needs ") for line in lines)
    assert next(line for line in lines if line.startswith("words")).split() == ["words", "5.25", "5.25"]


def test_people_are_scored_by_the_references_of_each_other() -> None:
    references = [[reference.lower().split() for reference in photo] for photo in REFERENCES]
    people = against_all_but_one(references, None)
    one, _ = score_captions([[photo[1]] for photo in references], [photo[0] for photo in references])
    other, _ = score_captions([[photo[0]] for photo in references], [photo[1] for photo in references])
    assert list(people) == list(one)
    for name, score in people.items():
        assert score.value == pytest.approx((one[name].value + other[name].value) / 2)
        assert score.statistics.shape[0] == 4
    model = against_all_but_one(references, [caption.split() for caption in CAPTIONS])
    assert model["BLEU-1"].value != people["BLEU-1"].value
    assert "people" in score_table([("people", people), ("model", model)]).splitlines()[0]
    with pytest.raises(CaptionerError, match="one reference"):
        against_all_but_one([[["a"]], [["b"], ["c"]]], None)
