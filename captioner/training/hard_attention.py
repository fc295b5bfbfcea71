"""Stochastic "hard" attention, trained by REINFORCE over locations (Xu et al. 2015, sections 4.1 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captioner.config import HardAttentionConfig
from captioner.data.dataset import Batch
from captioner.models.attention import EVERYWHERE, sample
from captioner.models.decoder import AttentionDecoder
from captioner.training.objective import LossOutput, doubly_stochastic_term, word_log_probs


class HardAttention(nn.Module):
    """A bound on the likelihood, its gradient estimated from sampled locations (equations 10-12).

    For a caption y of T words and locations s sampled step by step, the gradient of what is maximised is

        d log p(y | s) + lambda_r (log p(y | s) - b T) d log p(s) + lambda_e d H,

    summed over captions and divided by their number of words, so that every term is a mean per word. With
    lambda_r = 1 and lambda_e = 0 its expectation is the exact gradient of sum_s p(s) log p(y | s), per word.
    b is a moving average over batches of the log-likelihood per word under sampled locations; H is the sum over
    the words of the entropy of where they may be looked for.

    An image's words are looked for at sampled locations with probability `config.sampling`, drawn for each image
    apart; otherwise in the expected context, where the gradient passes through the weights and REINFORCE has
    nothing to add.

    The authors' code differs in this: it tosses one coin for a whole batch; its REINFORCE and entropy terms are sums
    over the batch beside a cross-entropy that is a mean, so that their weight grows with the batch; and its
    doubly stochastic term gets no gradient under hard attention. Here the coin is each image's own, all terms
    are means, and the regulariser acts on the distributions as it does under soft attention. As there, every step is
    rewarded with the likelihood of the whole caption.

    Parameters
    ----------
    pad : int
        Token that is no target.
    doubly_stochastic : float
        Weight of the regulariser.
    config : HardAttentionConfig
        lambda_r, lambda_e and the rest.

    Attributes
    ----------
    baseline : Tensor
        b, natural log-probability per word; a buffer, so that it is kept when a run is resumed.
    """

    baseline: Tensor

    def __init__(self, pad: int, doubly_stochastic: float, config: HardAttentionConfig) -> None:
        super().__init__()
        self.pad = pad
        self.doubly_stochastic = doubly_stochastic
        self.config = config
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, decoder: AttentionDecoder, batch: Batch) -> LossOutput:
        """Rate the decoder by teacher forcing, and move the baseline on."""
        targets = batch.tokens[:, :, 1:]
        real = targets != self.pad  # (B, K, T)
        words = real.sum()
        # One coin per image, for all its captions and words.
        sampled = torch.rand(len(targets), 1, device=targets.device) < self.config.sampling

        def choose(alpha: Tensor) -> Tensor:
            return torch.where(sampled, sample(alpha), EVERYWHERE)

        output = decoder(batch.features, batch.tokens[:, :, :-1], choose)
        log_probs = word_log_probs(output.logits, targets, real)
        drawn = real & sampled.unsqueeze(-1)
        advantage = ((log_probs.detach() - self.baseline) * drawn).sum(2)  # (B, K): log p(y | s) - b T
        reinforce = (advantage * _log_prob_of_locations(output.alpha, output.location, drawn)).sum() / words
        entropy = (_entropy(output.alpha) * real).sum() / words
        cross_entropy = -log_probs.sum() / words
        coverage = doubly_stochastic_term(output.alpha, real)
        loss = (
            cross_entropy
            - self.config.reinforce * reinforce
            - self.config.entropy * entropy
            + self.doubly_stochastic * coverage
        )
        self._update_baseline(log_probs.detach(), drawn)
        logs = {
            "cross_entropy": cross_entropy,
            "doubly_stochastic": coverage,
            "entropy": entropy,
            "baseline": self.baseline.clone(),
        }
        return LossOutput(loss, logs)

    def _update_baseline(self, log_probs: Tensor, drawn: Tensor) -> None:
        """b_k = 0.9 b_{k-1} + 0.1 log p(y | s_k), after it served: a baseline may not depend on what was drawn."""
        if drawn.any():
            reward = (log_probs * drawn).sum() / drawn.sum()
            self.baseline.lerp_(reward.to(self.baseline.dtype), 1 - self.config.baseline_decay)


def _log_prob_of_locations(alpha: Tensor, location: Tensor, drawn: Tensor) -> Tensor:
    """Sum log alpha of the locations drawn: log p(s) of each caption, (B, K), over the steps `drawn` (B, K, T)."""
    chosen = alpha.gather(-1, location.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, K, T)
    return chosen.masked_fill(~drawn, 1).log().sum(2)


def _entropy(alpha: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    # Clamped inside the logarithm only, where a weight of 0 would have an infinite slope.
    return -(alpha * alpha.clamp(min=torch.finfo(alpha.dtype).tiny).log()).sum(-1)
