"""About the model: what it is, what it scores, what it is for and what it is not."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app import model_card, models
from app.layout import plain
from captioner import description


def show() -> None:
    """Lay out the page."""
    st.title("About the model")
    checkpoints = models.checkpoints()
    name = st.segmented_control(
        "Model",
        list(checkpoints),
        default=next(iter(checkpoints)),
        required=True,
        format_func=plain,
        key="about",
        persist_state="session",
    )
    checkpoint = checkpoints[str(name)]
    side, text = st.columns([1, 2], gap="large")
    with side, st.container(key="facts"):
        facts = description.facts(checkpoint)
        st.table(
            {"": list(facts), " ": [plain(fact) for fact in facts.values()]}, border="horizontal", hide_header=True
        )
    with text, st.container(key="card"):
        if model_card.is_bundled(checkpoint):
            st.markdown(model_card.card())
        else:
            _show_own(checkpoint)
            st.markdown(model_card.section(model_card.LOOKING))


def _show_own(checkpoint: Path) -> None:
    history = description.history(checkpoint)
    st.markdown(f"A checkpoint of your own, {plain(str(checkpoint))}. {plain(history.account)}")
    if models.replaced(checkpoint):
        st.info("It was written after the app had loaded an earlier one. Start the app again to caption with this one.")
    if history.scores:
        st.markdown("What it scored on the dev photos while it was trained:")
        st.table([{name: f"{score:.2f}" for name, score in history.scores.items()}], hide_index=True)
    st.markdown("This scores it on the dev photos of Flickr8k; `--data RECIPE` takes those of another recipe:")
    st.code(model_card.evaluation(checkpoint), language="sh")
    if history.recipe:
        with st.expander("Its recipe"):
            st.code(history.recipe, language="json")
