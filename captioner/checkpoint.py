"""A checkpoint is a folder anyone can inspect, and loading one runs no code from it.

`model.safetensors` holds the weights of encoder and decoder, `config.json` what to build around them,
`vocabulary.json` the words, and, in a run that can be resumed, `training_state.pt` the rest.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from captioner.checkpoint_files import (
    CONFIG,
    FORMAT,
    TRAINING,
    VOCABULARY,
    WEIGHTS,
    existing,
    previous,
    read_config,
    to_model_config,
)
from captioner.config import ModelConfig
from captioner.errors import CaptionerError, CheckpointError
from captioner.models.encoder import ImageEncoder
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.models.weights import read_tensors, require_fit
from captioner.paths import is_folder
from captioner.vocabulary import Vocabulary


def save_checkpoint(
    folder: Path,
    model: ShowAttendTell,
    vocabulary: Vocabulary,
    *,
    dtype: torch.dtype = torch.float32,
    training_state: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint so that at every moment a whole one can be loaded from `folder`.

    Parameters
    ----------
    folder : Path
        Replaced if it exists.
    dtype : torch.dtype
        Of the stored matrices and kernels; vectors stay float32.
    training_state : dict, optional
        What a resumed run needs besides: tensors and plain values.
    notes : dict, optional
        Plain values for whoever reads `config.json`: how the model was trained, how it scored.

    Raises
    ------
    CheckpointError
        If it cannot be written, as on a full disk; what was in `folder` is still there.
    """
    partial = folder.with_name(folder.name + ".partial")
    aside = previous(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(partial, model, vocabulary, dtype, training_state, notes)
        # A folder cannot be renamed over another, so the old one steps aside first; loading looks there too.
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        partial.rename(folder)
        _fsync(folder.parent)
    # torch reports what the disk says as a RuntimeError.
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: cannot be written ({error}); one that was there before is intact. Make room for it, and go on"
        ) from error
    shutil.rmtree(aside, ignore_errors=True)


def _write(
    partial: Path,
    model: ShowAttendTell,
    vocabulary: Vocabulary,
    dtype: torch.dtype,
    training_state: dict[str, Any] | None,
    notes: dict[str, Any] | None,
) -> None:
    # Vectors, BatchNorm's variances among them, weigh nothing and may not fit half precision.
    weights = {
        name: (tensor.to(dtype) if tensor.dim() >= 2 else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    # Not save_file, which hides the file from everyone but its owner.
    (partial / WEIGHTS).write_bytes(safetensors.torch.save(weights))
    config = {
        "format": FORMAT,
        "model": model.config.to_dict(),
        "vocabulary_sha256": vocabulary.sha256,
        "notes": notes or {},
    }
    (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    vocabulary.save(partial / VOCABULARY)
    if training_state is not None:
        torch.save(training_state, partial / TRAINING)
    for path in (*partial.iterdir(), partial):
        _fsync(path)


def load_checkpoint(folder: Path) -> tuple[ShowAttendTell, Vocabulary]:
    """Rebuild a model, in float32 and evaluation mode, and its vocabulary.

    Raises
    ------
    CheckpointError
        If the folder is absent or incomplete, or its parts do not fit together.
    """
    folder = existing(folder)
    config = read_config(folder)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    model_config = to_model_config(config, folder)
    if len(vocabulary) != model_config.vocabulary_size:
        raise CheckpointError(
            f"{folder}: {VOCABULARY} has {len(vocabulary)} words, {CONFIG} says {model_config.vocabulary_size}; get a "
            "whole copy of the checkpoint"
        )
    # Older checkpoints do not say it.
    if config.get("vocabulary_sha256", vocabulary.sha256) != vocabulary.sha256:
        raise CheckpointError(
            f"{folder / VOCABULARY}: not the words that {CONFIG} was written with; get a whole copy of the checkpoint"
        )
    try:
        weights = read_tensors(folder / WEIGHTS)
        _require_weights(weights, model_config, folder)
        model = ShowAttendTell(model_config)
    except CheckpointError:
        raise
    except CaptionerError as error:
        raise CheckpointError(str(error)) from error
    model.load_state_dict(weights)  # into float32, whatever the file holds
    return model.eval(), vocabulary


def _require_weights(weights: dict[str, Any], config: ModelConfig, folder: Path) -> None:
    """Refuse weights of another model, by shapes alone: memory is taken for what is there, not for what is claimed."""
    try:
        with torch.device("meta"):
            planned = ShowAttendTell(config).state_dict()
    except NotImplementedError:  # by torchvision's RegNets, which compute with tensors what to build
        encoder = ImageEncoder(config.encoder)
        with torch.device("meta"):
            planned = ShowAttendTell(config, encoder).state_dict()
    except CaptionerError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    where = f"{folder / WEIGHTS}: does not fit {CONFIG}"
    require_fit(planned, weights, where)
    unknown = sorted(weights.keys() - planned.keys())
    if unknown:
        raise CheckpointError(f"{where}: {len(unknown)} tensors too many, {unknown[0][:80]} first")


def is_checkpoint(folder: Path) -> bool:
    """Whether there is one, be it one whose writer was stopped between its two renames."""
    return is_folder(folder) or is_folder(previous(folder))


def load_training_state(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` kept for resuming.

    Raises
    ------
    CheckpointError
        If there is none, or it cannot be read.
    """
    try:
        return read_tensors(existing(folder) / TRAINING)
    except CaptionerError as error:
        raise CheckpointError(f"no state to resume from: {error}") from error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
