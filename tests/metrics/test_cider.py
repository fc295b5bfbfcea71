from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.cider.cider_scorer import CiderScorer

from captioner.errors import MetricUnavailableError
from captioner.metrics.cider import MOST_WORDS, CiderReward, cider, cider_d
from tests.metrics.conftest import Corpus

WORDS = 30


def random_captions(generator: np.random.Generator, images: int) -> list[list[list[int]]]:
    """References of a few words out of few, so that n-grams repeat within and between captions."""
    return [
        [generator.integers(0, WORDS, generator.integers(1, 12)).tolist() for _ in range(generator.integers(1, 6))]
        for _ in range(images)
    ]


def padded(captions: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([[len(caption) for caption in image] for image in captions])
    words = np.full((*lengths.shape, lengths.max() + 2), 7)  # what stands past the end is no pad, and must not count
    for image, image_captions in enumerate(captions):
        for place, caption in enumerate(image_captions):
            words[image, place, : len(caption)] = caption
    return words, lengths


def official(references: list[list[list[int]]], hypotheses: list[list[int]]) -> np.ndarray:
    scorer = CiderScorer()
    for caption, image_references in zip(hypotheses, references, strict=True):
        scorer += (" ".join(map(str, caption)), [" ".join(map(str, r)) for r in image_references])
    return np.array(scorer.compute_score()[1])


def test_the_reward_is_the_official_score() -> None:
    generator = np.random.default_rng(0)
    references = random_captions(generator, 40)
    drawn = [[references[(row + k) % 40][0] for k in range(3)] for row in range(40)]  # right ones and wrong ones
    drawn[5][1] = [3]  # shorter than an n-gram of two
    drawn[6][1] = [3, 3, 3, 3, 3]
    scores = CiderReward(references, WORDS).score(range(40), *padded(drawn))
    assert scores.shape == (40, 3)
    for k in range(3):
        assert scores[:, k] == pytest.approx(official(references, [captions[k] for captions in drawn]), abs=1e-9)
    assert scores[:, 0].mean() > 3 * scores[:, 1].mean() > 0


def test_images_may_come_in_any_order_and_number() -> None:
    references = random_captions(np.random.default_rng(1), 20)
    reward = CiderReward(references, WORDS)
    words, lengths = padded([[image[0], image[-1]] for image in references])
    whole = reward.score(range(20), words, lengths)
    some = [7, 3, 3, 19]
    assert reward.score(some, words[some], lengths[some]) == pytest.approx(whole[some], abs=1e-12)


def test_words_no_reference_has_earn_nothing_and_cost_something() -> None:
    references = [[[1, 2, 3, 4, 5]], [[6, 7, 8, 9, 1]]]
    reward = CiderReward(references, WORDS)
    words, lengths = padded([[[2, 3, 4, 5], [2, 3, 4, 5, 20], [20, 21, 22]]])
    plain, longer, strange = reward.score([0], words, lengths)[0]
    assert plain > longer > strange == 0


def test_references_too_short_for_an_n_gram_are_no_obstacle() -> None:
    references = [[[1, 2]], [[3]]]
    words, lengths = padded([[[1, 2, 3, 4, 5]], [[3]]])
    scores = CiderReward(references, WORDS).score(range(2), words, lengths)[:, 0]
    assert scores == pytest.approx(official(references, [[1, 2, 3, 4, 5], [3]]), abs=1e-9)


def by_the_paper(corpus: Corpus) -> list[float]:
    """Equations 1 to 3 of Vedantam et al. 2015, word for word: tf-idf (1), cosine (2), mean over n (3)."""
    references, hypotheses = corpus

    def ngrams(caption: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(caption[k : k + n]) for k in range(len(caption) - n + 1)]

    scores = []
    for image, hypothesis in zip(references, hypotheses, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            documents = [{g for reference in other for g in ngrams(reference, n)} for other in references]

            def tf_idf(
                caption: list[str], n: int = n, documents: list[Any] = documents
            ) -> dict[tuple[str, ...], float]:
                counts = Counter(ngrams(caption, n))
                return {
                    g: counts[g] / counts.total() * math.log(len(references) / max(1, sum(g in d for d in documents)))
                    for g in counts
                }

            candidate = tf_idf(hypothesis)
            for vector in map(tf_idf, image):
                norms = math.hypot(*candidate.values()) * math.hypot(*vector.values())
                product = sum(weight * vector.get(g, 0) for g, weight in candidate.items())
                total += product / norms / len(image) / 4 if norms else 0
        scores.append(1000 * total)
    return scores


def test_plain_cider_is_that_of_the_paper(made_up: Corpus) -> None:
    score, expected = cider(*made_up), by_the_paper(made_up)
    assert score.per_image == pytest.approx(expected, abs=1e-9)
    assert score.value == pytest.approx(np.mean(expected), abs=1e-9)
    assert score.per_image[3] == 0


def test_only_plain_cider_can_be_had_by_repeating_a_word() -> None:
    references = [[["red", "dog", "runs"]], [["a", "cat"]], [["a", "dog"]]]
    once, thrice = [["red"], ["a"], ["a"]], [["red", "red", "red"], ["a"], ["a"]]
    assert cider(references, thrice).per_image[0] == pytest.approx(cider(references, once).per_image[0])
    assert cider_d(references, thrice).per_image[0] < cider_d(references, once).per_image[0]


def test_what_cannot_be_scored_is_refused() -> None:
    for metric in (cider, cider_d):
        with pytest.raises(ValueError, match="two or more images"):
            metric([[["a"]]], [["a"]])
    with pytest.raises(ValueError, match="two or more images"):
        CiderReward([[[1]]], WORDS)
    with pytest.raises(ValueError, match="at least one reference"):
        CiderReward([[[1]], []], WORDS)
    with pytest.raises(ValueError, match="at most 55,000 different words, not"):
        CiderReward([[[1]], [[2]]], 60_000)


def test_too_many_words_for_plain_cider_are_a_reason_and_no_crash() -> None:
    many = [str(number) for number in range(MOST_WORDS)]
    assert len(cider([[many], [["0"]]], [["1"], ["2"]]).per_image) == 2
    with pytest.raises(MetricUnavailableError, match=r"at most 55,000 different words, not 55,001"):
        cider([[many], [["0"]]], [["1"], ["one more"]])
