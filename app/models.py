"""The models behind the pages: each loaded once for all visitors, who use it one at a time.

Nothing here imports torch before a model is loaded, so that the first page is there before it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app.arguments import arguments
from app.photos import TURN, Upload
from captioner.checkpoint_files import BUNDLED, model_id, read_config, short_name, to_model_config
from captioner.config import DecodingOptions

if TYPE_CHECKING:
    from captioner.pipeline import Caption, Captioner

SOFT, HARD = "Soft attention", "Hard attention"
_LOADING = threading.Lock()
_LOADED: dict[Path, str] = {}  # what each is named by in records


def checkpoints() -> dict[str, Path]:
    """Checkpoints to choose from by their names on the page; the first is what a visitor meets."""
    chosen = arguments().checkpoint
    bundled = {SOFT: BUNDLED, HARD: BUNDLED.with_name("flickr8k-hard")}
    if chosen is None:
        return bundled
    # By its own name if it is one of these.
    known = {path.resolve(): name for name, path in bundled.items()}
    return {known.get(chosen.resolve(), short_name(chosen)): chosen} | bundled


@st.cache_resource(max_entries=3, show_spinner=False)
def _captioner(checkpoint: Path) -> Captioner:
    from captioner.pipeline import Captioner

    # Hashed now, for the files may be those of a later model when it is asked for.
    loaded, name = Captioner.load(checkpoint), model_id(checkpoint)
    _LOADED[checkpoint] = name
    return loaded


def captioner(checkpoint: Path) -> Captioner:
    """Give the one model of all visitors.

    Raises
    ------
    CheckpointError
        If there is no whole checkpoint.
    """
    with _LOADING:
        return _captioner(checkpoint)


def fingerprint(checkpoint: Path) -> str:
    """By what records name the model: the first digits of its weights' SHA-256."""
    captioner(checkpoint)
    return _LOADED[checkpoint]


def replaced(checkpoint: Path) -> bool:
    """Whether the files are those of a later model than the one that captions, as while one is trained."""
    return _LOADED.get(checkpoint) not in (None, model_id(checkpoint))


def unknown_words(checkpoint: Path, words: Sequence[str]) -> list[str]:
    """Of some words, those that a model cannot say."""
    known = set(captioner(checkpoint).vocabulary.words)
    return [word for word in dict.fromkeys(words) if word not in known]


def is_hard(checkpoint: Path) -> bool:
    """Whether a model was trained to look at one place at a time.

    Raises
    ------
    CheckpointError
        If its settings cannot be read.
    """
    return to_model_config(read_config(checkpoint), checkpoint).decoder.attention == "hard"


def usual_options(checkpoint: Path) -> DecodingOptions:
    """Options for a visitor who asks for nothing else: hard attention sees one cell, the likeliest."""
    return DecodingOptions(context="argmax" if is_hard(checkpoint) else "expectation")


@st.cache_resource(show_spinner=False)
def load_early() -> None:
    """Start to load the first model while the visitor still looks for a photo."""
    first = next(iter(checkpoints().values()))
    threading.Thread(target=_load_quietly, args=(first,), daemon=True).start()


def _load_quietly(checkpoint: Path) -> None:
    try:
        captioner(checkpoint)
    except Exception:
        return  # whoever asks for a caption will be told


def caption(upload: Upload, checkpoint: Path, options: DecodingOptions) -> Caption:
    """Caption a photo; one that was captioned with the same options is not computed again.

    Raises
    ------
    CaptionerError
        If it cannot be read, or the model cannot follow the options.
    """
    return _caption(upload.digest, checkpoint, options, upload)


@st.cache_data(max_entries=256, show_spinner=False)
def _caption(digest: str, checkpoint: Path, options: DecodingOptions, _upload: Upload) -> Caption:
    model = captioner(checkpoint)
    with TURN:
        return model.caption(_upload.data, options)
