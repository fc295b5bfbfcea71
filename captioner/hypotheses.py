"""What a search finds, and how it is found again: steps are kept as they are, captions are walked back at the end.

Shapes: B images, b of them in a step, K rows (beams) per image, L grid locations, N top words, T words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captioner.config import DecodingOptions
from captioner.sight import Sight

TopWords = tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A finished caption.

    Attributes
    ----------
    tokens : tuple of int
        The words, without `bos` and `eos`; at least one.
    token_log_probs : tuple of float
        Natural log-probability of each word.
    log_prob : float
        Of the whole caption, the end token included if it was reached.
    score : float
        What it is ranked by: `log_prob` / length ** length_penalty.
    attention : Tensor
        (T, L) float32, the distribution of where each word was looked for; the end token is left out.
    locations : tuple of int
        The one location each word was looked for at; -1 where it was all of them, by their weights.
    betas : tuple of float
        How much of what was seen was used for each word, 0..1.
    ended : bool
        Whether it ended by itself rather than at `max_length`, or was made to end.
    top_words : tuple of tuple of (int, float)
        For each word, the likeliest tokens that could have stood there, `eos` among them, and their natural
        log-probabilities, likeliest first; empty if not asked for.
    """

    tokens: tuple[int, ...]
    token_log_probs: tuple[float, ...]
    log_prob: float
    score: float
    attention: Tensor
    locations: tuple[int, ...]
    betas: tuple[float, ...]
    ended: bool
    top_words: tuple[TopWords, ...] = ()


class SearchStep(NamedTuple):
    """One step of a search, of b images."""

    image: Tensor  # (b,) their numbers
    token: Tensor  # (b, K) word chosen
    parent: Tensor  # (b, K) row it continues
    log_prob: Tensor  # (b, K) of the word alone
    # Of the rows as they were before this step, that is, of the parents:
    sight: Sight
    top_words: tuple[Tensor, ...]  # log-probabilities and tokens (b, K, N); nothing if not asked for


class Finished(NamedTuple):
    """The best captions of every image that will not grow, best first; -inf marks an empty place."""

    score: Tensor  # (B, K)
    log_prob: Tensor  # (B, K)
    words: Tensor  # (B, K) how many
    row: Tensor  # (B, K) the row, after that many steps, which holds the last word

    @classmethod
    def none(cls, images: int, beams: int, device: torch.device) -> Finished:
        """Keep K empty places for every image."""
        empty = torch.full((images, beams), -torch.inf, device=device)
        zeros = torch.zeros((images, beams), dtype=torch.long, device=device)
        return cls(empty, empty.clone(), zeros, zeros.clone())

    def merge(
        self, images: Tensor, log_prob: Tensor, row: Tensor, words: int, ends: int, options: DecodingOptions
    ) -> None:
        """Add captions of `words` words, and `ends` end tokens, of the images (b,), keeping the best."""
        score = log_prob / (words + ends) ** options.length_penalty
        new = Finished(score, log_prob, torch.full_like(row, words), row)
        both = [torch.cat([mine[images], theirs], 1) for mine, theirs in zip(self, new, strict=True)]
        _, index = both[0].topk(self.score.shape[1])
        for mine, part in zip(self, both, strict=True):
            mine[images] = part.gather(1, index)

    def full(self, images: Tensor) -> Tensor:
        """Which of the images (b,) have all the captions they may have: (b,)."""
        return self.score[images, -1] > -torch.inf

    def hypotheses(self, steps: list[SearchStep], ended: bool) -> list[list[Hypothesis]]:
        """Walk the captions of all images back through the rows they passed."""
        images = len(self.score)
        score, log_prob, words, row = (part.cpu().numpy() for part in self)
        image = np.arange(images)[:, None]
        walked = []
        for t, step in reversed(list(enumerate(steps))):
            # Images that were dropped by then have no row here, and no word that late.
            token, of_word, parents, *looked = (
                _of_all(part, step.image, images)
                for part in (step.token, step.log_prob, step.parent, *step.sight, *step.top_words)
            )
            parent = parents[image, row]
            walked.append((token[image, row], of_word[image, row], *(part[image, parent] for part in looked)))
            row = np.where(t < words, parent, row)
        # Each (T, B, K, ...)
        tokens, log_probs, alpha, locations, betas, *top = (np.stack(part[::-1]) for part in zip(*walked, strict=True))
        return [
            [
                Hypothesis(
                    tokens=tuple(tokens[:length, i, k].tolist()),
                    token_log_probs=tuple(log_probs[:length, i, k].tolist()),
                    log_prob=float(log_prob[i, k]),
                    score=float(score[i, k]),
                    attention=torch.from_numpy(alpha[:length, i, k].astype(np.float32)),
                    locations=tuple(locations[:length, i, k].tolist()),
                    betas=tuple(betas[:length, i, k].tolist()),
                    ended=ended,
                    top_words=_pairs(*(part[:length, i, k] for part in top)) if top else (),
                )
                for k, length in enumerate(words[i])
                if score[i, k] > -math.inf
            ]
            for i in range(images)
        ]


def _of_all(part: Tensor, image: Tensor, images: int) -> np.ndarray:
    """Spread what is known of some images (b, ...) over all of them (B, ...), with 0 for the others."""
    whole = torch.zeros((images, *part.shape[1:]), dtype=part.dtype, device=part.device)
    whole[image] = part
    return whole.cpu().numpy()


def _pairs(log_probs: np.ndarray, tokens: np.ndarray) -> tuple[TopWords, ...]:
    """Pair tokens and log-probabilities (T, N) of every word; those ruled out, to which few others left room, go."""
    return tuple(
        tuple(pair for pair in zip(*row, strict=True) if pair[1] > -math.inf)
        for row in zip(tokens.tolist(), log_probs.tolist(), strict=True)
    )
