"""The web page: a photo goes in, a caption comes out, with an overlay per word."""

from __future__ import annotations

import dataclasses
import io
import re
import string
import sys
import threading
from pathlib import Path

import streamlit as st
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
# Streamlit puts the folder of this file on the path, not the project's.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT))]

from app.figures import STYLE, caption_line, word_figures  # noqa: E402
from captioner.checkpoint_files import BUNDLED  # noqa: E402
from captioner.config import DecodingOptions  # noqa: E402
from captioner.errors import CaptionerError, ImageReadError  # noqa: E402
from captioner.images import SUFFIXES, load_image  # noqa: E402
from captioner.pipeline import Caption, Captioner  # noqa: E402
from captioner.visualization import filmstrip, word_overlays  # noqa: E402

SAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
CHECKPOINTS = {"Soft": BUNDLED, "Hard": BUNDLED.with_name("flickr8k-hard")}
SIGHTS = {
    "Likeliest cell": DecodingOptions(context="argmax"),
    "Drawn cell": DecodingOptions(context="sample"),
    "All cells": DecodingOptions(context="expectation"),
}


@st.cache_resource(max_entries=len(CHECKPOINTS), show_spinner=False)
def captioner(checkpoint: Path) -> tuple[Captioner, threading.Lock]:
    """Load a model once for all visitors, with the lock that lets them in one by one."""
    return Captioner.load(checkpoint), threading.Lock()


@st.cache_data(max_entries=64, show_spinner=False)
def describe(data: bytes, checkpoint: Path, options: DecodingOptions) -> Caption:
    """Caption a photo; the same photo is not computed twice."""
    model, lock = captioner(checkpoint)
    with lock:
        return model.caption(data, options)


@st.cache_data(max_entries=64, show_spinner=False)
def figures(data: bytes, caption: Caption) -> str:
    """Draw the overlays of a caption."""
    image = load_image(data)
    return word_figures(caption, word_overlays(image, caption.attention, caption.region, caption.locations))


@st.cache_data(show_spinner=False)
def thumbnail(path: Path) -> Image.Image:
    """Return a square miniature of a sample photo."""
    return ImageOps.fit(load_image(path), (220, 220), centering=(0.5, 0.3))


def filmstrip_png(data: bytes, caption: Caption) -> bytes:
    """Return all overlays as one picture."""
    buffer = io.BytesIO()
    figure = filmstrip(load_image(data), caption.words, caption.attention, caption.region, caption.locations)
    figure.savefig(buffer, dpi=150)
    return buffer.getvalue()


def plain(text: str) -> str:
    """Escape what Markdown would take for markup, such as a link in a file's name."""
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", text)


def take_upload() -> None:
    """Remember the photo just uploaded; forget it when it is taken away again."""
    upload = st.session_state["upload"]
    st.session_state["photo"] = (upload.name, upload.getvalue()) if upload else None


def take_sample(path: Path) -> None:
    """Remember the sample just chosen."""
    st.session_state["photo"] = (path.name, path.read_bytes())


def choose_photo() -> tuple[str, bytes] | None:
    """Show the uploader and the samples; return name and bytes of the photo chosen last."""
    photo: tuple[str, bytes] | None = st.session_state.get("photo")
    # Folded away once there is a photo, so that its caption is on the screen without scrolling.
    with st.expander("Choose another photo" if photo else "Choose a photo", expanded=photo is None):
        types = [suffix[1:] for suffix in SUFFIXES]
        st.file_uploader("Upload a photo", type=types, key="upload", on_change=take_upload)
        st.caption("or try one of these")
        with st.container(horizontal=True, key="samples"):
            for path in SAMPLES:
                with st.container(width=112, gap="small"):
                    st.image(thumbnail(path), width="stretch")
                    label = path.stem.capitalize()
                    st.button(label, key=f"sample-{path.stem}", width="stretch", on_click=take_sample, args=(path,))
    return photo


def choose_model() -> tuple[Path, DecodingOptions]:
    """Show the choice between soft and hard attention; return what was chosen."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        kind = st.segmented_control("Attention", list(CHECKPOINTS), default="Soft", required=True, key="attention")
        # Drawn in any case: a widget that is not drawn forgets its value.
        sight = st.segmented_control(
            "Hard attention sees",
            list(SIGHTS),
            default="Likeliest cell",
            required=True,
            disabled=kind == "Soft",
            key="sight",
        )
        options = DecodingOptions() if kind == "Soft" else SIGHTS[sight]
        if options.context == "sample":
            st.button("Draw again", on_click=draw_again)
            options = dataclasses.replace(options, seed=st.session_state.get("seed", 0))
    return CHECKPOINTS[kind], options


def draw_again() -> None:
    """Have other cells drawn."""
    st.session_state["seed"] = st.session_state.get("seed", 0) + 1


def show(name: str, data: bytes) -> None:
    """Show a photo, its caption, and where the model looked."""
    checkpoint, options = choose_model()
    try:
        image = load_image(data)
    except ImageReadError as error:
        reason = str(error).removeprefix("image: ")
        st.error(f"{plain(name)}: {plain(reason)}. Please choose another file.")
        return
    left, right = st.columns([2, 3], gap="large", vertical_alignment="center")
    with left:
        st.image(image, width="stretch")
    with right, st.spinner("Looking at the photo …"):
        caption = describe(data, checkpoint, options)
        st.html(caption_line(caption))
        others = [f"- {other.text}  \n" for other in caption.alternatives]
        if others:
            st.caption("It also thought of")
            st.markdown("".join(others))
    st.subheader("Where the model looked for each word", divider="gray")
    st.html(figures(data, caption))
    brightness = (
        "The brighter a place, the more the model looked there while choosing the word; all words share one scale. "
        if caption.locations is None
        else "The frame is the one cell the model saw for the word; the brighter a place, the likelier it was to look "
        "there. All words share one scale. "
    )
    st.caption(brightness + "The percentage is the probability it gave the word.")
    st.download_button(
        "Download as one picture",
        data=lambda: filmstrip_png(data, caption),
        file_name="attention.png",
        mime="image/png",
        on_click="ignore",
    )


def main() -> None:
    """Lay out the page."""
    st.set_page_config(page_title="Show, Attend and Tell", page_icon="👁️", layout="wide")
    st.html(STYLE)
    st.title("Show, Attend and Tell")
    st.markdown("A photo goes in; a sentence comes out, with the places the model looked at for every word.")
    chosen = choose_photo()
    if chosen is None:
        return
    try:
        show(*chosen)
    except CaptionerError as error:
        st.error(plain(str(error)))


main()
