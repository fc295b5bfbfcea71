"""Encoder and decoder as one module, the thing a checkpoint holds."""

from __future__ import annotations

from torch import Tensor, nn

from captioner.config import ModelConfig
from captioner.models.decoder import AttentionDecoder, DecoderOutput
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

    def forward(self, pixels: Tensor, tokens: Tensor) -> DecoderOutput:
        """Teacher forcing from pixels (B, 3, S, S) uint8 and tokens (B, K, T)."""
        return self.decoder(self.encoder(pixels), tokens)  # type: ignore[no-any-return]
