"""REINFORCE over locations against enumeration of everything that could have been sampled."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from captioner.config import DecoderConfig
from captioner.data.dataset import Batch
from captioner.models.attention import argmax, expectation, sample
from captioner.models.decoder import AttentionDecoder, DecoderOutput
from captioner.recipe import HardAttentionConfig
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.hard_attention import HardAttention
from tests.conftest import whole_batch

PAD, BOS, EOS = 0, 1, 2
CELLS, STEPS = 3, 3
TOKENS = torch.tensor([[[BOS, 4, 5, EOS], [BOS, 6, EOS, PAD]]])
WORDS = 3 + 2
BATCHES, COPIES = 40, 2000


def tiny_decoder(score: str = "additive") -> AttentionDecoder:
    torch.manual_seed(0)
    decoder = AttentionDecoder(DecoderConfig(4, 5, 6, 0.0, attention="hard", score=score), 4, 7).double()  # type: ignore[arg-type]
    with torch.no_grad():
        # Opinionated enough that where it looks matters to every parameter.
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return decoder


@pytest.fixture
def decoder() -> AttentionDecoder:
    return tiny_decoder()


@pytest.fixture
def batch() -> Batch:
    features = torch.randn(1, CELLS, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return whole_batch(features, TOKENS)


def make_objective(config: HardAttentionConfig, doubly_stochastic: float = 0.0, steps: int = 100) -> HardAttention:
    return HardAttention(PAD, 7, doubly_stochastic, config, steps)


def every_path(decoder: AttentionDecoder, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Per sequence of locations: its probability, log p(s), log p(y | s) and entropy, each (1, 2), by caption.

    The last three count real words only. The probability counts all steps, so that it sums to 1.
    """
    targets = batch.tokens[:, :, 1:]
    real = targets != PAD
    for path in itertools.product(range(CELLS), repeat=STEPS):
        cells = iter(path)
        output = decoder(batch.features, batch.tokens[:, :, :-1], lambda a, c=cells: torch.full(a.shape[:-1], next(c)))
        log_alpha = torch.stack([output.alpha[:, :, t, cell].log() for t, cell in enumerate(path)], -1)
        log_probs = torch.log_softmax(output.logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        entropy = -(output.alpha * output.alpha.log()).sum(-1)
        yield log_alpha.sum(2).exp(), (log_alpha * real).sum(2), (log_probs * real).sum(2), (entropy * real).sum(2)


def exact_bound(decoder: AttentionDecoder, batch: Batch) -> Tensor:
    """What is maximised: sum_s p(s) log p(y | s), per word."""
    return torch.stack([(p * log_y).sum() for p, _, log_y, _ in every_path(decoder, batch)]).sum() / WORDS


def gradient(decoder: AttentionDecoder, loss: Tensor) -> Tensor:
    gradients = torch.autograd.grad(loss, list(decoder.parameters()), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if part is None else part).flatten()
            for parameter, part in zip(decoder.parameters(), gradients, strict=True)
        ]
    )


def sampled_gradients(
    decoder: AttentionDecoder, batch: Batch, config: HardAttentionConfig, baseline: float = 0.0
) -> Tensor:
    """Gradients of the objective on batches of copies of one image: (BATCHES, parameters)."""
    torch.manual_seed(2)
    copies = whole_batch(batch.features.expand(COPIES, -1, -1), batch.tokens.expand(COPIES, -1, -1))
    objective = make_objective(config)
    found = []
    for _ in range(BATCHES):
        # A vector of baselines, of the estimator that has one per word, is no constant.
        objective.baseline.copy_(baseline * torch.linspace(0.5, 1.5, max(1, objective.baseline.numel())).squeeze())
        found.append(gradient(decoder, objective(decoder, copies).loss))
    return torch.stack(found)


def standard_errors_off(samples: Tensor, expected: Tensor) -> float:
    """How far the mean of the samples lies from what is expected, at the worst parameter, in standard errors."""
    error = samples.std(0) / len(samples) ** 0.5
    # Where nothing is random, what is left is rounding.
    return float(((samples.mean(0) - expected).abs() / (error + 1e-9)).max())


def test_paths_are_all_there_is(decoder: AttentionDecoder, batch: Batch) -> None:
    total = torch.stack([probability for probability, *_ in every_path(decoder, batch)]).sum(0)
    assert torch.allclose(total, torch.ones(1, 2, dtype=torch.double))


@pytest.mark.parametrize("score", ["additive", "dot"])
@pytest.mark.parametrize("estimator", ["paper", "per_word"])
@pytest.mark.parametrize("baseline", [0.0, -2.0])
def test_the_estimator_is_the_exact_gradient_in_expectation(
    score: str, estimator: str, baseline: float, batch: Batch
) -> None:
    """Of sum_s p(s) log p(y | s) per word, whatever the baseline, at lambda_r = 1."""
    decoder = tiny_decoder(score)
    exact = gradient(decoder, -exact_bound(decoder, batch))
    config = HardAttentionConfig(estimator, reinforce=1.0, entropy=0.0, sampling=1.0)  # type: ignore[arg-type]
    samples = sampled_gradients(decoder, batch, config, baseline)
    assert standard_errors_off(samples, exact) < 5
    # The test has teeth: without REINFORCE, or with its sign wrong, the same measure is far off.
    for wrong in (0.0, -1.0):
        paths = [
            (p.detach() * (log_y + wrong * log_y.detach() * log_s)).sum()
            for p, log_s, log_y, _ in every_path(decoder, batch)
        ]
        assert standard_errors_off(samples, gradient(decoder, -torch.stack(paths).sum() / WORDS)) > 15


def test_weights_act_as_in_equation_12(decoder: AttentionDecoder, batch: Batch) -> None:
    """The mean over paths of d log p(y | s) + lambda_r (log p(y | s) - b T) d log p(s) + lambda_e dH."""
    lambda_r, lambda_e, baseline = 0.4, 0.7, -1.5
    lengths = torch.tensor([[3.0, 2.0]])

    def expected(entropy_sign: float) -> Tensor:
        terms = [
            p.detach()
            * (
                log_y
                + lambda_r * (log_y.detach() - baseline * lengths) * log_s
                + entropy_sign * lambda_e * entropy
            )
            for p, log_s, log_y, entropy in every_path(decoder, batch)
        ]  # fmt: skip
        return gradient(decoder, -torch.stack(terms).sum() / WORDS)

    config = HardAttentionConfig(reinforce=lambda_r, entropy=lambda_e, sampling=1.0)
    samples = sampled_gradients(decoder, batch, config, baseline)
    assert standard_errors_off(samples, expected(1.0)) < 5
    assert standard_errors_off(samples, expected(-1.0)) > 15
    assert standard_errors_off(samples, expected(0.0)) > 15


def test_images_that_are_not_sampled_learn_as_under_soft_attention(decoder: AttentionDecoder, batch: Batch) -> None:
    hard = gradient(decoder, -exact_bound(decoder, batch))
    soft = gradient(decoder, CrossEntropy(PAD, 0.0)(decoder, batch).loss)
    samples = sampled_gradients(decoder, batch, HardAttentionConfig(reinforce=1.0, entropy=0.0, sampling=0.3))
    assert standard_errors_off(samples, 0.3 * hard + 0.7 * soft) < 5
    assert standard_errors_off(samples, 0.7 * hard + 0.3 * soft) > 15


def test_baselines_take_variance_away(decoder: AttentionDecoder, batch: Batch) -> None:
    reward = exact_bound(decoder, batch).item()
    config = HardAttentionConfig(reinforce=1.0, entropy=0.0, sampling=1.0)
    without, paper = (sampled_gradients(decoder, batch, config, baseline).var(0).sum() for baseline in (0.0, reward))
    per_word = sampled_gradients(decoder, batch, dataclasses.replace(config, estimator="per_word"), reward).var(0).sum()
    assert paper < 0.5 * without
    assert per_word < 0.8 * paper


def test_coins_are_tossed_per_image_and_shared_by_its_captions(decoder: AttentionDecoder) -> None:
    seen: list[Tensor] = []

    class Spy(AttentionDecoder):
        def forward(self, features, tokens, choose=expectation, real=None):  # type: ignore[no-untyped-def]
            output = super().forward(features, tokens, choose, real)
            seen.append(output.location)
            return output

    torch.manual_seed(0)
    spy = Spy(decoder.config, 4, 7)
    batch = whole_batch(torch.randn(200, CELLS, 4), TOKENS.expand(200, -1, -1))
    make_objective(HardAttentionConfig(sampling=0.3))(spy, batch)
    everywhere = (seen[0] == -1)[:, TOKENS[0, :, 1:] != PAD]  # (200, words)
    assert torch.equal(everywhere.all(1), everywhere.any(1))
    assert 0.6 < everywhere.all(1).float().mean() < 0.8


@pytest.fixture
def likeliest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the likeliest location in place of a sampled one, so that nothing is random but the coins."""
    monkeypatch.setattr("captioner.training.objective.sample", lambda alpha: alpha.argmax(-1))


PADDED = torch.tensor([[[BOS, 4, 5, EOS], [BOS, 6, EOS, PAD], [PAD] * 4], [[BOS, 5, EOS, PAD], [PAD] * 4, [PAD] * 4]])


def two_images() -> Batch:
    return whole_batch(torch.randn(2, CELLS, 4, dtype=torch.double, generator=torch.Generator().manual_seed(3)), PADDED)


Steps = list[tuple[int, float, float]]


def captions_by_image(decoder: AttentionDecoder, batch: Batch) -> list[list[Steps]]:
    """Per image, caption and step, under the likeliest locations: word, log alpha and log p(word)."""
    found = []
    for features, captions in zip(batch.features, batch.tokens, strict=True):
        rows = []
        for caption in captions:
            length = int((caption != PAD).sum()) - 1
            if length < 1:
                continue
            state = decoder.init_state(features[None], 1, argmax)
            steps = []
            for before, after in itertools.pairwise(caption[: length + 1]):
                log_probs, sight, state = decoder.step(before.view(1, 1), state)
                log_alpha, log_prob = sight.alpha[0, 0, sight.location[0, 0]].log(), log_probs[0, 0, after]
                steps.append((int(after), log_alpha.item(), log_prob.item()))
            rows.append(steps)
        found.append(rows)
    return found


@pytest.mark.parametrize("estimator", ["paper", "per_word"])
def test_the_baseline_is_taken_off_once_per_word(decoder: AttentionDecoder, estimator: str, likeliest: None) -> None:
    """And it is the one from before the batch: what a reward is compared with may not depend on its draw."""
    config = HardAttentionConfig(estimator, 0.5, 0.0, baseline_decay=0.0, sampling=1.0)  # type: ignore[arg-type]
    batch = two_images()
    losses = []
    baselines = torch.linspace(-1, -3, 7) if estimator == "per_word" else torch.full((7,), -1.5)
    for scale in (0.0, 1.0):
        objective = make_objective(config)
        objective.baseline.copy_(scale * (baselines if estimator == "per_word" else baselines[0]))
        losses.append(objective(decoder, batch).loss.item())
    captions = [caption for image in captions_by_image(decoder, batch) for caption in image]
    expected = 0.0
    for caption in captions:
        for t, (_, log_alpha, _) in enumerate(caption):
            rewarded = caption[t:] if estimator == "per_word" else caption
            expected += 0.5 * log_alpha * sum(float(baselines[word]) for word, _, _ in rewarded)
    assert losses[1] - losses[0] == pytest.approx(expected / sum(map(len, captions)), rel=1e-6)


def test_the_baseline_counts_sampled_words_alone(
    decoder: AttentionDecoder, likeliest: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make_objective(HardAttentionConfig(baseline_decay=0.0, sampling=0.5))
    batch = two_images()
    coins = torch.tensor([[0.1], [0.9]])  # the first image is sampled, the second is not
    monkeypatch.setattr(torch, "rand", lambda *size, **_: coins)
    objective(decoder, batch)
    first, _ = captions_by_image(decoder, batch)
    log_probs = [log_prob for caption in first for _, _, log_prob in caption]
    assert float(objective.baseline) == pytest.approx(sum(log_probs) / len(log_probs), rel=1e-5)
    before = objective.baseline.clone()
    coins = torch.full((2, 1), 0.9)
    objective(decoder, batch)
    assert torch.equal(objective.baseline, before)


def test_every_word_has_a_baseline_of_its_own(decoder: AttentionDecoder, likeliest: None) -> None:
    config = HardAttentionConfig("per_word", baseline_decay=0.75, sampling=1.0)
    objective, batch = make_objective(config), two_images()
    objective(decoder, batch)
    steps = [step for image in captions_by_image(decoder, batch) for caption in image for step in caption]
    for token in range(7):
        said = [log_prob for word, _, log_prob in steps if word == token]
        expected = -math.log(7) * 0.75 + 0.25 * sum(said) / len(said) if said else -math.log(7)
        assert float(objective.baseline[token]) == pytest.approx(expected, rel=1e-5)


def test_sampling_rises_to_its_probability(decoder: AttentionDecoder) -> None:
    torch.manual_seed(0)
    decoder.float()
    config = HardAttentionConfig(sampling=0.8, sampling_warmup=0.5)
    objective = make_objective(config, steps=20)
    batch = whole_batch(torch.randn(400, CELLS, 4), TOKENS.expand(400, -1, -1))
    shares = []
    forward = decoder.forward

    def spy(*arguments: object) -> DecoderOutput:
        output = forward(*arguments)  # type: ignore[arg-type]
        shares.append((output.location[:, 0, 0] >= 0).float().mean().item())
        return output

    decoder.forward = spy  # type: ignore[method-assign, assignment]
    for _ in range(13):
        objective(decoder, batch)
    assert shares[0] == 0
    assert shares[5] == pytest.approx(0.4, abs=0.1)
    assert shares[10:] == pytest.approx([0.8] * 3, abs=0.1)


def test_the_baseline_follows_the_reward_of_sampled_words(decoder: AttentionDecoder, batch: Batch) -> None:
    objective = make_objective(HardAttentionConfig(baseline_decay=0.9, sampling=1.0))
    one_word = whole_batch(batch.features, torch.tensor([[[BOS, 4]]]))
    expected = -math.log(7)  # a guess
    for seed in range(5):
        torch.manual_seed(seed)
        reward = -objective(decoder, one_word).logs["cross_entropy"].item()
        expected = 0.9 * expected + 0.1 * reward
        assert float(objective.baseline) == pytest.approx(expected, rel=1e-5)
    restored = make_objective(HardAttentionConfig())
    restored.load_state_dict(objective.state_dict())
    assert torch.equal(restored.baseline, objective.baseline)


def test_the_doubly_stochastic_term_gets_its_gradient(decoder: AttentionDecoder, batch: Batch) -> None:
    """In the authors' code it does not."""
    config = HardAttentionConfig(reinforce=0.0, entropy=0.0, sampling=1.0)
    gradients = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        loss = make_objective(config, weight)(decoder, batch).loss
        weight_of_energy = decoder.get_parameter("attention.score.energy.weight")
        gradients.append(torch.autograd.grad(loss, weight_of_energy)[0])
    # Without it, sampled locations and no REINFORCE teach the attention nothing.
    assert gradients[0].abs().max() == 0
    assert gradients[1].abs().max() > 1e-3


def test_neither_batch_size_nor_padding_changes_the_weight_of_a_term(
    decoder: AttentionDecoder, batch: Batch, likeliest: None
) -> None:
    config = HardAttentionConfig(reinforce=1.0, entropy=1.0, sampling=1.0)

    def loss(batch: Batch) -> float:
        objective = make_objective(config, 1.0)
        return float(objective(decoder, batch).loss.detach())

    once = loss(batch)
    assert loss(whole_batch(batch.features.expand(7, -1, -1), batch.tokens.expand(7, -1, -1))) == pytest.approx(once)
    padded = torch.nn.functional.pad(batch.tokens, (0, 4), value=PAD)
    assert loss(whole_batch(batch.features, padded)) == pytest.approx(once)


def test_samples_come_as_often_as_their_probability() -> None:
    torch.manual_seed(0)
    alpha = torch.tensor([[0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]).expand(20_000, 2, 3)
    location = sample(alpha)
    assert location.shape == (20_000, 2)
    frequency = torch.nn.functional.one_hot(location, 3).float().mean(0)
    assert torch.allclose(frequency, alpha[0], atol=0.015)


@pytest.mark.parametrize("score", ["additive", "dot"])
def test_soft_attention_against_finite_differences(score: str, batch: Batch) -> None:
    decoder = tiny_decoder(score)
    names = [name for name, _ in decoder.named_parameters()]

    def loss(*parameters: Tensor) -> Tensor:
        class Bound:
            def __call__(self, features: Tensor, tokens: Tensor, real: Tensor) -> object:
                weights = dict(zip(names, parameters, strict=True))
                return torch.func.functional_call(decoder, weights, (features, tokens), {"real": real})

        result: Tensor = CrossEntropy(PAD, 0.5)(Bound(), batch).loss  # type: ignore[arg-type]
        return result

    assert torch.autograd.gradcheck(loss, [p.detach().requires_grad_() for p in decoder.parameters()])
