"""The app in a real Chromium: for tests, benchmarks and screenshots alike."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

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
            process.wait(timeout=20)
        said = Path(log.name).read_text()
        assert "Traceback" not in said, said


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run `captioner app` on a free port: its address."""
    with running(*arguments) as (url, _):
        yield url


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


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
    """Open a page in a session of its own, still unless asked to move; it talks to this machine alone, and logs no errors."""
    strangers: list[str] = []
    errors: list[str] = []

    def asked(url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            strangers.append(url)

    with browser.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **context}) as session:
        session.on("request", lambda request: asked(request.url))
        session.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        session.on("weberror", lambda error: errors.append(str(error.error)))
        page = session.new_page()
        page.on("websocket", lambda websocket: asked(websocket.url))
        visit(page, url)
        yield page
    assert not strangers, strangers
    assert not errors, errors


def visit(page: Page, url: str) -> None:
    """Go to a page of the app, and wait until it is whole."""
    page.goto(url)
    expect(page.get_by_role("heading", level=1).first).to_be_visible(timeout=60_000)
    settle(page)


def settle(page: Page) -> None:
    """Wait until the server has nothing to do: on a busy machine a click can come before the page is whole."""
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_visible(timeout=60_000)
