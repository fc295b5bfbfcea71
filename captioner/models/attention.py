"""Where the decoder looks: what rates the locations, and what becomes of the ratings (Xu et al. 2015, section 4).

Two axes, independent of each other. A score turns the hidden state and a location's features into an energy:
`AdditiveScore` or `DotProductScore`. A choice turns the resulting distribution into a context: `expectation`, all
locations by their weights, or `argmax` and `sample`, one location alone. Soft and hard attention are one network
under different choices; what sets them apart is how they are trained.

Shapes: B images, K rows per image (captions in training, beams in search), L grid locations,
D feature channels, H hidden, A attention units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.config import DecoderConfig

# alpha (B, K, L) -> location (B, K) int64, EVERYWHERE meaning the expectation over all of them.
Choice = Callable[[Tensor], Tensor]
EVERYWHERE = -1


def expectation(alpha: Tensor) -> Tensor:
    """Look everywhere, by the weights: deterministic "soft" attention (section 4.2)."""
    return torch.full(alpha.shape[:-1], EVERYWHERE, device=alpha.device)


def argmax(alpha: Tensor) -> Tensor:
    """Look at the likeliest location alone."""
    return alpha.argmax(-1)


def sample(alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Look at one location drawn from the distribution: stochastic "hard" attention (section 4.1, equation 8)."""
    # Of a network that has diverged anything may be drawn; its loss tells.
    weights = alpha.detach().nan_to_num(nan=1.0).flatten(0, -2)
    return torch.multinomial(weights, 1, generator=generator).view(alpha.shape[:-1])


class Look(NamedTuple):
    """What one look at the image gave.

    Attributes
    ----------
    context : Tensor
        (B, K, D).
    alpha : Tensor
        (B, K, L), at least float32, not negative and summing to 1 over L: the distribution.
    location : Tensor
        (B, K) int64, the one location that was looked at, or `EVERYWHERE`.
    """

    context: Tensor
    alpha: Tensor
    location: Tensor


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
        """W_a a_i for every location: (B, L, D) -> (B, L, A)."""
        return self.key(features)  # type: ignore[no-any-return]

    def forward(self, keys: Tensor, hidden: Tensor) -> Tensor:
        """Energies (B, K, L) of keys (B, L, A) under hidden states (B, K, H)."""
        # The tanh is of the SUM: of each term apart, the hidden state would cancel in the softmax.
        # tanh(x) = 2 sigmoid(2x) - 1, and torch's sigmoid is several times as fast as its tanh.
        units = torch.sigmoid(2 * keys.unsqueeze(1) + 2 * self.query(hidden).unsqueeze(2))  # (B, K, L, A)
        return functional.linear(units, 2 * self.energy.weight).squeeze(-1) - self.energy.weight.sum()


class DotProductScore(nn.Module):
    """Energies e_i = (W_h h) . (W_a a_i) / sqrt(A), the scaled dot product (Vaswani et al. 2017, equation 1).

    Parameters
    ----------
    feature_dim, hidden_dim, attention_dim : int
        D, H and A.
    """

    def __init__(self, feature_dim: int, hidden_dim: int, attention_dim: int) -> None:
        super().__init__()
        # A bias of the keys would add the same to every location, and cancel in the softmax.
        self.key = nn.Linear(feature_dim, attention_dim, bias=False)
        self.query = nn.Linear(hidden_dim, attention_dim)

    def project(self, features: Tensor) -> Tensor:
        """W_a a_i for every location: (B, L, D) -> (B, L, A)."""
        return self.key(features)  # type: ignore[no-any-return]

    def forward(self, keys: Tensor, hidden: Tensor) -> Tensor:
        """Energies (B, K, L) of keys (B, L, A) under hidden states (B, K, H)."""
        return self.query(hidden) @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])  # type: ignore[no-any-return]


SCORES: dict[str, type[AdditiveScore] | type[DotProductScore]] = {"additive": AdditiveScore, "dot": DotProductScore}


class Attention(nn.Module):
    """Soft and hard attention over the locations.

    Parameters
    ----------
    score : AdditiveScore or DotProductScore
        What rates them.
    """

    def __init__(self, score: AdditiveScore | DotProductScore) -> None:
        super().__init__()
        self.score = score

    def prepare(self, features: Tensor) -> Tensor:
        """Keys (B, L, A) of features (B, L, D), computed once per image and not per word."""
        return self.score.project(features)

    def forward(self, features: Tensor, keys: Tensor, hidden: Tensor, choose: Choice) -> Look:
        """Look once.

        Parameters
        ----------
        features : Tensor
            (B, L, D).
        keys : Tensor
            (B, L, A), from `prepare(features)`.
        hidden : Tensor
            (B, K, H), the state before this word.
        choose : Choice
            Makes a context of the distribution. No gradient flows through the choice of one location.
        """
        energies = self.score(keys, hidden)
        alpha = torch.softmax(energies, dim=-1, dtype=torch.promote_types(energies.dtype, torch.float32))
        location = choose(alpha)
        one = functional.one_hot(location.clamp(min=0), alpha.shape[-1]).to(alpha.dtype)
        weights = torch.where((location == EVERYWHERE).unsqueeze(-1), alpha, one)
        context = weights.to(features.dtype) @ features  # (B, K, L) @ (B, L, D) -> (B, K, D)
        return Look(context, alpha, location)


class MeanContext(nn.Module):
    """No attention: the mean of the features at every word, the baseline that says what looking is worth."""

    def prepare(self, features: Tensor) -> Tensor:
        """Mean feature (B, 1, D) of features (B, L, D)."""
        return features.mean(dim=1, keepdim=True)

    def forward(self, features: Tensor, keys: Tensor, hidden: Tensor, choose: Choice) -> Look:
        """Look everywhere alike, whatever the hidden state (B, K, H) and the choice."""
        images, rows = hidden.shape[:2]
        alpha = keys.new_full((images, rows, features.shape[1]), 1 / features.shape[1], dtype=torch.float32)
        return Look(keys.expand(-1, rows, -1), alpha, expectation(alpha))


def build_attention(config: DecoderConfig, feature_dim: int) -> Attention | MeanContext:
    """Build what `config.attention` and `config.score` name."""
    if config.attention == "none":
        return MeanContext()
    return Attention(SCORES[config.score](feature_dim, config.hidden_dim, config.attention_dim))
