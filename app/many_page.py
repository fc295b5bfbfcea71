"""Many photos at once: their captions as a grid, and as files to take away."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import streamlit as st

from app import caption_page, models
from app.layout import plain, show_error
from app.many import MAX_FILES, Album, Row, Task, split, to_csv, to_jsonl, to_zip
from app.photos import TYPES, Upload

_PER_PAGE = 24
_SOURCES: dict[str, Literal[True, "directory"]] = {"Files": True, "Folder": "directory"}
_DOWNLOADS = {
    "CSV": (to_csv, "captions.csv", "text/csv"),
    "JSONL": (to_jsonl, "captions.jsonl", "application/jsonl"),
    "ZIP": (to_zip, "captions.zip", "application/zip"),
}


def show() -> None:
    """Lay out the page, then caption a few photos and lay it out anew, until all are done."""
    album: Album = st.session_state.setdefault("album", Album())
    st.title("Many images")
    st.markdown("Give it a set of photos: it captions them all, and hands the sentences back as a table.")
    model, task = _choose(album)
    if album.refused:
        show_error(
            f"It would be {album.refused:,} photos, and this page takes {MAX_FILES} at a time. "
            "Give it fewer, or run this where the photos are:"
        )
        st.code(task.command(), language=None, wrap_lines=True)
        if not album.uploads:
            st.button("Start over", on_click=_start_over)
    if not album.uploads:
        return
    rows = album.rows(task)
    _summary(album, rows)
    captioned, failed = split(rows)
    _failures(failed)
    _grid(captioned, model)
    if len(rows) < len(album.uploads):
        album.caption_some(models.captioner(task.checkpoint), task)
        st.rerun()


def _choose(album: Album) -> tuple[str, Task]:
    """Show what can be chosen; gives the model's name on the page, and how it is to caption."""
    names = list(models.checkpoints())
    with st.container(horizontal=True, horizontal_alignment="distribute", gap="small"):
        source = st.segmented_control(
            "Upload",
            list(_SOURCES),
            default="Files",
            required=True,
            key="many-source",
            label_visibility="collapsed",
            persist_state="session",
        )
        model = st.segmented_control(
            "Model",
            names,
            default=names[0],
            required=True,
            format_func=plain,
            key="many-model",
            label_visibility="collapsed",
            persist_state="session",
            on_change=album.restart_clock,
        )
    key = f"many-{source}-{st.session_state.get('many-start', 0)}"
    held = st.file_uploader(
        f"Photos, up to {MAX_FILES} at a time",
        type=TYPES,
        accept_multiple_files=_SOURCES[source],
        key=key,
        on_change=_take,
        args=(key,),
    )
    if not held:
        # Another page, or the other source, has made it a new one.
        album.kept, album.refused = album.uploads, 0
    checkpoint = models.checkpoints()[model]
    task = Task(checkpoint, models.usual_options(checkpoint))
    st.caption(f"Thousands of photos? Where they are, run `{task.command()}`")
    return model, task


def _take(widget: str) -> None:
    """Take what was just uploaded; coming back to the page, where the widget is empty, is no such event."""
    st.session_state["album"].take([Upload(file.name, file.getvalue()) for file in st.session_state[widget]])


def _start_over() -> None:
    st.session_state["album"] = Album()
    # Another name makes another widget, an empty one.
    st.session_state["many-start"] = st.session_state.get("many-start", 0) + 1


def _summary(album: Album, rows: list[Row]) -> None:
    """Show how far it has come, and what can be done then."""
    done, total = len(rows), len(album.uploads)
    rate = f", {album.captioned / album.seconds:.1f} a second" if album.captioned else ""
    if done < total:
        st.progress(done / total, f"{done} of {total} photos{rate}")
    else:
        captioned, _ = split(rows)
        st.markdown(f"**{len(captioned)} {'photo' if len(captioned) == 1 else 'photos'} captioned**{rate}")
    with st.container(horizontal=True, gap="small", key="many-downloads"):
        for label, (make, name, mime) in _DOWNLOADS.items():
            st.download_button(label, partial(make, rows), name, mime, on_click="ignore", disabled=done < total)
        st.button("Start over", on_click=_start_over, type="tertiary")


def _failures(rows: list[Row]) -> None:
    if not rows:
        return
    title = f"{len(rows)} {'file' if len(rows) == 1 else 'files'} could not be read"
    with st.expander(title, expanded=True, key="many-failures"):
        table = {
            "File": [plain(row.upload.name) for row in rows],
            "Reason": [plain(row.result.error) for row in rows],
        }
        st.table(table, border="horizontal", height=360 if len(rows) > 8 else "content", hide_index=True)


def _grid(rows: list[Row], model: str) -> None:
    if not rows:
        return
    with st.container():
        grid = st.container(key="many-grid")
        pages, page = math.ceil(len(rows) / _PER_PAGE), 1
        if pages > 1:
            with st.container(horizontal=True, horizontal_alignment="center", key="many-pages"):
                # Photos brought after a new start are looked at from the first page on.
                key = f"many-page-{st.session_state.get('many-start', 0)}"
                page = st.pagination(pages, width=340, key=key, persist_state="session")
    start = (page - 1) * _PER_PAGE
    with grid:
        for row in rows[start : start + _PER_PAGE]:
            _cell(row, model)


def _cell(row: Row, model: str) -> None:
    assert row.result.record is not None, "only captioned photos are in the grid"
    text = row.result.record["caption"]
    with st.container(key=f"many-cell-{row.place}", gap="xxsmall"):
        st.image(row.result.thumbnail, width="stretch", alt=text)
        st.markdown(plain(text))
        st.caption(plain(row.upload.name.rpartition("/")[2]))
        # By the photo's place: while others are captioned, a click is heeded after rows have come in between.
        if st.button("Where it looked", key=f"many-open-{row.place}"):
            caption_page.open_as_usual(row.upload)
            st.switch_page(st.Page(caption_page.show, default=True), query_params={"model": model})
