"""Self-critical training against enumeration of every caption that could have been drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.config import DecoderConfig
from captioner.data.dataset import Batch
from captioner.decoding import sample_captions
from captioner.errors import DatasetError
from captioner.models.decoder import AttentionDecoder, DecoderState
from captioner.recipe import SelfCriticalConfig
from captioner.training.self_critical import SelfCritical
from captioner.vocabulary import Vocabulary
from tests.conftest import whole_batch

VOCABULARY = Vocabulary(["dog", "cat"])
PAD, BOS, EOS, UNK = range(4)
LONGEST = 3
REFERENCES = [["dog cat", "dog dog unheard"], ["cat", "cat cat cat"], ["another bird", "a bird"]]
BATCHES, COPIES = 40, 1500


@pytest.fixture
def decoder() -> AttentionDecoder:
    torch.manual_seed(0)
    decoder = AttentionDecoder(DecoderConfig(4, 5, 6, 0.0), 4, len(VOCABULARY)).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    return decoder


@pytest.fixture
def batch() -> Batch:
    features = torch.randn(1, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return whole_batch(features, torch.full((1, 1, 2), BOS))


def make_objective(
    baseline: str = "others",
    samples: int = 2,
    doubly_stochastic: float = 0.0,
    sampling: float = 0.0,
    bleu: float = 0.0,
) -> SelfCritical:
    config = SelfCriticalConfig(samples, baseline, bleu)  # type: ignore[arg-type]
    return SelfCritical(VOCABULARY, REFERENCES, doubly_stochastic, config, LONGEST, sampling)


def look_at(cell: int, alpha: Tensor) -> Tensor:
    return torch.full(alpha.shape[:-1], cell)


def every_caption(
    decoder: AttentionDecoder, features: Tensor, hard: bool = False
) -> Iterator[tuple[list[int], Tensor]]:
    """All captions, the end token last where they end by themselves, and their log-probabilities.

    If `hard`, each caption under each sequence of locations that its words could have been looked for at.
    """
    start = decoder.init_state(features)
    open_ones: list[tuple[list[int], Tensor, int, DecoderState]] = [([], torch.zeros(()).double(), BOS, start)]
    for t in range(LONGEST):
        continued = []
        for (words, log_prob, before, state), cell in itertools.product(open_ones, range(3) if hard else [-1]):
            looking = state._replace(choose=partial(look_at, cell))
            log_probs, sight, after = decoder.step(torch.tensor([[before]]), looking)
            where = sight.alpha[0, 0, cell].log() if hard else 0
            possible = [4, 5] if t == 0 else [EOS, 4, 5]
            chosen = torch.log_softmax(log_probs[0, 0, possible], 0)
            for token, increment in zip(possible, chosen, strict=True):
                caption = ([*words, token], log_prob + where + increment)
                if token == EOS or t == LONGEST - 1:
                    yield caption
                else:
                    continued.append((*caption, token, after))
        open_ones = continued


def reward(objective: SelfCritical, caption: list[int]) -> float:
    one = ([0], np.array([[caption]]), np.array([[len(caption)]]))
    cider = float(objective.cider.score(*one)[0, 0])
    return cider + objective.config.bleu * float(objective.bleu.score(*one)[0, 0]) if objective.bleu else cider


def gradient(decoder: AttentionDecoder, loss: Tensor) -> Tensor:
    gradients = torch.autograd.grad(loss, list(decoder.parameters()))
    return torch.cat([part.flatten() for part in gradients])


def test_captions_enumerated_are_all_there_are(decoder: AttentionDecoder, batch: Batch) -> None:
    captions = list(every_caption(decoder, batch.features))
    assert len(captions) == 2 + 4 + 8
    assert len(list(every_caption(decoder, batch.features, hard=True))) == 2 * 9 + 4 * 27 + 8 * 27


@pytest.mark.parametrize(
    ("baseline", "hard", "bleu"),
    [("others", False, 0.0), ("greedy", False, 0.0), ("others", True, 0.0), ("others", False, 2.0)],
)
def test_the_estimator_is_the_exact_gradient_in_expectation(
    decoder: AttentionDecoder, batch: Batch, baseline: str, hard: bool, bleu: float
) -> None:
    objective = make_objective(baseline, sampling=1.0 if hard else 0.0, bleu=bleu)
    captions = list(every_caption(decoder, batch.features, hard))
    assert sum(log_prob.exp().item() for _, log_prob in captions) == pytest.approx(1)
    rewards = [reward(objective, caption) for caption, _ in captions]
    assert max(rewards) > 3 * min(rewards) > 0
    expected = torch.stack([r * log_prob.exp() for r, (_, log_prob) in zip(rewards, captions, strict=True)]).sum()
    exact = gradient(decoder, -expected)
    torch.manual_seed(2)
    copies = whole_batch(batch.features.expand(COPIES, -1, -1), batch.tokens.expand(COPIES, -1, -1))
    copies = copies._replace(rows=(0,) * COPIES)
    samples = torch.stack([gradient(decoder, objective(decoder, copies).loss) for _ in range(BATCHES)])
    error = samples.std(0) / BATCHES**0.5 + 1e-9
    assert float(((samples.mean(0) - exact).abs() / error).max()) < 5
    # The test has teeth: the wrong sign, or no gradient at all, is far off.
    assert float(((samples.mean(0) + exact).abs() / error).max()) > 15
    assert float((samples.mean(0).abs() / error).max()) > 15


def test_what_is_written_down_is_the_reward_of_what_was_drawn(decoder: AttentionDecoder, batch: Batch) -> None:
    objective = make_objective(samples=4)
    torch.manual_seed(3)
    output = objective(decoder, batch)
    torch.manual_seed(3)
    drawn = sample_captions(
        decoder.step, decoder.init_state(batch.features, 4), (1, 4), VOCABULARY, LONGEST, torch.device("cpu")
    )
    captions = [[token for token in row.tolist() if token != PAD] for row in drawn.tokens[0]]
    expected = 100 * sum(reward(objective, caption) for caption in captions) / 4
    assert float(output.logs["cider"]) == pytest.approx(expected)
    assert float(output.logs["words"]) == sum(map(len, captions)) / 4


def test_parts_of_a_step_add_up(decoder: AttentionDecoder) -> None:
    """With one certain caption there is nothing to draw, so that parts can be compared with the whole."""
    with torch.no_grad():
        decoder.output_word.weight.zero_()
        decoder.output_word.bias.copy_(torch.tensor([0.0, 0.0, -1e4, 0.0, 1e4, 0.0], dtype=torch.double))
    objective = make_objective("greedy", samples=2, doubly_stochastic=1.0)
    features = torch.randn(5, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(4))
    whole = whole_batch(features, torch.full((5, 1, 2), BOS))._replace(rows=(0, 1, 2, 0, 1))
    parts = [
        whole._replace(features=features[some], tokens=whole.tokens[some], rows=whole.rows[some])
        for some in (slice(0, 2), slice(2, 5))
    ]
    outputs = [objective(decoder, part) for part in parts]
    together = objective(decoder, whole)
    assert sum(output.loss.item() for output in outputs) == pytest.approx(together.loss.item())
    for name, value in together.logs.items():
        assert sum(output.logs[name].item() for output in outputs) == pytest.approx(value.item())


def test_the_greedy_baseline_leaves_the_mode_of_the_decoder_alone(decoder: AttentionDecoder, batch: Batch) -> None:
    for training in (True, False):
        decoder.train(training)
        make_objective("greedy")(decoder, batch)
        assert decoder.training is training


@pytest.mark.parametrize("baseline", ["others", "greedy"])
@pytest.mark.parametrize("bleu", [0.0, 2.0])
def test_a_model_that_has_diverged_shows_in_the_loss(
    decoder: AttentionDecoder, batch: Batch, baseline: str, bleu: float
) -> None:
    with torch.no_grad():
        decoder.output_word.bias.fill_(torch.nan)
    assert torch.isnan(make_objective(baseline, bleu=bleu)(decoder, batch).loss)


def test_captions_that_are_not_their_photos_are_refused() -> None:
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(40)]
    shuffled = [[" ".join(generator.choice(words, 8)) for _ in range(5)] for _ in range(60)]
    with pytest.raises(DatasetError, match="are the captions with their photos"):
        SelfCritical(Vocabulary(words), shuffled, 0.0, SelfCriticalConfig(), LONGEST)
    alike = [[f"{text} {word}" for word in words[:5]] for (text, *_) in shuffled]
    SelfCritical(Vocabulary(words), alike, 0.0, SelfCriticalConfig(), LONGEST)
