from __future__ import annotations

import math

import pytest
import torch

from captioner.config import DecoderConfig
from captioner.models.attention import (
    EVERYWHERE,
    SCORES,
    AdditiveScore,
    Attention,
    DotProductScore,
    MeanContext,
    argmax,
    build_attention,
    expectation,
    sample,
)

B, K, L, D, H, A = 2, 3, 5, 7, 8, 9


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(B, K, H, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=SCORES)
def attention(request: pytest.FixtureRequest) -> Attention:
    torch.manual_seed(3)
    return Attention(SCORES[request.param](D, H, A))


def test_additive_energies_are_the_formula_of_the_paper(features: torch.Tensor, hidden: torch.Tensor) -> None:
    torch.manual_seed(3)
    score = AdditiveScore(D, H, A)
    energies = score(score.project(features), hidden)
    for b in range(B):
        for k in range(K):
            for i in range(L):
                units = torch.tanh(score.key(features[b, i]) + score.query.weight @ hidden[b, k])
                assert torch.allclose(energies[b, k, i], score.energy.weight[0] @ units, atol=1e-6)


def test_dot_product_energies_are_scaled_products(features: torch.Tensor, hidden: torch.Tensor) -> None:
    torch.manual_seed(3)
    score = DotProductScore(D, H, A)
    energies = score(score.project(features), hidden)
    for b in range(B):
        for k in range(K):
            for i in range(L):
                product = (score.query(hidden[b, k]) * (score.key.weight @ features[b, i])).sum()
                assert torch.allclose(energies[b, k, i], product / math.sqrt(A), atol=1e-5)


def test_the_expected_context_is_the_weighted_sum(
    attention: Attention, features: torch.Tensor, hidden: torch.Tensor
) -> None:
    keys = attention.prepare(features)
    look = attention(features, keys, hidden, expectation)
    assert torch.allclose(look.alpha, torch.softmax(attention.score(keys, hidden), -1), atol=1e-6)
    assert torch.allclose(look.context, torch.einsum("bkl,bld->bkd", look.alpha, features), atol=1e-5)
    assert (look.location == EVERYWHERE).all()


@pytest.mark.parametrize("choose", [argmax, sample])
def test_the_context_of_one_location_is_its_feature_alone(
    attention: Attention, features: torch.Tensor, hidden: torch.Tensor, choose: object
) -> None:
    look = attention(features, attention.prepare(features), hidden, choose)  # type: ignore[arg-type]
    for b in range(B):
        for k in range(K):
            assert torch.equal(look.context[b, k], features[b, look.location[b, k]])
            if choose is argmax:
                assert look.location[b, k] == look.alpha[b, k].argmax()


def test_attention_moves_with_the_hidden_state(attention: Attention, features: torch.Tensor) -> None:
    """With the tanh of each term apart, instead of the sum, the additive one would not."""
    keys = attention.prepare(features)
    one = attention(features, keys, torch.randn(B, 1, H), expectation).alpha
    other = attention(features, keys, torch.randn(B, 1, H), expectation).alpha
    assert (one - other).abs().max() > 1e-3


def test_half_precision_weights_sum_to_one(attention: Attention, features: torch.Tensor, hidden: torch.Tensor) -> None:
    attention.bfloat16()
    features = features.bfloat16()
    look = attention(features, attention.prepare(features), hidden.bfloat16(), expectation)
    assert look.alpha.dtype == torch.float32
    assert torch.allclose(look.alpha.sum(-1), torch.ones(B, K), atol=1e-6)
    assert look.context.dtype == torch.bfloat16


def test_without_attention_every_word_sees_the_mean(features: torch.Tensor, hidden: torch.Tensor) -> None:
    attention = MeanContext()
    for choose in (expectation, argmax, sample):
        look = attention(features, attention.prepare(features), hidden, choose)
        assert torch.equal(look.context, features.mean(1, keepdim=True).expand(-1, K, -1))
        assert torch.allclose(look.alpha, torch.full((B, K, L), 1 / L))
        assert (look.location == EVERYWHERE).all()
    assert not list(attention.parameters())


def test_a_generator_makes_samples_repeat() -> None:
    alpha = torch.softmax(torch.randn(4, 3, 50), -1)
    one, same, other = (sample(alpha, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_settings_name_the_family() -> None:
    sizes = (6, H, A, 0.5, 0.0)
    assert isinstance(build_attention(DecoderConfig(*sizes, "none"), D), MeanContext)
    for kind in ("soft", "hard"):
        for name, score in SCORES.items():
            attention = build_attention(DecoderConfig(*sizes, kind, name), D)  # type: ignore[arg-type]
            assert isinstance(attention, Attention)
            assert isinstance(attention.score, score)
