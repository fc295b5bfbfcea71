"""The viewer: a caption and its photo that answer each other in the browser, word to place and place to word.

`viewer.js` says what the data are; this is where they are made.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import streamlit as st

from app.photos import Shown
from captioner.metrics.attention import entropies

if TYPE_CHECKING:
    from captioner.pipeline import Caption

Map = Literal["spotlight", "cividis", "gray"]
Scale = Literal["word", "shared"]
_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "attention_viewer",
    html='<div class="viewer"></div>',
    css=(_HERE / "viewer.css").read_text(encoding="utf-8"),
    js=(_HERE / "viewer.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class View:
    """How heat maps are drawn.

    Attributes
    ----------
    map : {"spotlight", "cividis", "gray"}
        Light where the model looked, or a colour map, which every weight makes less transparent.
    opacity : float
        Of the dark, or of the colour of the largest weight.
    smooth : bool
        Whether cells are blended into each other.
    scale : {"word", "shared"}
        Whether each word's largest weight is drawn at full strength, or all words are drawn by one measure.
    """

    map: Map
    opacity: float
    smooth: bool
    scale: Scale


def attention_viewer(
    key: str,
    identity: str,
    photo: Shown,
    name: str,
    panes: Mapping[str, Sequence[Caption]],
    view: View,
    forced: int = 0,
    focus: bool = False,
    panel: bool = True,
    beams_title: str = "",
    on_choose: Callable[[], None] | None = None,
) -> int:
    """Lay out a viewer.

    Parameters
    ----------
    key : str
        Under which its state is kept.
    identity : str
        Of what is shown; while it stays the same, so does what the visitor has chosen in it.
    photo : Shown
    name : str
        Of the photo.
    panes : mapping of str to sequence of Caption
        By the label of each: captions to choose from, best first, the same words in every pane.
    view : View
    forced : int
        How many of the first caption's words the visitor has chosen.
    focus : bool
        Whether the visitor has just chosen one of them, or gone back to none, and is brought to it.
    panel : bool
        Whether details are shown beside the photo.
    beams_title : str
        What the captions to choose from are.
    on_choose : callable, optional
        Called when the visitor wants other words; `st.session_state[key].choose` then is {"words": words}.

    Returns
    -------
    int
        Number of the caption that is open.
    """
    first, *others = ([caption.words for caption in captions] for captions in panes.values())
    assert all(words == first for words in others), "panes of other words cannot be compared"
    # Of another caption it says nothing of this one.
    before = st.session_state.get(key, {}).get("beam")
    beam = int(before["index"]) if before and before["id"] == identity else 0
    data = {
        "id": identity,
        "photo": {
            "url": "data:image/jpeg;base64," + _base64(photo.jpeg),
            "name": name,
            "width": photo.width,
            "height": photo.height,
        },
        "beam": beam,
        "panes": [_pane(label, captions, photo) for label, captions in panes.items()],
        "view": {**asdict(view), "palette": _palette(view.map)},
        "forced": forced,
        "focus": focus,
        "panel": panel,
        "autoplay": panel and not forced and not focus,
        "beamsTitle": beams_title,
    }
    _component(key=key, data=data, on_beam_change=_ignore, on_choose_change=on_choose or _ignore)
    return beam


def _pane(label: str, captions: Sequence[Caption], photo: Shown) -> dict[str, Any]:
    left, top, right, bottom = captions[0].region
    return {
        "label": label,
        "grid": captions[0].attention.shape[1:],
        "region": [left / photo.width, top / photo.height, right / photo.width, bottom / photo.height],
        "beams": [_beam(caption) for caption in captions],
    }


def _beam(caption: Caption) -> dict[str, Any]:
    tops = caption.attention.max(axis=(1, 2), keepdims=True)
    return {
        "text": caption.text,
        "words": caption.words,
        "ended": caption.ended,
        "logProb": caption.log_prob,
        "probs": caption.word_probs,
        "betas": caption.betas,
        "entropies": entropies(caption.attention).tolist(),
        "maps": _base64((caption.attention / tops * 255).round().astype(np.uint8).tobytes()),
        "tops": tops.ravel().tolist(),
        "locations": caption.locations,
        "choices": caption.choices,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@cache
def _palette(name: str) -> str:
    # Takes its time to import, and the spotlight has no palette.
    if name == "spotlight":
        return ""
    from matplotlib import colormaps

    colours = colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return _base64((colours * 255).round().astype(np.uint8).tobytes())


def _ignore() -> None:
    pass
