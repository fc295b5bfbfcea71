"""One pass over a split: what systems say of every photo, where they look, and how well they expect the references.

Shapes: B photos, L grid locations, D feature channels, T words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np

from captioner.config import DecodingOptions
from captioner.data.annotations import CaptionedImage
from captioner.data.instances import Instances
from captioner.evaluation.deletion import deletion_falls
from captioner.evaluation.localization import Pointed, point
from captioner.evaluation.perplexity import reference_log_probs
from captioner.evaluation.scores import COMBINE, ENTROPY, MOVEMENT, PERPLEXITY, fall_statistics, object_statistics
from captioner.metrics.attention import entropies, movement
from captioner.metrics.score import CorpusScore
from captioner.pipeline import Caption, Captioner, Photo
from captioner.prefetch import map_ahead
from captioner.progress import Bar
from captioner.search import choice_of, generator_of
from captioner.vocabulary import tokenize

log = logging.getLogger(__name__)

_BATCH, _READERS = 16, 2
Item = TypeVar("Item")


@dataclass
class Measured:
    """What was seen of one system.

    Attributes
    ----------
    words : list of tuple of str
        Of a caption for each photo.
    texts : list of str
        The captions as sentences.
    log_probs : list of float
        Of the captions, natural.
    statistics : dict of str to list of sequence of float
        By name of the score, of every photo.
    """

    words: list[tuple[str, ...]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    statistics: dict[str, list[Sequence[float]]] = field(default_factory=dict)

    def add(self, caption: Caption, statistics: dict[str, Sequence[float]]) -> None:
        """Write a photo down."""
        self.words.append(caption.words)
        self.texts.append(caption.text)
        self.log_probs.append(caption.log_prob)
        for name, row in statistics.items():
            self.statistics.setdefault(name, []).append(row)

    def scores(self) -> dict[str, CorpusScore]:
        """Scores of the statistics, by name."""
        return {
            name: CorpusScore(name, np.array(rows, np.float64), COMBINE[name]) for name, rows in self.statistics.items()
        }


def measure(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    decodings: Sequence[DecodingOptions],
    *,
    deletion: bool = False,
    instances: Mapping[str, Instances] | None = None,
) -> list[Measured]:
    """Caption every photo by every way of decoding; each is read and encoded once.

    Parameters
    ----------
    captioner : Captioner
    images : sequence of CaptionedImage
    decodings : sequence of DecodingOptions
    deletion : bool
        Whether to delete what was looked at and see what becomes of the words.
    instances : mapping of str to Instances, optional
        Outlines of objects by file name, by which to rate where was looked for words that name one.

    Returns
    -------
    list of Measured
        One for each way of decoding.

    Raises
    ------
    ImageReadError
        If a photo cannot be read: without it, scores would be those of other data.
    """
    found = [Measured() for _ in decodings]
    # Each draws its own cells, so that a system's figures do not depend on what stands beside it.
    generators = [np.random.default_rng(0) for _ in decodings]
    decoder, vocabulary = captioner.model.decoder, captioner.vocabulary
    outlined = 0
    read = map_ahead(lambda image: captioner.read(image.path), images, workers=_READERS, ahead=2 * _BATCH)
    bar = Bar(zip(images, read, strict=True), total=len(images), unit="photo", disable=None)
    for batch in _batches(bar):
        some, photos = zip(*batch, strict=True)
        features = captioner.encode(photos)
        references = [[tokenize(caption) for caption in image.captions] for image in some]
        rated = {
            decoding.context: reference_log_probs(
                decoder, features, references, vocabulary, choice_of(decoding, generator_of(decoding, captioner.device))
            )
            for decoding in {decoding.context: decoding for decoding in decodings}.values()
        }
        objects = [_outlines(image, photo, instances) for image, photo in zip(some, photos, strict=True)]
        outlined += sum(known is not None for known in objects)
        for decoding, measured, generator in zip(decodings, found, generators, strict=True):
            captions = captioner.describe(photos, features, decoding)
            rows: list[dict[str, Sequence[float]]] = [
                {
                    PERPLEXITY: log_probs,
                    ENTROPY: (float(entropies(caption.attention).mean()), 1),
                    MOVEMENT: (movement(caption.attention), 1),
                }
                for caption, log_probs in zip(captions, rated[decoding.context], strict=True)
            ]
            if deletion and decoding.context != "sample":  # whose draws would drown what a deletion does
                words = [vocabulary.encode(caption.words) for caption in captions]
                maps = [caption.attention for caption in captions]
                choose = choice_of(decoding, generator_of(decoding, captioner.device))
                falls = deletion_falls(decoder, features, words, maps, vocabulary.bos, choose, generator)
                for row, fall in zip(rows, falls, strict=True):
                    row |= fall_statistics(fall)
            if instances is not None:
                for row, known, caption in zip(rows, objects, captions, strict=True):
                    row |= object_statistics(point(caption, known) if known else Pointed())
            for caption, row in zip(captions, rows, strict=True):
                measured.add(caption, row)
    if instances is not None and outlined < len(images):
        log.warning(
            "%d of %d photos have no outlines, or others than theirs (turned or cropped since), and do not count",
            len(images) - outlined,
            len(images),
        )
    return found


def _outlines(image: CaptionedImage, photo: Photo, instances: Mapping[str, Instances] | None) -> Instances | None:
    known = (instances or {}).get(image.path.name)
    return known if known and known.fits(photo.width, photo.height) else None


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
