"""Training batches: photos with all their captions, bucketed by length.

Shapes: B images, K captions per image, T words, L grid locations, D feature channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captioner.data.annotations import CaptionedImage
from captioner.data.features import FeatureStore
from captioner.vocabulary import Vocabulary, tokenize

# Batches sorted by length together: long enough to pay, short enough to keep the order random.
_BATCHES_PER_BUCKET = 20
_SIDES = {"left", "right"}


class Batch(NamedTuple):
    """Photos and their captions.

    Attributes
    ----------
    features : Tensor
        (B, L, D).
    tokens : Tensor
        (B, K, T + 1) int64: `bos`, words, `eos`, then `pad`; a photo with fewer captions than K has
        rows of nothing but `pad`.
    """

    features: Tensor
    tokens: Tensor


class CaptionDataset:
    """Features and encoded captions of the same photos.

    Parameters
    ----------
    images : sequence of CaptionedImage
        Whose captions are the targets.
    views : sequence of FeatureStore
        Rows in the same order: first the photos themselves, then, if wanted, their mirror images. A photo is seen
        in one view an epoch, by turns; one whose captions tell left from right only as it is.
    vocabulary : Vocabulary
    max_length : int
        Captions are cut after so many words; a cut one has no `eos`, for it did not end there.
    """

    def __init__(
        self, images: Sequence[CaptionedImage], views: Sequence[FeatureStore], vocabulary: Vocabulary, max_length: int
    ) -> None:
        for view in views:
            if len(images) != len(view):
                raise ValueError(f"{len(images)} captioned images but features of {len(view)}")
        self.views = views
        self.sided = [any(_SIDES & set(tokenize(c)) for c in image.captions) for image in images]
        self.pad = vocabulary.pad
        self.captions = [[_encode(c, vocabulary, max_length) for c in image.captions] for image in images]
        self.lengths = [max(map(len, captions)) for captions in self.captions]

    def __len__(self) -> int:
        return len(self.captions)

    def word_counts(self, vocabulary_size: int) -> Tensor:
        """How often each token is a target, over all captions: (V,)."""
        targets = [token for captions in self.captions for caption in captions for token in caption[1:]]
        return torch.bincount(torch.tensor(targets), minlength=vocabulary_size)

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """Put the given photos together, in the views of this epoch."""
        captions = [self.captions[row] for row in rows]
        height, width = max(map(len, captions)), max(self.lengths[row] for row in rows)
        tokens = torch.full((len(rows), height, width), self.pad)
        for image, image_captions in enumerate(captions):
            for row, caption in enumerate(image_captions):
                tokens[image, row, : len(caption)] = torch.tensor(caption)
        features = torch.empty(len(rows), *self.views[0].shape[1:], dtype=torch.half)
        views = [0 if self.sided[row] else (row + epoch) % len(self.views) for row in rows]
        for number, view in enumerate(self.views):
            places = [place for place, its_view in enumerate(views) if its_view == number]
            features[places] = view.read([rows[place] for place in places])
        return Batch(features, tokens)


def _encode(caption: str, vocabulary: Vocabulary, max_length: int) -> list[int]:
    words = vocabulary.encode(tokenize(caption))
    end = [vocabulary.eos] if len(words) <= max_length else []
    return [vocabulary.bos, *words[:max_length], *end]


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
