"""Maximum likelihood under the expected context: soft attention, or none (Xu et al. 2015, section 4.2)."""

from __future__ import annotations

from torch import nn

from captioner.data.dataset import Batch
from captioner.models.decoder import AttentionDecoder
from captioner.training.objective import LossOutput, doubly_stochastic_term, word_log_probs


class CrossEntropy(nn.Module):
    """Mean cross-entropy per word, plus the doubly stochastic attention regulariser.

    Parameters
    ----------
    pad : int
        Token that is no target.
    doubly_stochastic : float
        Weight of the regulariser.
    """

    def __init__(self, pad: int, doubly_stochastic: float) -> None:
        super().__init__()
        self.pad = pad
        self.doubly_stochastic = doubly_stochastic

    def forward(self, decoder: AttentionDecoder, batch: Batch) -> LossOutput:
        """Rate the decoder by teacher forcing."""
        targets = batch.tokens[:, :, 1:]
        real = targets != self.pad
        output = decoder(batch.features, batch.tokens[:, :, :-1], real=real)
        cross_entropy = -word_log_probs(output.logits, targets, real).sum() / batch.totals.words
        coverage = doubly_stochastic_term(output.alpha, real, batch.totals.captions)
        loss = cross_entropy + self.doubly_stochastic * coverage
        return LossOutput(loss, {"cross_entropy": cross_entropy, "doubly_stochastic": coverage})
