"""What a training step minimises, as seen by the trainer, and the terms that objectives share.

Shapes: B images, K captions per image, T words, L grid locations, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from captioner.data.dataset import Batch
from captioner.models.attention import EVERYWHERE, Choice, sample
from captioner.models.decoder import AttentionDecoder


@dataclass(frozen=True)
class LossOutput:
    """A loss to take the gradient of, and its parts to write down; like losses, these add up over a step's batches."""

    loss: Tensor
    logs: dict[str, Tensor]


class Objective(Protocol):
    """Rates a decoder on a batch; usually a module, whose buffers are what it remembers between batches."""

    def __call__(self, decoder: AttentionDecoder, batch: Batch) -> LossOutput:
        """Return the batch's share of the step's mean loss: sums over the batch, divided by `batch.totals`."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take what `state_dict` returned."""


def word_log_probs(logits: Tensor, targets: Tensor, real: Tensor) -> Tensor:
    """Log-probability of every target.

    Parameters
    ----------
    logits : Tensor
        (B, K, T, V).
    targets : Tensor
        (B, K, T) int64.
    real : Tensor
        (B, K, T) bool, False on padding.

    Returns
    -------
    Tensor
        (B, K, T), at least float32; 0 on padding.
    """
    chosen = logits[real]
    dtype = torch.promote_types(chosen.dtype, torch.float32)
    found = -functional.cross_entropy(chosen.to(dtype), targets[real], reduction="none")
    return torch.zeros(real.shape, dtype=dtype, device=real.device).masked_scatter(real, found)


def doubly_stochastic_term(alpha: Tensor, real: Tensor, captions: float) -> Tensor:
    """Mean over captions and locations of (1 - sum_t alpha_ti)^2, equation 14.

    The paper sums over the L locations; the mean is 1/L of that, so that a weight keeps its meaning
    when the grid changes.

    Parameters
    ----------
    alpha : Tensor
        (B, K, T, L).
    real : Tensor
        (B, K, T) bool, False on padding, whose attention does not count.
    captions : float
        What the sum over captions is divided by.
    """
    looked = (alpha * real.unsqueeze(-1)).sum(2)  # (B, K, L)
    return torch.square(1 - looked)[real.any(2)].sum() / (captions * alpha.shape[-1])


def sampled_for_some(images: int, probability: float, device: torch.device) -> Choice:
    """Toss a coin for each image, for all its captions and words: sampled locations, or the expectation."""
    sampled = torch.rand(images, 1, device=device) < probability
    return lambda alpha: torch.where(sampled, sample(alpha), EVERYWHERE)


def log_prob_of_locations(alpha: Tensor, location: Tensor, drawn: Tensor) -> Tensor:
    """Log alpha of every location that was drawn, 0 elsewhere: (B, K, T); its sum over a caption is log p(s)."""
    chosen = alpha.gather(-1, location.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, K, T)
    return chosen.masked_fill(~drawn, 1).log()
