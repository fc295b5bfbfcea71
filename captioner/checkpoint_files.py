"""Where a checkpoint's files are, for those who need no model: torch, which takes seconds to import, is not needed."""

from __future__ import annotations

import hashlib
import reprlib
from pathlib import Path
from typing import Any

from captioner.config import ModelConfig
from captioner.errors import CaptionerError, CheckpointError
from captioner.paths import exists, is_file, is_folder
from captioner.plain_json import parse_json

CONFIG, WEIGHTS, VOCABULARY, TRAINING = "config.json", "model.safetensors", "vocabulary.json", "training_state.pt"
FORMAT = 1
BUNDLED = Path(__file__).parent / "pretrained" / "flickr8k-soft"


def previous(folder: Path) -> Path:
    """Where a checkpoint steps aside while it is replaced."""
    return folder.with_name(folder.name + ".previous")


def existing(folder: Path) -> Path:
    """Find a checkpoint, be it one whose writer was stopped between its two renames.

    Raises
    ------
    CheckpointError
        If there is none, or something else than files is in it, or it is the folder of a run that holds one.
    """
    if not is_folder(folder) and is_folder(previous(folder)):
        folder = previous(folder)
    if not is_folder(folder):
        raise CheckpointError(f"{folder}: no checkpoint there; give a folder that holds {CONFIG}, as training writes")
    if not exists(folder / CONFIG) and exists(folder / "best" / CONFIG):
        raise CheckpointError(f"{folder}: the folder of a run; name the model in it, {folder / 'best'}")
    for path in (folder / name for name in (CONFIG, WEIGHTS, VOCABULARY, TRAINING)):
        if exists(path) and not is_file(path):
            raise CheckpointError(f"{path}: not a file; get a whole copy of the checkpoint")
    return folder


def short_name(folder: Path) -> str:
    """Name a checkpoint as people do: a run's best one by the run."""
    folder = folder.resolve()
    if folder.name == "best":
        return folder.parent.name
    return f"{folder.parent.name}/last" if folder.name == "last" else folder.name


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`: `format`, `model`, `vocabulary_sha256` and `notes`.

    Raises
    ------
    CheckpointError
        If it is absent, malformed or of another format.
    """
    path = existing(folder) / CONFIG
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); get a whole copy of the checkpoint") from error
    if not isinstance(config, dict) or "model" not in config:
        raise CheckpointError(f"{path}: describes no model; get a whole copy of the checkpoint")
    if config.get("format") != FORMAT:
        found = reprlib.repr(config.get("format"))
        raise CheckpointError(f"{path}: checkpoint format {found}, but this version reads {FORMAT}; update it")
    return config


def to_model_config(config: dict[str, Any], folder: Path) -> ModelConfig:
    """Say what a model is by what `read_config` has read from its folder.

    Raises
    ------
    CheckpointError
        If it describes an impossible model.
    """
    try:
        return ModelConfig.from_dict(config["model"])
    except CaptionerError as error:
        raise CheckpointError(f"{existing(folder) / CONFIG}: {error}; get a whole copy of the checkpoint") from error


def model_id(folder: Path) -> str:
    """Name a checkpoint as records do: by the first 12 digits of its weights' hash; errors as of `weights_sha256`."""
    return weights_sha256(folder)[:12]


def weights_sha256(folder: Path) -> str:
    """Hash of a checkpoint's weights, by which a result names its model.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or its weights cannot be read.
    """
    path = existing(folder) / WEIGHTS
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); get a whole copy") from error
