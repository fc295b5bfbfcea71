"""BLEU (Papineni et al. 2002) of a whole corpus, by coco-caption's own scorer."""

from __future__ import annotations

from functools import partial

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

from captioner.metrics.score import CorpusScore, Floats, Hypotheses, References, check_captions

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
