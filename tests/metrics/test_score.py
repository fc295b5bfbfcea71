from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from captioner.metrics.bleu import bleu
from captioner.metrics.rouge import rouge_l
from captioner.metrics.score import CorpusScore, Hypotheses, References, interval, mean_score, probability_better
from tests.metrics.conftest import Corpus


def noise(images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 10, images)


def bleu_4(references: References, hypotheses: Hypotheses) -> CorpusScore:
    return bleu(references, hypotheses)[3]


def test_a_mean_is_the_mean() -> None:
    scores = noise(30)
    score = mean_score("x", scores)
    assert score.value == pytest.approx(scores.mean(), abs=1e-12)
    assert score.per_image == pytest.approx(scores, abs=1e-12)


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    scores = noise(2000)
    low, high = interval(mean_score("x", scores), samples=4000)
    error = scores.std() / 2000**0.5
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.15 * error)
    low, high = interval(mean_score("x", scores), samples=4000, confidence=0.5)
    assert high - low == pytest.approx(2 * 0.674 * error, rel=0.1)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    intervals = [interval(mean_score("x", noise(100, seed)), samples=300, confidence=0.9) for seed in range(200)]
    covered = sum(low <= 50 <= high for low, high in intervals)
    assert 0.83 * 200 < covered < 0.96 * 200  # 90 % of 200, three standard errors either way


@pytest.mark.parametrize("metric", [bleu_4, rouge_l])
def test_the_interval_covers_the_value_and_shrinks_with_more_images(
    metric: Callable[[References, Hypotheses], CorpusScore], made_up: Corpus
) -> None:
    references, hypotheses = made_up[0] * 4, made_up[1] * 4
    score = metric(references, hypotheses)
    low, high = interval(score)
    assert low < score.value < high
    narrow_low, narrow_high = interval(metric(references * 9, hypotheses * 9))
    assert narrow_low < score.value < narrow_high
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(3, rel=0.2)


def test_an_interval_is_the_same_again() -> None:
    score = mean_score("x", noise(50))
    found = interval(score)
    interval(mean_score("x", noise(51)))  # draws anew
    assert interval(score) == found


@pytest.mark.parametrize("metric", [bleu_4, rouge_l])
def test_a_weight_of_two_is_an_image_scored_twice(
    metric: Callable[[References, Hypotheses], CorpusScore], made_up: Corpus
) -> None:
    references, hypotheses = made_up
    score = metric(references, hypotheses)
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60))
    rows = np.repeat(np.arange(60), weights)
    drawn = metric([references[row] for row in rows], [hypotheses[row] for row in rows])
    assert float(score.combine(weights @ score.statistics)) == pytest.approx(drawn.value, abs=1e-9)
    assert drawn.value != pytest.approx(score.value, abs=1e-3)


def test_a_model_is_not_better_than_itself() -> None:
    score = mean_score("x", noise(100))
    assert probability_better(score, score) == 0.5


def test_samples_are_shared_so_a_small_steady_gain_is_certain() -> None:
    scores = noise(100)
    first, second = mean_score("x", scores), mean_score("x", scores + 0.01)
    assert probability_better(first, second) == 1
    assert probability_better(second, first) == 0


def test_the_probability_is_that_of_the_mean_difference() -> None:
    first, gain = noise(400), noise(400, seed=1)
    gain += 0.5 - gain.mean()
    expected = NormalDist().cdf(0.5 / (gain.std() / 400**0.5))
    assert 0.7 < expected < 0.95
    found = probability_better(mean_score("x", first), mean_score("x", first + gain), samples=4000)
    assert found == pytest.approx(expected, abs=0.03)


def test_better_captions_are_better(made_up: Corpus) -> None:
    references, hypotheses = made_up
    right = [image[0] for image in references]
    assert probability_better(bleu_4(references, hypotheses), bleu_4(references, right)) > 0.99


def test_scores_of_different_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="3 and 4 images"):
        probability_better(mean_score("x", noise(3)), mean_score("x", noise(4)))
