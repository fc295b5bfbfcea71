"""The page without a browser: its widgets, its states, its words."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from captioner.checkpoint_files import BUNDLED
from captioner.config import DecodingOptions
from captioner.pipeline import Captioner
from tests.conftest import EXAMPLES

APP = str(Path(__file__).parent.parent.parent / "app" / "streamlit_app.py")


@pytest.fixture
def page() -> AppTest:
    page = AppTest.from_file(APP, default_timeout=60).run()
    assert not page.exception
    return page


def html(page: AppTest) -> str:
    return "".join(element.proto.body for element in page.get("html"))


def test_the_empty_page_offers_upload_and_samples(page: AppTest) -> None:
    assert page.title[0].value == "Show, Attend and Tell"
    assert len(page.get("file_uploader")) == 1
    assert {button.key for button in page.button} == {f"sample-{path.stem}" for path in EXAMPLES.glob("*.jpg")}
    assert "<figure>" not in html(page)


def test_a_sample_gets_its_caption_and_an_overlay_per_word(page: AppTest, captioner: Captioner) -> None:
    page.button(key="sample-photographer").click().run()
    assert not page.exception
    caption = captioner.caption(EXAMPLES / "photographer.jpg")
    shown = html(page)
    assert f">{caption.text}.<" in shown
    assert shown.count("<figure>") == len(caption.words)
    assert shown.count("data:image/jpeg;base64,") == len(caption.words)
    assert any(caption.alternatives[0].text in block.value for block in page.markdown)


def test_another_sample_takes_its_place(page: AppTest, captioner: Captioner) -> None:
    page.button(key="sample-photographer").click().run()
    page.button(key="sample-astronaut").click().run()
    assert captioner.caption(EXAMPLES / "astronaut.jpg").text in html(page)
    assert captioner.caption(EXAMPLES / "photographer.jpg").text not in html(page)


def test_hard_attention_is_one_click_away(page: AppTest) -> None:
    page.button(key="sample-photographer").click().run()
    soft = html(page)
    page.segmented_control(key="attention").set_value("Hard").run()
    assert not page.exception
    hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
    photo = EXAMPLES / "photographer.jpg"
    assert f">{hard.caption(photo, DecodingOptions(context='argmax')).text}.<" in html(page)
    page.segmented_control(key="sight").set_value("Drawn cell").run()
    drawn = html(page)
    next(button for button in page.button if button.label == "Draw again").click().run()
    assert html(page) != drawn
    assert "The frame is the one cell the model saw" in "".join(caption.value for caption in page.caption)
    page.segmented_control(key="attention").set_value("Soft").run()
    assert html(page) == soft
    # What was chosen for hard attention is still there when it comes back.
    page.segmented_control(key="attention").set_value("Hard").run()
    assert page.segmented_control(key="sight").value == "Drawn cell"
    assert not page.exception


def test_a_bad_file_does_not_change_the_kind_of_attention(page: AppTest) -> None:
    page.button(key="sample-photographer").click().run()
    page.segmented_control(key="attention").set_value("Hard").run()
    page.file_uploader[0].set_value(("notes.jpg", b"only text", "image/jpeg")).run()
    assert len(page.error) == 1
    page.button(key="sample-cat").click().run()
    assert page.segmented_control(key="attention").value == "Hard"
    assert not page.exception


def test_an_uploaded_photo_is_captioned(page: AppTest, captioner: Captioner) -> None:
    path = EXAMPLES / "raccoon.jpg"
    page.file_uploader[0].set_value((path.name, path.read_bytes(), "image/jpeg")).run()
    assert not page.exception
    assert captioner.caption(path).text in html(page)


def test_a_file_that_is_no_photo_gets_words_and_no_traceback(page: AppTest) -> None:
    page.file_uploader[0].set_value(("notes.jpg", b"only text", "image/jpeg")).run()
    assert not page.exception
    [error] = page.error
    assert error.value.replace("\\", "").startswith("notes.jpg: not an image in a format that can be read")
