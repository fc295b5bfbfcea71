"""The app in a real Chromium: for tests, benchmarks and screenshots alike."""

from __future__ import annotations

import base64
import io
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize, expect, sync_playwright

from captioner.images import load_image
from captioner.pipeline import Caption

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that shows a test picture, and may be used without asking.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
# Milliseconds, for a busy machine: the usual 5,000 are not enough.
expect.set_options(timeout=60_000)
DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=400, height=860)


@contextmanager
def running(*arguments: str) -> Iterator[tuple[str, int]]:
    """Run `captioner app` on a free port: its address, and its process. No page of it may end in a traceback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "captioner", "app", "--port", str(port), *arguments]
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            if not _answers(url, process):
                raise RuntimeError(f"the app does not answer; it says:\n{Path(log.name).read_text()}")
            yield url, process.pid
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            finally:
                process.kill()
        said = Path(log.name).read_text()
        assert "Traceback" not in said, said


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run `captioner app` on a free port: its address."""
    with running(*arguments) as (url, _):
        yield url


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def megabytes(process: int, field: str) -> int:
    """Memory of a process: a field of `/proc/PID/status`."""
    line = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert line is not None
    return int(line[1]) // 1024


@contextmanager
def browsing(**launch: Any) -> Iterator[Browser]:
    """Start Chromium."""
    if CHROMIUM is None:
        raise RuntimeError("no chromium on this machine; install Debian's chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, **launch) as browser,
    ):
        yield browser


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """Open a page in a session of its own, without motion; it must talk to this machine alone, and log no errors."""
    with tabs(browser, url, 1, **context) as (page,):
        yield page


@contextmanager
def tabs(browser: Browser, url: str, count: int, **context: Any) -> Iterator[list[Page]]:
    """Open a page several times at once, each in a session of its own, under the same conditions."""
    strangers: list[str] = []
    errors: list[str] = []

    def asked(url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            strangers.append(url)

    def told(message: ConsoleMessage) -> None:
        # Opened at one of its pages, Streamlit asks there for its server first.
        if message.type == "error" and not message.location["url"].endswith(
            ("/_stcore/health", "/_stcore/host-config")
        ):
            errors.append(message.text)

    with browser.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **context}) as window:
        window.set_default_timeout(60_000)
        window.on("request", lambda request: asked(request.url))
        window.on("console", told)
        window.on("weberror", lambda error: errors.append(str(error.error)))
        window.on("page", lambda page: page.on("websocket", lambda websocket: asked(websocket.url)))
        pages = [window.new_page() for _ in range(count)]
        for page in pages:
            page.goto(url, wait_until="commit")
        for page in pages:
            wait_for_page(page)
        yield pages
    assert not strangers, strangers
    assert not errors, errors


def visit(page: Page, url: str) -> None:
    """Go to a page of the app, and wait until it is whole."""
    page.goto(url)
    wait_for_page(page)


def wait_for_page(page: Page) -> None:
    """Wait until a page of the app is whole."""
    expect(page.get_by_role("heading", level=1).first).to_be_visible(timeout=300_000)
    page.wait_for_load_state("networkidle")  # the style sheet comes after the text
    settle(page)


def settle(page: Page) -> None:
    """Wait until server and page have nothing to do: on a busy machine a click can come before the page is whole."""
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_visible()
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)  # in place of parts whose code is still being fetched
    wait_for_pictures(page)


def wait_for_pictures(page: Page) -> None:
    """Wait until none of the page's pictures is still on its way."""
    page.wait_for_function("[...document.images].every(image => image.complete)")


def words(page: Page) -> Locator:
    """Find the caption's words."""
    return page.get_by_role("toolbar", name="Words of the caption").first.get_by_role("button")


def wait_for_caption(page: Page) -> None:
    """Wait for the first caption of a page."""
    expect(words(page).first).to_be_visible()
    settle(page)


def expect_caption(page: Page, caption: Caption) -> None:
    """Wait for its words: after a click the page shows the old ones, or none, until the server has answered."""
    expect(words(page)).to_have_text(list(caption.words))
    settle(page)


def open_tab(page: Page, name: str) -> Locator:
    """Open one of the tabs below the photo: what it shows."""
    page.get_by_role("tab", name=name).click()
    settle(page)
    return page.get_by_role("tabpanel", name=name)


def heat(page: Page, number: int = 0) -> np.ndarray:
    """(height, width, 4), what lies over the photo, or over a later one of the page."""
    url = page.locator(".stage canvas").nth(number).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))), int)


def upload(page: Page, file: Path) -> None:
    """Bring a photo to the Caption page."""
    settle(page)
    page.locator("input[type=file]").first.set_input_files(file)


def captioned(page: Page, name: str) -> str:
    """Wait for the caption of the photo with this name; nothing if the page says that something is wrong instead."""
    alert = page.get_by_role("alert")
    expect(page.locator(f'.stage[data-photo="{name}"] img').or_(alert).first).to_be_visible(timeout=300_000)
    return "" if alert.is_visible() else " ".join(words(page).all_text_contents())


def caption_all(pages: Sequence[Page], files: Sequence[Path]) -> list[str]:
    """Bring a photo to each of several pages at the same time; their captions."""
    for page, file in zip(pages, files, strict=True):
        upload(page, file)
    return [captioned(page, file.name) for page, file in zip(pages, files, strict=True)]


def made_up_photos(folder: Path, numbers: range, side: int = 400) -> list[Path]:
    """Write different photos: parts of the examples, and from the 21st on in other colours, too."""
    examples = [load_image(path) for path in sorted((ROOT / "examples").glob("*.jpg"))]
    return [_made_up_photo(examples, folder / f"photo-{number}.jpg", number, side) for number in numbers]


def _made_up_photo(examples: list[Image.Image], path: Path, number: int, side: int) -> Path:
    turn, part = divmod(number, 4 * len(examples))
    image = examples[part % len(examples)]
    left, top, right, bottom = [(0, 0, 1, 1), (0, 0, 0.7, 0.7), (0.3, 0.3, 1, 1), (0.2, 0, 0.8, 0.5)][
        part // len(examples)
    ]
    image = image.crop(
        (round(left * image.width), round(top * image.height), round(right * image.width), round(bottom * image.height))
    )
    red, *others = image.convert("RGB").split()  # a hue, of a grey photo, would be none
    image = Image.merge("RGB", [red.point(lambda value: (value + 20 * turn) % 256), *others])
    image.thumbnail((side, side))
    image.save(path, "JPEG")
    return path
