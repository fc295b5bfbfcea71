"""A moving average of the weights that are trained; it is scored and kept in their place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from captioner.models.show_attend_tell import ShowAttendTell


class WeightAverage:
    """The average of what a model's weights have been, as a model of its own.

    At step t it keeps min(`decay`, t / (t + 9)) of itself, as TensorFlow's `ExponentialMovingAverage` does: it reaches
    back over about a ninth of the steps so far and never over more than 1 / (1 - `decay`), so that the start is soon
    forgotten, and what came while the rate was still rising. Weights that are not trained stay as they are, to the bit,
    for stores of what they give go by that (`torch.optim.swa_utils.AveragedModel` turns -0.0 into 0.0).

    Parameters
    ----------
    model : ShowAttendTell
        Whose parameters that require gradients are averaged.
    decay : float
        Largest share that the average keeps of itself at a step.

    Attributes
    ----------
    model : ShowAttendTell
        The average.
    steps : int
        How many it has taken in.
    """

    def __init__(self, model: ShowAttendTell, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.decay = decay
        self.steps = 0
        pairs = zip(self.model.named_parameters(), model.parameters(), strict=True)
        trained = [(name, mean.detach(), weight) for (name, mean), weight in pairs if weight.requires_grad]
        self._means = {name: mean for name, mean, _ in trained}
        self._weights: tuple[Tensor, ...] = tuple(weight for *_, weight in trained)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        kept = min(self.decay, self.steps / (self.steps + 9))
        torch._foreach_lerp_(tuple(self._means.values()), self._weights, 1 - kept)

    def state_dict(self) -> dict[str, Any]:
        """Give `steps`, and the averaged weights by name as `means`."""
        return {"steps": self.steps, "means": dict(self._means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.steps = state["steps"]
        for name, mean in self._means.items():
            mean.copy_(state["means"][name])
