"""Searches on a toy whose probabilities are known, against enumeration of everything it could say."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from captioner.config import DecodingOptions
from captioner.decoding import beam_search, greedy_search, sample_search
from captioner.hypotheses import Hypothesis
from captioner.sight import Sight
from captioner.vocabulary import Vocabulary

SPECIAL = Vocabulary(["x", "y", "z"])
SIZE = len(SPECIAL)
CPU = torch.device("cpu")


class ToyState(NamedTuple):
    """All words so far, so that the toy may depend on its whole past, and the image each row belongs to."""

    past: Tensor  # (B, K, t)
    image: Tensor  # (B, K)

    def reorder(self, rows: Tensor) -> ToyState:
        index = rows.unsqueeze(-1).expand(-1, -1, self.past.shape[-1])
        return ToyState(self.past.gather(1, index), self.image.gather(1, rows))

    def select(self, images: Tensor) -> ToyState:
        return ToyState(self.past[images], self.image[images])


@dataclass
class Toy:
    """A language model of random tables: the next word depends on the image and on all words before."""

    seed: int
    never_ends: bool = False

    def log_probs(self, image: int, past: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, image, past)) % 2**31)
        logits = 2 * torch.randn(SIZE, generator=generator)
        if self.never_ends:
            logits[SPECIAL.eos] = -torch.inf
        return torch.log_softmax(logits, 0)

    def alpha(self, image: int, past: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed + 99, image, past)) % 2**31)
        return torch.softmax(torch.randn(4, generator=generator), 0)

    def location(self, image: int, past: tuple[int, ...]) -> Tensor:
        return self.alpha(image, past).argmin()

    def beta(self, image: int, past: tuple[int, ...]) -> Tensor:
        return self.alpha(image, past)[0]

    def state(self, images: list[int], rows: int) -> ToyState:
        return ToyState(
            torch.zeros(len(images), rows, 0, dtype=torch.long), torch.tensor(images)[:, None].expand(-1, rows)
        )

    def step(self, tokens: Tensor, state: ToyState) -> tuple[Tensor, Sight, ToyState]:
        past = torch.cat([state.past, tokens.unsqueeze(-1)], -1)
        keys = [
            [(int(image), tuple(words)) for image, words in zip(images, rows, strict=True)]
            for images, rows in zip(state.image.tolist(), past.tolist(), strict=True)
        ]
        log_probs, *sight = (
            torch.stack([torch.stack([part(*key) for key in row]) for row in keys])
            for part in (self.log_probs, self.alpha, self.location, self.beta)
        )
        return log_probs, Sight(*sight), ToyState(past, state.image)


def beam(toy: Toy, images: list[int], options: DecodingOptions, prefix: tuple[int, ...] = ()) -> list[list[Hypothesis]]:
    return beam_search(toy.step, toy.state(images, options.beam_size), len(images), SPECIAL, options, CPU, prefix)


def draw(toy: Toy, images: list[int], options: DecodingOptions, prefix: tuple[int, ...] = ()) -> list[list[Hypothesis]]:
    state, generator = toy.state(images, options.beam_size), torch.Generator().manual_seed(options.seed)
    return sample_search(toy.step, state, len(images), SPECIAL, options, CPU, generator, prefix)


def greedy(toy: Toy, images: list[int], options: DecodingOptions) -> list[Hypothesis]:
    return greedy_search(toy.step, toy.state(images, 1), len(images), SPECIAL, options, CPU)


def everything(toy: Toy, image: int, options: DecodingOptions) -> list[tuple[bool, float, float, tuple[int, ...]]]:
    """All captions the toy can say: (cut off, -score, log_prob, words), best first."""
    words = [SPECIAL.encode([word])[0] for word in "xyz"]
    found = []
    for length in range(1, options.max_length + 1):
        for caption in itertools.product(words, repeat=length):
            past: tuple[int, ...] = (SPECIAL.bos,)
            total = 0.0
            for word in caption:
                total += float(toy.log_probs(image, past)[word])
                past = (*past, word)
            if length == options.max_length:
                found.append((True, -total / length**options.length_penalty, total, caption))
            else:
                total += float(toy.log_probs(image, past)[SPECIAL.eos])
                found.append((False, -total / (length + 1) ** options.length_penalty, total, caption))
    return sorted(found)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0])
def test_a_wide_beam_finds_what_enumeration_finds(seed: int, length_penalty: float) -> None:
    toy = Toy(seed)
    options = DecodingOptions(beam_size=150, max_length=4, length_penalty=length_penalty)
    for hypotheses, image in zip(beam(toy, [0, 1], options), (0, 1), strict=True):
        expected = everything(toy, image, options)
        assert len(hypotheses) == 3 + 9 + 27 + 81  # those that end, and those cut
        assert [h.tokens for h in hypotheses] == [caption for *_, caption in expected]
        assert [h.ended for h in hypotheses] == [not cut for cut, *_ in expected]
        assert [h.log_prob for h in hypotheses] == pytest.approx([total for _, _, total, _ in expected], abs=1e-4)
        assert [h.score for h in hypotheses] == pytest.approx([-negated for _, negated, _, _ in expected], abs=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    options = DecodingOptions(beam_size=1, max_length=6)
    images = [0, 1, 2]
    for [one], best in zip(beam(Toy(seed), images, options), greedy(Toy(seed), images, options), strict=True):
        assert one.tokens == best.tokens
        assert one.token_log_probs == best.token_log_probs
        assert one.log_prob == pytest.approx(best.log_prob)
        assert one.score == pytest.approx(best.score)
        assert one.ended == best.ended
        assert torch.equal(one.attention, best.attention)
        assert one.locations == best.locations
        assert one.betas == best.betas


@pytest.mark.parametrize("seed", range(5))
def test_attention_and_probabilities_are_those_of_the_winning_words(seed: int) -> None:
    toy = Toy(seed)
    for image, hypotheses in enumerate(beam(toy, [0, 1, 2], DecodingOptions(beam_size=3, max_length=6))):
        for hypothesis in hypotheses:
            past: tuple[int, ...] = (SPECIAL.bos,)
            for t, word in enumerate(hypothesis.tokens):
                assert torch.equal(hypothesis.attention[t], toy.alpha(image, past))
                assert hypothesis.locations[t] == toy.location(image, past)
                assert hypothesis.betas[t] == toy.beta(image, past)
                assert hypothesis.token_log_probs[t] == pytest.approx(float(toy.log_probs(image, past)[word]))
                past = (*past, word)
            counts = {len(hypothesis.attention), len(hypothesis.locations), len(hypothesis.betas)}
            assert counts == {len(hypothesis.tokens)}
            assert hypothesis.top_words == ()


@pytest.mark.parametrize("beam_size", [1, 3])
def test_images_of_a_batch_do_not_touch_each_other(beam_size: int) -> None:
    options = DecodingOptions(beam_size=beam_size, max_length=8)
    images = list(range(8))
    for hypotheses, image in zip(beam(Toy(1), images, options), images, strict=True):
        [alone] = beam(Toy(1), [image], options)
        for one, other in zip(alone, hypotheses, strict=True):
            assert one.tokens == other.tokens
            assert (one.log_prob, one.score, one.ended) == (other.log_prob, other.score, other.ended)
            assert torch.equal(one.attention, other.attention)


def test_images_that_are_done_leave_the_batch() -> None:
    sizes = []

    class Watched(Toy):
        def step(self, tokens: Tensor, state: ToyState) -> tuple[Tensor, Sight, ToyState]:
            sizes.append(len(tokens))
            return super().step(tokens, state)

    beam(Watched(1), list(range(16)), DecodingOptions(beam_size=1, max_length=20))
    assert sizes[0] == 16
    assert sizes[-1] <= 4
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_there_is_an_answer_even_if_no_beam_ends(beam_size: int) -> None:
    options = DecodingOptions(beam_size=beam_size, max_length=5)
    [hypotheses] = beam(Toy(0, never_ends=True), [0], options)
    assert len(hypotheses) == beam_size
    for hypothesis in [*hypotheses, *greedy(Toy(0, never_ends=True), [0], options)]:
        assert not hypothesis.ended
        assert len(hypothesis.tokens) == 5


@pytest.mark.parametrize("seed", range(20))
def test_special_tokens_are_never_said_and_captions_never_empty(seed: int) -> None:
    options = DecodingOptions(beam_size=4, max_length=4)
    for hypothesis in [*beam(Toy(seed), [0], options)[0], *greedy(Toy(seed), [0], options)]:
        assert len(hypothesis.tokens) >= 1
        assert not {SPECIAL.pad, SPECIAL.bos, SPECIAL.eos, SPECIAL.unk} & set(hypothesis.tokens)
