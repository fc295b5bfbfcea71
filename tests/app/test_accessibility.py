"""Every page in both themes, on a desk and on a phone, by axe's rules."""

from __future__ import annotations

import re
import tomllib

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from tests.app.browsing import DESK, PHONE, ROOT, captioned, opened, settle, upload
from tests.conftest import EXAMPLES

THEMES = tomllib.loads((ROOT / "app/.streamlit/config.toml").read_text())["theme"]
PAGES = {"Caption": "", "Many images": "/many-images", "Training runs": "/training-runs", "About": "/about"}


def violations(page: Page) -> list[str]:
    """What is serious or critical: rule, element, and what is wrong with it."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("async () => (await axe.run({resultTypes: ['violations']})).violations")
    return [
        f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


# Not waited for: of an element that is taken away meanwhile none ends.
END_TRANSITIONS = """() =>
    document.getAnimations().filter((each) => each instanceof CSSTransition).forEach((each) => each.finish())
"""


def check(page: Page) -> None:
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        red, green, blue = bytes.fromhex(THEMES[theme]["backgroundColor"].removeprefix("#"))
        expect(page.get_by_test_id("stApp")).to_have_css("background-color", f"rgb({red}, {green}, {blue})")
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            settle(page)
            for _ in range(5):  # on a busy machine they may set out only now
                # Colours that are still on their way from one theme to the other have a contrast of neither.
                page.evaluate(END_TRANSITIONS)
                if not (found := violations(page)):
                    break
            assert found == [], (theme, size)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible(browser: Browser, server: str, name: str) -> None:
    with opened(browser, server + PAGES[name]) as page:
        expect(page).to_have_title(re.compile(f"^{name}.* · Show, Attend and Tell$"))
        check(page)


def test_a_caption_is_accessible(page: Page) -> None:
    upload(page, EXAMPLES / "cat.jpg")
    assert captioned(page, "cat.jpg")
    check(page)
