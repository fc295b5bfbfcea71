"""Searches on a toy whose probabilities are known, against enumeration of everything it could say."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from captioner.config import DecodingOptions
from captioner.decoding import beam_search, sample_search
from captioner.hypotheses import Hypothesis
from captioner.sight import Sight
from captioner.vocabulary import Vocabulary

SPECIAL = Vocabulary(["x", "y", "z"])
SIZE = len(SPECIAL)
CPU = torch.device("cpu")
X, Y, Z = SPECIAL.encode("xyz")


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


Search = Callable[..., list[list[Hypothesis]]]


def greedy(toy: Toy, image: int, options: DecodingOptions) -> tuple[tuple[int, ...], list[float], bool]:
    """Take the likeliest word each time: words, log-probabilities of all tokens, and whether it came to an end."""
    words: tuple[int, ...] = ()
    log_probs: list[float] = []
    while len(words) < options.max_length:
        known = toy.log_probs(image, (SPECIAL.bos, *words))
        allowed = [X, Y, Z] + ([SPECIAL.eos] if words else [])
        best = max(allowed, key=lambda token: float(known[token]))
        log_probs.append(float(known[best]))
        if best == SPECIAL.eos:
            return words, log_probs, True
        words = (*words, best)
    return words, log_probs, False


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
    for image, [one] in enumerate(beam(Toy(seed), [0, 1, 2], options)):
        words, log_probs, ended = greedy(Toy(seed), image, options)
        assert (one.tokens, one.ended) == (words, ended)
        assert one.token_log_probs == pytest.approx(log_probs[: len(words)])
        assert one.log_prob == pytest.approx(sum(log_probs), abs=1e-5)
        assert one.score == pytest.approx(sum(log_probs) / len(log_probs) ** options.length_penalty, abs=1e-5)


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
    for hypothesis in hypotheses:
        assert not hypothesis.ended
        assert len(hypothesis.tokens) == 5


@pytest.mark.parametrize("seed", range(20))
def test_special_tokens_are_never_said_and_captions_never_empty(seed: int) -> None:
    options, greedily = DecodingOptions(beam_size=4, max_length=4), DecodingOptions(beam_size=1, max_length=4)
    for hypothesis in [*beam(Toy(seed), [0], options)[0], *beam(Toy(seed), [0], greedily)[0]]:
        assert len(hypothesis.tokens) >= 1
        assert not {SPECIAL.pad, SPECIAL.bos, SPECIAL.eos, SPECIAL.unk} & set(hypothesis.tokens)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("prefix", [(X,), (Y, Z), (Z, Z, Z), (Z, X, Y, X)])
def test_a_given_beginning_leaves_what_enumeration_finds_to_begin_so(
    seed: int, length_penalty: float, prefix: tuple[int, ...]
) -> None:
    toy = Toy(seed)
    options = DecodingOptions(beam_size=60, max_length=4, length_penalty=length_penalty)
    for hypotheses, image in zip(beam(toy, [0, 1], options, prefix), (0, 1), strict=True):
        expected = [found for found in everything(toy, image, options) if found[3][: len(prefix)] == prefix]
        assert len(hypotheses) == sum(3**more for more in range(5 - len(prefix)))
        assert [h.tokens for h in hypotheses] == [caption for *_, caption in expected]
        assert [h.ended for h in hypotheses] == [not cut for cut, *_ in expected]
        assert [h.log_prob for h in hypotheses] == pytest.approx([total for _, _, total, _ in expected], abs=1e-4)
        assert [h.score for h in hypotheses] == pytest.approx([-negated for _, negated, _, _ in expected], abs=1e-4)


@pytest.mark.parametrize("search", [beam, draw])
@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("words", [(X,), (Y, X, Y), (Z, Y, X, Z)])
def test_a_caption_given_whole_is_rated(search: Search, beam_size: int, words: tuple[int, ...]) -> None:
    """Even one of as many words as a caption may have, which an end would not be looked for behind."""
    toy, images = Toy(3), [0, 1, 2]
    options = DecodingOptions(beam_size=beam_size, max_length=4, temperature=1.0)
    for [only], image in zip(search(toy, images, options, (*words, SPECIAL.eos)), images, strict=True):
        past: tuple[int, ...] = (SPECIAL.bos,)
        expected = []
        for word in (*words, SPECIAL.eos):
            expected.append(float(toy.log_probs(image, past)[word]))
            past = (*past, word)
        assert only.tokens == words
        assert only.ended
        assert only.token_log_probs == pytest.approx(expected[:-1])
        assert only.log_prob == pytest.approx(sum(expected), abs=1e-5)
        assert only.score == pytest.approx(sum(expected) / (len(words) + 1) ** 0.7, abs=1e-5)
        assert torch.equal(only.attention[-1], toy.alpha(image, (SPECIAL.bos, *words[:-1])))


@pytest.mark.parametrize("seed", range(10))
def test_the_best_caption_is_found_from_its_own_beginning(seed: int) -> None:
    options = DecodingOptions(beam_size=150, max_length=4)
    [[best, *_]] = beam(Toy(seed), [0], options)
    for count in range(1, len(best.tokens) + 1):
        [[again, *_]] = beam(Toy(seed), [0], options, best.tokens[:count])
        assert again.tokens == best.tokens
        assert (again.log_prob, again.score) == (best.log_prob, best.score)
        assert torch.equal(again.attention, best.attention)


def test_images_of_a_batch_do_not_touch_each_other_when_they_begin_alike() -> None:
    options, images = DecodingOptions(beam_size=3, max_length=8, top_words=2), list(range(8))
    together = beam(Toy(1), images, options, (Y, X))
    for hypotheses, image in zip(together, images, strict=True):
        [alone] = beam(Toy(1), [image], options, (Y, X))
        assert [(h.tokens, h.log_prob, h.betas, h.top_words) for h in alone] == [
            (h.tokens, h.log_prob, h.betas, h.top_words) for h in hypotheses
        ]
    assert len({hypotheses[0].tokens for hypotheses in together}) > 1


@pytest.mark.parametrize("search", [beam, draw])
@pytest.mark.parametrize("prefix", [(), (Z, Z)])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_top_words_are_a_sort_of_what_could_be_said(search: Search, prefix: tuple[int, ...], count: int) -> None:
    toy = Toy(2)
    options = DecodingOptions(beam_size=3, max_length=6, top_words=count, temperature=1.5)
    lengths = set()
    for image, hypotheses in enumerate(search(toy, list(range(6)), options, prefix)):
        for hypothesis in hypotheses:
            past: tuple[int, ...] = (SPECIAL.bos,)
            for t, (word, top) in enumerate(zip(hypothesis.tokens, hypothesis.top_words, strict=True)):
                possible = [X, Y, Z] + [SPECIAL.eos] * (t > 0)
                table = toy.log_probs(image, past)
                expected = sorted(possible, key=lambda token: -float(table[token]))[:count]
                assert [token for token, _ in top] == expected
                assert [log_prob for _, log_prob in top] == [float(table[token]) for token in expected]
                past = (*past, word)
            lengths.add(len(hypothesis.tokens))
    assert len(lengths) > 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_captions_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    toy, draws = Toy(4), 4000
    options = DecodingOptions(beam_size=1, max_length=2, temperature=temperature)
    counts = Counter(found.tokens for [found] in draw(toy, [0] * draws, options))

    def tempered(past: tuple[int, ...], possible: list[int], power: float) -> dict[int, float]:
        chances = toy.log_probs(0, past)[possible].exp() ** power
        return dict(zip(possible, (chances / chances.sum()).tolist(), strict=True))

    def expected(power: float) -> dict[tuple[int, ...], float]:
        chances: dict[tuple[int, ...], float] = {}
        for first, p in tempered((SPECIAL.bos,), [X, Y, Z], power).items():
            for second, q in tempered((SPECIAL.bos, first), [X, Y, Z, SPECIAL.eos], power).items():
                chances[(first,) if second == SPECIAL.eos else (first, second)] = p * q
        return chances

    def furthest(chances: dict[tuple[int, ...], float]) -> float:
        """By how many standard errors a frequency is off."""
        return max(abs(counts[c] - draws * p) / math.sqrt(draws * p * (1 - p)) for c, p in chances.items())

    right = expected(1 / temperature)
    assert len(right) == 12
    assert sum(right.values()) == pytest.approx(1)
    assert set(counts) <= set(right)
    assert furthest(right) < 4
    # The test has teeth: temperatures a fifth off are told apart.
    assert furthest(expected(1.2 / temperature)) > 4
    assert furthest(expected(0.8 / temperature)) > 4


@pytest.mark.parametrize("temperature", [1e-3, 1e-300])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    options = DecodingOptions(beam_size=4, max_length=6, temperature=temperature)
    for image, drawn in enumerate(draw(Toy(0), list(range(10)), options)):
        words, log_probs, _ = greedy(Toy(0), image, options)
        assert [h.tokens for h in drawn] == [words]
        assert drawn[0].log_prob == pytest.approx(sum(log_probs), abs=1e-5)


def test_seeds_repeat_and_differ() -> None:
    def drawn(seed: int) -> list[tuple[int, ...]]:
        options = DecodingOptions(beam_size=5, max_length=6, temperature=1.0, seed=seed)
        return [h.tokens for hypotheses in draw(Toy(0), [0, 0, 1], options) for h in hypotheses]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    # Two images that are alike do not share their draws.
    alike, other, _ = draw(Toy(0), [0, 0, 1], DecodingOptions(beam_size=5, max_length=6, temperature=1.0))
    assert [h.tokens for h in alike] != [h.tokens for h in other]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prefix", [(), (Y,)])
def test_different_captions_drawn_are_ranked_by_the_models_own_probabilities(
    seed: int, prefix: tuple[int, ...]
) -> None:
    toy = Toy(seed)
    options = DecodingOptions(beam_size=40, max_length=3, temperature=2.0, seed=seed)
    for hypotheses, image in zip(draw(toy, [0, 1], options, prefix), (0, 1), strict=True):
        found = [h.tokens for h in hypotheses]
        assert 5 < len(set(found)) == len(found) < 40
        assert all(caption[: len(prefix)] == prefix for caption in found)
        expected = [known for known in everything(toy, image, options) if known[3] in found]
        assert found == [caption for *_, caption in expected]
        assert [h.ended for h in hypotheses] == [not cut for cut, *_ in expected]
        assert [h.log_prob for h in hypotheses] == pytest.approx([total for _, _, total, _ in expected], abs=1e-4)
        assert [h.score for h in hypotheses] == pytest.approx([-negated for _, negated, _, _ in expected], abs=1e-4)


def test_of_equal_captions_the_likeliest_is_kept() -> None:
    """Where locations are drawn too, the same words may be more and less likely; rows of three toys stand for that."""
    toy = Toy(5)
    state = toy.state([0], 3)._replace(image=torch.tensor([[0, 1, 2]]))
    options = DecodingOptions(beam_size=3, max_length=4, temperature=1.0)
    [[only]] = sample_search(toy.step, state, 1, SPECIAL, options, CPU, torch.Generator(), (X, Z, SPECIAL.eos))
    rated = [beam(toy, [image], options, (X, Z, SPECIAL.eos))[0][0].log_prob for image in range(3)]
    assert only.log_prob == pytest.approx(max(rated))
    assert sorted(rated)[1] < max(rated) - 0.1
