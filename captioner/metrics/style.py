"""What captions are like, apart from whether they are right."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from captioner.metrics.score import Hypotheses, References, check_captions
from captioner.vocabulary import Vocabulary


@dataclass(frozen=True)
class CaptionStyle:
    """What a model's captions are like. Shares run from 0 to 1.

    Attributes
    ----------
    length_mean, length_std : float
        Words of a caption: mean and (population) standard deviation.
    distinct_1, distinct_2 : float
        Different words and bigrams over all of them in all captions (Li et al. 2016).
    different_captions : float
        Different captions over captions.
    copied_captions : float
        Share of captions that stand word for word among the train split's.
    repeated_word : float
        Share of captions that say a word twice running, as in "a red red shirt".
    repeated_bigram : float
        Share of captions in which two words that follow each other do so again, as in "a man and a man".
    vocabulary_used : float
        Share of the vocabulary's ordinary words that some caption has.
    reference_words_unknown : float
        Share of the references' words that the vocabulary lacks: no caption can match those.
    """

    length_mean: float
    length_std: float
    distinct_1: float
    distinct_2: float
    different_captions: float
    copied_captions: float
    repeated_word: float
    repeated_bigram: float
    vocabulary_used: float
    reference_words_unknown: float


def caption_style(
    references: References,
    hypotheses: Hypotheses,
    train_captions: Collection[str],
    vocabulary: Vocabulary,
) -> CaptionStyle:
    """Say what captions are like.

    Parameters
    ----------
    references : sequence of sequence of word lists
        All references of every image.
    hypotheses : sequence of word lists
        One per image.
    train_captions : collection of str
        Every caption of the train split, a blank between its words; a set is fastest.
    vocabulary : Vocabulary
        That of the model.

    Raises
    ------
    ValueError
        If there are no images, or an image has no reference.
    """
    check_captions("style", references, hypotheses)
    captions = [tuple(hypothesis) for hypothesis in hypotheses]
    lengths = [len(caption) for caption in captions]
    words = [word for caption in captions for word in caption]
    bigrams = [list(pairwise(caption)) for caption in captions]
    ordinary = set(vocabulary.words[vocabulary.unk + 1 :])
    said = [word for image in references for reference in image for word in reference]
    return CaptionStyle(
        length_mean=float(np.mean(lengths)),
        length_std=float(np.std(lengths)),
        distinct_1=_share(len(set(words)), len(words)),
        distinct_2=_share(len({pair for pairs in bigrams for pair in pairs}), sum(map(len, bigrams))),
        different_captions=_share(len(set(captions)), len(captions)),
        copied_captions=_share(sum(" ".join(caption) in train_captions for caption in captions), len(captions)),
        repeated_word=_share(sum(any(a == b for a, b in pairs) for pairs in bigrams), len(captions)),
        repeated_bigram=_share(sum(len(set(pairs)) < len(pairs) for pairs in bigrams), len(captions)),
        vocabulary_used=_share(len(ordinary.intersection(words)), len(ordinary)),
        reference_words_unknown=_share(sum(word not in ordinary for word in said), len(said)),
    )


def _share(part: int, whole: int) -> float:
    """Part of a whole; 0 of nothing, as of captions that are all empty."""
    return part / whole if whole else 0.0
