"""From what was measured of a model to an evaluation, and what it is read against: what people wrote."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from captioner.data.annotations import CaptionedImage
from captioner.errors import CaptionerError
from captioner.evaluation.measure import Measured
from captioner.evaluation.results import Evaluation, PhotoResult
from captioner.metrics.score import CorpusScore, Floats
from captioner.metrics.scoring import score_captions
from captioner.metrics.style import caption_style
from captioner.vocabulary import Vocabulary, tokenize

Words = Sequence[str]


class Protocol(NamedTuple):
    """How references become words."""

    description: str
    words: Callable[[str], list[str]]

    def references(self, captions: Iterable[Sequence[str]]) -> list[list[list[str]]]:
        """Words of all references of every photo."""
        return [[self.words(caption) for caption in photo] for photo in captions]


PROTOCOLS = {
    "coco": Protocol("coco-caption's: words in lower case, punctuation dropped", tokenize),
    "raw": Protocol("raw: references as they stand in the data, cut at blanks, with case and punctuation", str.split),
}

_STYLE = {
    "length_mean": ("captions: words", 1),
    "length_std": ("captions: words, standard deviation", 1),
    "distinct_1": ("captions: distinct words", 100),
    "distinct_2": ("captions: distinct bigrams", 100),
    "different_captions": ("captions: different ones", 100),
    "copied_captions": ("captions: copied from train", 100),
    "repeated_word": ("captions: a word twice running", 100),
    "repeated_bigram": ("captions: two words repeated", 100),
    "vocabulary_used": ("vocabulary: used", 100),
    "reference_words_unknown": ("vocabulary: words of references it lacks", 100),
}


def build_evaluation(
    system: str,
    settings: Mapping[str, Any],
    images: Sequence[CaptionedImage],
    measured: Measured,
    protocol: str,
    vocabulary: Vocabulary,
    train_captions: Collection[str],
) -> Evaluation:
    """Score what a system said of every photo.

    Parameters
    ----------
    system : str
        Its short name.
    settings : mapping
        All that the result depends on but the protocol.
    images, measured
        Photos with references, and what was seen of the system on them.
    protocol : str
        One of `PROTOCOLS`.
    vocabulary : Vocabulary
        The system's.
    train_captions : collection of str
        Those of the train split, a blank between the words, to see which captions are copies; without any, that is
        left out.
    """
    references = PROTOCOLS[protocol].references(image.captions for image in images)
    scores, not_computed = score_captions(references, measured.words)
    style = caption_style(references, measured.words, train_captions, vocabulary)
    return Evaluation(
        system=system,
        settings={**settings, "protocol": protocol, "words": PROTOCOLS[protocol].description},
        photos=tuple(
            PhotoResult(image.path.name, text, log_prob, tuple(image.captions))
            for image, text, log_prob in zip(images, measured.texts, measured.log_probs, strict=True)
        ),
        scores={**scores, **measured.scores()},
        not_computed=not_computed,
        style={
            label: scale * getattr(style, name)
            for name, (label, scale) in _STYLE.items()
            if train_captions or name != "copied_captions"
        },
    )


def against_all_but_one(
    references: Sequence[Sequence[Words]], hypotheses: Sequence[Words] | None
) -> dict[str, CorpusScore]:
    """Score against all references but one, and take the mean of the scores.

    Each is left out in turn, as many of a photo as every photo has.

    Parameters
    ----------
    references : sequence of sequence of word lists
        Of every photo, two or more.
    hypotheses : sequence of word lists, optional
        One per photo; without them, the reference that is left out: people against people, which is what a model's
        score against as many references can be read by.

    Raises
    ------
    CaptionerError
        If a photo has one reference alone.
    """
    count = min(map(len, references))
    if count < 2:
        raise CaptionerError("a photo with one reference has none left if it is left out; it needs two or more of each")
    parts = []
    for out in range(count):
        others = [[*image[:out], *image[out + 1 :]] for image in references]
        scores, _ = score_captions(others, hypotheses or [image[out] for image in references])
        parts.append(scores)
    # A Java program may fail once.
    everywhere = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: _mean(name, [part[name] for part in parts]) for name in everywhere}


def _mean(name: str, scores: Sequence[CorpusScore]) -> CorpusScore:
    widths = np.cumsum([score.statistics.shape[1] for score in scores])[:-1]

    def combine(totals: Floats) -> Floats:
        parts = np.split(totals, widths, axis=-1)
        mean: Floats = np.mean([score.combine(part) for score, part in zip(scores, parts, strict=True)], axis=0)
        return mean

    return CorpusScore(name, np.concatenate([score.statistics for score in scores], axis=1), combine)
