from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from captioner.config import DecoderConfig
from captioner.models.decoder import AttentionDecoder

B, K, L, D, V, T = 2, 3, 5, 7, 11, 4
CONFIG = DecoderConfig(embedding_dim=6, hidden_dim=8, attention_dim=9, dropout=0.5)
FAMILY = {
    "soft, additive": CONFIG,
    "soft, dot": dataclasses.replace(CONFIG, score="dot"),
    "hard, additive": dataclasses.replace(CONFIG, attention="hard"),
    "none": dataclasses.replace(CONFIG, attention="none"),
}


@pytest.fixture
def decoder() -> AttentionDecoder:
    torch.manual_seed(0)
    return AttentionDecoder(CONFIG, D, V).eval()


@pytest.fixture(params=FAMILY)
def any_decoder(request: pytest.FixtureRequest) -> AttentionDecoder:
    torch.manual_seed(0)
    return AttentionDecoder(FAMILY[request.param], D, V).eval()


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(4, V, (B, K, T), generator=torch.Generator().manual_seed(2))


def test_gradients_reach_every_parameter(
    any_decoder: AttentionDecoder, features: torch.Tensor, tokens: torch.Tensor
) -> None:
    any_decoder.train()
    output = any_decoder(features, tokens)
    (output.logits.square().mean() + output.alpha.square().mean()).backward()
    for name, parameter in any_decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-12, name


def test_the_recurrence_is_an_lstm_cell(decoder: AttentionDecoder, features: torch.Tensor) -> None:
    """Against torch's own cell with the same matrices, fed the word and the gated context."""
    cell = nn.LSTMCell(CONFIG.embedding_dim + D, CONFIG.hidden_dim)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([decoder.lstm_word.weight, decoder.lstm_state.weight[:, :D]], 1))
        cell.weight_hh.copy_(decoder.lstm_state.weight[:, D:])
        cell.bias_ih.copy_(decoder.lstm_word.bias)
        cell.bias_hh.zero_()
    token = torch.tensor([[4], [5]])
    start = decoder.init_state(features)
    mean = start.features.mean(1)
    assert torch.allclose(start.hidden[:, 0], torch.tanh(decoder.init_hidden(mean)), atol=1e-6)
    assert torch.allclose(start.cell[:, 0], torch.tanh(decoder.init_cell(mean)), atol=1e-6)
    log_probs, sight, state = decoder.step(token, start)
    embedded = decoder.embedding(token[:, 0])
    beta = torch.sigmoid(decoder.gate(start.hidden[:, 0]))
    assert torch.equal(sight.beta, beta)
    context = beta * torch.einsum("bl,bld->bd", sight.alpha[:, 0], start.features)
    hidden, memory = cell(torch.cat([embedded, context], 1), (start.hidden[:, 0], start.cell[:, 0]))
    assert torch.allclose(state.hidden[:, 0], hidden, atol=1e-6)
    assert torch.allclose(state.cell[:, 0], memory, atol=1e-6)
    deep = embedded + decoder.output_hidden(hidden) + decoder.output_context(context)
    assert torch.allclose(log_probs[:, 0], torch.log_softmax(decoder.output_word(deep), -1), atol=1e-5)


def test_training_and_search_take_the_same_step(
    any_decoder: AttentionDecoder, features: torch.Tensor, tokens: torch.Tensor
) -> None:
    output = any_decoder(features, tokens)
    state = any_decoder.init_state(features, rows=K)
    for t in range(T):
        log_probs, sight, state = any_decoder.step(tokens[:, :, t], state)
        assert torch.allclose(log_probs, torch.log_softmax(output.logits[:, :, t], -1), atol=1e-5)
        assert torch.allclose(sight.alpha, output.alpha[:, :, t], atol=1e-6)


def test_captions_of_an_image_do_not_touch_each_other(
    any_decoder: AttentionDecoder, features: torch.Tensor, tokens: torch.Tensor
) -> None:
    together = any_decoder(features, tokens)
    for b in range(B):
        for k in range(K):
            alone = any_decoder(features[b : b + 1], tokens[b : b + 1, k : k + 1])
            assert torch.allclose(alone.logits[0, 0], together.logits[b, k], atol=1e-5)
            assert torch.allclose(alone.alpha[0, 0], together.alpha[b, k], atol=1e-6)


def test_features_are_projected_once_per_image_and_not_per_word(
    decoder: AttentionDecoder, features: torch.Tensor, tokens: torch.Tensor
) -> None:
    calls: list[torch.Size] = []
    key = decoder.get_submodule("attention.score.key")
    key.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    words: list[torch.Size] = []
    decoder.output_word.register_forward_hook(lambda module, inputs, output: words.append(output.shape))
    decoder(features, tokens)
    assert calls == [(B, L, CONFIG.attention_dim)]
    assert words == [(B, K, T, V)]


def test_a_location_counts_by_its_weight_and_not_by_the_length_of_its_features(
    decoder: AttentionDecoder, features: torch.Tensor, tokens: torch.Tensor
) -> None:
    lengths = torch.tensor([0.5, 1.0, 3.0, 10.0, 20.0]).view(1, L, 1)
    one, other = decoder(features, tokens), decoder(features * lengths, tokens)
    assert torch.allclose(one.logits, other.logits, atol=1e-3)
    assert torch.allclose(one.alpha, other.alpha, atol=1e-3)


def test_feature_dropout_takes_whole_channels_and_only_in_training(features: torch.Tensor) -> None:
    torch.manual_seed(0)
    decoder = AttentionDecoder(DecoderConfig(6, 8, 9, feature_dropout=0.5), D, V)
    kept = decoder.eval().init_state(features).features
    dropped = decoder.train().init_state(features).features
    gone = (dropped == 0).all(1)  # (B, D)
    assert 0 < gone.sum() < gone.numel()
    assert torch.allclose(dropped, torch.where(gone.unsqueeze(1), 0.0, 2 * kept), atol=1e-6)


def test_dropout_takes_a_share_of_what_words_are_told_by_and_only_in_training(
    features: torch.Tensor, tokens: torch.Tensor
) -> None:
    torch.manual_seed(0)
    decoder = AttentionDecoder(DecoderConfig(6, 8, 9, dropout=0.75, feature_dropout=0.0), D, V)
    seen: list[torch.Tensor] = []
    decoder.output_word.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    decoder.eval()(features, tokens)
    decoder.train()(features, tokens)
    kept, dropped = seen
    gone = dropped == 0
    assert not (kept == 0).any()
    assert gone.float().mean().item() == pytest.approx(0.75, abs=0.1)
    assert torch.allclose(dropped, torch.where(gone, 0.0, 4 * kept), atol=1e-5)


def test_an_untrained_decoder_expects_words_as_often_as_they_occur(
    decoder: AttentionDecoder, features: torch.Tensor
) -> None:
    counts = torch.tensor([0, 0, 50, 0, 1000, 3, 3, 3, 3, 3, 3])
    decoder.expect_words(counts)
    log_probs, *_ = decoder.step(torch.ones(B, 1, dtype=torch.long), decoder.init_state(features))
    probabilities = log_probs[:, 0].exp().mean(0)
    assert probabilities.argmax() == 4
    assert probabilities[4].item() == pytest.approx(1000 / 1068, abs=0.05)


def test_reorder_takes_the_rows_asked_for(decoder: AttentionDecoder, features: torch.Tensor) -> None:
    state = decoder.init_state(features, rows=3)
    *_, state = decoder.step(torch.tensor([[4, 5, 6], [7, 8, 9]]), state)
    moved = state.reorder(torch.tensor([[2, 0, 0], [1, 1, 2]]))
    assert torch.equal(moved.hidden[0], state.hidden[0][[2, 0, 0]])
    assert torch.equal(moved.cell[1], state.cell[1][[1, 1, 2]])
    assert moved.features is state.features


def test_rows_that_do_not_matter_are_left_out_and_the_others_stay_what_they_are() -> None:
    torch.manual_seed(0)
    decoder = AttentionDecoder(DecoderConfig(6, 8, 9, 0.0), 7, 11)
    features, tokens = torch.randn(3, 5, 7), torch.randint(0, 11, (3, 4, 6))
    lengths = torch.tensor([[6, 4, 2, 0], [3, 3, 0, 0], [5, 1, 1, 1]])
    real = torch.arange(6) < lengths.unsqueeze(-1)
    rows: list[int] = []
    decoder.attention.register_forward_hook(lambda module, inputs, look: rows.append(look.alpha.shape[1]))
    whole = decoder(features, tokens)
    assert rows == [4] * 6
    rows.clear()
    short = decoder(features, tokens, real=real)
    assert rows == [4, 3, 2, 2, 1, 1]
    for part, whole_part in zip(short, whole, strict=True):
        assert part.shape == whole_part.shape
        assert torch.allclose(part[real], whole_part[real], atol=1e-6)
    assert short.alpha[0, 3, 1:].abs().max() == 0
