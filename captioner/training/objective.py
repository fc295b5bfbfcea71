"""What a training step minimises, as seen by the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from captioner.data.dataset import Batch
from captioner.models.decoder import AttentionDecoder


@dataclass(frozen=True)
class LossOutput:
    """A loss to take the gradient of, and its parts to write down."""

    loss: Tensor
    logs: dict[str, Tensor]


class Objective(Protocol):
    """Rates a decoder on a batch."""

    def __call__(self, decoder: AttentionDecoder, batch: Batch) -> LossOutput:
        """Return the mean loss over the batch; nothing in it may depend on the batch's size."""
