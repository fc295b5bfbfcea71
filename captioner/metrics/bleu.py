"""BLEU (Papineni et al. 2002) of a whole corpus, by coco-caption's own scorer."""

from __future__ import annotations

from collections.abc import Sequence

from pycocoevalcap.bleu.bleu_scorer import BleuScorer


def bleu(references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, percent, unsmoothed, against the reference of closest length.

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
    if not hypotheses or len(references) != len(hypotheses) or not all(references):
        raise ValueError("BLEU needs one hypothesis and at least one reference for each of one or more images")
    scorer = BleuScorer(n=4)
    for hypothesis, image_references in zip(hypotheses, references, strict=True):
        scorer += (" ".join(hypothesis), [" ".join(reference) for reference in image_references])
    scores, _ = scorer.compute_score(option="closest", verbose=0)
    return [100.0 * score for score in scores]
