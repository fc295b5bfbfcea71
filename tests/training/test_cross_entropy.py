from __future__ import annotations

import itertools
import math

import pytest
import torch

from captioner.config import DecoderConfig
from captioner.data.dataset import Batch
from captioner.models.decoder import AttentionDecoder
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.objective import doubly_stochastic_term
from tests.conftest import whole_batch

PAD, BOS, EOS = 0, 1, 2


@pytest.fixture
def decoder() -> AttentionDecoder:
    torch.manual_seed(0)
    return AttentionDecoder(DecoderConfig(6, 8, 9, 0.0), 7, 11)


@pytest.fixture
def batch() -> Batch:
    tokens = torch.tensor(
        [[[BOS, 4, 5, EOS, PAD], [BOS, 6, EOS, PAD, PAD]], [[BOS, 7, 8, 9, EOS], [PAD, PAD, PAD, PAD, PAD]]]
    )
    return whole_batch(torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1)), tokens)


def test_the_loss_is_the_mean_log_probability_of_the_words(decoder: AttentionDecoder, batch: Batch) -> None:
    total, words = 0.0, 0
    for image in range(2):
        for row in batch.tokens[image]:
            state = decoder.init_state(batch.features[image : image + 1])
            for before, after in itertools.pairwise(row):
                if after == PAD:
                    break
                log_probs, *_, state = decoder.step(before.view(1, 1), state)
                total -= log_probs[0, 0, after].item()
                words += 1
    output = CrossEntropy(PAD, 0.0)(decoder, batch)
    assert words == 3 + 2 + 4
    assert output.loss.item() == pytest.approx(total / words, rel=1e-5)


def test_padding_changes_neither_loss_nor_gradient(decoder: AttentionDecoder, batch: Batch) -> None:
    def gradients(batch: Batch) -> tuple[float, list[torch.Tensor]]:
        decoder.zero_grad()
        loss = CrossEntropy(PAD, 1.0)(decoder, batch).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), [p.grad.clone() for p in decoder.parameters() if p.grad is not None]

    longer = whole_batch(batch.features, torch.nn.functional.pad(batch.tokens, (0, 3), value=PAD))
    (loss, grads), (longer_loss, longer_grads) = gradients(batch), gradients(longer)
    assert longer_loss == pytest.approx(loss, rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(grads, longer_grads, strict=True))


def test_a_batch_twice_over_weighs_the_same(decoder: AttentionDecoder, batch: Batch) -> None:
    twice = whole_batch(batch.features.repeat(2, 1, 1), batch.tokens.repeat(2, 1, 1))
    objective = CrossEntropy(PAD, 1.0)
    assert objective(decoder, twice).loss.item() == pytest.approx(objective(decoder, batch).loss.item(), rel=1e-5)


def test_the_doubly_stochastic_term_worked_out_by_hand() -> None:
    alpha = torch.tensor([[[[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]]])
    real = torch.tensor([[[True, True, False], [False, False, False]]])
    # Locations looked at 1.25 and 0.75 times; the padded step and the empty row do not count.
    assert float(doubly_stochastic_term(alpha, real, captions=1)) == pytest.approx((0.25**2 + 0.25**2) / 2)


def test_an_untrained_decoder_is_as_unsure_as_chance(decoder: AttentionDecoder, batch: Batch) -> None:
    assert CrossEntropy(PAD, 0.0)(decoder, batch).loss.item() == pytest.approx(math.log(11), rel=0.2)
