"""Many visitors at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from captioner.pipeline import Captioner
from tests.app.browsing import PHONE, caption_all, captioned, made_up_photos, tabs, upload


@pytest.mark.timeout(900)
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


def test_a_photo_takes_the_place_of_another_over_a_slow_line(page: Page, tmp_path: Path) -> None:
    first, second = made_up_photos(tmp_path, range(2))
    upload(page, first)
    assert captioned(page, first.name)

    slow = []

    def slowly(route: Route) -> None:
        slow.append(route)
        # The first one is taken away meanwhile, and the page laid out anew.
        page.wait_for_timeout(1500)
        route.continue_()

    page.route("**/upload_file/**", lambda route: slowly(route) if route.request.method == "PUT" else route.continue_())
    upload(page, second)
    assert captioned(page, second.name)
    assert slow
