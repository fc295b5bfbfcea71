"""The page as a person meets it: the real server, a real Chromium."""

from __future__ import annotations

import base64
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from captioner.images import load_image
from tests.conftest import EXAMPLES

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; install Debian's chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app/streamlit_app.py", "--server.port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(server: str, browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    strangers: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: strangers.append(request.url) if not _is_local(request.url) else None)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(server)
    expect(page.get_by_role("heading", name="Show, Attend and Tell")).to_be_visible(timeout=60_000)
    # On a busy machine a click can come before the page is whole, and is lost.
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_visible(timeout=60_000)
    yield page
    page.close()
    assert strangers == []
    assert errors == []


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))


def overlays(page: Page) -> list[Image.Image]:
    pictures = page.locator(".sat-words img")
    expect(pictures.first).to_be_visible(timeout=60_000)
    sources = [str(picture.get_attribute("src")) for picture in pictures.all()]
    return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


def test_an_upload_gets_a_caption_and_overlays(page: Page, tmp_path: Path) -> None:
    """A photo stored sideways, as telephones do: shown, captioned and overlaid upright."""
    upright = load_image(EXAMPLES / "raccoon.jpg").resize((400, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=exif)
    page.locator("input[type=file]").set_input_files(tmp_path / "sideways.png")
    pictures = overlays(page)
    caption = page.locator(".sat-caption").inner_text()
    words = [text.split("\n")[0] for text in page.locator(".sat-words figcaption").all_inner_texts()]
    assert caption.lower().rstrip(".").split() == words
    assert all(picture.size == upright.size for picture in pictures)
    # Every overlay is the upright photo plus heat, and the heat differs between words.
    photo = np.asarray(upright, float)
    for picture in pictures:
        assert np.corrcoef(photo.ravel(), np.asarray(picture, float).ravel())[0, 1] > 0.5
    heats = [np.asarray(picture, float) - photo for picture in pictures]
    assert max(np.abs(heats[0] - heat).mean() for heat in heats[1:]) > 1
    box = page.locator(".sat-words img").first.bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(4 / 3, rel=0.02)


def test_a_sample_is_one_click(page: Page) -> None:
    page.get_by_role("button", name="Photographer").click()
    assert len(overlays(page)) >= 3
    expect(page.locator(".sat-caption")).to_contain_text("man", ignore_case=True)
    expect(page.get_by_alt_text("Where the model looked for").first).to_be_visible()


def test_hard_attention_frames_the_cell_it_saw(page: Page) -> None:
    page.get_by_role("button", name="Photographer").click()
    overlays(page)
    page.get_by_role("radio", name="Hard").click()
    expect(page.get_by_text("The frame is the one cell the model saw")).to_be_visible(timeout=60_000)
    for picture in overlays(page):
        # Nothing else in this grey photo, dimmed or lit with a warm glow, is pure white.
        white = (np.asarray(picture.convert("RGB"), int).min(-1) > 240).sum()
        assert 50 < white < 2000
    page.get_by_text("All cells").click()
    expect(page.get_by_text("The frame is the one cell the model saw")).to_be_hidden(timeout=60_000)


def test_a_bad_file_is_told_kindly_and_the_next_one_works(page: Page, tmp_path: Path) -> None:
    name = "<b>odd<b> [name](x) $y$ :smile:.jpg"
    (tmp_path / name).write_text("not a photo")
    page.locator("input[type=file]").set_input_files(tmp_path / name)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"{name}: not an image", timeout=60_000)
    page.locator("input[type=file]").set_input_files(EXAMPLES / "astronaut.jpg")
    assert overlays(page)
    expect(alert).to_have_count(0)


def test_a_narrow_screen_shows_everything_within_its_width(page: Page) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.get_by_role("button", name="Astronaut").click()
    overlays(page)
    for locator in (page.locator(".sat-caption"), page.locator(".sat-words img").last):
        box = locator.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400


def test_all_overlays_download_as_one_picture(page: Page) -> None:
    page.get_by_role("button", name="Photographer").click()
    overlays(page)
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="Download as one picture").click()
    picture = Image.open(download.value.path())
    assert download.value.suggested_filename == "attention.png"
    assert picture.width > 1000
