"""Photos from strangers, brought to the real app: each becomes a caption or a message that names it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from app.many import MAX_FILES
from tests.app.browsing import captioned, opened, serving, settle, upload
from tests.app.test_many_browser import open_page
from tests.stress.mutants import mutant


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One page for all, which must be as good at the end as it was at the beginning."""
    with serving() as url, opened(browser, url) as page:
        yield page


def write_mutants(folder: Path, seeds: Sequence[int]) -> list[Path]:
    folder.mkdir()
    # The page takes no file of another suffix; a file is what its bytes are.
    paths = [folder / f"{seed}.{mutant(seed).suffix}" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        path.write_bytes(mutant(seed).data)
    return paths


def test_mutants_among_many_images(
    page: Page, tmp_path: Path, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    count = effort(16, 400)
    assert count <= MAX_FILES
    paths = write_mutants(tmp_path / "photos", range(2 * 10**6, 2 * 10**6 + count))
    open_page(page, "Many images")
    expect(page.get_by_role("heading", name="Many images")).to_be_visible()
    page.locator("input[type=file]").set_input_files(paths)
    summary = page.get_by_text(re.compile(r"^\d+ photos? captioned"))
    expect(summary).to_be_visible(timeout=600_000)
    settle(page)  # the table of failures comes after the summary
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    done = int((summary.text_content() or "").split()[0])
    told = page.get_by_role("table").inner_text()
    refused = {path.name for path in paths if re.search(rf"^{path.name}\s", told, re.MULTILINE)}
    assert done + len(refused) == count
    assert 0 < len(refused) < count
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV", exact=True).click()
    written = Path(waiting.value.path()).read_text()
    assert {path.name for path in paths if re.search(rf"^{path.name},", written, re.MULTILINE)} == {
        path.name for path in paths
    } - refused
    tally(
        f"images, Many images: {count} mutants, {done} captioned and {len(refused)} named as failures, none otherwise"
    )


def odd_photos() -> dict[str, bytes]:
    """Whole photos that are hard to show, and files that are none."""
    shapes = {"point.png": (1, 1), "line.png": (20_000, 2), "column.png": (2, 20_000)}
    found = {name: Image.new("RGB", size, "orange") for name, size in shapes.items()}
    found["clear.webp"] = Image.new("RGBA", (64, 48), (0, 0, 255, 0))
    found["float.tiff"] = Image.new("F", (64, 48), float("nan"))
    found["deep.png"] = Image.new("I;16", (64, 48), 40_000)
    found["cmyk.jpg"] = Image.new("CMYK", (64, 48), (9, 99, 9, 0))
    files = {}
    for name, image in found.items():
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "JPEG"}.get(name.split(".")[1], name.split(".")[1].upper()))
        files[name] = buffer.getvalue()
    return files | {"empty.jpg": b"", "text.png": b"no photo", "cut.png": files["line.png"][:60]}


def test_odd_photos_on_the_caption_page(
    page: Page, tmp_path: Path, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    files = odd_photos()
    short = ["point.png", "column.png", "cut.png"]
    paths = [tmp_path / name for name in (effort(len(short), len(files)) == len(short) and short) or files]
    for path in paths:
        path.write_bytes(files[path.name])
    paths += write_mutants(tmp_path / "mutants", range(3 * 10**6, 3 * 10**6 + effort(3, 40)))
    open_page(page, "Caption")
    expect(page.get_by_role("heading", name="Show, Attend and Tell")).to_be_attached()
    shown = 0
    for path in paths:
        upload(page, path)
        alert = page.get_by_role("alert").filter(has_text=path.name)
        expect(page.locator(f'.stage[data-photo="{path.name}"]').or_(alert).first).to_be_visible(timeout=120_000)
        settle(page)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        if captioned(page, path.name):
            shown += 1
    assert 0 < shown < len(paths)
    tally(f"images, Caption page: {len(paths)} odd files, {shown} captioned and the others named as failures")
