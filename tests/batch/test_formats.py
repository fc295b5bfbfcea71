"""Every format, written by the whole command and read back by another reader."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from captioner.batch.formats import coco, coco_id, comma_separated
from tests.batch.conftest import Caption, rows

Output = pytest.CaptureFixture[str]


@pytest.fixture
def captions(photos: Path, tmp_path: Path, caption: Caption) -> dict[str, str]:
    """What is to be found in every format."""
    assert caption(photos, "--output", tmp_path / "expected.jsonl") == 0
    return {row["image"]: row["caption"] for row in rows(tmp_path / "expected.jsonl")}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv(photos: Path, tmp_path: Path, caption: Caption, captions: dict[str, str]) -> None:
    output = tmp_path / "out.csv"
    assert caption(photos, "--output", output, "--format", "csv", "--limit", 2) == 0
    assert len(read_csv(output)) == 2
    assert caption(photos, "--output", output, "--format", "csv") == 0
    found = read_csv(output)
    assert {row["image"]: row["caption"] for row in found} == captions
    assert list(found[0]) == ["image", "caption", "log_prob", "width", "height"]
    assert [(row["width"], row["height"]) for row in found] == [("80", "60"), ("100", "60")] * 2
    assert [float(row["log_prob"]) for row in found] == [row["log_prob"] for row in rows(tmp_path / "out.csv.jsonl")]


def test_no_cell_of_csv_is_a_formula() -> None:
    row = comma_separated().row
    for image in ("=1+1.jpg", "+a.jpg", "-a.jpg", "@a.jpg", "\ta.jpg", "\ra.jpg"):
        line = row({"image": image, "caption": "=cmd", "log_prob": -1.5, "width": 1, "height": 2})
        assert line is not None
        assert next(csv.reader(io.StringIO(line.decode(), newline=""))) == [f"'{image}", "'=cmd", "-1.5", "1", "2"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("a/COCO_val2014_000000391895.jpg", 391895),
        ("12.jpg", 12),
        ("photo.jpg", "photo"),
        ("12/photo", "photo"),
        ("a.7.jpg", 7),
        ("7a.jpg", "7a"),
        ("²", "²"),
    ],
)
def test_the_id_of_a_coco_photo(image: str, expected: int | str) -> None:
    assert coco_id(image) == expected


def test_coco(photos: Path, tmp_path: Path, caption: Caption, captions: dict[str, str], capsys: Output) -> None:
    output = tmp_path / "out.json"
    assert caption(photos, "--output", output, "--format", "coco") == 0
    expected = [{"image_id": index, "caption": text} for index, text in enumerate(captions.values())]
    assert json.loads(output.read_text()) == expected
    assert caption(photos, "--format", "coco", "--quiet") == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_a_second_photo_of_one_coco_id_is_left_out_and_named(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output
) -> None:
    shutil.copy(photos / "photo1.jpg", photos / "x_0001.jpg")
    output = tmp_path / "out.json"
    for _ in range(2):
        assert caption(photos, "--output", output, "--format", "coco") == 3
        errors = capsys.readouterr().err
        assert f"left out: {photos / 'x_0001.jpg'}: image_id 1 is another photo's already" in errors
        assert ", 1 left out, " in errors
        assert [entry["image_id"] for entry in json.loads(output.read_text())] == [0, 1, 2, 3]


@pytest.mark.parametrize("renamed", ["photo1.jpg", "x_0001.jpg"])
def test_a_renamed_photo_gives_its_coco_id_free(
    photos: Path, tmp_path: Path, caption: Caption, captions: dict[str, str], renamed: str
) -> None:
    shutil.copy(photos / "photo2.jpg", photos / "x_0001.jpg")
    output = tmp_path / "out.json"
    assert caption(photos, "--output", output, "--format", "coco") == 3
    (photos / renamed).rename(photos / "photo7.jpg")
    assert caption(photos, "--output", output, "--format", "coco") == 0
    texts = list(captions.values())
    one, seven = (texts[2], texts[1]) if renamed == "photo1.jpg" else (texts[1], texts[2])
    found = {entry["image_id"]: entry["caption"] for entry in json.loads(output.read_text())}
    assert found == {0: texts[0], 1: one, 2: texts[2], 3: texts[3], 7: seven}
    for photo in photos.glob("photo[023].jpg"):
        photo.unlink()
    assert caption(photos, "--output", output, "--format", "coco") == 0
    kept = {entry["image_id"] for entry in json.loads(output.read_text())}
    assert kept == {0, 1, 2, 3, 7}, "captions of photos that are gone are captions still"


def test_coco_without_captions_is_an_empty_array() -> None:
    assert json.loads(b"".join(coco(print).lay_out([]))) == []


def test_hugging_face(
    photos: Path, caption: Caption, captions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "deep").mkdir()
    (photos / "photo3.jpg").rename(photos / "deep" / "photo3.jpg")
    assert caption(photos, "--recursive", "--format", "hf", "--limit", 3) == 0
    # Gone on with from another working folder, and under another name of the folder.
    monkeypatch.chdir(photos / "deep")
    assert caption("..", "--recursive", "--format", "hf", "--attention", "png") == 0
    found = {row["file_name"]: row["text"] for row in rows(photos / "metadata.jsonl")}
    expected = dict(zip(["photo0.jpg", "photo1.jpg", "photo2.jpg", "deep/photo3.jpg"], captions.values(), strict=True))
    assert found == expected
    visible = {name for _, _, files in os.walk(photos) for name in files if name[0] != "." and name.endswith("l")}
    assert visible == {"metadata.jsonl"}
    assert len(list((photos / ".metadata.jsonl.attention").iterdir())) == 4


def test_hugging_face_wants_all_photos_below_its_folder(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output
) -> None:
    (tmp_path / "out").mkdir()
    assert caption(photos, "--format", "hf", "--output", tmp_path / "out" / "metadata.jsonl") == 1
    assert f"captioner: {photos}: not below {tmp_path / 'out'}" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
    assert caption(photos, photos / "photo1.jpg", "--format", "hf", "--output", tmp_path / "metadata.jsonl") == 0
    assert [row["file_name"] for row in rows(tmp_path / "metadata.jsonl")] == [f"photos/photo{i}.jpg" for i in range(4)]


def test_hugging_face_leaves_out_what_is_gone_and_what_lay_elsewhere(
    photos: Path, tmp_path: Path, caption: Caption
) -> None:
    assert caption(photos, "--format", "hf") == 0
    photos.rename(tmp_path / "moved")
    (tmp_path / "moved" / "photo0.jpg").unlink()
    assert caption(tmp_path / "moved", "--format", "hf") == 0
    (tmp_path / "moved" / "photo1.jpg").unlink()
    assert caption(tmp_path / "moved", "--format", "hf") == 0
    assert [row["file_name"] for row in rows(tmp_path / "moved" / "metadata.jsonl")] == ["photo2.jpg", "photo3.jpg"]


@pytest.mark.parametrize("kind", ["csv", "coco", "hf"])
def test_a_file_of_unknown_making_is_not_replaced(photos: Path, caption: Caption, capsys: Output, kind: str) -> None:
    output = photos / "metadata.jsonl"
    output.write_text("kept")
    assert caption(photos, "--output", output, "--format", kind) == 1
    assert "exists already, but not" in capsys.readouterr().err
    assert caption(photos, "--output", output, "--format", kind, "--existing", "error") == 1
    assert output.read_text() == "kept"
    assert caption(photos, "--output", output, "--format", kind, "--existing", "overwrite") == 0
    assert "photo" in output.read_text() or '"image_id": 3' in output.read_text()


def test_rows_stream_to_standard_output(
    photos: Path, caption: Caption, captions: dict[str, str], capsys: Output
) -> None:
    assert caption(photos, "--quiet") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["image"]: row["caption"] for row in lines} == captions
    assert caption(photos, "--quiet", "--format", "csv") == 0
    assert len(list(csv.DictReader(capsys.readouterr().out.splitlines()))) == 4
