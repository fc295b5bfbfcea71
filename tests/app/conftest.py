"""The real server, and a page of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from captioner.checkpoint_files import BUNDLED
from captioner.config import DecodingOptions
from captioner.pipeline import Caption, Captioner
from tests.app.browsing import opened, serving, wait_for_caption
from tests.conftest import EXAMPLES
from tests.test_curves import BLEU, dev_rows, training_rows, write_run

PHOTOGRAPHER = EXAMPLES / "photographer.jpg"


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `__main__` back, in whose place AppTest leaves its script: other tests' processes would begin with that."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs = tmp_path_factory.mktemp("runs")
    write_run(runs / "first", training_rows() + dev_rows(BLEU))
    write_run(runs / "second", training_rows(12) + dev_rows(BLEU[:2]))
    with serving("--runs", str(runs)) as url:
        yield url


@pytest.fixture
def page(server: str, browser: Browser) -> Iterator[Page]:
    with opened(browser, server) as page:
        yield page


@pytest.fixture(scope="session")
def model() -> Captioner:
    """The bundled model, in the precision that the server chooses, too."""
    return Captioner.load(device="cpu")


@pytest.fixture(scope="session")
def photographer(model: Captioner) -> Caption:
    return model.caption(PHOTOGRAPHER, DecodingOptions(top_words=6))


@pytest.fixture(scope="session")
def hard_photographer() -> Caption:
    """What hard attention says when it sees one cell a word."""
    hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
    return hard.caption(PHOTOGRAPHER, DecodingOptions(context="argmax"))


@pytest.fixture
def viewer(page: Page) -> Page:
    """The page with the photographer and his caption."""
    page.get_by_role("button", name="Photographer").click()
    wait_for_caption(page)
    return page
