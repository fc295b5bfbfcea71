"""ROUGE-L (Lin 2004), by coco-caption's own scorer."""

from __future__ import annotations

import numpy as np
from pycocoevalcap.rouge.rouge import Rouge

from captioner.metrics.score import CorpusScore, Hypotheses, References, check_captions, mean_score


def rouge_l(references: References, hypotheses: Hypotheses) -> CorpusScore:
    """ROUGE-L, percent: F-measure (beta 1.2) of the longest common subsequence, averaged over images.

    As in coco-caption, precision and recall are each the best over the references.

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
    check_captions("ROUGE-L", references, hypotheses)
    scorer = Rouge()
    scores = [
        # The scorer takes an empty caption for one empty word, which an empty reference would match.
        scorer.calc_score([" ".join(hypothesis)], [" ".join(r) for r in image_references]) if hypothesis else 0.0
        for hypothesis, image_references in zip(hypotheses, references, strict=True)
    ]
    return mean_score("ROUGE-L", 100 * np.array(scores, np.float64))
