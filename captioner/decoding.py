"""Searching for words: greedy, beam search and sampling, vectorised over images x beams.

Nothing here knows a model: a search needs a state that can reorder its rows and a function that takes
one step, so tests hand it a toy whose probabilities are known.

Shapes: B images, K rows (beams) per image, V vocabulary, L grid locations, T words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from captioner.config import DecodingOptions


class SearchState(Protocol):
    """What a model remembers between two words, with a leading (B, K)."""

    def reorder(self, rows: Tensor) -> Self:
        """Take for every image its rows `rows` (B, K)."""

    def select(self, images: Tensor) -> Self:
        """Keep only some images, by their numbers (B',)."""


State = TypeVar("State", bound=SearchState)
# (tokens (B, K), state) -> (log_probs (B, K, V), alpha (B, K, L), location (B, K), state)
Step = Callable[[Tensor, State], tuple[Tensor, Tensor, Tensor, State]]


_WORTH_DROPPING = 0.75  # images are left out of a batch once no more than this share of it goes on


class SpecialTokens(Protocol):
    """Numbers of the tokens a search treats apart; a `Vocabulary` is one."""

    pad: int
    bos: int
    eos: int
    unk: int


@dataclass(frozen=True)
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
    ended : bool
        Whether it ended by itself rather than at `max_length`.
    """

    tokens: tuple[int, ...]
    token_log_probs: tuple[float, ...]
    log_prob: float
    score: float
    attention: Tensor
    locations: tuple[int, ...]
    ended: bool


def _mask(log_probs: Tensor, special: SpecialTokens, first: bool) -> Tensor:
    """Rule out what is never generated: `pad`, `bos`, `unk`, and an end before the first word."""
    never = [special.pad, special.bos, special.unk] + ([special.eos] if first else [])
    log_probs = log_probs.clone()
    log_probs[..., never] = -torch.inf
    return log_probs


@torch.inference_mode()
def greedy_search(
    step: Step[State], state: State, images: int, special: SpecialTokens, options: DecodingOptions, device: torch.device
) -> list[Hypothesis]:
    """Take the likeliest word each time.

    Parameters
    ----------
    step, state
        A model and its start, with one row per image.
    images : int
        B.
    special : SpecialTokens
        Usually the vocabulary.
    options : DecodingOptions
        Of which `beam_size` is not looked at.
    device : torch.device
        Where the model computes.

    Returns
    -------
    list of Hypothesis
        One per image, never empty of words.
    """
    token = torch.full((images, 1), special.bos, device=device)
    ended = torch.zeros((images, 1), dtype=torch.bool, device=device)
    tokens, log_probs, alphas, locations = [], [], [], []
    for t in range(options.max_length):
        all_log_probs, alpha, location, state = step(token, state)
        log_prob, token = _mask(all_log_probs, special, first=t == 0).max(-1)
        tokens.append(token)
        log_probs.append(log_prob)
        alphas.append(alpha)
        locations.append(location)
        ended = ended | (token == special.eos)
        if ended.all():
            break
    # (T, B, 1) -> (B, T)
    token_rows, log_prob_rows, location_rows = (
        torch.stack(part)[:, :, 0].T.tolist() for part in (tokens, log_probs, locations)
    )
    attention = torch.stack(alphas)[:, :, 0].transpose(0, 1).float().cpu()  # (B, T, L)
    found = []
    for row, row_log_probs, row_attention, row_locations in zip(
        token_rows, log_prob_rows, attention, location_rows, strict=True
    ):
        ends = special.eos in row
        words = row.index(special.eos) if ends else len(row)
        log_prob = sum(row_log_probs[: words + ends])
        score = log_prob / (words + ends) ** options.length_penalty
        found.append(
            Hypothesis(
                tokens=tuple(row[:words]),
                token_log_probs=tuple(row_log_probs[:words]),
                log_prob=log_prob,
                score=score,
                attention=row_attention[:words],
                locations=tuple(row_locations[:words]),
                ended=ends,
            )
        )
    return found


class SampledCaptions(NamedTuple):
    """Captions drawn word by word from a model's distribution.

    Attributes
    ----------
    tokens : Tensor
        (B, K, T) int64: words, `eos` where the caption ended by itself, then `pad`.
    log_probs : Tensor
        (B, K, T), of each token given those before it, 0 on padding; gradients flow through them.
    alpha : Tensor
        (B, K, T, L), the distribution of where each token was looked for.
    location : Tensor
        (B, K, T), the one location it was looked for at; -1 where it was all of them, by their weights.
    """

    tokens: Tensor
    log_probs: Tensor
    alpha: Tensor
    location: Tensor


def sample_captions(
    step: Step[State],
    state: State,
    shape: tuple[int, int],
    special: SpecialTokens,
    max_length: int,
    device: torch.device,
) -> SampledCaptions:
    """Draw every word from the model's distribution, of which the words never generated are no part.

    Parameters
    ----------
    step, state
        A model and its start, with K equal rows per image.
    shape : (int, int)
        B and K.
    special, device
        As for `greedy_search`.
    max_length : int
        Most words a caption may have; one that is cut has no `eos`.
    """
    token = torch.full(shape, special.bos, device=device)
    ended = torch.zeros(shape, dtype=torch.bool, device=device)
    steps: list[tuple[Tensor, ...]] = []
    for t in range(max_length):
        all_log_probs, alpha, location, state = step(token, state)
        possible = torch.log_softmax(_mask(all_log_probs, special, first=t == 0), -1)
        # Of a model that has diverged anything may be drawn; its loss tells.
        drawn = torch.multinomial(possible.detach().exp().nan_to_num(nan=1.0).flatten(0, 1), 1).view(shape)
        log_prob = possible.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        token = drawn.masked_fill(ended, special.pad)
        steps.append((token, log_prob.masked_fill(ended, 0.0), alpha, location))
        ended = ended | (token == special.eos)
        if ended.all():
            break
    return SampledCaptions(*(torch.stack(part, 2) for part in zip(*steps, strict=True)))


@torch.inference_mode()
def beam_search(
    step: Step[State], state: State, images: int, special: SpecialTokens, options: DecodingOptions, device: torch.device
) -> list[list[Hypothesis]]:
    """Keep the `beam_size` best unfinished captions of every image, and those that ended apart.

    A caption ends if its end token is among the `beam_size` best continuations; an image is done when
    `beam_size` captions ended, so a beam of one is greedy search. Captions cut at `max_length` stand in,
    behind the others, where too few ended.

    Parameters
    ----------
    step, state
        A model and its start, with `beam_size` equal rows per image.
    images, special, options, device
        As for `greedy_search`.

    Returns
    -------
    list of list of Hypothesis
        Per image at least one and at most `beam_size`, best first.
    """
    beams, limit = options.beam_size, options.max_length
    # Sizes of the batch are few, for matrix products of every new size are prepared anew, and what is prepared is kept.
    part = max(1, images // 8)
    live = torch.arange(images, device=device)  # (b,) those not dropped from the batch
    token = torch.full((images, beams), special.bos, device=device)
    log_prob = torch.full((images, beams), -torch.inf, device=device)
    log_prob[:, 0] = 0.0  # the rows start alike, so only one of them may branch
    finished, cut = _Finished.none(images, beams, device), _Finished.none(images, beams, device)
    steps: list[_Step] = []
    for t in range(limit):
        all_log_probs, alpha, location, state = step(token, state)
        all_log_probs = _mask(all_log_probs, special, first=t == 0)
        vocabulary = all_log_probs.shape[-1]
        candidates = (log_prob.unsqueeze(-1) + all_log_probs).flatten(1)  # (b, K * V)
        # At most one candidate per row is an end, so twice the beams always hold enough that go on.
        best, index = candidates.topk(min(2 * beams, candidates.shape[1]))
        row, word = index // vocabulary, index % vocabulary
        ends = word == special.eos
        # An image that is done takes no more, so that its answer does not depend on the others in its batch.
        barred = ~ends[:, :beams] | finished.full(live).unsqueeze(1)
        finished.merge(live, best[:, :beams].masked_fill(barred, -torch.inf), row[:, :beams], t, 1, options)
        log_prob, kept = best.masked_fill(ends, -torch.inf).topk(beams)
        row, token = row.gather(1, kept), word.gather(1, kept)
        chosen = all_log_probs.flatten(1).gather(1, row * vocabulary + token)
        steps.append(_Step(live, token, row, chosen, alpha, location))
        state = state.reorder(row)
        done = finished.full(live)
        going = int((~done).sum())
        if not going:
            break
        size = math.ceil(going / part) * part
        # Leaving images out means copying the features of those that stay, which a few would not be worth.
        if size <= _WORTH_DROPPING * len(live):
            stay = done.int().argsort(stable=True)[:size]  # those that go on, and so many more
            live, token, log_prob, state = live[stay], token[stay], log_prob[stay], state.select(stay)
    rows = torch.arange(beams, device=device).expand(len(live), -1)
    cut.merge(live, log_prob, rows, len(steps), 0, options)
    return [
        [*ended, *others][:beams]
        for ended, others in zip(
            finished.hypotheses(steps, ended=True), cut.hypotheses(steps, ended=False), strict=True
        )
    ]


class _Step(NamedTuple):
    """One step of a beam search, of b images."""

    image: Tensor  # (b,) their numbers
    token: Tensor  # (b, K) word chosen
    parent: Tensor  # (b, K) row it continues
    log_prob: Tensor  # (b, K) of the word alone
    # Of the rows as they were before this step, that is, of the parents:
    alpha: Tensor  # (b, K, L)
    location: Tensor  # (b, K)


class _Finished(NamedTuple):
    """The best captions of every image that will not grow, best first; -inf marks an empty place."""

    score: Tensor  # (B, K)
    log_prob: Tensor  # (B, K)
    words: Tensor  # (B, K) how many
    row: Tensor  # (B, K) the row, after that many steps, which holds the last word

    @classmethod
    def none(cls, images: int, beams: int, device: torch.device) -> _Finished:
        empty = torch.full((images, beams), -torch.inf, device=device)
        zeros = torch.zeros((images, beams), dtype=torch.long, device=device)
        return cls(empty, empty.clone(), zeros, zeros.clone())

    def merge(
        self, images: Tensor, log_prob: Tensor, row: Tensor, words: int, ends: int, options: DecodingOptions
    ) -> None:
        """Add captions of `words` words, and `ends` end tokens, of the images (b,), keeping the best."""
        score = log_prob / (words + ends) ** options.length_penalty
        new = _Finished(score, log_prob, torch.full_like(row, words), row)
        both = [torch.cat([mine[images], theirs], 1) for mine, theirs in zip(self, new, strict=True)]
        _, index = both[0].topk(self.score.shape[1])
        for mine, part in zip(self, both, strict=True):
            mine[images] = part.gather(1, index)

    def full(self, images: Tensor) -> Tensor:
        """Which of the images (b,) have all the captions they may have: (b,)."""
        return self.score[images, -1] > -torch.inf

    def hypotheses(self, steps: list[_Step], ended: bool) -> list[list[Hypothesis]]:
        """Walk the captions of all images back through the rows they passed."""
        images, beams = self.score.shape
        score, log_prob, words, row = (part.cpu().numpy() for part in self)
        image = np.arange(images)[:, None]
        tokens, locations = (np.zeros((len(steps), images, beams), np.int64) for _ in range(2))
        log_probs = np.zeros((len(steps), images, beams), np.float32)
        alpha = np.zeros((len(steps), images, beams, steps[0].alpha.shape[-1]), np.float32)
        for t in reversed(range(len(steps))):
            # Images that were dropped by then have no row here, and no word that late.
            token, parents, of_word, weights, looked = (_of_all(part, steps[t].image, images) for part in steps[t][1:])
            tokens[t], log_probs[t], parent = token[image, row], of_word[image, row], parents[image, row]
            alpha[t], locations[t] = weights[image, parent], looked[image, parent]
            row = np.where(t < words, parent, row)
        return [
            [
                Hypothesis(
                    tokens=tuple(tokens[:length, i, k].tolist()),
                    token_log_probs=tuple(log_probs[:length, i, k].tolist()),
                    log_prob=float(log_prob[i, k]),
                    score=float(score[i, k]),
                    attention=torch.from_numpy(alpha[:length, i, k].copy()),
                    locations=tuple(locations[:length, i, k].tolist()),
                    ended=ended,
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
