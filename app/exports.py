"""What can be taken away of a caption: pictures, numbers.

A picture is drawn once for all visitors; `identity` says of what.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from app.photos import Shown, Upload, stem
from captioner.config import DecodingOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from captioner.pipeline import Caption


@st.cache_data(max_entries=64, show_spinner=False)
def filmstrip(identity: str, _picture: Shown, _caption: Caption) -> bytes:
    """Draw an overlay per word, as PNG."""
    from captioner import visualization

    region = _picture.scaled(_caption.region)
    return _to_png(
        visualization.filmstrip(_picture.image, _caption.words, _caption.attention, region, _caption.locations)
    )


@st.cache_data(max_entries=64, show_spinner=False)
def matrix(identity: str, _picture: Shown, _caption: Caption) -> bytes:
    """Draw words against regions, as PNG."""
    from captioner import visualization

    region = _picture.scaled(_caption.region)
    return _to_png(visualization.attention_matrix(_picture.image, _caption.words, _caption.attention, region))


@st.cache_data(max_entries=16, show_spinner=False)
def animation(identity: str, _picture: Shown, _caption: Caption) -> bytes:
    """Draw an overlay after another, as GIF."""
    from captioner import visualization

    region = _picture.scaled(_caption.region)
    return visualization.animation(_picture.image, _caption.words, _caption.attention, region, _caption.locations)


def record(photo: Upload, caption: Caption, model: str, options: DecodingOptions) -> dict[str, Any]:
    """Say what the model said of a photo, and how it came to be; names as in the records of `captioner caption`."""
    return {
        "image": photo.name,
        "caption": caption.text,
        "words": list(caption.words),
        "ended": caption.ended,
        "log_prob": caption.log_prob,
        "word_probs": list(caption.word_probs),
        "betas": list(caption.betas),
        "locations": caption.locations,
        "width": caption.width,
        "height": caption.height,
        "region": caption.region,
        "grid": caption.attention.shape[1:],
        "model": model,
        "decoding": options.to_dict(),
    }


def to_json(fields: dict[str, Any], caption: Caption) -> bytes:
    """Encode a record and the attention (T, rows, columns) of its caption."""
    return json.dumps({**fields, "attention": caption.attention.tolist()}).encode()


def to_npz(caption: Caption) -> bytes:
    """Encode the attention as `captioner caption --attention npz` does."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **caption.attention_arrays())
    return buffer.getvalue()


def download(label: str, data: bytes, photo: Upload, name: str) -> None:
    """Offer a file, named after the photo."""
    mime = {"png": "image/png", "gif": "image/gif", "json": "application/json"}.get(name.rpartition(".")[2])
    st.download_button(label, data, f"{stem(photo.name)}-{name}", mime or "application/octet-stream", on_click="ignore")


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
