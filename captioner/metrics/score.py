"""Scores of a corpus that can be taken again of any sample of its images: intervals and comparisons.

Shapes: N images, S statistics of an image, R samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Combine = Callable[[Floats], Floats]  # totals (..., S) over images -> scores (...)
References = Sequence[Sequence[Sequence[str]]]  # words of all references of every image
Hypotheses = Sequence[Sequence[str]]  # words of one caption per image; an empty caption is legal and earns nothing


@dataclass(frozen=True)
class CorpusScore:
    """A score of N captions that can be taken again of any sample of them.

    A corpus score such as BLEU is no mean over images but a formula of numbers added up over them. Those numbers are
    kept for every image, so that a sample of images is scored by adding up theirs.

    Parameters
    ----------
    name : str
        As it stands in a table, "BLEU-4" for one.
    statistics : ndarray
        (N, S), the numbers of every image.
    combine : callable
        From totals (..., S) over images to scores (...).
    """

    name: str
    statistics: Floats
    combine: Combine

    @property
    def value(self) -> float:
        """The score of the whole corpus, in its own unit: percent of most, bits of an entropy."""
        return float(self.combine(self.statistics.sum(0)))

    @property
    def per_image(self) -> Floats:
        """Scores (N,) of every image as a corpus of its own; their mean need not be `value`."""
        return self.combine(self.statistics)


def mean_score(name: str, scores: Floats) -> CorpusScore:
    """Build the score that is the mean of its images' scores (N,)."""
    return CorpusScore(name, np.stack([scores, np.ones(len(scores))], 1), ratio)


def ratio(totals: Floats) -> Floats:
    """First of two totals (..., 2) over the second; of nothing it is not a number."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scores: Floats = totals[..., 0] / totals[..., 1]
    return scores


def interval(score: CorpusScore, samples: int = 1000, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a score by the percentile bootstrap over images (Efron and Tibshirani 1993, chapter 13).

    It says how much the score would move with other images of the same kind; not with other references of these
    images, nor with another training of the model. Document frequencies of CIDEr stay those of the whole corpus.

    Parameters
    ----------
    score : CorpusScore
    samples : int
        How often N images are drawn, with replacement.
    confidence : float
        Share of the samples' scores that lie inside.

    Returns
    -------
    low, high : float
        In the score's own unit.
    """
    scores = _resampled(score, samples)
    scores = scores[np.isfinite(scores)]  # a sample may hold nothing a score could go by
    if not len(scores):
        return math.nan, math.nan
    low, high = np.quantile(scores, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def probability_better(first: CorpusScore, second: CorpusScore, samples: int = 1000) -> float:
    """Share of bootstrap samples of the images in which `second` scores higher than `first` (Koehn 2004).

    Both are scored on the same samples, so that what makes an image hard for both does not count. Ties count half.

    Parameters
    ----------
    first, second : CorpusScore
        The same metric of two models on the same images in the same order.
    samples : int
        How often N images are drawn, with replacement.

    Raises
    ------
    ValueError
        If the two are not of equally many images.
    """
    if len(first.statistics) != len(second.statistics):
        raise ValueError(
            f"scores of {len(first.statistics)} and {len(second.statistics)} images cannot be paired; "
            "score both models on the same images"
        )
    scores = [_resampled(score, samples) for score in (first, second)]
    higher = np.sign(scores[1] - scores[0])
    higher = higher[np.isfinite(higher)]
    return float((1 + higher.mean()) / 2) if len(higher) else math.nan


def check_captions(metric: str, references: References, hypotheses: Hypotheses, least: int = 1) -> None:
    """Make sure that captions can be scored.

    Raises
    ------
    ValueError
        If there are fewer images than `least`, an image has no reference, or the two do not match.
    """
    if len(hypotheses) < least or len(references) != len(hypotheses) or not all(references):
        number = {1: "one", 2: "two"}[least]
        raise ValueError(
            f"{metric} needs one hypothesis and at least one reference for each of {number} or more images"
        )


def _resampled(score: CorpusScore, samples: int) -> Floats:
    """Scores (R,) of samples of N images; which images depends on N alone."""
    return score.combine(_weights(len(score.statistics), samples) @ score.statistics)


@lru_cache(maxsize=1)
def _weights(images: int, samples: int) -> Floats:
    """How often each of N images is in each of R samples (R, N); all scores of an evaluation use the same."""
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), samples)
    return drawn.astype(np.float64)
