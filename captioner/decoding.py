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

import torch
from torch import Tensor

from captioner.config import DecodingOptions


class SearchState(Protocol):
    """What a model remembers between two words, with a leading (B, K)."""

    def reorder(self, rows: Tensor) -> Self:
        """Take for every image its rows `rows` (B, K)."""


State = TypeVar("State", bound=SearchState)
# (tokens (B, K), state) -> (log_probs (B, K, V), alpha (B, K, L), location (B, K), state)
Step = Callable[[Tensor, State], tuple[Tensor, Tensor, Tensor, State]]


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
    token = torch.full((images, beams), special.bos, device=device)
    log_prob = torch.full((images, beams), -torch.inf, device=device)
    log_prob[:, 0] = 0.0  # the rows start alike, so only one of them may branch
    finished = _Finished.none(images, beams, device)
    steps: list[_Step] = []
    for t in range(limit):
        all_log_probs, alpha, location, state = step(token, state)
        all_log_probs = _mask(all_log_probs, special, first=t == 0)
        vocabulary = all_log_probs.shape[-1]
        candidates = (log_prob.unsqueeze(-1) + all_log_probs).flatten(1)  # (B, K * V)
        # At most one candidate per row is an end, so twice the beams always hold enough that go on.
        best, index = candidates.topk(min(2 * beams, candidates.shape[1]))
        row, word = index // vocabulary, index % vocabulary
        ends = word == special.eos
        # An image that is done takes no more, so that its answer does not depend on the others in its batch.
        barred = ~ends[:, :beams] | finished.full().unsqueeze(1)
        finished = finished.merge(best[:, :beams].masked_fill(barred, -torch.inf), row[:, :beams], t, options)
        log_prob, kept = best.masked_fill(ends, -torch.inf).topk(beams)
        row, token = row.gather(1, kept), word.gather(1, kept)
        chosen = all_log_probs.flatten(1).gather(1, row * vocabulary + token)
        steps.append(_Step(token, row, chosen, alpha, location))
        state = state.reorder(row)
        if finished.full().all():
            break
    history = _Step(*(torch.stack(parts).cpu() for parts in zip(*steps, strict=True)))  # each (T, B, K, ...)
    cut = _Finished.none(images, beams, device).merge(
        log_prob, torch.arange(beams, device=device).expand(images, -1), len(steps), options, ended=False
    )
    return [[*finished.hypotheses(image, history), *cut.hypotheses(image, history)][:beams] for image in range(images)]


class _Step(NamedTuple):
    """One step of a beam search, or all of them stacked."""

    token: Tensor  # (B, K) word chosen
    parent: Tensor  # (B, K) row it continues
    log_prob: Tensor  # (B, K) of the word alone
    # Of the rows as they were before this step, that is, of the parents:
    alpha: Tensor  # (B, K, L)
    location: Tensor  # (B, K)


@dataclass(frozen=True)
class _Finished:
    """The best captions of every image that will not grow, best first; -inf marks an empty place."""

    score: Tensor  # (B, K)
    log_prob: Tensor  # (B, K)
    words: Tensor  # (B, K) how many
    row: Tensor  # (B, K) the row, after that many steps, which holds the last word
    ended: bool

    @classmethod
    def none(cls, images: int, beams: int, device: torch.device) -> _Finished:
        empty = torch.full((images, beams), -torch.inf, device=device)
        zeros = torch.zeros((images, beams), dtype=torch.long, device=device)
        return cls(empty, empty, zeros, zeros, ended=True)

    def merge(
        self, log_prob: Tensor, row: Tensor, words: int, options: DecodingOptions, ended: bool = True
    ) -> _Finished:
        """Add captions of `words` words, keeping the best."""
        score = log_prob / (words + ended) ** options.length_penalty
        best, index = torch.cat([self.score, score], 1).topk(self.score.shape[1])
        return _Finished(
            best,
            torch.cat([self.log_prob, log_prob], 1).gather(1, index),
            torch.cat([self.words, torch.full_like(row, words)], 1).gather(1, index),
            torch.cat([self.row, row], 1).gather(1, index),
            ended,
        )

    def full(self) -> Tensor:
        """Which images have all the captions they may have: (B,)."""
        return self.score[:, -1] > -torch.inf

    def hypotheses(self, image: int, history: _Step) -> list[Hypothesis]:
        """Walk each caption of one image back through the rows it passed."""
        found = []
        for score, log_prob, words, row in zip(
            *(part[image].tolist() for part in (self.score, self.log_prob, self.words, self.row)), strict=True
        ):
            if score == -math.inf:
                continue
            tokens, log_probs, alphas, locations = [], [], [], []
            for t in reversed(range(words)):
                tokens.append(int(history.token[t, image, row]))
                log_probs.append(float(history.log_prob[t, image, row]))
                row = int(history.parent[t, image, row])
                alphas.append(history.alpha[t, image, row].float())
                locations.append(int(history.location[t, image, row]))
            found.append(
                Hypothesis(
                    tokens=tuple(tokens[::-1]),
                    token_log_probs=tuple(log_probs[::-1]),
                    log_prob=log_prob,
                    score=score,
                    attention=torch.stack(alphas[::-1]),
                    locations=tuple(locations[::-1]),
                    ended=self.ended,
                )
            )
        return found
