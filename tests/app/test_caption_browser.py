"""The Caption page as a person meets it: the real server, a real Chromium."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from captioner.checkpoint_files import BUNDLED
from captioner.config import DecodingOptions
from captioner.images import load_image
from captioner.pipeline import Caption, Captioner
from tests.app.browsing import captioned, expect_caption, heat, opened, settle, upload, wait_for_caption, words
from tests.conftest import EXAMPLES


def as_sideways_jpeg(photo: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", exif=exif, quality=95)


def as_transparent(photo: Image.Image, path: Path) -> None:
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(path, "PNG")


KINDS: dict[str, Callable[[Image.Image, Path], object]] = {
    "photo.png": lambda photo, path: photo.save(path),
    "sideways.jpg": as_sideways_jpeg,
    "transparent.png": as_transparent,
    "grey.jpg": lambda photo, path: photo.convert("L").save(path),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_upload_gets_the_models_caption(page: Page, model: Captioner, tmp_path: Path, name: str) -> None:
    KINDS[name](load_image(EXAMPLES / "raccoon.jpg").resize((400, 300)), tmp_path / name)
    upload(page, tmp_path / name)
    expect_caption(page, model.caption(tmp_path / name))
    box = page.locator(".stage").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.02)
    shown = page.locator(f'.stage[data-photo="{name}"] img')
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [400, 300]


def test_the_caption_that_was_open_is_open_when_its_photo_comes_back(viewer: Page, photographer: Caption) -> None:
    second = photographer.alternatives[0]
    viewer.get_by_role("complementary", name="Details").get_by_role("button", name=second.text).click()
    settle(viewer)
    strip = viewer.get_by_role("img", name=f"for each word of: {second.text}")
    expect(strip).to_be_visible()
    viewer.get_by_role("radio", name="Hard attention").click()
    expect(strip).to_be_hidden()
    viewer.get_by_role("radio", name="Soft attention").click()
    # Be it this one or the first, the words and what lies below are of one caption.
    expected = re.compile("for each word of: (" + "|".join(re.escape(c.text) for c in (photographer, second)) + ")$")
    expect(viewer.get_by_role("img", name=expected)).to_be_visible()
    wait_for_caption(viewer)
    sentence = " ".join(words(viewer).all_text_contents())
    expect(viewer.get_by_role("img", name=f"for each word of: {sentence}")).to_be_visible()


def test_the_address_holds_the_settings(page: Page, browser: Browser, server: str, hard_photographer: Caption) -> None:
    page.get_by_role("button", name="Photographer").click()
    wait_for_caption(page)
    page.get_by_role("radio", name="Hard attention").click()
    page.get_by_role("button", name="Heat map").click()
    page.get_by_role("radio", name="Cividis").click()
    expect(page).to_have_url(re.compile("map=Cividis"))
    with opened(browser, page.url.replace(page.url.split("?")[0], server)) as other:
        other.get_by_role("button", name="Photographer").click()
        expect_caption(other, hard_photographer)
        words(other).nth(1).hover()
        over = heat(other)
        assert (over[..., 0] > over[..., 2] + 60).any()  # yellow, at the top of the map


def test_captions_are_found_as_the_address_says(browser: Browser, server: str, model: Captioner) -> None:
    hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
    for captioner, options, address in (
        (model, DecodingOptions(beam_size=5, max_length=6), "beam=5&length=6"),
        (hard, DecodingOptions(beam_size=1), "model=Hard+attention&sight=All+cells&beam=1"),
    ):
        expected = captioner.caption(EXAMPLES / "photographer.jpg", options)
        assert len(expected.alternatives) == options.beam_size - 1
        with opened(browser, f"{server}/?{address}") as page:
            page.get_by_role("button", name="Photographer").click()
            expect_caption(page, expected)
            details = page.get_by_role("complementary", name="Details")
            for other in expected.alternatives:
                expect(details.get_by_role("button", name=re.compile(f"^{other.text} -"))).to_be_visible()


def test_heat_maps_are_drawn_as_the_address_says(browser: Browser, server: str, photographer: Caption) -> None:
    rows, columns = photographer.attention.shape[1:]
    with opened(browser, f"{server}/?map=Grey&opacity=0.5&smooth=false&scale=Each+word") as page:
        page.get_by_role("button", name="Photographer").click()
        expect_caption(page, photographer)
        for t, weights in enumerate(photographer.attention):
            words(page).nth(t).hover()
            over = heat(page)
            red, green, blue, alpha = np.moveaxis(over, -1, 0)
            assert (abs(red - green)[alpha > 60] < 4).all()
            assert (abs(red - blue)[alpha > 60] < 4).all()
            assert alpha.max() == pytest.approx(0.5 * 255, abs=2)  # of each word, by its own peak
            height, width = (size // number for size, number in zip(alpha.shape, (rows, columns), strict=True))
            row, column = divmod(int(weights.argmax()), columns)
            cell = alpha[row * height :, column * width :][height // 4 : height // 2, width // 4 : width // 2]
            assert (cell == alpha.max()).all()  # not blended into the cells beside it


def test_captions_and_cells_are_drawn_and_drawn_again(browser: Browser, server: str, model: Captioner) -> None:
    hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
    photo = EXAMPLES / "photographer.jpg"
    for drawn, options, address in (
        (model, DecodingOptions(temperature=0.7), "words=Draw&temperature=0.7"),
        (hard, DecodingOptions(context="sample"), "model=Hard+attention&sight=Drawn+cell"),
    ):
        with opened(browser, f"{server}/?{address}") as page:
            page.get_by_role("button", name="Photographer").click()
            first, second = (drawn.caption(photo, dataclasses.replace(options, seed=seed)) for seed in range(2))
            assert first.words != second.words
            expect_caption(page, first)
            page.get_by_role("button", name="Draw again").click()
            expect_caption(page, second)


def test_a_bad_file_is_told_kindly_and_the_next_one_works(page: Page, model: Captioner, tmp_path: Path) -> None:
    name = "<b>odd<b> [name](x) $y$ :smile:.jpg"
    (tmp_path / name).write_text("not a photo")
    upload(page, tmp_path / name)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"{name}: not an image")
    upload(page, EXAMPLES / "astronaut.jpg")
    expect_caption(page, model.caption(EXAMPLES / "astronaut.jpg"))
    expect(alert).to_have_count(0)


def test_the_camera_takes_a_photo(page: Page) -> None:
    page.get_by_text("Use the camera").click()
    page.wait_for_function("() => document.querySelector('video')?.readyState === 4")
    page.get_by_role("button", name="Take Photo").click()
    expect(words(page).nth(2)).to_be_visible()


def test_what_a_photo_was_chosen_by_folds_away_and_the_camera_goes_off(viewer: Page) -> None:
    chooser = viewer.locator(".st-key-chooser details")
    expect(chooser).not_to_have_attribute("open", "")
    chooser.get_by_text("Choose another photo").click()
    viewer.get_by_text("Use the camera").click()
    expect(viewer.locator("video")).to_be_visible()
    settle(viewer)
    chooser.get_by_text("Choose another photo").click()
    expect(viewer.locator("video")).to_have_count(0)
    chooser.get_by_text("Choose another photo").click()
    expect(viewer.locator("video")).to_be_visible()
    settle(viewer)
    viewer.get_by_role("button", name="Raccoon").click()
    assert captioned(viewer, "raccoon.jpg")
    expect(chooser).not_to_have_attribute("open", "")
    expect(viewer.locator("video")).to_have_count(0)


def test_photo_and_settings_are_still_there_after_a_look_at_another_page(viewer: Page, photographer: Caption) -> None:
    viewer.get_by_role("button", name="Heat map").click()
    viewer.get_by_role("radio", name="Cividis").click()
    expect(viewer).to_have_url(re.compile("map=Cividis"))
    viewer.get_by_role("link", name="About the model").click()
    expect(viewer.get_by_role("heading", name="About the model")).to_be_visible()
    viewer.get_by_role("link", name="Caption").click()
    expect_caption(viewer, photographer)
    expect(viewer).to_have_url(re.compile("map=Cividis"))


def test_a_narrow_screen_shows_everything_within_its_width(page: Page) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.get_by_role("button", name="Astronaut").click()
    wait_for_caption(page)
    words(page).first.click()
    for part in (".caption", ".bar", ".stage", ".panel", ".choices"):
        box = page.locator(part).first.bounding_box()
        assert box is not None, part
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 400
