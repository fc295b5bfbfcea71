"""Encoder and decoder as one module, the thing a checkpoint holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captioner.config import ModelConfig
from captioner.models.decoder import AttentionDecoder
from captioner.models.encoder import ImageEncoder


class ShowAttendTell(nn.Module):
    """Show, Attend and Tell (Xu et al. 2015).

    Parameters
    ----------
    config : ModelConfig
        What the two parts are to be.
    encoder : ImageEncoder, optional
        One that is built already, its weights loaded; else one with random weights is built.
    """

    def __init__(self, config: ModelConfig, encoder: ImageEncoder | None = None) -> None:
        super().__init__()
        self.encoder = encoder or ImageEncoder(config.encoder)
        self.config = ModelConfig(self.encoder.config, config.decoder, config.vocabulary_size)
        self.decoder = AttentionDecoder(config.decoder, self.encoder.feature_dim, config.vocabulary_size)

    def features(self, inputs: Tensor) -> Tensor:
        """Features (B, L, D).

        Parameters
        ----------
        inputs : Tensor
            Pixels (B, 3, S, S) uint8, what the encoder's frozen part gave of them (B, C, rows, columns), or features
            (B, L, D), which stay as they are.
        """
        if inputs.dtype == torch.uint8:
            return self.encoder(inputs)  # type: ignore[no-any-return]
        return self.encoder.finish(inputs) if inputs.dim() == 4 else inputs
