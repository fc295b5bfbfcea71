"""CIDEr-D and CIDEr (Vedantam et al. 2015): the official scorer for evaluation, and a fast one that rewards training.

Shapes: B images, K captions scored per image, M references of an image, T words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

from captioner.errors import MetricUnavailableError
from captioner.metrics.score import CorpusScore, Floats, Hypotheses, Ints, References, check_captions, mean_score

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0
_PART = 500  # images
MOST_WORDS = 55_000  # four of their numbers fit 64 bits


def cider_d(references: References, hypotheses: Hypotheses) -> CorpusScore:
    """CIDEr-D of a corpus, by coco-caption's own scorer, times 100 as it is usually quoted.

    That scorer calls itself CIDEr, and most papers that report "CIDEr" report this: it clips counts, penalises a
    length other than the reference's (Gaussian, sigma 6) and multiplies by 10, but unlike the paper stems no words.
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
    check_captions("CIDEr-D", references, hypotheses, least=2)
    scorer = CiderScorer()
    for hypothesis, image_references in zip(hypotheses, references, strict=True):
        scorer += (" ".join(hypothesis), [" ".join(reference) for reference in image_references])
    _, scores = scorer.compute_score()
    return mean_score("CIDEr-D", 100 * scores)


def cider(references: References, hypotheses: Hypotheses) -> CorpusScore:
    """CIDEr of a corpus as section 3 of the paper first defines it, scaled as CIDEr-D is: at most 1000.

    Mean over n = 1 to 4 and over references of the cosine of tf-idf vectors of n-grams; repeating a word pays and
    length is free, which CIDEr-D mends. No words are stemmed, here as there. Not what other papers' tables call CIDEr:
    see `cider_d`.

    Parameters
    ----------
    references : sequence of sequence of word lists
        All references of every image.
    hypotheses : sequence of word lists
        One per image.

    Raises
    ------
    ValueError
        If there are fewer than two images, or an image has no reference.
    MetricUnavailableError
        If there are more than 55,000 different words.
    """
    check_captions("CIDEr", references, hypotheses, least=2)
    numbers: dict[str, int] = {}
    encoded = [[[numbers.setdefault(w, len(numbers)) for w in caption] for caption in image] for image in references]
    captions = [[numbers.setdefault(w, len(numbers)) for w in caption] for caption in hypotheses]
    if len(numbers) > MOST_WORDS:
        raise MetricUnavailableError(f"counts at most {MOST_WORDS:,} different words, not {len(numbers):,}")
    reward = CiderReward(encoded, len(numbers), plain=True)
    # In parts, for an image with many references makes the arrays of all images large.
    parts = [range(start, min(start + _PART, len(captions))) for start in range(0, len(captions), _PART)]
    scores = [reward.score_one_each(part, captions[part.start : part.stop]) for part in parts]
    return mean_score("CIDEr", 100 * np.concatenate(scores))


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
    plain : bool
        Whether to compute CIDEr instead, without the clipped counts and the penalty of length.

    Raises
    ------
    ValueError
        If there are fewer than two images, an image has no reference, or there are too many words.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], words: int, plain: bool = False) -> None:
        if len(references) < 2 or not all(references):
            raise ValueError("CIDEr needs at least one reference for each of two or more images")
        captions = [caption for image in references for caption in image]
        self._first: Ints = np.cumsum([0, *map(len, references)])  # of every image's captions
        self._start: Ints = np.cumsum([0, *map(len, captions)])  # of every caption's words
        self._words = np.fromiter((w for caption in captions for w in caption), np.int32, int(self._start[-1]))
        if words > MOST_WORDS:
            raise ValueError(f"CIDEr counts at most {MOST_WORDS:,} different words, not {words:,}; take fewer captions")
        self._base = words
        self._plain = plain
        image_of = np.repeat(np.arange(len(references)), np.diff(self._first))
        rows, lengths = self._padded(np.arange(len(captions)))
        self._ngrams, self._idf = [], []
        for order in _ORDERS:
            row, ngram = self._ngrams_of(rows, lengths, order)
            listed, frequency = _document_frequencies(image_of[row], ngram)
            # Past all n-grams stands one that none is, so that a search always ends at some.
            self._ngrams.append(np.append(listed, np.iinfo(np.int64).max))
            self._idf.append(np.log(len(references)) - np.log(np.append(frequency, 1)))
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
            found = np.searchsorted(listed, unique)
            weight = np.where(listed[found] == unique, idf[found], self._unseen)[pair_ngram]
            counts = np.bincount(pair * places + place[row], minlength=len(pairs) * places)
            vectors = counts.reshape(len(pairs), places) * weight[:, None]  # (P, K + M)
            hypothesis, reference = vectors[:, :drawn, None], vectors[:, None, drawn:]
            present, starts = np.unique(pair_image, return_index=True)
            norms = np.sqrt(np.add.reduceat(vectors**2, starts))  # (images present, K + M)
            clipped = hypothesis if self._plain else np.minimum(hypothesis, reference)
            products = np.add.reduceat(clipped * reference, starts)
            scale = norms[:, :drawn, None] * norms[:, None, drawn:]
            similarity[present] += np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
        if not self._plain:
            table = np.zeros((count, places))
            table[image, place] = all_lengths
            apart = table[:, :drawn, None] - table[:, None, drawn:]
            similarity *= np.exp(-(apart**2) / (2 * _SIGMA**2))
        # An image with fewer references than another has columns of nothing, which add nothing.
        scores: Floats = 10 / len(_ORDERS) * similarity.sum(2) / given[:, None]
        return scores

    def score_one_each(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> Floats:
        """Score one caption, numbers of words, of each of B images: (B,), 0 to 10."""
        lengths = np.array([[len(caption)] for caption in captions])
        words = np.zeros((len(captions), 1, lengths.max()), np.int64)
        for place, caption in enumerate(captions):
            words[place, 0, : len(caption)] = caption
        return self.score(images, words, lengths)[:, 0]

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
