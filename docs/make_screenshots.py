"""Take the documents' pictures of the web app: `python docs/make_screenshots.py [NAME ...]`."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect

sys.path.insert(0, str(Path(__file__).parent.parent))  # where the tests' browser is

from tests.app.browsing import DESK, PHONE, ROOT, browsing, captioned, opened, serving, settle, words

WORD = "camera"  # of the photographer's caption


def main() -> None:
    """Write `docs/app-NAME.png` for each name given, or for all."""
    with serving() as url, browsing() as browser:
        for name in sys.argv[1:] or SHOTS:
            address, size, theme, steps = SHOTS[name]
            with opened(browser, url + address, viewport=size, color_scheme=theme) as page:
                steps(page)
                page.wait_for_function("[...document.images].every(image => image.complete)")
                path = ROOT / "docs" / f"app-{name}.png"
                save(page.screenshot(animations="disabled"), path)
                print(f"{name}: {path.stat().st_size // 1000} kB")


def save(png: bytes, path: Path) -> None:
    """Write a picture in 192 colours, which keeps it small."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(192).save(path, optimize=True)


def caption(page: Page) -> None:
    """Show where the model looked for one word."""
    page.get_by_role("button", name="Photographer").click()
    captioned(page, "photographer.jpg")
    settle(page)
    words(page).filter(has_text=WORD).hover()
    expect(page.get_by_role("img", name=f"looked for “{WORD}”")).to_be_visible()


def compare(page: Page) -> None:
    """Show soft and hard attention side by side."""
    caption(page)
    page.get_by_role("tab", name="Compare").click()
    panel = page.get_by_role("tabpanel", name="Compare")
    bar = panel.get_by_role("toolbar", name="Words of the caption")
    expect(bar).to_be_visible(timeout=120_000)
    settle(page)
    bar.get_by_role("button").filter(has_text=WORD).click()
    page.mouse.move(5, 5)
    bar.evaluate("bar => { bar.style.scrollMarginTop = `80px`; bar.scrollIntoView(); }")


def many(page: Page) -> None:
    """Show captions of several photos."""
    photos = sorted((ROOT / "examples").glob("*.jpg"))
    page.locator("input[type=file]").first.set_input_files(photos)
    expect(page.get_by_text(f"{len(photos)} photos captioned")).to_be_visible(timeout=120_000)
    settle(page)


# By name: page, size, theme, and what is done there.
SHOTS: dict[str, tuple[str, ViewportSize, str, Callable[[Page], None]]] = {
    "caption": ("", DESK, "light", caption),
    "caption-dark": ("", DESK, "dark", caption),
    "phone": ("", PHONE, "light", caption),
    "compare": ("", DESK, "light", compare),
    "many": ("/many-images", DESK, "light", many),
}


if __name__ == "__main__":
    main()
