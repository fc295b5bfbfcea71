"""What a model tells a search of a look at a photo; in a room of its own, so that neither needs to know the other."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Sight(NamedTuple):
    """How the photo was looked at for one word.

    Attributes
    ----------
    alpha : Tensor
        (B, K, L), the distribution of where it was looked for.
    location : Tensor
        (B, K), the one location it was looked for at; -1 where it was all of them, by their weights.
    beta : Tensor
        (B, K), the gate: how much of what was seen was used, 0..1.
    """

    alpha: Tensor
    location: Tensor
    beta: Tensor
