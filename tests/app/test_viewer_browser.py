"""The photo and its words, as a person points, types and clicks: the real server, a real Chromium."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from captioner.config import DecodingOptions
from captioner.metrics.attention import entropies
from captioner.pipeline import Caption, Captioner
from tests.app.browsing import expect_caption, heat, open_tab, opened, settle, wait_for_caption, words
from tests.app.conftest import PHOTOGRAPHER

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
# The filmstrip, and Streamlit's look at whether its download is there.
FILMSTRIP_CAME = """() =>
    performance.getEntriesByType("resource").filter(({name}) => /media.*png$/.test(name)).length >= 2
"""
# What a button says after a click stands for a moment only, which a busy test could miss.
STAND_STILL = """() => {
    const later = window.setTimeout;
    window.setTimeout = (then, after, ...more) => later(then, after === 1500 ? 1e6 : after, ...more);
}"""


def percent(probability: float) -> str:
    """How the viewer writes it, halves upwards."""
    return "< 1 %" if 0 < probability < 0.01 else f"{math.floor(100 * probability + 0.5)} %"


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


def test_pointing_at_a_word_lights_its_place_without_the_server(viewer: Page, photographer: Caption) -> None:
    viewer.wait_for_function(FILMSTRIP_CAME)
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
        expect(details).to_contain_text(re.compile(rf"Probability\s*{percent(photographer.word_probs[t])}"))
        expect(details).to_contain_text(re.compile(rf"Used the photo\s*{percent(photographer.betas[t])}"))
        choice, probability = photographer.choices[t][0]
        label = "(end here)" if choice == "." else choice
        expect(details.locator(".choices button").first).to_have_text(
            re.compile(rf"^{re.escape(label)}\s*{percent(probability)}$")
        )
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


def test_clitics_stand_close_to_the_word_before_them(viewer: Page) -> None:
    gap = """({ viewer }, words) => {
        Object.assign(viewer.current().words, words);
        viewer.buildWords();
        const [left, right] = viewer.words.map((word) => word.firstChild.getBoundingClientRect());
        return right.left - left.right;
    }"""
    host = viewer.locator(".viewer")
    assert host.evaluate(gap, ["man", "dog"]) > 5
    for clitic in ("'s", "n't"):
        assert abs(host.evaluate(gap, ["man", clitic])) < 1


def test_everything_it_looked_at(viewer: Page, photographer: Caption) -> None:
    viewer.get_by_role("button", name="Everything it looked at").click()
    expect(viewer.get_by_role("img", name="with everything it looked at")).to_be_visible()
    rows, columns = photographer.attention.shape[1:]
    total = photographer.attention.sum(0)
    assert brightest_cell(heat(viewer), (rows, columns)) == divmod(int(total.argmax()), columns)
    # As a word that was clicked, it stays when the pointer has come and gone.
    button = viewer.get_by_role("button", name="Everything it looked at")
    words(viewer).nth(1).hover()
    expect(viewer.get_by_role("img", name=f"looked for “{photographer.words[1]}”")).to_be_visible()
    viewer.locator(".stage").hover()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(viewer.get_by_role("img", name="with everything it looked at")).to_be_visible()
    expect(viewer.get_by_role("complementary", name="Details")).to_contain_text("All words together")
    words(viewer).nth(1).click()
    expect(button).to_have_attribute("aria-pressed", "false")


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


def test_another_word_is_written_on_from(
    viewer: Page, model: Captioner, photographer: Caption, hard_photographer: Caption
) -> None:
    words(viewer).nth(1).click()
    details = viewer.get_by_role("complementary", name="Details")
    word, probability = next(
        choice for choice in photographer.choices[1] if choice[0] not in (photographer.words[1], ".")
    )
    details.get_by_role("button", name=re.compile(f"^{word} ")).click()
    prefix = (photographer.words[0], word)
    expected = model.caption(PHOTOGRAPHER, DecodingOptions(prefix=prefix))
    expect_caption(viewer, expected)
    expect(words(viewer).nth(1)).to_be_focused()
    assert expected.words[1] == word
    assert expected.word_probs[1] == pytest.approx(probability, rel=1e-3)
    # Each model keeps the words that were chosen for it.
    viewer.get_by_role("radio", name="Hard attention").click()
    expect_caption(viewer, hard_photographer)
    words(viewer).nth(1).click()
    other = details.locator(".choices button:not(:disabled)").filter(has_not_text="end here").first
    chosen = other.locator("span").first.inner_text()
    other.click()
    expect(words(viewer).nth(1)).to_have_text(chosen)
    settle(viewer)
    viewer.get_by_role("radio", name="Soft attention").click()
    expect_caption(viewer, expected)
    viewer.get_by_role("button", name="Back to its own words").press("Enter")
    expect_caption(viewer, photographer)
    expect(words(viewer).first).to_be_focused()


def test_a_setting_that_writes_other_words_keeps_the_focus(viewer: Page, photographer: Caption) -> None:
    words(viewer).nth(1).click()
    details = viewer.get_by_role("complementary", name="Details")
    word = next(choice for choice, _ in photographer.choices[1] if choice not in (photographer.words[1], "."))
    details.get_by_role("button", name=re.compile(f"^{word} ")).click()
    expect(words(viewer).nth(1)).to_have_text(word)
    viewer.get_by_role("button", name="Words", exact=True).click()
    slider = viewer.get_by_role("slider", name="Most words")
    slider.press("ArrowLeft")
    settle(viewer)
    expect(words(viewer).nth(1)).to_have_text(word)
    expect(slider).to_be_focused()


def test_hard_attention_frames_the_cell_it_saw(viewer: Page, hard_photographer: Caption) -> None:
    caption = hard_photographer
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
