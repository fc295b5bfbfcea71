"""Where the decoder looks: energies over the grid, and what is made of them (Xu et al. 2015, section 4).

Shapes: B images, K rows per image (captions in training, beams in search), L grid locations,
D feature channels, H hidden, A attention units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdditiveScore(nn.Module):
    """Energies e_i = w . tanh(W_a a_i + W_h h), the attention MLP of section 3.1.2 (Bahdanau et al. 2015).

    Parameters
    ----------
    feature_dim, hidden_dim, attention_dim : int
        D, H and A.
    """

    def __init__(self, feature_dim: int, hidden_dim: int, attention_dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(feature_dim, attention_dim)
        self.query = nn.Linear(hidden_dim, attention_dim, bias=False)
        # A bias here would cancel in the softmax and never learn.
        self.energy = nn.Linear(attention_dim, 1, bias=False)

    def project(self, features: Tensor) -> Tensor:
        """W_a a_i for every location: (B, L, D) -> (B, L, A), once per image and not per word."""
        return self.key(features)  # type: ignore[no-any-return]

    def forward(self, keys: Tensor, hidden: Tensor) -> Tensor:
        """Energies (B, K, L) of keys (B, L, A) under hidden states (B, K, H)."""
        # The tanh is of the SUM: of each term apart, the hidden state would cancel in the softmax.
        units = torch.tanh(keys.unsqueeze(1) + self.query(hidden).unsqueeze(2))  # (B, K, L, A)
        return self.energy(units).squeeze(-1)  # type: ignore[no-any-return]


class SoftAttention(nn.Module):
    """Deterministic "soft" attention: the context is the expectation of the features (equation 13).

    Parameters
    ----------
    score : AdditiveScore
        What rates the locations.
    """

    def __init__(self, score: AdditiveScore) -> None:
        super().__init__()
        self.score = score

    def forward(self, features: Tensor, keys: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Look once.

        Parameters
        ----------
        features : Tensor
            (B, L, D).
        keys : Tensor
            (B, L, A), from `score.project(features)`.
        hidden : Tensor
            (B, K, H), the state before this word.

        Returns
        -------
        context : Tensor
            (B, K, D).
        alpha : Tensor
            (B, K, L) float32, positive and summing to 1 over L.
        """
        alpha = torch.softmax(self.score(keys, hidden).float(), dim=-1)
        context = alpha.to(features.dtype) @ features  # (B, K, L) @ (B, L, D) -> (B, K, D)
        return context, alpha
