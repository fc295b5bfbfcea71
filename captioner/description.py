"""What a checkpoint is and how it was trained, by its files: no model is built, and torch is not needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.checkpoint_files import WEIGHTS, existing, model_id, read_config, to_model_config

# Titles of what training scores on dev, by the names it has in notes and, after "dev/", in metrics.
DEV_SCORES = {**{f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)}, "cider": "CIDEr-D"}


@dataclass(frozen=True)
class History:
    """What a checkpoint's `config.json` tells of its training.

    Attributes
    ----------
    recipe : str
        As JSON; empty if it tells none, like the other two.
    account : str
        A sentence on it.
    scores : dict of str to float
        On dev, by training's own count.
    """

    recipe: str
    account: str
    scores: dict[str, float]


def facts(checkpoint: Path) -> dict[str, str]:
    """Say what a model is, by its files.

    Raises
    ------
    CheckpointError
        If they cannot be read.
    """
    folder = existing(checkpoint)
    model, digest = to_model_config(read_config(folder), folder), model_id(folder)
    encoder, decoder = model.encoder, model.decoder
    return {
        "Encoder": encoder.name,
        "Input": f"{encoder.input_size} × {encoder.input_size} pixels" if encoder.input_size else "the encoder's own",
        "Grid": f"{encoder.grid} × {encoder.grid} cells" if encoder.grid else "the encoder's own",
        "Attention": decoder.attention,
        "Score": decoder.score,
        "Word embedding, E": str(decoder.embedding_dim),
        "Hidden state, H": str(decoder.hidden_dim),
        "Attention layer, A": str(decoder.attention_dim),
        "Vocabulary": f"{model.vocabulary_size:,} entries",
        "Weights": f"{(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB",
        "SHA-256": f"{digest}…",
    }


def history(checkpoint: Path) -> History:
    """Say how a model was trained, by its `config.json`.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    """
    notes = _table(read_config(checkpoint).get("notes"))
    recipe, dev = _table(notes.get("recipe")), _table(notes.get("dev"))
    train, data = _table(recipe.get("train")), _table(recipe.get("data"))
    parts = [
        f"Trained on {data['root']}" if "root" in data else "Trained",
        f"by {train['objective']} training".replace("_", "-") if "objective" in train else "",
        f"from {train['start']}" if train.get("start") else "",
        f"and kept at epoch {notes['epoch']}" if "epoch" in notes else "",
    ]
    return History(
        json.dumps(recipe, indent=2) if recipe else "",
        f"{' '.join(part for part in parts if part)}." if recipe else "",
        {title: dev[name] for name, title in DEV_SCORES.items() if isinstance(dev.get(name), float)},
    )


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
