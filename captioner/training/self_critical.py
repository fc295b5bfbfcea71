"""Self-critical sequence training: REINFORCE over words, rewarded by CIDEr-D and BLEU-4 (Rennie et al. 2017)."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from captioner.config import DecodingOptions
from captioner.data.dataset import Batch, padded
from captioner.decoding import beam_search, sample_captions
from captioner.errors import DatasetError
from captioner.metrics.bleu import BleuReward
from captioner.metrics.cider import CiderReward
from captioner.models.attention import EVERYWHERE, expectation
from captioner.models.decoder import AttentionDecoder
from captioner.recipe import SelfCriticalConfig
from captioner.training.objective import (
    LossOutput,
    doubly_stochastic_term,
    log_prob_of_locations,
    sampled_for_some,
)
from captioner.vocabulary import Vocabulary, tokenize

_CHECKED_IMAGES = 500


class SelfCritical(nn.Module):
    """Expected reward of the model's own captions, its gradient estimated from samples.

    For captions w_1..w_K drawn for an image, the gradient of what is maximised is

        1/K sum_k (r(w_k) - b_k) d log p(w_k),

    averaged over images. r is CIDEr-D against the image's references, with document frequencies of the train split,
    plus `config.bleu` times BLEU-4, the end token counting as a word: without it captions that break off ("a man
    riding a") score best. b_k is the mean reward of the other K - 1 samples, or the reward of the greedy caption
    (section 3.2); neither depends on w_k, so the estimator is unbiased. The samples come from the network as it is
    trained, dropout included; the greedy caption without, all locations seen by their weights.

    Under hard attention the locations of a caption are drawn with it, for an image with probability `sampling`, and
    share its reward: log p(w_k) is then log p(w_k | s_k) + log p(s_k). Leaving a sample out of its own baseline is
    Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Parameters
    ----------
    vocabulary : Vocabulary
    references : sequence of sequence of str
        Untouched captions of every photo of the train split, in the order of its rows.
    doubly_stochastic : float
        Weight of the attention regulariser, over the sampled captions.
    config : SelfCriticalConfig
    max_length : int
        Most words of a sampled caption.
    sampling : float
        Probability that the words of an image are looked for at sampled locations; 0 for soft attention.

    Raises
    ------
    DatasetError
        If there is one photo alone, or more words than can be told apart; or if the reward tells the references of a
        photo no better than those of another: then the captions do not belong to their photos.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        references: Sequence[Sequence[str]],
        doubly_stochastic: float,
        config: SelfCriticalConfig,
        max_length: int,
        sampling: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.doubly_stochastic = doubly_stochastic
        self.config = config
        self.max_length = max_length
        self.sampling = sampling
        numbers = {word: number for number, word in enumerate(vocabulary.words)}
        # Words the model cannot say still count against it, so they have numbers too, past those of the vocabulary.
        encoded = [
            [[*(numbers.setdefault(w, len(numbers)) for w in tokenize(c)), vocabulary.eos] for c in captions]
            for captions in references
        ]
        try:
            self.cider = CiderReward(encoded, len(numbers))
        except ValueError as error:
            raise DatasetError(f"train split: {error}") from error
        _check(self.cider, encoded)
        self.bleu = BleuReward(encoded) if config.bleu else None

    def forward(self, decoder: AttentionDecoder, batch: Batch) -> LossOutput:
        """Draw captions of the batch's photos, and rate them."""
        images = len(batch.features)
        shape = (images, self.config.samples)
        device = batch.features.device
        choose = sampled_for_some(images, self.sampling, device) if self.sampling else expectation
        state = decoder.init_state(batch.features, self.config.samples, choose)
        sampled = sample_captions(decoder.step, state, shape, self.vocabulary, self.max_length, device)
        scores = self._scores(batch.rows, sampled.tokens)
        rewards = self._reward(scores)
        if self.config.baseline == "greedy":
            baseline = self._reward(self._scores(batch.rows, self._greedy(decoder, batch.features)))
        else:
            baseline = (rewards.sum(1, keepdim=True) - rewards) / (self.config.samples - 1)
        captions = batch.totals.images * self.config.samples
        real = sampled.tokens != self.vocabulary.pad
        drawn = real & (sampled.location != EVERYWHERE)
        where = log_prob_of_locations(sampled.alpha, sampled.location, drawn)
        log_probs = (sampled.log_probs + where).sum(2)  # (B, K)
        coverage = doubly_stochastic_term(sampled.alpha, real, captions)
        loss = -((rewards - baseline).to(log_probs) * log_probs).sum() / captions + self.doubly_stochastic * coverage
        logs = {
            **{name: 100 * score.sum() / captions for name, score in scores.items()},
            "words": real.sum() / captions,
            "doubly_stochastic": coverage,
        }
        return LossOutput(loss, logs)

    def _scores(self, rows: Sequence[int], tokens: Tensor) -> dict[str, Tensor]:
        """Score captions (B, K, T) by all that counts, (B, K) each."""
        words = tokens.cpu().numpy()
        lengths = (words != self.vocabulary.pad).sum(2)
        found = {"cider": self.cider.score(rows, words, lengths)}
        if self.bleu:
            found["bleu4"] = self.bleu.score(rows, words, lengths)
        return {name: torch.from_numpy(score).to(tokens.device) for name, score in found.items()}

    def _reward(self, scores: dict[str, Tensor]) -> Tensor:
        return scores["cider"] + self.config.bleu * scores["bleu4"] if self.bleu else scores["cider"]

    @torch.no_grad()
    def _greedy(self, decoder: AttentionDecoder, features: Tensor) -> Tensor:
        """Captions (B, 1, T) as they are found by greedy search, with the end token where it came."""
        training = decoder.training
        decoder.eval()
        options = DecodingOptions(beam_size=1, max_length=self.max_length)
        try:
            found = beam_search(
                decoder.step, decoder.init_state(features), len(features), self.vocabulary, options, features.device
            )
        finally:
            decoder.train(training)
        # Of a model that has diverged nothing is found; its loss tells.
        eos = [self.vocabulary.eos]
        captions = [[[*best[0].tokens, *eos * best[0].ended] if best else eos] for best in found]
        return padded(captions, self.vocabulary.pad).to(features.device)


def _check(reward: CiderReward, references: Sequence[Sequence[Sequence[int]]]) -> None:
    """Make sure that references are rewarded for their own photos and not for others."""
    draw = random.Random(0)
    rows = draw.sample(range(len(references)), min(_CHECKED_IMAGES, len(references)))
    captions = [references[row][0] for row in rows]
    given = np.array([len(references[row]) for row in rows])
    with_itself = reward.score_one_each(rows, captions)
    itself = 10 * np.array([min(len(caption), 4) for caption in captions]) / 4  # what a caption earns against itself
    several = given > 1
    # An n-gram that every photo has earns nothing, not even against itself.
    others = np.maximum(with_itself * given - itself, 0)
    own = (others[several] / (given - 1)[several]).mean() if several.any() else np.inf
    other = reward.score_one_each(rows[1:] + rows[:1], captions).mean()
    if own < 2 * other:
        raise DatasetError(
            f"a reference earns a CIDEr-D of {100 * own:.1f} from the others of its photo, and {100 * other:.1f} from "
            "those of another photo; are the captions with their photos?"
        )
