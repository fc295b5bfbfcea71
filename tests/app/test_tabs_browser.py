"""What stands below the photo, a tab each, as a person meets it: the real server, a real Chromium."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from app import exports
from app.photos import Upload, shown
from captioner.checkpoint_files import BUNDLED
from captioner.config import END, DecodingOptions
from captioner.pipeline import Caption, Captioner
from tests.app.browsing import expect_caption, heat, open_tab, settle
from tests.app.conftest import PHOTOGRAPHER


def test_soft_and_hard_attention_are_compared_on_the_same_words(
    viewer: Page, photographer: Caption, hard_photographer: Caption
) -> None:
    panel = open_tab(viewer, "Compare")
    compared = panel.get_by_role("toolbar", name="Words of the caption")
    expect(compared).to_be_visible()
    expect(compared.get_by_role("button")).to_have_text(list(photographer.words))
    own = panel.get_by_text(f"Hard attention by itself says: {hard_photographer.text}")
    expect(own).to_be_visible()
    draw_other_cells(panel)
    expect(own).to_be_visible()
    compared.get_by_role("button").nth(1).click()
    expect(panel.get_by_role("img", name=f"looked for “{photographer.words[1]}”")).to_have_count(2)
    white = [(heat(viewer, number)[..., :3].min(-1) == 255).sum() for number in (1, 2)]
    # Only the cell that hard attention drew is framed.
    assert white[0] == 0
    assert white[1] > 50


def test_of_two_photos_each_tells_of_its_own_model(viewer: Page, photographer: Caption) -> None:
    panel = open_tab(viewer, "Compare")
    said = photographer.words
    drawn = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu").caption(
        PHOTOGRAPHER, DecodingOptions(beam_size=1, max_length=len(said), context="sample", prefix=(*said, END))
    )
    for name, caption in (("Soft attention", photographer), ("Hard attention", drawn)):
        photo = panel.get_by_label(f"The photo, {name}")
        photo.press("ArrowUp")  # to the middle
        rows, columns = caption.attention.shape[1:]
        weights = caption.attention[:, rows // 2, columns // 2]
        most = int(weights.argmax())
        told = f"{name}. Of each look, this place had: “{caption.words[most]}” {weights[most]:.0%}".replace("%", " %")
        expect(panel.locator(".here")).to_contain_text(told)
        tints = [
            float(word.evaluate("node => node.style.getPropertyValue('--tint')"))
            for word in panel.get_by_role("toolbar", name="Words of the caption").get_by_role("button").all()
        ]
        expected = (weights / np.median(caption.attention.max((1, 2)))).clip(0, 1)
        assert tints == pytest.approx(expected.tolist(), abs=0.02)


def test_a_photo_that_loses_the_focus_leaves_the_other_as_it_is(viewer: Page) -> None:
    panel = open_tab(viewer, "Compare")
    soft, hard = (panel.get_by_label(f"The photo, {name} attention") for name in ("Soft", "Hard"))
    soft.press("ArrowUp")
    hard.hover()
    expect(panel.locator(".here")).to_contain_text("Hard attention. Of each look")
    soft.blur()
    expect(panel.locator(".here")).to_contain_text("Hard attention. Of each look")
    hard.focus()
    hard.blur()
    expect(panel.locator(".here")).to_be_empty()


def draw_other_cells(panel: Locator) -> None:
    """Draw, and wait until the words are built anew: until the server has answered, all is as it was."""
    stage = panel.page.locator(".stage").first.element_handle()
    word = panel.get_by_role("toolbar", name="Words of the caption").get_by_role("button").first.element_handle()
    panel.get_by_role("button", name="Draw other cells").click()
    panel.page.wait_for_function("word => !word.isConnected", arg=word)
    settle(panel.page)
    # The viewer above stayed where it was, lest the page jump.
    assert stage.evaluate("stage => stage.isConnected")


def test_other_cells_are_drawn_on_demand_and_another_caption_is_compared_next(
    viewer: Page, photographer: Caption
) -> None:
    panel = open_tab(viewer, "Compare")
    compared = panel.get_by_role("toolbar", name="Words of the caption").get_by_role("button")

    def frames() -> list[np.ndarray]:
        found = []
        for t in range(len(photographer.words)):
            compared.nth(t).hover()
            expect(panel.get_by_role("img", name=f"looked for “{photographer.words[t]}”")).to_have_count(2)
            found.append(np.argwhere(heat(viewer, 2)[..., :3].min(-1) == 255).mean(0))
        return found

    before = frames()
    draw_other_cells(panel)
    after = frames()
    assert not np.isnan([before, after]).any()
    assert not np.allclose(before, after)
    expect_caption(viewer, photographer)
    second = photographer.alternatives[0]
    details = viewer.get_by_role("complementary", name="Details")
    details.get_by_role("button", name=second.text).click()
    expect(compared).to_have_text(list(second.words))


def test_a_caption_that_was_cut_is_compared_as_it_is(viewer: Page) -> None:
    viewer.get_by_role("button", name="Words", exact=True).click()
    slider = viewer.get_by_role("slider", name="Most words")
    slider.press("Home")  # five
    cut = viewer.get_by_role("toolbar", name="Words of the caption").first.get_by_role("button")
    expect(cut).to_have_count(5)
    settle(viewer)
    viewer.keyboard.press("Escape")
    panel = open_tab(viewer, "Compare")
    expect(panel.get_by_role("img", name="Photo, captioned")).to_have_count(2)
    compared = panel.get_by_role("toolbar", name="Words of the caption")
    expect(compared.get_by_role("button")).to_have_text(cut.all_text_contents())
    expect(compared).to_contain_text("…")


def test_downloads_hold_what_was_shown(viewer: Page, photographer: Caption) -> None:
    def fetch(tab: str, button: str) -> tuple[str, bytes]:
        panel = open_tab(viewer, tab)
        with viewer.expect_download() as download:
            panel.get_by_role("button", name=button).click()
        return download.value.suggested_filename, download.value.path().read_bytes()

    name, data = fetch("Filmstrip", "Download PNG")
    assert name == "photographer-filmstrip.png"
    assert Image.open(io.BytesIO(data)).width > 1000
    name, data = fetch("Matrix", "Download PNG")
    assert name == "photographer-matrix.png"
    assert Image.open(io.BytesIO(data)).width > 1000
    name, data = fetch("GIF", "Download GIF")
    assert name == "photographer-attention.gif"
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == len(photographer.words)
    _, data = fetch("Raw", "Download NPZ")
    arrays = np.load(io.BytesIO(data))
    assert arrays["words"].tolist() == list(photographer.words)
    np.testing.assert_allclose(arrays["attention"], photographer.attention, atol=1e-6)
    _, data = fetch("Raw", "Download JSON")
    record: dict[str, Any] = json.loads(data)
    assert record["caption"] == photographer.text
    assert record["betas"] == pytest.approx(photographer.betas)
    np.testing.assert_allclose(record["attention"], photographer.attention, atol=1e-6)


def test_of_hard_attention_what_is_drawn_frames_the_cells(hard_photographer: Caption) -> None:
    photo = shown(Upload("photographer.jpg", PHOTOGRAPHER.read_bytes()))
    without = dataclasses.replace(hard_photographer, locations=None)
    for draw in (exports.filmstrip, exports.animation):
        assert draw("framed", photo, hard_photographer) != draw("not framed", photo, without)


def test_the_animation_stands_still_where_motion_is_unwanted(viewer: Page) -> None:
    panel = open_tab(viewer, "GIF")
    picture = panel.get_by_role("img", name="One word after another")
    motions: tuple[tuple[Literal["reduce", "no-preference"], str], ...] = (
        ("reduce", r"\.(png|jpg)$"),
        ("no-preference", r"\.gif$"),
    )
    for motion, address in motions:
        viewer.emulate_media(reduced_motion=motion)
        # What is hidden has no role.
        expect(picture).to_have_count(1)
        expect(picture).to_have_attribute("src", re.compile(address))
