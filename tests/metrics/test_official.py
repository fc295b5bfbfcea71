"""Every metric is coco-caption's own, called as coco-caption calls it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from captioner.data.annotations import DATA_VARIABLE
from captioner.metrics.bleu import bleu
from captioner.metrics.cider import cider_d
from captioner.metrics.meteor import meteor
from captioner.metrics.rouge import rouge_l
from captioner.metrics.score import CorpusScore
from tests.metrics.conftest import Corpus

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program, and there is no Java")
METRICS = [pytest.param(rouge_l, Rouge, id="ROUGE-L"), pytest.param(cider_d, Cider, id="CIDEr-D")]


def official(scorer: Any, corpus: Corpus, **options: int) -> Any:
    references, hypotheses = corpus
    gts = {row: [" ".join(caption) for caption in image] for row, image in enumerate(references)}
    return scorer.compute_score(gts, {row: [" ".join(caption)] for row, caption in enumerate(hypotheses)}, **options)


@pytest.mark.parametrize("name", ["made_up", "people"])
def test_bleu(name: str, request: pytest.FixtureRequest) -> None:
    corpus = request.getfixturevalue(name)
    values, per_image = official(Bleu(4), corpus, verbose=0)
    scores = bleu(*corpus)
    assert [score.name for score in scores] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    for score, value, images in zip(scores, values, per_image, strict=True):
        assert score.value == pytest.approx(100 * value, abs=1e-9)
        assert score.per_image == pytest.approx([100 * image for image in images], abs=1e-9)


@pytest.mark.parametrize("name", ["made_up", "people"])
@pytest.mark.parametrize(("metric", "scorer"), METRICS)
def test_one_number_metrics(
    metric: Callable[..., CorpusScore], scorer: Callable[[], Any], name: str, request: pytest.FixtureRequest
) -> None:
    corpus = request.getfixturevalue(name)
    check_alike(metric(*corpus), official(scorer(), corpus), corpus, name)


@needs_java
def test_meteor(request: pytest.FixtureRequest) -> None:
    """Of all corpora that are there; one program of each for all of them, since it takes its ten seconds to start."""
    names = ["made_up", "people"] if DATA_VARIABLE in os.environ else ["made_up"]
    corpora = [request.getfixturevalue(name) for name in names]
    together = meteor(*([image for corpus in corpora for image in corpus[part]] for part in (0, 1)))
    scorer, start = Meteor(), 0
    for name, corpus in zip(names, corpora, strict=True):
        own = together.statistics[start : start + len(corpus[1])]
        start += len(own)
        check_alike(dataclasses.replace(together, statistics=own), official(scorer, corpus), corpus, name)


def check_alike(score: CorpusScore, expected: tuple[float, Sequence[float]], corpus: Corpus, name: str) -> None:
    value, per_image = expected
    assert score.value == pytest.approx(100 * value, abs=1e-9)
    assert score.per_image == pytest.approx([100 * image for image in per_image], abs=1e-9)
    assert score.value > 10
    assert [score.per_image[row] for row, caption in enumerate(corpus[1]) if not caption] == [0] * (name == "made_up")


@pytest.mark.parametrize("metric", [rouge_l, cider_d])
def test_an_empty_caption_drags_the_corpus_down(metric: Callable[..., CorpusScore], made_up: Corpus) -> None:
    references, hypotheses = made_up
    filled = [references[3][0] if row == 3 else caption for row, caption in enumerate(hypotheses)]
    assert metric(references, filled).value > metric(references, hypotheses).value
    assert metric(references, [[] for _ in references]).value == 0


def test_empty_captions_score_no_bleu(made_up: Corpus) -> None:
    references, hypotheses = made_up
    for score in bleu(references, hypotheses):
        assert score.per_image[3] == 0
    assert [score.value for score in bleu(references, [[] for _ in references])] == [0, 0, 0, 0]
