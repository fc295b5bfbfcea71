"""Maximum likelihood with soft attention (Xu et al. 2015, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from captioner.data.dataset import Batch
from captioner.models.decoder import AttentionDecoder
from captioner.training.objective import LossOutput


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy per word, plus the doubly stochastic attention regulariser.

    Parameters
    ----------
    pad : int
        Token that is no target.
    doubly_stochastic : float
        Weight of the regulariser.
    """

    pad: int
    doubly_stochastic: float

    def __call__(self, decoder: AttentionDecoder, batch: Batch) -> LossOutput:
        """Rate the decoder by teacher forcing."""
        targets = batch.tokens[:, :, 1:]
        output = decoder(batch.features, batch.tokens[:, :, :-1])
        real = targets != self.pad
        cross_entropy = functional.cross_entropy(output.logits[real].float(), targets[real])
        coverage = doubly_stochastic_term(output.alpha, real)
        loss = cross_entropy + self.doubly_stochastic * coverage
        return LossOutput(loss, {"cross_entropy": cross_entropy, "doubly_stochastic": coverage})


def doubly_stochastic_term(alpha: Tensor, real: Tensor) -> Tensor:
    """Mean over captions and locations of (1 - sum_t alpha_ti)^2, equation 14.

    The paper sums over the L locations; the mean is 1/L of that, so that a weight keeps its meaning
    when the grid changes.

    Parameters
    ----------
    alpha : Tensor
        (B, K, T, L).
    real : Tensor
        (B, K, T) bool, False on padding, whose attention does not count.
    """
    looked = (alpha * real.unsqueeze(-1)).sum(2)  # (B, K, L)
    return torch.square(1 - looked)[real.any(2)].mean()
