"""Putting a training run back to where its checkpoint was written, or refusing the state of something else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.checkpoint import load_training_state
from captioner.checkpoint_files import TRAINING, read_config
from captioner.errors import CaptionerError, CheckpointError
from captioner.models.weights import is_finite


def refuse_other_data(checkpoint: Path, digest: str, root: str) -> None:
    """Refuse to go on with a run on other photos or captions than it began with.

    Its epochs would not be whole, or the best of them be chosen by scores that do not compare.

    Parameters
    ----------
    checkpoint : Path
        Whose notes may tell the digests of its data; an older run's tell none, or that of the train photos alone.
    digest : str
        Of the train and the dev photos there are now, one after the other.
    root : str
        Where that lies.

    Raises
    ------
    CaptionerError
        If it is another.
    """
    notes = read_config(checkpoint).get("notes")
    began = notes.get("data") if isinstance(notes, dict) else None
    if began is not None and not digest.startswith(str(began)):
        raise CaptionerError(
            f"{root}: the photos to train on or for dev, or their captions, are others than {checkpoint.parent} was "
            "begun with; put those back, or begin a new run with another --output"
        )


def put_back(checkpoint: Path, parts: dict[str, Any], progress: dict[str, Any]) -> dict[str, Any]:
    """Bring the parts of a run that has just been built to where its checkpoint was written.

    Parameters
    ----------
    checkpoint : Path
    parts : dict
        What a run remembers besides its model, by name, each with `state_dict` and `load_state_dict`; `optimizer`, an
        AdamW, and `scheduler`, a LambdaLR, among them.
    progress : dict
        Of a run that begins.

    Returns
    -------
    dict
        The progress that was written.

    Raises
    ------
    CheckpointError
        If the state is not that of such a run; nothing has been changed then.
    """
    state = load_training_state(checkpoint)
    fresh = {name: part.state_dict() for name, part in parts.items()}
    groups, schedule = fresh["optimizer"]["param_groups"], fresh["scheduler"]
    # What changes as a run goes on; the rest is the recipe's, and another PyTorch may call it otherwise.
    wanted = {
        **fresh,
        "optimizer": {"state": {}, "param_groups": [{"lr": group["lr"]} for group in groups]},
        "scheduler": {name: schedule[name] for name in ("last_epoch", "_step_count", "_last_lr")},
        "progress": progress,
    }
    faults = unlike(state, wanted, "state")
    if not faults:
        faults = _unlike_moments(state["optimizer"]["state"], parts["optimizer"])
        if any(isinstance(value, int) and value < 0 for value in state["progress"].values()):
            faults.append("state.progress")
    if faults:
        raise CheckpointError(
            f"{checkpoint / TRAINING}: not the state of this run, {faults[0]} is absent, damaged or of another kind; "
            "get a whole copy of the checkpoint"
        )
    known = {name: {key: state[name][key] for key in wanted[name]} for name in parts}
    rates = (group["lr"] for group in state["optimizer"]["param_groups"])
    lasting = [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    known["optimizer"] = {"state": state["optimizer"]["state"], "param_groups": lasting}
    for name, part in parts.items():
        part.load_state_dict({**fresh[name], **known[name]})
    return {key: state["progress"][key] for key in progress}


def unlike(found: Any, wanted: Any, name: str) -> list[str]:
    """Name what of plain values and tensors is not of the kind of others; there may be more of it."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [name]
        absent = [f"{name}.{key}" for key in wanted if key not in found]
        return absent or [
            fault for key, value in wanted.items() for fault in unlike(found[key], value, f"{name}.{key}")
        ]
    if isinstance(wanted, list | tuple):
        if type(found) is not type(wanted) or len(found) != len(wanted):
            return [name]
        return [fault for n, value in enumerate(wanted) for fault in unlike(found[n], value, f"{name}[{n}]")]
    if isinstance(wanted, Tensor):
        alike = isinstance(found, Tensor) and (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        return [] if alike and is_finite(found) else [name]
    is_number = not isinstance(found, float) or not math.isnan(found)
    return [] if type(found) is type(wanted) and is_number else [name]


def _unlike_moments(found: dict[Any, Any], optimizer: torch.optim.Optimizer) -> list[str]:
    # AdamW has moments of a parameter once it has had a gradient; torch does not look at their shapes.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        number: {"step": torch.zeros(()), "exp_avg": p, "exp_avg_sq": p}
        for number, p in enumerate(parameters)
        if number in found
    }
    return unlike(found, moments, "state.optimizer.state")
