from __future__ import annotations

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu

from captioner.data.annotations import read_split
from captioner.metrics.bleu import BleuReward, bleu
from captioner.recipe import DataConfig
from captioner.vocabulary import tokenize
from tests.conftest import needs_data


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


def test_the_reward_equals_another_implementation() -> None:
    generator = np.random.default_rng(0)
    # Repeated words, captions shorter than four, and references of one length below and above.
    references = [[generator.integers(0, 6, size).tolist() for size in (3, 7, 9, 12)] for _ in range(20)]
    words = generator.integers(0, 6, (30, 4, 12))
    lengths = generator.integers(4, 13, (30, 4))
    images = generator.integers(0, 20, 30).tolist()
    smoothing = SmoothingFunction().method2
    expected = [
        [
            sentence_bleu(references[image], caption[:length].tolist(), smoothing_function=smoothing)
            for caption, length in zip(words[row], lengths[row], strict=True)
        ]
        for row, image in enumerate(images)
    ]
    found = BleuReward(references).score(images, words, lengths)
    assert found == pytest.approx(np.array(expected))
    assert found.min() < 0.25 < 0.6 < found.max()


def test_the_reward_of_a_short_caption_worked_out_by_hand() -> None:
    # One of one word, and one of one for each longer n-gram that it lacks; one word where two are the closest.
    found = BleuReward([[[1, 2], [3, 4, 5]]]).score([0], np.array([[[1, 9], [9, 9]]]), np.array([[1, 1]]))
    assert found == pytest.approx(np.array([[np.exp(-1), 0]]))


@needs_data("flickr8k")
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
