"""Training runs: their curves, followed while they are in progress."""

from __future__ import annotations

import shlex
from pathlib import Path

import streamlit as st

from app import runs
from app.arguments import arguments
from app.layout import plain
from captioner.errors import CaptionerError
from captioner.history import panels

_REFRESH = 10  # seconds
_NOTE = (
    "Dots are the values logged, lines their moving average. Scores are of dev, photos that are not trained on; higher "
    "is better, and the best is marked. The table shows the epoch that training kept."
)
_BUNDLED_NOTE = (
    "The bundled models: the soft one, fine-tuned by cross-entropy, then by the scores of captions it draws; the hard "
    "one, which goes on from it. *About the model* says more."
)


def show() -> None:
    """Lay out the page."""
    st.title("Training runs")
    own, bundled = runs.own_runs(arguments().runs), runs.bundled_runs()
    if not own:
        _show_how_to_train()
    names = [run.name for run in own + bundled]
    chosen = st.multiselect(
        "Runs, newest first",
        names,
        default=names[:1] if own else names,
        max_selections=len(runs.COLOURS),
        placeholder="Choose a run or several",
        key="runs" if own else "bundled-runs",  # the first run that begins is shown at once
        persist_state="session",
    )
    followed = any(run.in_progress for run in own if run.name in chosen)
    st.fragment(_show_runs, run_every=_REFRESH if followed else None)(chosen)
    st.fragment(_watch, run_every=_REFRESH)({(run.name, run.in_progress) for run in own})


def _watch(seen: set[tuple[str, bool]]) -> None:
    """Lay out the page anew when a run has begun or ended."""
    if {(run.name, run.in_progress) for run in runs.own_runs(arguments().runs)} != seen:
        st.rerun()


def _show_how_to_train() -> None:
    folder = arguments().runs.absolute()
    command = ".venv/bin/python train.py recipes/flickr8k-soft.toml"
    if folder != Path("runs").absolute():  # where it goes by itself
        command += f" --output {shlex.quote(str(folder / 'flickr8k-soft'))}"
    st.markdown(
        f"There are no training runs in {plain(str(folder))} yet; this makes one, to be followed here while it goes on:"
    )
    st.code(command, language="sh")
    st.caption("`.venv/bin/captioner app --runs FOLDER` shows those of another folder.")


def _show_runs(chosen: list[str]) -> None:
    found = [run for run in runs.own_runs(arguments().runs) + runs.bundled_runs() if run.name in chosen]
    found.sort(key=lambda run: chosen.index(run.name))
    if live := [run.name for run in found if run.in_progress]:
        st.caption(plain(f"In progress, looked at every {_REFRESH} seconds: {', '.join(live)}"))
    rows = {}
    for run in found:
        try:
            rows[run.name] = runs.read(run)
        except CaptionerError as error:
            st.warning(plain(str(error)))
    if not rows:
        return
    drawn = panels(rows)
    with st.container(key="curves"):
        for start in range(0, len(drawn), 2):
            for column, panel in zip(st.columns(2, gap="medium"), drawn[start : start + 2], strict=False):
                with column:
                    st.header(plain(panel.title), anchor=False)
                    st.altair_chart(runs.chart(panel, list(rows)), alt=panel.title)
    table = [runs.summary(run, rows[run.name]) for run in found if run.name in rows]
    scores = {name for row in table for name, value in row.items() if isinstance(value, float)}
    formats = {name: st.column_config.NumberColumn(format="%.2f") for name in scores}
    st.dataframe(table, hide_index=True, placeholder="–", column_config=formats)
    st.caption(_NOTE)
    if any(run.written is None for run in found):
        st.caption(_BUNDLED_NOTE)
