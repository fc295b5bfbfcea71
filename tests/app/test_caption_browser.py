"""The Caption page as a person meets it: the real server, a real Chromium."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from captioner.checkpoint_files import BUNDLED
from captioner.config import DecodingOptions
from captioner.images import load_image
from captioner.metrics.attention import entropies
from captioner.pipeline import Caption, Captioner
from tests.app.browsing import opened, settle, upload, words
from tests.conftest import EXAMPLES

PHOTOGRAPHER = EXAMPLES / "photographer.jpg"
NOTE_LABELS = """() => {
    window.labels = [];
    Object.defineProperty(HTMLCanvasElement.prototype, "ariaLabel", {
        set(label) {
            window.labels.push([label, performance.now()]);
            this.setAttribute("aria-label", label);
        },
    });
}"""
PLAYED = """() =>
    window.labels.some(([label]) => label.includes("looked for")) && window.labels.at(-1)[0].endsWith("as it is")
"""
# What a button says after a click stands for a moment only, which a busy test could miss.
STAND_STILL = """() => {
    const later = window.setTimeout;
    window.setTimeout = (then, after, ...more) => later(then, after === 1500 ? 1e6 : after, ...more);
}"""


@pytest.fixture(scope="module")
def model() -> Captioner:
    """The bundled model, in the precision that the server chooses, too."""
    return Captioner.load(device="cpu")


@pytest.fixture(scope="module")
def photographer(model: Captioner) -> Caption:
    return model.caption(PHOTOGRAPHER, DecodingOptions(top_words=6))


@pytest.fixture
def viewer(page: Page) -> Page:
    """The page with the photographer and his caption."""
    page.get_by_role("button", name="Photographer").click()
    wait_for_caption(page)
    return page


def wait_for_caption(page: Page) -> None:
    expect(words(page).first).to_be_visible()
    settle(page)


def expect_caption(page: Page, caption: Caption) -> None:
    """Wait for its words: after a click the page shows the old ones, or none, until the server has answered."""
    expect(words(page)).to_have_text(list(caption.words))
    settle(page)


def open_tab(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name).click()
    settle(page)
    return page.get_by_role("tabpanel", name=name)


def heat(page: Page, number: int = 0) -> np.ndarray:
    """(height, width, 4), what lies over the photo."""
    url = page.locator(".stage canvas").nth(number).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))), int)


def brightest_cell(over: np.ndarray, grid: tuple[int, int]) -> tuple[int, int]:
    """The cell whose middle the spotlight leaves brightest."""
    rows, columns = grid
    height, width, _ = over.shape
    dark = [
        [over[int((r + 0.5) * height / rows), int((c + 0.5) * width / columns), 3] for c in range(columns)]
        for r in range(rows)
    ]
    return divmod(int(np.argmin(dark)), columns)


def place(page: Page, cell: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    box = page.locator(".stage").first.bounding_box()
    assert box is not None
    return box["x"] + (cell[1] + 0.5) * box["width"] / grid[1], box["y"] + (cell[0] + 0.5) * box["height"] / grid[0]


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


def test_pointing_at_a_word_lights_its_place_without_the_server(viewer: Page, photographer: Caption) -> None:
    expect(viewer.get_by_role("img", name="for each word of")).to_have_js_property("complete", True)
    asked: list[str] = []
    viewer.on("request", lambda request: asked.append(request.url))
    viewer.on("websocket", lambda socket: asked.append(socket.url))
    sent = viewer.evaluate(
        "() => { window.sent = 0; const send = WebSocket.prototype.send;"
        "WebSocket.prototype.send = function (...a) { window.sent += 1; return send.apply(this, a); }; return 0; }"
    )
    assert heat(viewer)[..., 3].max() == 0
    grid = photographer.attention.shape[1], photographer.attention.shape[2]
    found = []
    for t, word in enumerate(photographer.words):
        words(viewer).nth(t).hover()
        expect(viewer.get_by_role("img", name=f"where the model looked for “{word}”")).to_be_visible()
        over = heat(viewer)
        assert over[..., 3].max() == pytest.approx(0.75 * 255, abs=2)
        found.append(brightest_cell(over, grid))
        details = viewer.get_by_role("complementary", name="Details")
        expect(details).to_contain_text(f"word {t + 1} of {len(photographer.words)}")
        expect(details).to_contain_text(f"{entropies(photographer.attention)[t]:.1f} bits")
    # On one scale for all words several cells may be lit fully, so a place is right if it is as good as the peak.
    shared = np.median(photographer.attention.max((1, 2)))
    for cell, weights in zip(found, photographer.attention, strict=True):
        assert weights[cell] >= min(weights.max(), shared) * 0.97
    assert len(set(found)) > 2
    assert [url for url in asked if "/static/" not in url] == []  # fonts of the page's own may be late
    assert viewer.evaluate("() => window.sent") == sent


def test_pointing_at_the_photo_tints_the_words_that_looked_there(viewer: Page, photographer: Caption) -> None:
    attention = photographer.attention
    rows, columns = attention.shape[1:]
    cell = divmod(int(attention[1].argmax()), columns)
    viewer.mouse.move(*place(viewer, cell, (rows, columns)))
    looks = viewer.get_by_text("Of each look, this place had")
    expect(looks).to_be_visible()
    tints = [float(node.evaluate("node => node.style.getPropertyValue('--tint')")) for node in words(viewer).all()]
    expected = (attention[:, *cell] / np.median(attention.max((1, 2)))).clip(0, 1)
    assert tints == pytest.approx(expected.tolist(), abs=0.02)
    best = photographer.words[int(attention[:, *cell].argmax())]
    expect(looks).to_contain_text(f"“{best}” {attention[:, *cell].max():.0%}".replace("%", " %"))
    viewer.mouse.move(5, 5)
    expect(looks).to_have_count(0)
    assert all(
        node.evaluate("node => node.style.getPropertyValue('--tint')") == "0.000" for node in words(viewer).all()
    )


def test_the_keyboard_does_all_that_a_mouse_does(viewer: Page, photographer: Caption) -> None:
    words(viewer).first.focus()
    for _ in range(2):
        viewer.keyboard.press("ArrowRight")
    expect(words(viewer).nth(2)).to_be_focused()
    expect(viewer.get_by_role("img", name=f"looked for “{photographer.words[2]}”")).to_be_visible()
    viewer.keyboard.press("Enter")
    expect(words(viewer).nth(2)).to_have_attribute("aria-pressed", "true")
    viewer.keyboard.press("End")
    expect(words(viewer).last).to_be_focused()
    expect(viewer.get_by_role("img", name=f"looked for “{photographer.words[-1]}”")).to_be_visible()
    viewer.keyboard.press("Tab")
    # What was pinned is there again when the focus has gone.
    expect(viewer.get_by_role("img", name=f"looked for “{photographer.words[2]}”")).to_be_visible()
    viewer.keyboard.press("Shift+Tab")
    viewer.keyboard.press("Escape")
    expect(words(viewer).nth(2)).to_have_attribute("aria-pressed", "false")
    viewer.locator(".stage").focus()
    viewer.keyboard.press("ArrowUp")
    expect(viewer.get_by_text("Of each look, this place had")).to_be_visible()


def test_a_pinned_word_stays_while_others_are_looked_at(viewer: Page, photographer: Caption) -> None:
    words(viewer).nth(1).click()
    words(viewer).nth(3).hover()
    expect(viewer.get_by_role("img", name=f"looked for “{photographer.words[3]}”")).to_be_visible()
    viewer.mouse.move(5, 5)
    expect(viewer.get_by_role("img", name=f"looked for “{photographer.words[1]}”")).to_be_visible()
    words(viewer).nth(1).click()
    viewer.mouse.move(5, 5)
    expect(viewer.get_by_role("img", name="as it is")).to_be_visible()


def test_words_that_come_twice_are_told_apart(viewer: Page, photographer: Caption) -> None:
    twice = next(word for word in photographer.words if photographer.words.count(word) > 1)
    places = [t for t, word in enumerate(photographer.words) if word == twice][:2]
    labels = [str(words(viewer).nth(t).get_attribute("aria-label")) for t in places]
    assert [label.split(",")[1] for label in labels] == [f" 1st “{twice}”", f" 2nd “{twice}”"]
    drawn = []
    for t in places:
        words(viewer).nth(t).hover()
        drawn.append(heat(viewer))
    assert not np.array_equal(drawn[0], drawn[1])


def test_play_walks_the_words_and_is_off_where_motion_is_unwanted(
    viewer: Page, browser: Browser, server: str, photographer: Caption
) -> None:
    expect(viewer.get_by_role("button", name="Play")).to_be_disabled()
    with opened(browser, server, reduced_motion="no-preference") as lively:
        # Noted in the page, for a busy test could come too late to see a word.
        lively.evaluate(NOTE_LABELS)
        lively.get_by_role("button", name="Photographer").click()
        whole = [f"looked for “{word}”" for word in photographer.words]
        lively.wait_for_function(PLAYED)  # once by itself
        assert shown_in_turn(lively) == [*whole, "as it is"]
        times = [at for label, at in lively.evaluate("window.labels") if "looked for" in label]
        assert np.diff(np.unique(times)).max() > 500
        lively.get_by_role("button", name="Play").hover()
        lively.evaluate("() => (window.labels = [])")
        lively.get_by_role("button", name="Play").click()
        # A pointer that crosses the caption and touches no word is no wish.
        lively.locator(".caption").dispatch_event("pointerleave")
        expect(lively.get_by_role("button", name="Play")).to_be_visible()
        assert shown_in_turn(lively) == [*whole, "as it is"]
        lively.get_by_role("button", name="Play").click()
        lively.get_by_role("button", name="Stop").click()
        stopped = shown_in_turn(lively)
        lively.wait_for_timeout(1300)
        assert shown_in_turn(lively) == stopped


def shown_in_turn(page: Page) -> list[str]:
    """What the canvas was said to show, without repetitions."""
    labels = [re.sub(".*(with where the model|, )", "", label).strip() for label, _ in page.evaluate("window.labels")]
    return [label for before, label in itertools.pairwise(["", *labels]) if label != before and label]


def test_everything_it_looked_at(viewer: Page, photographer: Caption) -> None:
    viewer.get_by_role("button", name="Everything it looked at").click()
    expect(viewer.get_by_role("img", name="with everything it looked at")).to_be_visible()
    rows, columns = photographer.attention.shape[1:]
    total = photographer.attention.sum(0)
    assert brightest_cell(heat(viewer), (rows, columns)) == divmod(int(total.argmax()), columns)


def test_another_caption_of_the_beam_takes_the_place_of_the_first(viewer: Page, photographer: Caption) -> None:
    second = photographer.alternatives[0]
    picked = viewer.get_by_role("complementary", name="Details").get_by_role("button", name=second.text)
    picked.click()
    expect_caption(viewer, second)
    expect(picked).to_have_attribute("aria-pressed", "true")
    panel = open_tab(viewer, "Raw")
    expect(panel.get_by_test_id("stJson")).to_contain_text(second.text)  # the server has heard of it, too
    with viewer.expect_download() as download:
        panel.get_by_role("button", name="Download JSON").click()
    assert json.loads(download.value.path().read_text())["caption"] == second.text


def test_another_word_is_written_on_from(viewer: Page, model: Captioner, photographer: Caption) -> None:
    words(viewer).nth(1).click()
    details = viewer.get_by_role("complementary", name="Details")
    word, probability = next(
        choice for choice in photographer.choices[1] if choice[0] not in (photographer.words[1], ".")
    )
    details.get_by_role("button", name=re.compile(f"^{word} ")).click()
    prefix = (photographer.words[0], word)
    expected = model.caption(PHOTOGRAPHER, DecodingOptions(prefix=prefix))
    expect_caption(viewer, expected)
    assert expected.words[1] == word
    assert expected.word_probs[1] == pytest.approx(probability, rel=1e-3)
    viewer.get_by_role("button", name="Back to its own words").click()
    expect_caption(viewer, photographer)


def test_soft_and_hard_attention_are_compared_on_the_same_words(viewer: Page, photographer: Caption) -> None:
    panel = open_tab(viewer, "Compare")
    compared = panel.get_by_role("toolbar", name="Words of the caption")
    expect(compared).to_be_visible()
    expect(compared.get_by_role("button")).to_have_text(list(photographer.words))
    hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
    own = hard.caption(PHOTOGRAPHER, DecodingOptions(context="argmax")).text
    expect(panel.get_by_text(f"Hard attention by itself says: {own}")).to_be_visible()
    draw_other_cells(panel)
    expect(panel.get_by_text(f"Hard attention by itself says: {own}")).to_be_visible()
    compared.get_by_role("button").nth(1).click()
    expect(panel.get_by_role("img", name=f"looked for “{photographer.words[1]}”")).to_have_count(2)
    white = [(heat(viewer, number)[..., :3].min(-1) == 255).sum() for number in (1, 2)]
    # Only the cell that hard attention drew is framed.
    assert white[0] == 0
    assert white[1] > 50


def draw_other_cells(panel: Locator) -> None:
    """Draw, and wait until the words are built anew: until the server has answered, all is as it was."""
    word = panel.get_by_role("toolbar", name="Words of the caption").get_by_role("button").first.element_handle()
    panel.get_by_role("button", name="Draw other cells").click()
    panel.page.wait_for_function("word => !word.isConnected", arg=word)
    settle(panel.page)


def test_other_cells_are_drawn_on_demand_and_another_caption_is_compared_next(
    viewer: Page, photographer: Caption
) -> None:
    panel = open_tab(viewer, "Compare")
    compared = panel.get_by_role("toolbar", name="Words of the caption").get_by_role("button")

    def frames() -> list[np.ndarray]:
        found = []
        for t in range(len(photographer.words)):
            compared.nth(t).hover()
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


def test_hard_attention_frames_the_cell_it_saw(viewer: Page) -> None:
    hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
    caption = hard.caption(PHOTOGRAPHER, DecodingOptions(context="argmax"))
    assert caption.locations is not None
    viewer.get_by_role("radio", name="Hard attention").click()
    expect(words(viewer)).to_have_text(list(caption.words))
    for t in (1, len(caption.words) - 1):
        words(viewer).nth(t).hover()
        expect(viewer.get_by_role("img", name=f"looked for “{caption.words[t]}”")).to_be_visible()
        over = heat(viewer)
        y, x = np.nonzero(over[..., :3].min(-1) == 255)
        middle = float(y.mean()) / over.shape[0], float(x.mean()) / over.shape[1]
        rows, columns = caption.attention.shape[1:]
        expected = (caption.locations[t][0] + 0.5) / rows, (caption.locations[t][1] + 0.5) / columns
        assert middle == pytest.approx(expected, abs=0.02)


def test_the_address_holds_the_settings(page: Page, browser: Browser, server: str) -> None:
    page.get_by_role("button", name="Photographer").click()
    wait_for_caption(page)
    page.get_by_role("radio", name="Hard attention").click()
    page.get_by_role("button", name="Heat map").click()
    page.get_by_role("radio", name="Cividis").click()
    expect(page).to_have_url(re.compile("map=Cividis"))
    with opened(browser, page.url.replace(page.url.split("?")[0], server)) as other:
        other.get_by_role("button", name="Photographer").click()
        hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
        expect_caption(other, hard.caption(PHOTOGRAPHER, DecodingOptions(context="argmax")))
        words(other).nth(1).hover()
        over = heat(other)
        assert (over[..., 0] > over[..., 2] + 60).any()  # yellow, at the top of the map


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


def test_photo_and_settings_are_still_there_after_a_look_at_another_page(viewer: Page, photographer: Caption) -> None:
    viewer.get_by_role("button", name="Heat map").click()
    viewer.get_by_role("radio", name="Cividis").click()
    expect(viewer).to_have_url(re.compile("map=Cividis"))
    viewer.get_by_role("link", name="About the model").click()
    expect(viewer.get_by_role("heading", name="About the model")).to_be_visible()
    viewer.get_by_role("link", name="Caption").click()
    expect_caption(viewer, photographer)
    expect(viewer).to_have_url(re.compile("map=Cividis"))


def test_the_caption_is_copied(browser: Browser, server: str, photographer: Caption) -> None:
    with opened(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_role("button", name="Photographer").click()
        wait_for_caption(page)
        page.evaluate(STAND_STILL)
        page.get_by_role("button", name="Copy caption").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("() => navigator.clipboard.readText()") == f"{photographer.text}."


def test_where_the_clipboard_is_kept_from_the_page_the_caption_is_selected(viewer: Page, photographer: Caption) -> None:
    viewer.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    viewer.evaluate(STAND_STILL)
    viewer.get_by_role("button", name="Copy caption").click()
    expect(viewer.get_by_role("button", name="Selected: press Ctrl+C")).to_be_visible()
    field = viewer.get_by_role("textbox", name="Caption", exact=True)
    expect(field).to_be_focused()
    assert field.evaluate("f => f.value.slice(f.selectionStart, f.selectionEnd)") == f"{photographer.text}."
    words(viewer).first.focus()
    expect(field).to_be_hidden()


def test_keys_of_the_browser_stay_the_browsers(viewer: Page) -> None:
    words(viewer).nth(2).focus()
    for keys in ("Control+Home", "Alt+End", "Meta+ArrowLeft"):
        viewer.keyboard.press(keys)
        expect(words(viewer).nth(2)).to_be_focused()


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
