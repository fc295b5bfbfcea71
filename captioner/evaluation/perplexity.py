"""How well a model expects what people wrote.

Shapes: B photos, K references per photo, L grid locations, D feature channels, T words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.data.dataset import padded
from captioner.models.attention import Choice
from captioner.models.decoder import AttentionDecoder
from captioner.training.objective import word_log_probs
from captioner.vocabulary import Vocabulary

_MOST_LOGITS = 50_000_000  # that are held at a time, 200 MB in float32


@torch.inference_mode()
def reference_log_probs(
    decoder: AttentionDecoder,
    features: Tensor,
    references: Sequence[Sequence[Sequence[str]]],
    vocabulary: Vocabulary,
    choose: Choice,
) -> list[tuple[float, int]]:
    """Rate the references by teacher forcing: each word given the true words before it.

    The end token counts as a word; a word that the vocabulary lacks counts as `unk`, so that only models of one
    vocabulary compare.

    Parameters
    ----------
    decoder : AttentionDecoder
        In evaluation mode.
    features : Tensor
        (B, L, D).
    references : sequence of sequence of word lists
        Of the B photos.
    vocabulary : Vocabulary
    choose : Choice
        How a context is made.

    Returns
    -------
    list of (float, int)
        Of each photo the sum of the natural log-probabilities of all its references' tokens, and their number; the
        perplexity is exp(-sum / number), over as many photos as one likes.
    """
    longest = max(len(words) for image in references for words in image) + 1
    size = max(1, _MOST_LOGITS // (longest * max(map(len, references)) * len(vocabulary)))
    found = []
    for start in range(0, len(references), size):
        some = slice(start, start + size)
        found += _log_probs(decoder, features[some], references[some], vocabulary, choose)
    return found


def _log_probs(
    decoder: AttentionDecoder,
    features: Tensor,
    references: Sequence[Sequence[Sequence[str]]],
    vocabulary: Vocabulary,
    choose: Choice,
) -> list[tuple[float, int]]:
    encoded = [[[vocabulary.bos, *vocabulary.encode(words), vocabulary.eos] for words in image] for image in references]
    tokens = padded(encoded, vocabulary.pad).to(features.device)
    targets = tokens[:, :, 1:]
    real = targets != vocabulary.pad
    output = decoder(features, tokens[:, :, :-1], choose, real)
    sums = word_log_probs(output.logits, targets, real).double().sum((1, 2))
    return list(zip(sums.tolist(), real.sum((1, 2)).tolist(), strict=True))
