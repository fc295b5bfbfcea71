"""BLEU (Papineni et al. 2002): that of a whole corpus by coco-caption's own scorer, and one that rewards training.

Shapes: B images, K captions scored per image, T words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import exp

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

from captioner.metrics.score import CorpusScore, Floats, Hypotheses, Ints, References, check_captions

_ORDERS = 4
# coco-caption adds these to what it divides: nothing guessed is no division by zero, and scores almost nothing.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(references: References, hypotheses: Hypotheses) -> list[CorpusScore]:
    """Corpus BLEU-1 to BLEU-4, percent, unsmoothed, against the reference of closest length.

    The n-grams are counted by coco-caption's scorer, and its formula is applied to their totals.

    Parameters
    ----------
    references : sequence of sequence of word lists
        All references of every image.
    hypotheses : sequence of word lists
        One per image.

    Raises
    ------
    ValueError
        If there are no images, or an image has no reference.
    """
    check_captions("BLEU", references, hypotheses)
    scorer = BleuScorer(n=_ORDERS)
    for hypothesis, image_references in zip(hypotheses, references, strict=True):
        scorer += (" ".join(hypothesis), [" ".join(reference) for reference in image_references])
    statistics = np.array(
        [
            [*counts["correct"], *counts["guess"], counts["testlen"], _closest(counts["reflen"], counts["testlen"])]
            for counts in scorer.ctest
        ],
        np.float64,
    )
    return [CorpusScore(f"BLEU-{n}", statistics, partial(combine_bleu, order=n)) for n in range(1, _ORDERS + 1)]


def _closest(lengths: list[int], length: int) -> int:
    """Find the length closest to a hypothesis's, the shorter of two equally close."""
    return min(lengths, key=lambda reference: (abs(reference - length), reference))


def combine_bleu(totals: Floats, order: int) -> Floats:
    """Section 2.3: geometric mean of the n-gram precisions up to an order, times the brevity penalty."""
    correct, guess = totals[..., :order], totals[..., _ORDERS : _ORDERS + order]
    precision = np.prod((correct + _TINY) / (guess + _SMALL), -1) ** (1 / order)
    ratio = (totals[..., -2] + _TINY) / (totals[..., -1] + _SMALL)
    scores: Floats = 100 * precision * np.exp(np.minimum(0, 1 - 1 / ratio))
    return scores


class BleuReward:
    """BLEU-4 of single captions against references that never change, smoothed.

    Most captions share no four words in a row with a reference; one is added to both counts of a precision of two words
    and more (Lin & Och 2004, "BLEU+1"), so that what is right of them still counts.

    Parameters
    ----------
    references : sequence of sequence of int sequences
        All references of every image, as numbers of words.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        self._references = references

    def score(self, images: Sequence[int], words: Ints, lengths: Ints) -> Floats:
        """Score K captions of each of B images.

        Parameters
        ----------
        images : sequence of int
            Which of the references' images, B of them.
        words : ndarray
            (B, K, T) numbers of the words; what stands past a caption's length does not matter.
        lengths : ndarray
            (B, K), words in every caption, at least one.

        Returns
        -------
        ndarray
            (B, K) BLEU-4, 0 to 1.
        """
        scores = np.zeros(lengths.shape)
        for row, image in enumerate(images):
            references = self._references[image]
            given = [len(reference) for reference in references]
            known: Counter[tuple[int, ...]] = Counter()
            for reference in references:
                known |= _ngrams(reference)
            for place, (caption, length) in enumerate(zip(words[row].tolist(), lengths[row].tolist(), strict=True)):
                found = _ngrams(caption[:length])
                matches = [0] * _ORDERS
                for ngram, count in found.items():
                    matches[len(ngram) - 1] += min(count, known[ngram])
                precision = matches[0] / length
                for order in range(2, _ORDERS + 1):
                    precision *= (matches[order - 1] + 1) / (max(0, length - order + 1) + 1)
                brevity = exp(min(0.0, 1 - _closest(given, length) / length))
                scores[row, place] = brevity * precision ** (1 / _ORDERS)
        return scores


def _ngrams(words: Sequence[int]) -> Counter[tuple[int, ...]]:
    counts: Counter[tuple[int, ...]] = Counter()
    for order in range(1, _ORDERS + 1):
        counts.update(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
    return counts
