"""The real server, and a page of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.app.browsing import opened, serving
from tests.test_curves import BLEU, dev_rows, training_rows, write_run


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
