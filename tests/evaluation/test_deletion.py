from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.config import DecoderConfig
from captioner.evaluation import deletion
from captioner.evaluation.deletion import Falls, deletion_falls
from captioner.models.attention import argmax, expectation
from captioner.models.decoder import AttentionDecoder

BOS = 1


def random_decoder(attention: str = "soft") -> AttentionDecoder:
    torch.manual_seed(0)
    decoder = AttentionDecoder(DecoderConfig(6, 7, 5, attention=attention), 8, 11)  # type: ignore[arg-type]
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.7)
    return decoder.double().eval()


def log_probs_step_by_step(decoder: AttentionDecoder, features: Tensor, words: list[int]) -> list[float]:
    state = decoder.init_state(features.unsqueeze(0))
    found, before = [], BOS
    for word in words:
        log_probs, _, state = decoder.step(torch.tensor([[before]]), state)
        found.append(float(log_probs[0, 0, word]))
        before = word
    return found


def without(features: Tensor, cell: int) -> Tensor:
    altered = features.clone()
    altered[cell] = features.mean(0)
    return altered


def test_vectorised_equals_word_by_word() -> None:
    decoder = random_decoder()
    features = torch.randn(2, 9, 8, dtype=torch.float64)
    words = [[4, 9, 5, 4], [7, 3]]
    maps = [np.random.default_rng(1).dirichlet(np.ones(9), len(w)).reshape(-1, 3, 3) for w in words]
    rng = np.random.default_rng(0)
    found = deletion_falls(decoder, features, words, maps, BOS, expectation, rng, draws=1)
    with torch.inference_mode():
        for photo, its_words, attention, falls in zip(features, words, maps, found, strict=True):
            whole = np.array(log_probs_step_by_step(decoder, photo, its_words))
            # (9 cells, T): one cell of nine goes at a time.
            each = whole - [log_probs_step_by_step(decoder, without(photo, cell), its_words) for cell in range(9)]
            attended = attention.reshape(-1, 9).argmax(1)
            np.testing.assert_allclose(falls.attended, each[attended, np.arange(len(its_words))], atol=1e-9)
            np.testing.assert_allclose(falls.centre, each[4], atol=1e-9)
            assert np.isclose(each, falls.random, atol=1e-9).all(1).any()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = random_decoder()
    features = torch.randn(1, 49, 8, dtype=torch.float64)
    maps = [np.random.default_rng(1).random((5, 7, 7))]

    def falls() -> list[Falls]:
        return deletion_falls(decoder, features, [[4, 9, 5, 4, 8]], maps, BOS, argmax, np.random.default_rng(0))

    together = falls()
    monkeypatch.setattr(deletion, "_CHUNK_BYTES", 1)
    for one, other in zip(together[0], falls()[0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_the_cell_that_carries_a_word_is_told_from_others() -> None:
    decoder = AttentionDecoder(DecoderConfig(1, 2, 1), 4, 6).eval()
    with torch.no_grad():
        weights = dict(decoder.named_parameters())
        for weight in weights.values():
            weight.zero_()
        decoder.gate.bias.fill_(10)
        # Attention and the word both go by the third channel, which one cell alone has.
        weights["attention.score.key.weight"][0, 2] = 1
        weights["attention.score.energy.weight"].fill_(20)
        decoder.output_context.weight[0, 2] = 1
        decoder.output_word.weight[5, 0] = 6
    features = torch.tensor([1.0, -1, 0, 0]).repeat(1, 16, 1)
    features[0, 3] = torch.tensor([0.0, 0, 1, -1])
    with torch.inference_mode():
        alpha = decoder(features, torch.tensor([[[BOS, 5, 5]]])).alpha
    assert (alpha[0, 0, :, 3] > 0.99).all()
    maps = [alpha[0, 0].numpy().reshape(3, 4, 4)]
    # Seed 0 draws the cell itself in none of its four draws.
    falls = deletion_falls(decoder, features, [[5, 5, 5]], maps, BOS, expectation, np.random.default_rng(0))[0]
    assert (falls.attended > 1).all()
    assert (abs(falls.random) < 0.01).all()
    assert (abs(falls.centre) < 0.01).all()


def test_without_attention_attended_cells_are_random_ones() -> None:
    decoder = random_decoder("none")
    # All that can be lost is in the first cells, where a sort would leave ties.
    features = torch.zeros(8, dtype=torch.float64).repeat(1, 36, 1)
    features[0, :3] = 5 * torch.randn(3, 8, dtype=torch.float64)
    maps = np.full((1, 6, 6), 1 / 36, np.float32)
    rng = np.random.default_rng(0)
    many = deletion_falls(decoder, features.expand(600, -1, -1), [[4]] * 600, [maps] * 600, BOS, expectation, rng)
    attended, random = (np.array([getattr(falls, name)[0] for falls in many]) for name in ("attended", "random"))
    error = np.hypot(attended.std(), random.std()) / np.sqrt(len(many))
    assert attended.std() > 0
    assert abs(attended.mean() - random.mean()) < 3 * error
    first = deletion_falls(decoder, features, [[4]], [np.linspace(1, 0, 36).reshape(1, 6, 6)], BOS, expectation, rng)
    assert abs(first[0].attended[0] - random.mean()) > 10 * error
