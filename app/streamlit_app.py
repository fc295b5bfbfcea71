"""The web app, which `captioner app` starts."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).parent.parent
# Streamlit puts the folder of this file on the path, not the project's.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT))]

from app import about_page, caption_page, many_page, runs_page  # noqa: E402
from app.layout import show_error, use_style  # noqa: E402
from app.models import load_early  # noqa: E402
from captioner.errors import CaptionerError  # noqa: E402


def main() -> None:
    """Lay out the navigation and the page that is open."""
    page = st.navigation(
        [
            st.Page(caption_page.show, title="Caption", url_path="caption", default=True),
            st.Page(many_page.show, title="Many images", url_path="many-images"),
            st.Page(runs_page.show, title="Training runs", url_path="training-runs"),
            st.Page(about_page.show, title="About the model", url_path="about"),
        ],
        position="top",
    )
    st.set_page_config(page_title=f"{page.title} · Show, Attend and Tell", page_icon="👁️", layout="wide")
    use_style()
    try:
        load_early()
        page.run()
    except CaptionerError as error:
        show_error(str(error))


main()
