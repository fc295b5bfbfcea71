"""What all pages share: their style, and how they speak of what went wrong."""

from __future__ import annotations

import re
import string
from pathlib import Path

import streamlit as st

_STYLE = Path(__file__).with_name("style.css")


def use_style() -> None:
    """Add the style sheet to the page."""
    st.html(_STYLE)


def show_error(message: str) -> None:
    """Say what is wrong and what to do about it."""
    st.error(plain(message))


def plain(text: str) -> str:
    """Escape what Markdown would take for markup, such as a link in a file's name; for the page alone."""
    # An address becomes a link even if it is escaped, but not with a character in it that takes no room.
    text = re.sub(r"(?i)(?<=www)(?=\.)|(?=://)|(?=@)", "\N{WORD JOINER}", text)
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", text)


def skeleton() -> None:
    """Show where a caption is about to be."""
    st.html('<div class="skeleton" role="presentation"><span></span><span></span></div>')
