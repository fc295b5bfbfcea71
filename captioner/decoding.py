"""Searching for words: beam search, a beam of one being greedy search, and sampling, vectorised over images x beams.

Nothing here knows a model: a search needs a state that can reorder its rows and a function that takes
one step, so tests hand it a toy whose probabilities are known.

Shapes: B images, K rows (beams) per image, V vocabulary, L grid locations, T words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from captioner.config import DecodingOptions
from captioner.hypotheses import Finished, Hypothesis, SearchStep
from captioner.sight import Sight


class SearchState(Protocol):
    """What a model remembers between two words, with a leading (B, K)."""

    def reorder(self, rows: Tensor) -> Self:
        """Take for every image its rows `rows` (B, K)."""

    def select(self, images: Tensor) -> Self:
        """Keep only some images, by their numbers (B',)."""


State = TypeVar("State", bound=SearchState)
# (tokens (B, K), state) -> (log_probs (B, K, V), sight, state)
Step = Callable[[Tensor, State], tuple[Tensor, Sight, State]]
# (log_prob (b, K) of the rows, log_probs (b, K, V)) -> continuations worth having, at least K, the best K first: their
# log_prob (b, n), and their index (b, n) among K * V
Pick = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_WORTH_DROPPING = 0.75  # images are left out of a batch once no more than this share of it goes on


class SpecialTokens(Protocol):
    """Numbers of the tokens a search treats apart; a `Vocabulary` is one."""

    pad: int
    bos: int
    eos: int
    unk: int


def _mask(log_probs: Tensor, special: SpecialTokens, first: bool) -> Tensor:
    """Rule out what is never generated: `pad`, `bos`, `unk`, and an end before the first word."""
    never = [special.pad, special.bos, special.unk] + ([special.eos] if first else [])
    log_probs = log_probs.clone()
    log_probs[..., never] = -torch.inf
    return log_probs


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
    special : SpecialTokens
        Usually the vocabulary.
    max_length : int
        Most words a caption may have; one that is cut has no `eos`.
    device : torch.device
        Where the model computes.
    """
    token = torch.full(shape, special.bos, device=device)
    ended = torch.zeros(shape, dtype=torch.bool, device=device)
    steps: list[tuple[Tensor, ...]] = []
    for t in range(max_length):
        all_log_probs, sight, state = step(token, state)
        possible = torch.log_softmax(_mask(all_log_probs, special, first=t == 0), -1)
        # Of a model that has diverged anything may be drawn; its loss tells.
        drawn = torch.multinomial(possible.detach().exp().nan_to_num(nan=1.0).flatten(0, 1), 1).view(shape)
        log_prob = possible.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        token = drawn.masked_fill(ended, special.pad)
        steps.append((token, log_prob.masked_fill(ended, 0.0), sight.alpha, sight.location))
        ended = ended | (token == special.eos)
        if ended.all():
            break
    return SampledCaptions(*(torch.stack(part, 2) for part in zip(*steps, strict=True)))


@torch.inference_mode()
def beam_search(
    step: Step[State],
    state: State,
    images: int,
    special: SpecialTokens,
    options: DecodingOptions,
    device: torch.device,
    prefix: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Keep the `beam_size` best unfinished captions of every image, and those that ended apart.

    A caption ends if its end token is among the `beam_size` best continuations; an image is done when
    `beam_size` captions ended, so a beam of one is greedy search. Captions cut at `max_length` stand in,
    behind the others, where too few ended.

    Parameters
    ----------
    step, state
        A model and its start, with `beam_size` equal rows per image.
    images : int
        B.
    special, device
        As for `sample_captions`.
    options : DecodingOptions
        Whose prefix, being words, is not looked at.
    prefix : sequence of int
        Tokens every caption begins with; `eos`, as the last of several, ends it there.

    Returns
    -------
    list of list of Hypothesis
        Per image at least one and at most `beam_size`, best first.
    """

    def pick(log_prob: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        candidates = (log_prob.unsqueeze(-1) + log_probs).flatten(1)  # (b, K * V)
        # At most one candidate per row is an end, so twice the beams always hold enough that go on.
        return candidates.topk(min(2 * options.beam_size, candidates.shape[1]))

    log_prob = torch.full((images, options.beam_size), -torch.inf, device=device)
    log_prob[:, 0] = 0.0  # the rows start alike, so only one of them may branch
    return _search(step, state, log_prob, special, options, pick, prefix)


@torch.inference_mode()
def sample_search(
    step: Step[State],
    state: State,
    images: int,
    special: SpecialTokens,
    options: DecodingOptions,
    device: torch.device,
    generator: torch.Generator,
    prefix: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Draw `beam_size` captions of every image word by word from softmax(log_probs / temperature).

    Parameters
    ----------
    step, state, images, special, options, device, prefix
        As for `beam_search`.
    generator : Generator
        What words are drawn by.

    Returns
    -------
    list of list of Hypothesis
        Per image, each different caption once, with the model's own probabilities and ranked as by `beam_search`:
        those that ended by their scores, then those cut at `max_length`.
    """
    # Nearer to 0 it would leave float32, and the likeliest word is certain anyway.
    temperature = max(options.temperature, 1e-6)
    row = torch.arange(options.beam_size, device=device)

    def pick(log_prob: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        # From the likeliest on, whose quotient would else leave float32 if it is unlikely itself.
        likeliest = log_probs.amax(-1, keepdim=True)
        tempered = torch.softmax((log_probs - likeliest) / temperature, -1).flatten(0, 1)  # (b * K, V)
        # Where the model's numbers are none, anything may be drawn; captions without a score are dropped.
        word = torch.multinomial(tempered.nan_to_num(nan=1.0), 1, generator=generator).view(log_prob.shape)
        chosen = log_probs.gather(-1, word.unsqueeze(-1)).squeeze(-1)
        return log_prob + chosen, row * log_probs.shape[-1] + word

    log_prob = torch.zeros((images, options.beam_size), device=device)
    drawn = _search(step, state, log_prob, special, options, pick, prefix)
    return [_different(found) for found in drawn]


def _search(
    step: Step[State],
    state: State,
    log_prob: Tensor,
    special: SpecialTokens,
    options: DecodingOptions,
    pick: Pick,
    prefix: Sequence[int],
) -> list[list[Hypothesis]]:
    """Continue rows of log-probability `log_prob` (B, K), -inf for none, by what is picked, until K captions ended."""
    images, beams = log_prob.shape
    device = log_prob.device
    # An end that is asked for may come after `max_length` words, as none does that is found.
    limit = len(prefix) if special.eos in prefix else options.max_length
    # Sizes of the batch are few, for matrix products of every new size are prepared anew, and what is prepared is kept.
    part = max(1, images // 8)
    live = torch.arange(images, device=device)  # (b,) those not dropped from the batch
    token = torch.full((images, beams), special.bos, device=device)
    finished, cut = Finished.none(images, beams, device), Finished.none(images, beams, device)
    steps: list[SearchStep] = []
    for t in range(limit):
        all_log_probs, sight, state = step(token, state)
        all_log_probs = _mask(all_log_probs.float(), special, first=t == 0)
        vocabulary = all_log_probs.shape[-1]
        top = tuple(all_log_probs.topk(min(options.top_words, vocabulary))) if options.top_words else ()
        best, index = pick(log_prob, all_log_probs if t >= len(prefix) else _only(prefix[t], all_log_probs))
        row, word = index // vocabulary, index % vocabulary
        ends = word == special.eos
        # An image that is done takes no more, so that its answer does not depend on the others in its batch.
        barred = ~ends[:, :beams] | finished.full(live).unsqueeze(1)
        finished.merge(live, best[:, :beams].masked_fill(barred, -torch.inf), row[:, :beams], t, 1, options)
        log_prob, kept = best.masked_fill(ends, -torch.inf).topk(beams)
        row, token = row.gather(1, kept), word.gather(1, kept)
        chosen = all_log_probs.flatten(1).gather(1, row * vocabulary + token)
        steps.append(SearchStep(live, token, row, chosen, sight, top))
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


def _different(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Of equal captions keep the first: where locations were drawn too, the likeliest."""
    first: dict[tuple[int, ...], Hypothesis] = {}
    for hypothesis in hypotheses:
        first.setdefault(hypothesis.tokens, hypothesis)
    return list(first.values())


def _only(token: int, log_probs: Tensor) -> Tensor:
    """Rule out all tokens but one."""
    only = torch.full_like(log_probs, -torch.inf)
    only[..., token] = log_probs[..., token]
    return only
