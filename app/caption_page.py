"""One photo: its caption, and where the model looked for every word."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st
from PIL import Image, ImageOps

from app import exports, models
from app.attention_viewer import Map, Scale, View, attention_viewer
from app.layout import plain, show_error, skeleton
from app.photos import TYPES, Shown, Upload, shown
from captioner.config import END, DecodingOptions
from captioner.errors import CaptionerError
from captioner.images import load_image

if TYPE_CHECKING:
    from captioner.pipeline import Caption

SAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.jpg"))
SEARCHES = ("Search", "Draw")
SIGHTS: dict[str, Literal["argmax", "sample", "expectation"]] = {
    "Likeliest cell": "argmax",
    "Drawn cell": "sample",
    "All cells": "expectation",
}
MAPS: dict[str, Map] = {"Spotlight": "spotlight", "Cividis": "cividis", "Grey": "gray"}
SCALES: dict[str, Scale] = {"Each word": "word", "All words": "shared"}
_CHOICES = 6  # words offered in place of each


@dataclass(frozen=True)
class Settings:
    """What the visitor has chosen.

    Attributes
    ----------
    model : str
        Its name on the page.
    options : DecodingOptions
    view : View
    """

    model: str
    options: DecodingOptions
    view: View


def open_with(upload: Upload) -> None:
    """Have the page show a photo when it is next laid out."""
    st.session_state["photo"] = upload
    st.session_state["words-chosen"] = {}
    # What the photo was chosen by folds away, so that its caption is on the screen without scrolling.
    st.session_state["chooser"] = st.session_state["use-camera"] = False


def open_as_usual(upload: Upload) -> None:
    """Have the page show a photo so, and caption it as it does for whoever has chosen nothing on it."""
    open_with(upload)
    for key in ("model", "words", "beam", "temperature", "length", "sight"):
        st.session_state.pop(key, None)


def show() -> None:
    """Lay out the page."""
    photo: Upload | None = st.session_state.get("photo")
    if photo is None:
        st.title("Show, Attend and Tell")
        st.markdown("Give it a photo: it writes a sentence, and shows where it looked for every word.")
    else:
        st.html('<h1 class="unseen">Show, Attend and Tell</h1>')  # for those who listen to the page
    _choose_photo(photo)
    if photo is not None:
        _result(photo)


def _choose_photo(photo: Upload | None) -> None:
    st.session_state.setdefault("chooser", photo is None)
    with st.expander(
        "Choose another photo" if photo else "Choose a photo", key="chooser", on_change="rerun"
    ) as chooser:
        st.file_uploader(
            "Upload a photo", type=TYPES, key="upload", on_change=_take, args=("upload",), label_visibility="collapsed"
        )
        if st.toggle("Use the camera", key="use-camera") and chooser.open:  # out of sight it would stay on
            st.camera_input("Take a photo", key="camera", on_change=_take, args=("camera",))
        st.caption("or try one of these")
        with st.container(horizontal=True, key="samples"):
            for path in SAMPLES:
                # The button lies over its picture: see style.css.
                with st.container(width=132, key=f"tile-{path.stem}"):
                    st.image(_thumbnail(path), width="stretch", alt="")
                    label = path.stem.capitalize()
                    st.button(label, key=f"sample-{path.stem}", width="stretch", on_click=_sample, args=(path,))


def _take(widget: str) -> None:
    """Take what was just uploaded."""
    # What is taken away stays on the page: another upload takes it away first, and would get lost in a new layout.
    if file := st.session_state[widget]:
        open_with(Upload(file.name, file.getvalue()))


def _sample(path: Path) -> None:
    open_with(Upload(path.name, path.read_bytes()))


@st.cache_data(show_spinner=False)
def _thumbnail(path: Path) -> Image.Image:
    return ImageOps.fit(load_image(path), (240, 240), centering=(0.5, 0.3))


@st.fragment
def _result(photo: Upload) -> None:
    try:
        settings = _settings()
    except CaptionerError as error:
        show_error(str(error))
        return
    try:
        picture, caption, place = _work(photo, settings)
        with place:
            beams = [caption, *caption.alternatives]
            number = _viewer(photo, picture, beams, settings)
        _more(photo, picture, beams[number], f"{_identity(photo, settings)} {number}", settings)
    except CaptionerError as error:
        show_error(str(error))


def _work(photo: Upload, settings: Settings) -> tuple[Shown, Caption, st.delta_generator.DeltaGenerator]:
    """Read and caption a photo, showing what is there while the rest is made, in the place where both are to go."""
    checkpoint = models.checkpoints()[settings.model]
    task = photo.digest, checkpoint, settings.options
    if st.session_state.get("done") == task:
        # Not emptied first: on a busy machine the viewer would be gone for a moment, and the page jump.
        return shown(photo), models.caption(photo, checkpoint, settings.options), st.container()
    place = st.empty()
    try:
        with place.container():
            picture, caption = _show_work(photo, checkpoint, settings.options)
    except CaptionerError:
        place.empty()
        raise
    st.session_state["done"] = task
    return picture, caption, place.container()


def _show_work(photo: Upload, checkpoint: Path, options: DecodingOptions) -> tuple[Shown, Caption]:
    left, right = st.columns([2, 1], gap="large")
    with left:
        skeleton()
        place = st.empty()
    with right, st.status("Reading the photo …", expanded=True) as status:
        picture = shown(photo)
        place.image(picture.jpeg, alt=photo.name)
        st.write("Photo read")
        status.update(label="Waking the model …")
        models.captioner(checkpoint)
        st.write("Model ready")
        status.update(label="Looking and writing …")
        return picture, models.caption(photo, checkpoint, options)


def _identity(photo: Upload, settings: Settings) -> str:
    return f"{photo.digest} {models.checkpoints()[settings.model]} {settings.options}"


def _viewer(photo: Upload, picture: Shown, beams: list[Caption], settings: Settings) -> int:
    return attention_viewer(
        "viewer",
        _identity(photo, settings),
        picture,
        photo.name,
        {"": beams},
        settings.view,
        forced=len(settings.options.prefix),
        focus=st.session_state.pop("has-chosen", False),
        beams_title="Captions drawn" if settings.options.temperature else "Captions it weighed",
        on_choose=partial(_choose_words, settings.model),
    )


def _choose_words(model: str) -> None:
    # Of each model its own, for another may not know them.
    chosen = st.session_state.get("words-chosen", {})
    st.session_state["words-chosen"] = {**chosen, model: tuple(st.session_state["viewer"].choose["words"])}
    st.session_state["has-chosen"] = True


def _settings() -> Settings:
    """Show what can be chosen; the page's address holds it all."""
    names = list(models.checkpoints())
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="settings"):
        model = _one_of("Model", names, names[0], "model", label_visibility="collapsed")
        with st.popover("Words"):
            options = _decoding(model)
        with st.popover("Heat map"):
            view = _view()
        if options.temperature or options.context == "sample":
            st.button("Draw again", on_click=_draw_again, args=("seed",))
    return Settings(model, options, view)


def _decoding(model: str) -> DecodingOptions:
    search = _one_of(
        "Words are found by",
        SEARCHES,
        "Search",
        "words",
        help="Search keeps the likeliest captions; drawing takes each word by chance, as likely as the model finds it",
    )
    drawn = search == "Draw"
    beam = st.slider("Captions kept" if not drawn else "Captions drawn", 1, 10, 3, key="beam", bind="query-params")
    temperature = st.slider(
        "Temperature",
        0.1,
        2.0,
        1.0,
        0.1,
        key="temperature",
        bind="query-params",
        disabled=not drawn,
        help="Below 1 likely words become likelier, above 1 less so",
    )
    length = st.slider("Most words", 5, 40, 20, key="length", bind="query-params")
    hard = models.is_hard(models.checkpoints()[model])
    # Shown in any case: a widget that is not shown forgets its value.
    sight = _one_of("For a word, hard attention sees", SIGHTS, "Likeliest cell", "sight", disabled=not hard)
    prefix = st.session_state.get("words-chosen", {}).get(model, ())
    context = SIGHTS[sight] if hard else "expectation"
    chance = drawn or context == "sample"
    return DecodingOptions(
        beam_size=beam,
        max_length=max(length, len(prefix)),
        temperature=temperature if drawn else 0.0,
        context=context,
        seed=st.session_state.get("seed", 0) if chance else 0,
        prefix=prefix,
        top_words=_CHOICES,
    )


def _view() -> View:
    name = _one_of("Heat map", MAPS, "Spotlight", "map")
    opacity = st.slider("Opacity", 0.1, 1.0, 0.75, 0.05, key="opacity", bind="query-params")
    scale = _one_of(
        "Brightness scaled to",
        SCALES,
        "All words",
        "scale",
        help="One scale for all words shows which looks were sharp, and which were not",
    )
    smooth = st.toggle("Smooth", True, key="smooth", bind="query-params", help="Off: the grid's cells as they are")
    return View(MAPS[name], opacity, smooth, SCALES[scale])


def _one_of(label: str, options: Iterable[str], default: str, key: str, **how: Any) -> str:
    """Show a choice, which the page's address holds."""
    chosen = st.segmented_control(
        label, list(options), default=default, required=True, key=key, bind="query-params", **how
    )
    # An address that ends in "?map=" chooses nothing, required or not.
    return chosen or default


def _draw_again(seed: str) -> None:
    st.session_state[seed] = st.session_state.get(seed, 0) + 1


def _more(photo: Upload, picture: Shown, caption: Caption, identity: str, settings: Settings) -> None:
    """Show what else can be made of a caption, computing only what is open."""
    parts: dict[str, Callable[[], None]] = {
        "Filmstrip": lambda: _filmstrip(photo, picture, caption, identity),
        "Matrix": lambda: _matrix(photo, picture, caption, identity),
        "Compare": lambda: _compare(photo, picture, caption, settings),
        "GIF": lambda: _animation(photo, picture, caption, identity),
        "Raw": lambda: _raw(photo, caption, settings),
    }
    for tab, part in zip(st.tabs(list(parts), key="tab", bind="query-params"), parts.values(), strict=True):
        if tab.open:
            with tab:
                part()


def _filmstrip(photo: Upload, picture: Shown, caption: Caption, identity: str) -> None:
    png = exports.filmstrip(identity, picture, caption)
    st.image(png, width="stretch", alt=f"Where the model looked for each word of: {caption.text}")
    exports.download("Download PNG", png, photo, "filmstrip.png")


def _matrix(photo: Upload, picture: Shown, caption: Caption, identity: str) -> None:
    png = exports.matrix(identity, picture, caption)
    st.image(png, width="stretch", alt=f"How much of each look fell on each part of the photo, for: {caption.text}")
    exports.download("Download PNG", png, photo, "matrix.png")


def _animation(photo: Upload, picture: Shown, caption: Caption, identity: str) -> None:
    gif = exports.animation(identity, picture, caption)
    alt = f"One word after another, and where the model looked for it: {caption.text}"
    # The style sheet shows one of them, the still one to who wants less motion.
    with st.container(key="gif-moving"):
        st.image(gif, alt=alt)
    with st.container(key="gif-still"):
        st.image(Image.open(io.BytesIO(gif)).convert("RGB"), alt=alt)
        st.caption("It stands still, for your system asks for less motion. The download moves.")
    exports.download("Download GIF", gif, photo, "attention.gif")


def _raw(photo: Upload, caption: Caption, settings: Settings) -> None:
    record = exports.record(photo, caption, models.fingerprint(models.checkpoints()[settings.model]), settings.options)
    with st.container(horizontal=True):
        exports.download("Download JSON", exports.to_json(record, caption), photo, "attention.json")
        exports.download("Download NPZ", exports.to_npz(caption), photo, "attention.npz")
    st.json(record, expanded=1)


def _compare(photo: Upload, picture: Shown, caption: Caption, settings: Settings) -> None:
    """Show the same words under two models, for the maps of different sentences cannot be compared."""
    others = [name for name in models.checkpoints() if name != settings.model]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        other = st.segmented_control(
            "Beside", others, default=others[-1], required=True, format_func=plain, key="beside"
        )
        checkpoint = models.checkpoints()[other]
        hard = models.is_hard(checkpoint)
        if hard:
            st.button("Draw other cells", on_click=_draw_again, args=("cells-seed",))
    same = DecodingOptions(
        beam_size=1,
        max_length=max(1, len(caption.words)),  # or it would go on with a caption that was cut
        context="sample" if hard else "expectation",
        seed=st.session_state.get("cells-seed", 0) if hard else 0,
        prefix=(*caption.words, END) if caption.ended else caption.words,
    )
    try:
        own = models.caption(photo, checkpoint, models.usual_options(checkpoint))
        st.markdown(f"{plain(other)} by itself says: {plain(own.text)}")
        if lacking := models.unknown_words(checkpoint, caption.words):
            unknown = ", ".join(f"“{word}”" for word in lacking)
            show_error(f"{other} does not know {unknown}, so it has no maps for this caption.")
            return
        again = models.caption(photo, checkpoint, same)
    except CaptionerError as error:
        show_error(str(error))
        return
    attention_viewer(
        "compare",
        f"{_identity(photo, settings)} {checkpoint} {same}",
        picture,
        photo.name,
        {settings.model: [caption], other: [again]},
        settings.view,
        panel=False,
    )
