"""Many visitors at once."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from captioner.pipeline import Captioner
from tests.app.browsing import PHONE, caption_all, made_up_photos, tabs


def test_twenty_visitors_at_once_each_get_the_caption_of_their_photo(
    server: str, browser: Browser, tmp_path: Path
) -> None:
    photos = made_up_photos(tmp_path, range(20))
    with tabs(browser, server, len(photos), viewport=PHONE) as pages:
        found = caption_all(pages, photos)
    model = Captioner.load(device="cpu")  # in the precision that the server chooses, too
    expected = [model.caption(photo).text for photo in photos]
    assert found == expected
    assert len(set(expected)) > 12  # so that mistaking one visitor for another would show
