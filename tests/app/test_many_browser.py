from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.app.browsing import settle, visit, wait_for_caption, wait_for_pictures, words
from tests.conftest import EXAMPLES, noise_photo

BROKEN = "[a](b) <b>_c_.jpg"


@pytest.fixture
def many(page: Page) -> Page:
    open_page(page, "Many images")
    expect(page.get_by_role("heading", name="Many images")).to_be_visible()
    return page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-six photos, two of one name, a broken one, and what is no photo."""
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    for seed in range(25):
        noise_photo(seed).save(photos / f"{seed}.jpg")
    noise_photo(25).save(photos / "deep" / "0.jpg")
    (photos / BROKEN).write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:20_000])
    (photos / "notes.txt").write_text("a dog")
    return photos


def open_page(page: Page, name: str) -> None:
    # The server forgets pictures that are on no page any more; one still on its way would be an error in the console.
    wait_for_pictures(page)
    page.get_by_test_id("stTopNavLink").filter(has_text=name).click()


def cells(page: Page) -> Locator:
    return page.locator(".st-key-many-grid [data-testid=stImage] img")


def upload_folder(page: Page, folder: Path) -> None:
    page.get_by_role("radio", name="Folder").click()
    page.locator("input[webkitdirectory]").set_input_files(folder)


def download(page: Page, label: str) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=label, exact=True).click()
    return Path(waiting.value.path()).read_bytes()


def test_a_folder(many: Page, folder: Path) -> None:
    upload_folder(many, folder)
    expect(many.get_by_text("26 photos captioned")).to_be_visible()
    expect(cells(many)).to_have_count(24)
    failures = many.get_by_role("table")
    expect(failures).to_contain_text(f"photos/{BROKEN}")
    expect(failures).to_contain_text("damaged or cut short")

    settle(many)
    many.get_by_role("button", name="Page 2").click()
    expect(cells(many)).to_have_count(2)
    settle(many)
    open_page(many, "About the model")
    expect(many.get_by_role("heading", name="Many images")).to_be_hidden()
    open_page(many, "Many images")
    expect(many.get_by_text("26 photos captioned")).to_be_visible()
    expect(cells(many)).to_have_count(2)

    lines = [json.loads(line) for line in download(many, "JSONL").splitlines()]
    assert sorted(line["image"] for line in lines) == sorted(
        ["photos/deep/0.jpg", *(f"photos/{seed}.jpg" for seed in range(25))]
    )
    table = list(csv.DictReader(io.StringIO(download(many, "CSV").decode())))
    assert [(row["image"], row["caption"]) for row in table] == [(line["image"], line["caption"]) for line in lines]
    archive = zipfile.ZipFile(io.BytesIO(download(many, "ZIP")))
    assert archive.namelist() == ["captions.csv", "captions.jsonl", "failures.csv"]
    assert f"photos/{BROKEN}" in archive.read("failures.csv").decode()


def test_where_it_looked_opens_the_photo_and_the_way_back_keeps_the_rest(many: Page) -> None:
    many.locator("input[type=file]").set_input_files([EXAMPLES / "cat.jpg", EXAMPLES / "raccoon.jpg"])
    expect(many.get_by_text("2 photos captioned")).to_be_visible()
    for _ in range(2):
        settle(many)
        many.get_by_role("button", name="Where it looked").nth(1).click()
        expect(many.get_by_role("heading", name="Many images")).to_be_hidden()
        expect(many).to_have_url(re.compile(r":\d+/(\?.*)?$"))
        expect(many.locator('.stage[data-photo="raccoon.jpg"] img')).to_be_visible()
        settle(many)
        open_page(many, "Many images")
        expect(cells(many)).to_have_count(2)
    settle(many)
    many.locator("input[type=file]").set_input_files(EXAMPLES / "astronaut.jpg")
    expect(many.get_by_text("3 photos captioned")).to_be_visible()
    expect(cells(many)).to_have_count(3)


def test_where_it_looked_is_told_of_the_caption_in_the_grid(page: Page, server: str) -> None:
    # Whatever had been chosen for a caption before.
    chosen = "words=Draw&temperature=2.0&beam=10&length=5&model=Hard+attention&sight=All+cells"
    visit(page, f"{server}/?{chosen}")
    page.get_by_role("button", name="Cat").click()
    wait_for_caption(page)
    open_page(page, "Many images")
    expect(page.get_by_role("heading", name="Many images")).to_be_visible()
    expect(page.get_by_role("toolbar", name="Words of the caption")).to_be_hidden()
    page.locator("input[type=file]").set_input_files(EXAMPLES / "photographer.jpg")
    expect(page.get_by_text("1 photo captioned")).to_be_visible()
    settle(page)
    said = page.locator(".st-key-many-cell-0 p").first.inner_text()
    page.get_by_role("button", name="Where it looked").click()
    expect(page.locator('.stage[data-photo="photographer.jpg"] img')).to_be_visible()
    expect(page.get_by_role("radio", name="Soft attention")).to_be_checked()
    assert " ".join(words(page).all_text_contents()) == said
    assert len(said.split()) > 5
    page.get_by_role("button", name="Words", exact=True).click()
    for name, value in (("Captions kept", "3"), ("Temperature", "1"), ("Most words", "20")):
        expect(page.get_by_role("slider", name=name)).to_have_value(value)
    expect(page.get_by_role("radio", name="Likeliest cell")).to_be_checked()


def test_a_visitor_can_leave_while_it_runs_and_finds_it_going_on(many: Page, folder: Path) -> None:
    for seed in range(26, 90):
        noise_photo(seed).save(folder / f"{seed}.jpg")
    upload_folder(many, folder)
    expect(cells(many)).to_have_count(24)  # a full page: photos to come bring no picture that could be left on its way
    open_page(many, "About the model")
    expect(many.get_by_role("heading", name="Many images")).to_be_hidden()
    open_page(many, "Many images")
    expect(many.get_by_text("90 photos captioned")).to_be_visible()


def test_on_a_phone_two_photos_stand_side_by_side(many: Page) -> None:
    many.set_viewport_size({"width": 400, "height": 860})
    upright = io.BytesIO()
    noise_photo(0, 300, 900).save(upright, "PNG")
    files: list[FilePayload] = [
        {"name": f"{'long' * 30}.png", "mimeType": "image/png", "buffer": upright.getvalue()},
        {"name": "cat.jpg", "mimeType": "image/jpeg", "buffer": (EXAMPLES / "cat.jpg").read_bytes()},
    ]
    many.locator("input[type=file]").set_input_files(files)
    expect(many.get_by_text("2 photos captioned")).to_be_visible()
    settle(many)
    expect(cells(many)).to_have_count(2)
    left, right = cells(many).evaluate_all("all => all.map(each => each.getBoundingClientRect().toJSON())")
    assert left["y"] == right["y"]
    assert left["height"] == right["height"]
    assert 0 < left["x"] < left["x"] + left["width"] < right["x"] < right["x"] + right["width"] < 400
    assert many.evaluate("document.documentElement.scrollWidth") <= 400
