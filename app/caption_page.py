"""One photo: its caption, and where the model looked for every word."""

from __future__ import annotations

import streamlit as st

from app import models
from app.photos import TYPES, Upload, shown
from captioner.config import DecodingOptions


def open_with(upload: Upload) -> None:
    """Have the page show a photo when it is next laid out."""
    st.session_state["photo"] = upload


def show() -> None:
    """Lay out the page."""
    st.title("Show, Attend and Tell")
    file = st.file_uploader("Upload a photo", type=TYPES, key="upload")
    if file:
        open_with(Upload(file.name, file.getvalue()))
    if photo := st.session_state.get("photo"):
        st.image(shown(photo).jpeg)
        st.write(models.caption(photo, models.checkpoints()[models.SOFT], DecodingOptions()).text)
