"""Strangers at the web app: what they name, what they ask for, and how many they are."""

from __future__ import annotations

import base64
import http.client
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from playwright.sync_api import Browser, Dialog, Page, Request, Route, expect

from captioner.checkpoint import save_checkpoint
from captioner.config import DecoderConfig, EncoderConfig, ModelConfig
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Captioner
from captioner.vocabulary import Vocabulary
from tests.app.browsing import (
    PHONE,
    caption_all,
    captioned,
    made_up_photos,
    megabytes,
    opened,
    running,
    serving,
    settle,
    tabs,
    upload,
    visit,
    words,
)
from tests.conftest import EXAMPLES

PHOTO = (EXAMPLES / "cat.jpg").read_bytes()
WORD_JOINER = "\u2060"  # what keeps an address from becoming a link
# Whatever of these is taken for more than text shows itself in the page.
SPELLS = (
    "<img/src='x'/onerror=document.title='spell'>",
    "<script>document.title='spell'</script>",
    "[link](javascript:document.title='spell')",
    "<svg/onload=document.title='spell'>",
    "![picture](x)",
    "**bold**",
    "$x^2$",
    "www.example.com",
    "https://example.com",
    "someone@example.com",
    ":material/home:",
    ":red[red]",
    "&lt;i&gt;",
    "\u202eegami",
)
NAMES = (
    *(f"{spell}.jpg" for spell in SPELLS),
    "../../../../etc/passwd.jpg",
    "/etc/passwd.jpg",
    "C:\\Windows\\win.jpg",
    "%2e%2e%2f.jpg",
    "-rf.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "a;b`c`$(d).jpg",
    "名前 😀.jpg",
    "x" * 250 + ".jpg",
    ".jpg",
)


@pytest.fixture(scope="module")
def spellbound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of somebody else's that knows no honest word."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(SPELLS)
    encoder = EncoderConfig("squeezenet1_1", weights="none", input_size=64)
    model = ShowAttendTell(ModelConfig(encoder, DecoderConfig(12, 16, 8), len(vocabulary))).eval()
    with torch.no_grad():
        model.decoder.output_word.bias[vocabulary.eos] -= 30  # so that captions are long
    folder = tmp_path_factory.mktemp("checkpoints") / "stranger"
    told = {"data": {"root": SPELLS[0]}, "train": {"objective": SPELLS[2], "start": SPELLS[4]}}
    save_checkpoint(folder, model, vocabulary, notes={"recipe": told})
    return folder


@pytest.fixture(scope="module")
def server(spellbound: Path) -> Iterator[str]:
    with serving("--checkpoint", str(spellbound)) as url:
        yield url


@contextmanager
def unspelled(page: Page) -> Iterator[None]:
    """Whatever happens meanwhile, nothing but text may come of a spell."""
    dialogs: list[str] = []

    def asked(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", asked)
    yield
    assert not dialogs
    assert "spell" not in page.title()
    for sign in ("[onerror]", "[onload]", "[src='x']", "a[href^=javascript]", "a[href*='example.com']"):
        expect(page.locator(sign)).to_have_count(0)


@contextmanager
def called(page: Page, name: str) -> Iterator[None]:
    """Give uploads any name meanwhile: a browser itself allows fewer."""

    def rename(route: Route) -> None:
        body = route.request.post_data_buffer
        if route.request.method != "PUT" or body is None:
            route.continue_()
            return
        # As the standard has it for forms.
        quoted = name.replace('"', "%22").encode()
        route.continue_(post_data=body.replace(b'filename="placeholder.jpg"', b'filename="%s"' % quoted))

    page.route("**/upload_file/**", rename)
    yield
    page.unroute("**/upload_file/**")


def bring(page: Page, data: bytes) -> None:
    settle(page)
    page.locator("input[type=file]").first.set_input_files(
        {"name": "placeholder.jpg", "mimeType": "image/jpeg", "buffer": data}
    )


def test_names_are_shown_as_text_and_named_by_no_download(
    browser: Browser, server: str, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    names = NAMES[:: effort(10, 1)]
    with opened(browser, f"{server}/?model=Soft+attention&tab=Raw") as page, unspelled(page):
        for given in names:
            name = given.rpartition("\\")[2]  # Streamlit takes the rest for folders of Windows
            with called(page, given):
                bring(page, PHOTO)
                expect(page.get_by_text(f'"{name}"')).to_be_visible()
                assert page.locator(".stage").get_attribute("data-photo") == name
                with page.expect_download() as waiting:
                    page.get_by_role("button", name="Download JSON").click()
                assert re.fullmatch(r"[A-Za-z0-9-]+\.json", waiting.value.suggested_filename)
                # In a message it stands amid Markdown.
                bring(page, b"no photo")
                expect(page.get_by_role("alert")).to_contain_text("not an image")
                assert f"{name}: not an image" in page.get_by_role("alert").inner_text().replace(WORD_JOINER, "")
    tally(f"web: {len(names)} hostile file names, all shown as text")


def test_words_are_shown_as_text_wherever_they_stand(browser: Browser, server: str) -> None:
    with opened(browser, f"{server}/?words=Draw&temperature=2.0&beam=10&length=40") as page, unspelled(page):
        upload(page, EXAMPLES / "cat.jpg")
        said = captioned(page, "cat.jpg").split()
        assert len(set(SPELLS).intersection(said)) > 4, said
        words(page).nth(1).click()
        for tab in ("Filmstrip", "Matrix", "GIF"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tabpanel", name=tab).get_by_role("img").first).to_be_visible()
        page.get_by_role("tab", name="Raw").click()
        expect(page.get_by_test_id("stJson")).to_be_visible()
        page.get_by_role("tab", name="Compare").click()
        # The other model has never heard of them.
        expect(page.get_by_role("alert")).to_contain_text("does not know")
        expect(page.get_by_role("tabpanel", name="Compare")).to_contain_text("by itself says")
    with opened(browser, f"{server}/many-images") as page, unspelled(page):
        page.locator("input[type=file]").first.set_input_files(EXAMPLES / "cat.jpg")
        cell = page.locator(".st-key-many-cell-0")
        expect(cell).to_contain_text(re.compile("|".join(map(re.escape, SPELLS))))
    with opened(browser, f"{server}/about") as page, unspelled(page):
        settle(page)
        shown = page.get_by_text("A checkpoint of your own").inner_text().replace(WORD_JOINER, "")
        assert all(spell in shown for spell in (SPELLS[0], SPELLS[2], SPELLS[4])), shown


def test_settings_in_the_address_are_no_orders(
    browser: Browser, server: str, effort: Callable[[list[str], list[str]], list[str]]
) -> None:
    """Wrong values, and none, are as if they were not there."""
    keys = ("model", "words", "beam", "temperature", "length", "sight", "map", "opacity", "scale", "smooth", "tab")
    said = set()
    wrong = effort(["", "-1e99"], ["", "-1e99", "nan", "%3Cscript%3E"])
    for query in ("", *("&".join(f"{key}={value}" for key in keys) for value in wrong)):
        with opened(browser, f"{server}/?{query}") as page, unspelled(page):
            upload(page, EXAMPLES / "cat.jpg")
            said.add(captioned(page, "cat.jpg"))
    assert len(said) == 1
    assert said != {""}


def ask(url: str, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Ask the server for a path exactly as it is written."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read() if response.status != 101 else b""


@pytest.mark.parametrize("up", ["../", "%2e%2e/", "..%2f", "..%2f/", "..\\", "..\\/", "%2e%2e%5c", "....//"])
def test_no_file_of_the_machine_is_served(server: str, up: str) -> None:
    folders = ("", "media/", "static/", "app/static/", "component/", "_stcore/bidi-components/", "_stcore/upload_file/")
    for folder in folders:
        for target in ("requirements.txt", "app/streamlit_app.py", "etc/passwd", ".streamlit/config.toml"):
            for depth in (1, 2, 4, 8):
                _, body = ask(server, "GET", f"/{folder}{up * depth}{target}")
                assert not re.search(rb"torch>=|import streamlit|root:|maxUploadSize", body), (folder, target)


def test_only_pages_of_its_own_may_listen(server: str) -> None:
    def open_socket(origin: str) -> int:
        key = base64.b64encode(os.urandom(16)).decode()
        return ask(
            server, "GET", "/_stcore/stream",
            Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version="13", Sec_WebSocket_Key=key, Origin=origin,
        )[0]  # fmt: skip

    assert open_socket(server) == 101
    assert open_socket("http://stranger.example") == 403


def test_no_other_door_is_open(server: str) -> None:
    """Streamlit can be driven by programs, too, if it is told to."""
    for path in ("/_stcore/agent/interact", "/_stcore/agent/mcp"):
        status, body = ask(server, "POST", path, Content_Length="0")
        assert status >= 400
        assert b"not_available" in body


def test_a_stopped_server_leaves_no_temporary_files(
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    effort: Callable[[list[int], list[int]], list[int]],
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(PHOTO + os.urandom(5 * 2**20))  # which is kept out of memory while it comes
    (place := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    for end in effort([signal.SIGKILL], [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]):
        with running() as (url, process):
            with opened(browser, url) as page:
                upload(page, large)
                assert captioned(page, "large.png")
            os.kill(process, end)
            while Path(f"/proc/{process}/exe").exists():  # its parent has not asked for it yet
                time.sleep(0.05)
        assert not [*place.rglob("*")], end


@pytest.mark.timeout(1800)
def test_many_visitors_for_a_long_time(
    browser: Browser, tmp_path: Path, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    visitors, seconds, photos_each = effort(3, 50), effort(0, 300), effort(2, 8)
    photos = made_up_photos(tmp_path, range(photos_each * visitors))
    model = Captioner.load(device="cpu")
    expected = {photo: model.caption(photo).text for photo in photos}
    assert len(set(expected.values())) > visitors  # so that mistaking one visitor for another would show
    memory: list[int] = []
    turns = 0
    with running() as (url, process), tabs(browser, url, visitors, viewport=PHONE) as pages:
        start = time.monotonic()
        while turns < 3 or time.monotonic() - start < seconds:
            chosen = [photos[visitor * photos_each + turns % photos_each] for visitor in range(visitors)]
            if turns % 5 == 4:  # some leave, and others come
                for page in pages[::3]:
                    visit(page, url)
            assert caption_all(pages, chosen) == [expected[photo] for photo in chosen]
            memory.append(megabytes(process, "VmRSS"))
            turns += 1
        took = time.monotonic() - start
    # From the second turn on, for in the first ones the caches fill.
    assert memory[-1] - memory[1] < 150, memory
    tally(
        f"web: {visitors} visitors at once for {took:.0f} s, {turns * visitors} photos, each its own caption; "
        f"memory {', '.join(map(str, memory))} MB after each turn"
    )


def test_what_is_no_photo_by_its_name_is_not_taken(browser: Browser, server: str) -> None:
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.method)

    with opened(browser, server) as page:
        page.on("request", note)
        upload(page, Path(__file__))
        expect(page.get_by_text("not allowed")).to_be_visible()
        assert "PUT" not in asked
        upload(page, EXAMPLES / "cat.jpg")
        expect(words(page).first).to_be_visible()
