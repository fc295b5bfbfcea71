"""CIDEr-D (Vedantam et al. 2015): the official scorer for evaluation, and a fast one that rewards training.

Shapes: B images, K captions scored per image, M references of an image, T words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.cider.cider_scorer import CiderScorer

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def cider(references: Sequence[Sequence[Sequence[str]]], hypotheses: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of a corpus, by coco-caption's own scorer, times 100 as it is usually quoted.

    Document frequencies are those of the given references.

    Parameters
    ----------
    references : sequence of sequence of word lists
        All references of every image.
    hypotheses : sequence of word lists
        One per image.

    Raises
    ------
    ValueError
        If there are fewer than two images, or an image has no reference: from one image alone every word is as
        common as can be and weighs nothing.
    """
    if len(hypotheses) < 2 or len(references) != len(hypotheses) or not all(references):
        raise ValueError("CIDEr needs one hypothesis and at least one reference for each of two or more images")
    scorer = CiderScorer()
    for hypothesis, image_references in zip(hypotheses, references, strict=True):
        scorer += (" ".join(hypothesis), [" ".join(reference) for reference in image_references])
    mean, _ = scorer.compute_score()
    return 100.0 * float(mean)


class CiderReward:
    """CIDEr-D of many captions at once, against references and document frequencies that never change.

    Words are numbers, so that a training step costs a few array operations and no strings. The value is that of
    coco-caption's scorer (0 to 10) with the document frequencies of these references.

    Parameters
    ----------
    references : sequence of sequence of int sequences
        All references of every image, as numbers of words.
    words : int
        How many words there are, at most 55,000.

    Raises
    ------
    ValueError
        If there are fewer than two images, an image has no reference, or there are too many words.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], words: int) -> None:
        if len(references) < 2 or not all(references):
            raise ValueError("CIDEr needs at least one reference for each of two or more images")
        captions = [caption for image in references for caption in image]
        self._first: Ints = np.cumsum([0, *map(len, references)])  # of every image's captions
        self._start: Ints = np.cumsum([0, *map(len, captions)])  # of every caption's words
        self._words = np.fromiter((w for caption in captions for w in caption), np.int32, int(self._start[-1]))
        if words**4 >= 2**63:
            raise ValueError(f"four numbers of {words} words do not fit 64 bits")
        self._base = words
        image_of = np.repeat(np.arange(len(references)), np.diff(self._first))
        rows, lengths = self._padded(np.arange(len(captions)))
        self._ngrams, self._idf = [], []
        for order in _ORDERS:
            row, ngram = self._ngrams_of(rows, lengths, order)
            listed, frequency = _document_frequencies(image_of[row], ngram)
            self._ngrams.append(listed)
            self._idf.append(np.log(len(references)) - np.log(frequency))
        self._unseen = float(np.log(len(references)))

    def score(self, images: Sequence[int], words: Ints, lengths: Ints) -> Floats:
        """Score K captions of each of B images.

        Parameters
        ----------
        images : sequence of int
            Which of the references' images, B of them.
        words : ndarray
            (B, K, T) numbers of the words; what stands past a caption's length does not matter.
        lengths : ndarray
            (B, K), words in every caption.

        Returns
        -------
        ndarray
            (B, K) CIDEr-D, 0 to 10.
        """
        count, drawn, width = words.shape
        which = np.asarray(images)
        given = self._first[which + 1] - self._first[which]  # references of each image
        reference_image = np.repeat(np.arange(count), given)
        reference_place = np.arange(given.sum()) - np.repeat(np.cumsum(given) - given, given)
        references, reference_lengths = self._padded(self._first[which][reference_image] + reference_place)
        # Hypotheses and references side by side: (rows, T), each row with its image and its place among the image's.
        width = max(width, references.shape[1])
        rows = np.zeros((count * drawn + len(references), width), np.int64)
        rows[: count * drawn, : words.shape[2]] = words.reshape(count * drawn, -1)
        rows[count * drawn :, : references.shape[1]] = references
        all_lengths = np.concatenate([lengths.reshape(-1), reference_lengths])
        image = np.concatenate([np.repeat(np.arange(count), drawn), reference_image])
        place = np.concatenate([np.tile(np.arange(drawn), count), drawn + reference_place])
        places = drawn + int(given.max())
        similarity = np.zeros((count, drawn, places - drawn))
        for order, (listed, idf) in enumerate(zip(self._ngrams, self._idf, strict=True), 1):
            row, ngram = self._ngrams_of(rows, all_lengths, order)
            if not len(row):
                continue
            # The n-grams of each image, once: P of them, sorted by image.
            unique, number = np.unique(ngram, return_inverse=True)
            pairs, pair = np.unique(image[row] * len(unique) + number, return_inverse=True)
            pair_image, pair_ngram = np.divmod(pairs, len(unique))
            found = np.searchsorted(listed, unique).clip(max=len(listed) - 1)
            weight = np.where(listed[found] == unique, idf[found], self._unseen)[pair_ngram]
            counts = np.bincount(pair * places + place[row], minlength=len(pairs) * places)
            vectors = counts.reshape(len(pairs), places) * weight[:, None]  # (P, K + M)
            hypothesis, reference = vectors[:, :drawn, None], vectors[:, None, drawn:]
            present, starts = np.unique(pair_image, return_index=True)
            norms = np.sqrt(np.add.reduceat(vectors**2, starts))  # (images present, K + M)
            products = np.add.reduceat(np.minimum(hypothesis, reference) * reference, starts)
            scale = norms[:, :drawn, None] * norms[:, None, drawn:]
            similarity[present] += np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
        table = np.zeros((count, places))
        table[image, place] = all_lengths
        apart = table[:, :drawn, None] - table[:, None, drawn:]
        similarity *= np.exp(-(apart**2) / (2 * _SIGMA**2))
        # An image with fewer references than another has columns of nothing, which add nothing.
        scores: Floats = 10 / len(_ORDERS) * similarity.sum(2) / given[:, None]
        return scores

    def _padded(self, captions: Ints) -> tuple[Ints, Ints]:
        """Words (R, T) of the given captions, and their lengths (R,)."""
        lengths = self._start[captions + 1] - self._start[captions]
        columns = np.arange(lengths.max())
        inside = columns < lengths[:, None]
        places = np.where(inside, self._start[captions][:, None] + columns, 0)
        return np.where(inside, self._words[places], 0).astype(np.int64), lengths

    def _ngrams_of(self, rows: Ints, lengths: Ints, order: int) -> tuple[Ints, Ints]:
        """Row and number of every n-gram in rows (R, T) of the given lengths."""
        starts = rows.shape[1] - order + 1
        if starts < 1:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        numbers = np.zeros((len(rows), starts), np.int64)
        for offset in range(order):
            numbers = numbers * self._base + rows[:, offset : offset + starts]
        inside = np.arange(starts) < (lengths - order + 1)[:, None]
        return np.nonzero(inside)[0], numbers[inside]


def _document_frequencies(image: Ints, ngram: Ints) -> tuple[Ints, Ints]:
    """Every n-gram once, in order, and how many images have it among their references."""
    order = np.lexsort((image, ngram))
    image, ngram = image[order], ngram[order]
    new_ngram = np.diff(ngram, prepend=-1) != 0
    new_image = new_ngram | (np.diff(image, prepend=-1) != 0)
    listed = ngram[new_ngram]
    return listed, np.bincount(np.cumsum(new_ngram)[new_image] - 1, minlength=len(listed))
