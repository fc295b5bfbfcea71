from __future__ import annotations

import os

import pytest
from nltk.translate.bleu_score import corpus_bleu

from captioner.data.annotations import DATA_VARIABLE, read_split
from captioner.metrics.bleu import bleu
from captioner.recipe import DataConfig
from captioner.vocabulary import tokenize


def _nltk(references: list[list[list[str]]], hypotheses: list[list[str]]) -> list[float]:
    weights = [(1 / n,) * n for n in (1, 2, 3, 4)]
    return [100 * score for score in corpus_bleu(references, hypotheses, weights)]


def _ours(references: list[list[list[str]]], hypotheses: list[list[str]]) -> list[float]:
    return [score.value for score in bleu(references, hypotheses)]


def test_a_corpus_worked_out_by_hand() -> None:
    references = [[["a", "b", "c", "d"], ["a", "b"]]]
    # Unigrams 3 of 3, bigrams 1 of 2 (a b, not b d), length 3 against the closer of 4 and 2, the shorter.
    scores = _ours(references, [["a", "b", "d"]])
    assert scores[0] == pytest.approx(100)
    assert scores[1] == pytest.approx(100 * (1 * 1 / 2) ** 0.5)
    assert scores[3] == pytest.approx(0, abs=1e-2)


def test_equals_another_implementation_on_made_up_words() -> None:
    import random

    generator = random.Random(0)

    def sentence() -> list[str]:
        return generator.choices("abcdefg", k=generator.randint(4, 12))

    references = [[sentence() for _ in range(5)] for _ in range(200)]
    hypotheses = [sentence() for _ in range(200)]
    assert _ours(references, hypotheses) == pytest.approx(_nltk(references, hypotheses), abs=1e-5)


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason=f"real data: set {DATA_VARIABLE} to its folder")
def test_equals_another_implementation_on_people() -> None:
    images = read_split(DataConfig("flickr8k"), "dev")
    words = [[tokenize(caption) for caption in image.captions] for image in images]
    # NLTK counts an n-gram where a caption is too short to have one, so those are left out.
    words = [w for w in words if len(w[0]) >= 4]
    assert len(words) > 900
    references, hypotheses = [w[1:] for w in words], [w[0] for w in words]
    assert _ours(references, hypotheses) == pytest.approx(_nltk(references, hypotheses), abs=1e-5)


@pytest.mark.parametrize(("references", "hypotheses"), [([], []), ([[]], [["a"]]), ([[["a"]]], [["a"], ["b"]])])
def test_missing_references_are_an_error_and_not_a_zero(
    references: list[list[list[str]]], hypotheses: list[list[str]]
) -> None:
    with pytest.raises(ValueError, match="BLEU needs"):
        bleu(references, hypotheses)
