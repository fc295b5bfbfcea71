"""Stochastic "hard" attention, trained by REINFORCE over locations (Xu et al. 2015, sections 4.1 and 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from captioner.data.dataset import Batch
from captioner.models.attention import EVERYWHERE
from captioner.models.decoder import AttentionDecoder
from captioner.recipe import HardAttentionConfig
from captioner.training.distributed import add_over_processes
from captioner.training.objective import (
    LossOutput,
    doubly_stochastic_term,
    log_prob_of_locations,
    sampled_for_some,
    word_log_probs,
)


class HardAttention(nn.Module):
    """A bound on the likelihood, its gradient estimated from sampled locations (equations 10-12).

    For a caption y of T words and locations s sampled step by step, the gradient of what is maximised is

        d log p(y | s) + lambda_r (log p(y | s) - b T) d log p(s) + lambda_e d H,

    summed over captions and divided by their number of words, so that every term is a mean per word. With
    lambda_r = 1 and lambda_e = 0 its expectation is the exact gradient of sum_s p(s) log p(y | s), per word, if
    locations are drawn for all images (below) and the regulariser has no weight.
    b is a moving average over batches, of which a step that is accumulated has several, of the log-likelihood per word
    under sampled locations; H is the sum over the words of the entropy of where they may be looked for.

    That is `estimator = "paper"`. With "per_word", step t is rewarded with what it can have had a part in and no
    more, sum_{t' >= t} (log p(y_t' | s) - b[y_t']), where every word of the vocabulary has a moving average b of
    its own. The expectation is the same, the variance smaller.

    An image's words are looked for at sampled locations with probability `config.sampling`, drawn for each image
    apart; otherwise in the expected context, where the gradient passes through the weights and REINFORCE has
    nothing to add.

    The paper's b is an average over captions whatever their lengths, the authors' code takes the mean over a caption's
    words for its reward; b T against their sum serves captions of all lengths and keeps the estimator unbiased. The
    code also tosses one coin for a whole batch; its REINFORCE and entropy terms are sums over the batch beside a
    cross-entropy that is a mean, so that their weight grows with the batch; and its doubly stochastic term gets
    no gradient under hard attention. Here the coin is each image's own, all terms are means, and the regulariser
    acts on the distributions as it does under soft attention.

    Parameters
    ----------
    pad : int
        Token that is no target.
    vocabulary_size : int
        V.
    doubly_stochastic : float
        Weight of the regulariser.
    config : HardAttentionConfig
        lambda_r, lambda_e and the rest.
    steps : int
        Length of the run, of which `config.sampling_warmup` is a share.

    Attributes
    ----------
    baseline : Tensor
        b, natural log-probability per word: (), or (V,) with "per_word". It starts at that of a guess.
    step : Tensor
        () batches rated so far.
    """

    baseline: Tensor
    step: Tensor

    def __init__(
        self, pad: int, vocabulary_size: int, doubly_stochastic: float, config: HardAttentionConfig, steps: int
    ) -> None:
        super().__init__()
        self.pad = pad
        self.doubly_stochastic = doubly_stochastic
        self.config = config
        self.warmup_steps = round(config.sampling_warmup * steps)
        # Buffers, so that they are kept when a run is resumed.
        shape = () if config.estimator == "paper" else (vocabulary_size,)
        self.register_buffer("baseline", torch.full(shape, -math.log(vocabulary_size)))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, decoder: AttentionDecoder, batch: Batch) -> LossOutput:
        """Rate the decoder by teacher forcing, and move the baseline on."""
        targets = batch.tokens[:, :, 1:]
        real = targets != self.pad  # (B, K, T)
        words = batch.totals.words
        choose = sampled_for_some(len(targets), self._sampling(), targets.device)
        output = decoder(batch.features, batch.tokens[:, :, :-1], choose, real)
        log_probs = word_log_probs(output.logits, targets, real)
        drawn = real & (output.location != EVERYWHERE)
        advantage = self._advantage(log_probs.detach(), targets, drawn)
        reinforce = (advantage * log_prob_of_locations(output.alpha, output.location, drawn)).sum() / words
        entropy = (_entropy(output.alpha) * real).sum() / words
        cross_entropy = -log_probs.sum() / words
        coverage = doubly_stochastic_term(output.alpha, real, batch.totals.captions)
        loss = (
            cross_entropy
            - self.config.reinforce * reinforce
            - self.config.entropy * entropy
            + self.doubly_stochastic * coverage
        )
        # Only now: a baseline may not depend on what was drawn.
        self._update_baseline(log_probs.detach(), targets, drawn)
        self.step += 1
        return LossOutput(loss, {"cross_entropy": cross_entropy, "doubly_stochastic": coverage, "entropy": entropy})

    def _sampling(self) -> float:
        """Probability that an image is sampled in this batch."""
        risen = min(1.0, float(self.step) / self.warmup_steps) if self.warmup_steps else 1.0
        return risen * self.config.sampling

    def _advantage(self, log_probs: Tensor, targets: Tensor, drawn: Tensor) -> Tensor:
        """Reward every location: (B, K, T), or (B, K, 1) where it is the same for all of a caption."""
        if self.config.estimator == "paper":
            return ((log_probs - self.baseline) * drawn).sum(2, keepdim=True)
        centred = (log_probs - self.baseline[targets]) * drawn
        return centred.flip(2).cumsum(2).flip(2)

    def _update_baseline(self, log_probs: Tensor, targets: Tensor, drawn: Tensor) -> None:
        """Move b towards the mean over the words drawn for, or over those among them that are the same word."""
        word = targets[drawn] if self.baseline.dim() else torch.zeros_like(targets[drawn])
        totals, counts = torch.zeros((2, self.baseline.numel()), dtype=log_probs.dtype, device=log_probs.device)
        totals.index_add_(0, word, log_probs[drawn])
        counts.index_add_(0, word, torch.ones_like(log_probs[drawn]))
        add_over_processes(totals)
        add_over_processes(counts)
        means = (totals / counts).view_as(self.baseline).to(self.baseline.dtype)
        moved = self.baseline.lerp(means, 1 - self.config.baseline_decay)
        self.baseline.copy_(torch.where(counts.view_as(self.baseline) > 0, moved, self.baseline))


def _entropy(alpha: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    # Clamped inside the logarithm only, where a weight of 0 would have an infinite slope.
    return -(alpha * alpha.clamp(min=torch.finfo(alpha.dtype).tiny).log()).sum(-1)
