from __future__ import annotations

import csv
import io
import json
import shlex
import sys
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
import streamlit
from PIL import Image
from streamlit.testing.v1 import AppTest

from app.many import CHUNK, MAX_FILES, Album, Row, Task, split, to_csv, to_jsonl, to_zip
from app.models import usual_options
from app.photos import MAX_MEGABYTES, TURN, Upload
from captioner.batch.job import ImageFile
from captioner.batch.listing import Listing
from captioner.batch.records import Record
from captioner.checkpoint_files import BUNDLED
from captioner.cli import main
from captioner.config import DecodingOptions
from captioner.errors import ImageReadError
from captioner.pipeline import Caption, Captioner
from tests.batch.conftest import rows as rows_of
from tests.batch.conftest import save_tiny
from tests.conftest import noise_photo

TASK = Task(Path("soft"), DecodingOptions())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", 0)


class Counting(Captioner):
    """The tiny model, noting how many photos it was handed at a time, and whether it was its turn."""

    batches: list[int]

    def attempt_many(self, images: Iterable[bytes], *options: object) -> Iterator[tuple[bytes, Caption]]:  # type: ignore[override]
        images = list(images)
        self.batches.append(len(images))
        assert TURN.locked()
        return super().attempt_many(images, *options)  # type: ignore[arg-type, return-value]


@pytest.fixture
def model(tiny: Path) -> Counting:
    loaded = cast(Counting, Counting.load(tiny, device="cpu"))
    loaded.batches = []
    return loaded


def jpeg(seed: int, width: int = 80, height: int = 60) -> bytes:
    buffer = io.BytesIO()
    noise_photo(seed, width, height).save(buffer, "JPEG")
    return buffer.getvalue()


def photos(count: int, first: int = 0) -> list[Upload]:
    return [Upload(f"photo{seed}.jpg", jpeg(seed)) for seed in range(first, first + count)]


def finish(album: Album, model: Captioner, task: Task = TASK) -> list[Row]:
    while len(rows := album.rows(task)) < len(album.uploads):
        album.caption_some(model, task)
    return rows


def records(rows: list[Row]) -> list[Record]:
    return [json.loads(line) for line in to_jsonl(rows).splitlines()]


def test_photos_are_captioned_a_few_at_a_time_and_others_get_their_turn_between(model: Counting) -> None:
    album = Album()
    album.take(photos(2 * CHUNK + 3))
    album.caption_some(model, TASK)
    assert not TURN.locked()
    assert [row.upload for row in album.rows(TASK)] == album.uploads[:CHUNK]
    finish(album, model)
    assert model.batches == [CHUNK, CHUNK, 3]
    assert album.captioned == 2 * CHUNK + 3
    assert album.seconds > 0


def test_a_photo_keeps_its_place_while_others_are_captioned(model: Counting) -> None:
    album = Album()
    album.take([*photos(CHUNK + 1), Upload("z.jpg", jpeg(0))])  # the first once more
    album.caption_some(model, TASK)
    before = {row.place: row.upload for row in album.rows(TASK)}
    assert list(before) == [*range(CHUNK), CHUNK + 1]
    assert before.items() <= {row.place: row.upload for row in finish(album, model)}.items()


def test_files_that_cannot_be_read_are_not_counted_as_captioned(model: Counting) -> None:
    album = Album()
    album.take([*photos(2), Upload("no photo.jpg", b"no photo")])
    assert len(finish(album, model)) == 3
    assert album.captioned == 2


def test_runs_that_overlap_share_the_photos(model: Counting) -> None:
    album = Album()
    album.take(photos(5))
    with TURN:
        threads = [threading.Thread(target=album.caption_some, args=(model, TASK)) for _ in range(2)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert model.batches == [5, 0]


def test_only_new_photos_are_captioned(model: Counting) -> None:
    album = Album()
    album.take(photos(3))
    before = finish(album, model)
    album.take(photos(5))
    assert [row.result for row in album.rows(TASK)] == [row.result for row in before]
    finish(album, model)
    other = Task(Path("hard"), DecodingOptions())
    assert album.rows(other) == []
    finish(album, model, other)
    album.take(photos(2))
    finish(album, model)
    assert model.batches == [3, 2, 5]


def test_the_same_bytes_are_captioned_once_and_have_a_row_for_each_name(model: Counting) -> None:
    album = Album()
    album.take([Upload("b.jpg", jpeg(0)), Upload("a.jpg", jpeg(0)), Upload("a.jpg", jpeg(1))])
    rows = finish(album, model)
    assert [record["image"] for record in records(rows)] == ["a.jpg", "a.jpg", "b.jpg"]
    assert model.batches == [2]


def test_rows_are_in_the_order_of_the_command_line(tmp_path: Path) -> None:
    names = ("a/photo10.jpg", "a/photo9.jpg", "B/1.jpg", "a/B/1.jpg", "z.jpg")
    album = Album()
    album.take([Upload(name, b"") for name in names])
    ordered = [upload.name for upload in album.uploads]
    assert ordered == ["z.jpg", "a/photo9.jpg", "a/photo10.jpg", "a/B/1.jpg", "B/1.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = Listing([tmp_path], recursive=True)
    assert [str(Path(found.path).relative_to(tmp_path)) for found in listed if isinstance(found, ImageFile)] == ordered


def test_results_of_photos_long_gone_are_forgotten(model: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.many._MOST_RESULTS", 4)
    album = Album()
    album.take(photos(3))
    finish(album, model)
    album.take(photos(3, first=3))
    finish(album, model)
    album.take(photos(6))
    assert len(album.rows(TASK)) == 6
    album.take(photos(2))
    album.take(photos(6))
    assert len(album.rows(TASK)) == 2


def test_too_many_files_are_all_refused() -> None:
    album = Album()
    album.take([Upload("a.jpg", b"")] * (MAX_FILES + 1))
    assert (album.refused, album.uploads) == (MAX_FILES + 1, [])
    album.take([Upload("a.jpg", b"")] * MAX_FILES)
    assert (album.refused, len(album.uploads)) == (0, MAX_FILES)


def test_failures_say_why_without_the_name(model: Counting) -> None:
    album = Album()
    large = jpeg(1) + bytes(MAX_MEGABYTES * 2**20)
    album.take(
        [
            Upload("a.png", b""),
            Upload("b.jpg", jpeg(0, 400, 300)[:3000]),
            Upload("c.jpg", large),
            Upload("d.jpg", jpeg(0)),
        ]
    )
    captioned, failed = split(finish(album, model))
    reasons = {row.upload.name: row.result.error for row in failed}
    assert reasons["a.png"] == "the file is empty"
    assert reasons["b.jpg"].startswith("damaged or cut short (")
    assert reasons["c.jpg"] == f"is larger than {MAX_MEGABYTES} MB; shrink it"
    assert [row.upload.name for row in captioned] == ["d.jpg"]


def test_a_photo_that_only_the_model_cannot_read_fails_alone(model: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(source: bytes) -> object:
        if source == jpeg(1):
            raise ImageReadError("image: spoilt")
        return Captioner.read(model, source)

    monkeypatch.setattr(model, "read", read)
    album = Album()
    album.take(photos(3))
    assert [row.result.error for row in finish(album, model)] == ["", "spoilt", ""]


def test_a_result_holds_a_small_picture_and_no_maps(model: Counting) -> None:
    album = Album()
    album.take([Upload("a.jpg", jpeg(0, 1600, 900))])
    (row,) = finish(album, model)
    assert Image.open(io.BytesIO(row.result.thumbnail)).size == (320, 180)
    assert row.result.record is not None
    assert set(row.result.record) == {"image", "caption", "words", "log_prob", "word_probs", "width", "height"}
    assert (row.result.record["width"], row.result.record["height"]) == (1600, 900)


def test_files_are_those_that_the_command_line_writes(tiny: Path, model: Counting, tmp_path: Path) -> None:
    for upload in photos(3):
        (tmp_path / upload.name).write_bytes(upload.data)
    arguments = ["caption", str(tmp_path), "--checkpoint", str(tiny), "--device", "cpu", "--format", "csv"]
    assert main([*arguments, "--output", str(tmp_path / "out.csv")]) == 0
    album = Album()
    album.take([Upload(str(tmp_path / upload.name), upload.data) for upload in photos(3)])
    rows = finish(album, model)
    assert to_csv(rows) == (tmp_path / "out.csv").read_bytes()
    assert [
        record.items() <= whole.items()
        for record, whole in zip(records(rows), rows_of(tmp_path / "out.csv.jsonl"), strict=True)
    ] == [True] * 3


def test_zip(model: Counting) -> None:
    album = Album()
    album.take([Upload("=../../a.jpg", jpeg(0))])
    archive = zipfile.ZipFile(io.BytesIO(to_zip(finish(album, model))))
    assert archive.namelist() == ["captions.csv", "captions.jsonl"]
    album.take([*album.uploads, Upload("=../../b.jpg", b"")])
    rows = finish(album, model)
    archive = zipfile.ZipFile(io.BytesIO(to_zip(rows)))
    assert archive.namelist() == ["captions.csv", "captions.jsonl", "failures.csv"]
    assert archive.read("captions.csv") == to_csv(rows)
    assert archive.read("captions.jsonl") == to_jsonl(rows)
    assert [row["image"] for row in csv.DictReader(io.StringIO(to_csv(rows).decode()))] == ["'=../../a.jpg"]
    assert archive.read("failures.csv") == b"image,error\r\n'=../../b.jpg,the file is empty\r\n"


@pytest.mark.parametrize("name", ["flickr8k-soft", "flickr8k-hard"])
def test_the_command_shown_captions_as_the_page_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "FOLDER" / "deep").mkdir(parents=True)
    (tmp_path / "FOLDER" / "deep" / "photo.jpg").write_bytes(jpeg(0))
    (tmp_path / "captioner").symlink_to(BUNDLED.parent.parent)
    monkeypatch.chdir(tmp_path)
    checkpoint = BUNDLED.with_name(name)
    task = Task(checkpoint, usual_options(checkpoint))
    assert main([*shlex.split(task.command())[1:], "--device", "cpu"]) == 0
    album = Album()
    album.take([Upload("photo.jpg", jpeg(0))])
    (row,) = finish(album, Captioner.load(checkpoint, "cpu"), task)
    (written,) = csv.DictReader((tmp_path / "captions.csv").read_text().splitlines())
    assert row.result.record
    assert written["caption"] == row.result.record["caption"]
    assert float(written["log_prob"]) == pytest.approx(row.result.record["log_prob"], abs=1e-3)


def page() -> None:
    from app import many_page

    many_page.show()


@pytest.fixture
def at(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["streamlit_app.py", "--checkpoint", str(tiny)])
    return AppTest.from_function(page, default_timeout=60).run()


def test_the_empty_page_names_its_limit_and_the_command(at: AppTest, tiny: Path) -> None:
    assert not at.exception
    assert at.file_uploader[0].label == f"Photos, up to {MAX_FILES} at a time"
    assert f" --checkpoint {tiny}`" in at.caption[0].value
    assert not at.button


def test_photos_have_rows_and_failures_a_table(at: AppTest) -> None:
    at.file_uploader[0].set_value(
        [
            ("same.jpg", jpeg(0), "image/jpeg"),
            ("same.jpg", jpeg(1), "image/jpeg"),
            ("[a](b) <b>_c_.jpg", b"hm", "image/jpeg"),
        ]
    ).run()
    assert not at.exception
    assert [caption.value for caption in at.caption[1:]] == ["same\\.jpg", "same\\.jpg"]
    assert any(text.value.startswith("**2 photos captioned**") for text in at.markdown)
    assert at.expander[0].label == "1 file could not be read"
    ((name, reason),) = at.table[0].value.to_numpy().tolist()
    assert name == r"\[a\]\(b\) \<b\>\_c\_\.jpg"
    assert reason.startswith("not an image")


def test_captions_can_be_taken_away_once_all_are_there(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Album.caption_some

    def one_step(album: Album, model: Captioner, task: Task) -> None:
        step(album, model, task)
        streamlit.stop()

    monkeypatch.setattr(Album, "caption_some", one_step)
    at.file_uploader[0].set_value([(f"{n}.jpg", jpeg(n), "image/jpeg") for n in range(CHUNK + 1)]).run()
    shown = []
    for _ in range(2):
        at.run()
        shown.append([button.proto.disabled for button in at.get("download_button")])
    assert shown == [[True] * 3, [False] * 3]


def test_another_model_captions_anew_and_the_first_ones_captions_are_still_there(at: AppTest) -> None:
    at.file_uploader[0].set_value([("a.jpg", jpeg(0), "image/jpeg")]).run()
    first = at.markdown.values
    at.segmented_control(key="many-model").set_value("Soft attention").run()
    assert at.markdown[-1].value != first[-1]
    album: Album = at.session_state["album"]
    at.segmented_control(key="many-model").set_value("tiny").run()
    assert album.captioned == 0, "captioned again"
    assert at.markdown[-1].value == first[-1]


def test_taking_photos_away_and_starting_over(at: AppTest) -> None:
    at.file_uploader[0].set_value([(f"{seed}.jpg", jpeg(seed), "image/jpeg") for seed in range(2)]).run()
    at.file_uploader[0].set_value([("0.jpg", jpeg(0), "image/jpeg")]).run()
    assert [caption.value for caption in at.caption[1:]] == ["0\\.jpg"]
    next(button for button in at.button if button.label == "Start over").click().run()
    assert len(at.caption) == 1
    assert not at.file_uploader[0].value


def test_photos_come_to_those_that_another_uploader_brought(at: AppTest) -> None:
    at.file_uploader[0].set_value([(f"{seed}.jpg", jpeg(seed), "image/jpeg") for seed in range(2)]).run()
    at.segmented_control(key="many-source").set_value("Folder").run()
    at.file_uploader[0].set_value([("2.jpg", jpeg(2), "image/jpeg")]).run()
    assert [caption.value for caption in at.caption[1:]] == ["0\\.jpg", "1\\.jpg", "2\\.jpg"]
    at.file_uploader[0].set_value([]).run()
    assert [caption.value for caption in at.caption[1:]] == ["0\\.jpg", "1\\.jpg"]
    next(button for button in at.button if button.label == "Start over").click().run()
    at.file_uploader[0].set_value([("2.jpg", jpeg(2), "image/jpeg")]).run()
    assert [caption.value for caption in at.caption[1:]] == ["2\\.jpg"]


def test_too_many_are_counted_and_the_command_is_shown(at: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.many.MAX_FILES", 2)
    monkeypatch.setattr("app.many_page.MAX_FILES", 2)
    at.run()
    at.file_uploader[0].set_value([(f"{seed}.jpg", jpeg(seed), "image/jpeg") for seed in range(3)]).run()
    assert "It would be 3 photos, and this page takes 2 at a time" in at.error[0].value.replace("\\", "")
    assert f"run `{at.code[0].value}`" in at.caption[0].value
    assert len(at.caption) == 1


def test_too_many_with_those_of_an_earlier_visit_leave_those_as_they_are(
    at: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.many.MAX_FILES", 2)
    files = [(f"{seed}.jpg", jpeg(seed), "image/jpeg") for seed in range(4)]
    at.file_uploader[0].set_value(files[:2]).run()
    at.segmented_control(key="many-source").set_value("Folder").run()
    at.file_uploader[0].set_value(files[2:]).run()
    assert "It would be 4 photos" in at.error[0].value
    assert not at.exception
    shown = ["0\\.jpg", "1\\.jpg"]
    assert [caption.value for caption in at.caption[1:]] == shown
    at.segmented_control(key="many-source").set_value("Files").run()
    assert not at.error
    assert [caption.value for caption in at.caption[1:]] == shown
    # The same again is no second one.
    at.file_uploader[0].set_value(files[:2]).run()
    assert not at.error
    assert [caption.value for caption in at.caption[1:]] == shown
    at.file_uploader[0].set_value(files[:3]).run()
    assert "It would be 3 photos" in at.error[0].value
    assert [caption.value for caption in at.caption[1:]] == shown


def test_pages(at: AppTest) -> None:
    at.file_uploader[0].set_value([(f"{seed}.jpg", jpeg(seed), "image/jpeg") for seed in range(25)]).run()
    assert [caption.value for caption in at.caption[1:]] == [f"{seed}\\.jpg" for seed in range(24)]
    at.pagination[0].select(2).run()
    assert [caption.value for caption in at.caption[1:]] == ["24\\.jpg"]
    next(button for button in at.button if button.label == "Start over").click().run()
    at.file_uploader[0].set_value([(f"{seed}.jpg", jpeg(seed), "image/jpeg") for seed in range(25)]).run()
    assert len(at.caption[1:]) == 24, "the first page again"
