"""A page."""

from __future__ import annotations

import streamlit as st


def show() -> None:
    """Lay out the page."""
    st.title("about")
