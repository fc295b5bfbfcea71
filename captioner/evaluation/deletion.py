"""Whether a word hangs on what was looked at for it: deletion of the most attended features.

If attention shows why a word was said, the word should become less likely once the features of the cells it was looked
for at are gone, and by more than if as many others were gone (deletion: Samek et al. 2017; Petsiuk et al. 2018; of
attention weights: Serrano and Smith 2019).

Shapes: T words, grid rows x columns of L cells, D feature channels, R rows, each a way of deleting cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.models.attention import Choice
from captioner.models.decoder import AttentionDecoder

# Altered features that are held at a time; the decoder makes a normalised copy of them.
_CHUNK_BYTES = 64 * 2**20


class Falls(NamedTuple):
    """By how much the log-probability of each word (T,) falls, natural units, when a tenth of the cells is deleted.

    Attributes
    ----------
    attended : ndarray
        Those most attended for that word.
    random : ndarray
        Cells at random, mean over several draws.
    centre : ndarray
        Those nearest to the centre.
    """

    attended: np.ndarray
    random: np.ndarray
    centre: np.ndarray


@torch.inference_mode()
def deletion_falls(
    decoder: AttentionDecoder,
    features: Tensor,
    words: Sequence[Sequence[int]],
    attention: Sequence[np.ndarray],
    bos: int,
    choose: Choice,
    generator: np.random.Generator,
    draws: int = 4,
) -> list[Falls]:
    """Delete the cells that each word of a caption was looked for at, and see how much less likely it becomes.

    Deleted features are replaced by the photo's mean feature, from the first word on, and all words are kept as they
    are. A tenth of the cells is deleted, at least one; of cells attended alike those at random, so that for a flat map
    attended and random cells are the same.

    Parameters
    ----------
    decoder : AttentionDecoder
        In evaluation mode.
    features : Tensor
        (B, L, D), of the encoder.
    words : sequence of sequence of int
        T tokens of each caption, without `bos` and `eos`.
    attention : sequence of ndarray
        (T, rows, columns) of each, as the caption was found with.
    bos : int
        The token that starts a caption.
    choose : Choice
        How a context is made; one that draws at random would blur the falls.
    generator : Generator
        Draws the random cells.
    draws : int
        Sets of random cells per photo.

    Returns
    -------
    list of Falls
        One per caption.
    """
    return [
        _photo_falls(decoder, *photo, bos, choose, generator, draws)
        for photo in zip(features, words, attention, strict=True)
    ]


def _photo_falls(
    decoder: AttentionDecoder,
    features: Tensor,
    words: Sequence[int],
    attention: np.ndarray,
    bos: int,
    choose: Choice,
    generator: np.random.Generator,
    draws: int,
) -> Falls:
    rows, columns = attention.shape[1:]
    cells = rows * columns
    off_centre = np.hypot(*np.ogrid[1 - rows : rows : 2, 1 - columns : columns : 2]).reshape(1, cells)
    ratings = [-off_centre, np.zeros((draws, cells)), attention.reshape(-1, cells)]
    # The centre and random cells are the same for all words, so that one row tells of them all.
    deleted = np.concatenate(
        [np.zeros((1, cells), bool), *(_highest(rating, max(1, cells // 10), generator) for rating in ratings)]
    )
    log_probs = _log_probs(decoder, features, torch.from_numpy(deleted), [bos, *words], choose)  # (2 + draws + T, T)
    falls = log_probs[0] - log_probs[1:]
    return Falls(attended=falls[1 + draws :].diagonal(), random=falls[1 : 1 + draws].mean(0), centre=falls[0])


def _highest(rating: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Mark in every row (R, L) the cells rated highest, among equals at random."""
    order = np.lexsort((generator.random(rating.shape), -rating), axis=-1)
    marked = np.zeros(rating.shape, bool)
    np.put_along_axis(marked, order[:, :count], True, axis=1)
    return marked


def _log_probs(
    decoder: AttentionDecoder, features: Tensor, deleted: Tensor, tokens: Sequence[int], choose: Choice
) -> np.ndarray:
    """Log-probability (R, T) of every token but the first, features (L, D) without the deleted cells (R, L)."""
    inputs = torch.tensor(tokens, device=features.device)
    mean = features.mean(0)
    found = []
    size = max(1, _CHUNK_BYTES // features.nbytes)
    for chunk in torch.split(deleted.to(features.device), size):
        altered = torch.where(chunk.unsqueeze(-1), mean, features)  # (r, L, D)
        captions = inputs.expand(len(chunk), 1, -1)  # (r, 1, T + 1)
        logits = decoder(altered, captions[:, :, :-1], choose).logits.squeeze(1)  # (r, T, V)
        targets = captions[:, 0, 1:].unsqueeze(-1)
        found.append(torch.log_softmax(logits.double(), -1).gather(-1, targets).squeeze(-1))
    log_probs: np.ndarray = torch.cat(found).cpu().numpy()
    return log_probs
