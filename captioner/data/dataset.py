"""Training batches: photos with all their captions, bucketed by length.

Shapes: B images, K captions per image, T words, L grid locations, D feature channels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from captioner.data.annotations import CaptionedImage
from captioner.vocabulary import Vocabulary, tokenize

# Batches sorted by length together: long enough to pay, short enough to keep the order random.
_BATCHES_PER_BUCKET = 20


class Totals(NamedTuple):
    """What sums over a step are divided by to give its means.

    A batch may be a share of a step, computed by one of several processes or in one of several parts. Its sums are
    divided by the totals of the whole step, so that the shares' losses and gradients add up to those of the whole.

    Attributes
    ----------
    images, captions, words : float
        Photos, captions and targets in the step; divided by the number of processes where these are averaged.
    """

    images: float
    captions: float
    words: float


class Batch(NamedTuple):
    """Photos and their captions.

    Attributes
    ----------
    features : Tensor
        (B, L, D) features, or what they are yet to be computed of: pixels (B, 3, S, S) uint8, or maps
        (B, C, rows, columns) of the encoder's frozen part.
    tokens : Tensor
        (B, K, T + 1) int64: `bos`, words, `eos`, then `pad`, a photo's longest caption first; one with fewer captions
        than K has rows of nothing but `pad`.
    totals : Totals
        Of the step.
    rows : tuple of int
        Which photos of the data set these are.
    """

    features: Tensor
    tokens: Tensor
    totals: Totals
    rows: tuple[int, ...]


class Source(Protocol):
    """Where the features of a data set's photos come from, or what they are to be computed of."""

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int], epoch: int) -> Tensor:
        """Return `Batch.features` of the given photos in this epoch."""


def digest(images: Sequence[CaptionedImage]) -> str:
    """Tell captioned photos from others, in 64 digits: by their names, captions and order."""
    found = hashlib.sha256()
    for image in images:
        captions = [caption.encode(errors="surrogatepass") for caption in image.captions]
        found.update(b"\0".join([os.fsencode(image.path.name), *captions, b"\0"]))
    return found.hexdigest()


class CaptionDataset:
    """Photos and their captions as numbers.

    The captions lie in one array, so that half a million of them take tens of megabytes.

    Parameters
    ----------
    images : sequence of CaptionedImage
        Whose captions are the targets.
    source : Source
        Rows in the same order.
    vocabulary : Vocabulary
    max_length : int
        Captions are cut after so many words; a cut one has no `eos`, for it did not end there.
    """

    def __init__(
        self, images: Sequence[CaptionedImage], source: Source, vocabulary: Vocabulary, max_length: int
    ) -> None:
        if len(images) != len(source):
            raise ValueError(f"{len(images)} captioned images but features of {len(source)}")
        self.source = source
        self.names = [image.path.name for image in images]
        self.pad = vocabulary.pad
        sizes: list[int] = []

        def encoded() -> Iterator[list[int]]:
            for image in images:
                for caption in image.captions:
                    tokens = _encode(caption, vocabulary, max_length)
                    sizes.append(len(tokens))
                    yield tokens

        self._tokens = np.fromiter(chain.from_iterable(encoded()), np.int32)
        self._starts = np.cumsum([0, *sizes])  # of every caption's tokens
        self._first = np.cumsum([0, *(len(image.captions) for image in images)])  # of every image's captions
        self.lengths: list[int] = np.maximum.reduceat(np.diff(self._starts), self._first[:-1]).tolist()

    def __len__(self) -> int:
        return len(self.names)

    def captions(self, row: int) -> list[list[int]]:
        """Return the encoded captions of a photo, `bos` first."""
        return [
            self._tokens[self._starts[number] : self._starts[number + 1]].tolist()
            for number in range(self._first[row], self._first[row + 1])
        ]

    def word_counts(self, vocabulary_size: int) -> Tensor:
        """How often each token is a target, over all captions: (V,)."""
        counts = np.bincount(self._tokens, minlength=vocabulary_size)
        # Every token is a target but the first of each caption.
        first = np.bincount(self._tokens[self._starts[:-1]], minlength=vocabulary_size)
        return torch.from_numpy(counts - first)

    def totals(self, rows: Sequence[int], processes: int = 1) -> Totals:
        """Count a whole step's photos, captions and targets, per process."""
        first, last = self._first[list(rows)], self._first[np.asarray(rows) + 1]
        captions = int((last - first).sum())
        words = int((self._starts[last] - self._starts[first]).sum()) - captions
        return Totals(len(rows) / processes, captions / processes, words / processes)

    def batch(self, rows: Sequence[int], epoch: int, totals: Totals | None = None) -> Batch:
        """Put the given photos together, as they are seen in this epoch.

        Parameters
        ----------
        totals : Totals, optional
            Of the step that this is a share of; its own if not given.
        """
        tokens = padded([self.captions(row) for row in rows], self.pad)
        return Batch(self.source.read(rows, epoch), tokens, totals or self.totals(rows), tuple(rows))


def _encode(caption: str, vocabulary: Vocabulary, max_length: int) -> list[int]:
    words = vocabulary.encode(tokenize(caption))
    end = [vocabulary.eos] if len(words) <= max_length else []
    return [vocabulary.bos, *words[:max_length], *end]


def padded(captions: Sequence[Sequence[Sequence[int]]], pad: int) -> Tensor:
    """Lay the captions of B photos, each of which has one or more, out as `Batch.tokens`: (B, K, longest) int64."""
    # Longest first, so that in late steps the decoder can leave rows out.
    ordered = [sorted(image, key=len, reverse=True) for image in captions]
    tokens = torch.full((len(ordered), max(map(len, ordered)), max(len(image[0]) for image in ordered)), pad)
    for image, image_captions in enumerate(ordered):
        for place, caption in enumerate(image_captions):
            tokens[image, place, : len(caption)] = torch.tensor(caption)
    return tokens


def bucketed_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Cut the rows of an epoch into batches of similar length, in random order.

    Depends on nothing but its arguments, so a resumed run meets the same batches.

    Returns
    -------
    list of list of int
        Every row once; the last batch may be smaller.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    span = batch_size * _BATCHES_PER_BUCKET
    batches: list[list[int]] = []
    for start in range(0, len(order), span):
        bucket = sorted(order[start : start + span], key=lengths.__getitem__)
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
