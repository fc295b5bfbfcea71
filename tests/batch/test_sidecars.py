from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.batch.conftest import Caption, rows

Output = pytest.CaptureFixture[str]


def test_a_text_file_stands_beside_each_photo(photos: Path, tmp_path: Path, caption: Caption, capsys: Output) -> None:
    assert caption(photos, "--format", "txt") == 0
    assert not capsys.readouterr().out
    assert caption(photos, "--output", tmp_path / "out.jsonl") == 0
    expected = {Path(row["image"]).stem: row["caption"] for row in rows(tmp_path / "out.jsonl")}
    assert {path.stem: path.read_text().rstrip("\n") for path in photos.glob("*.txt")} == expected


def test_text_files_that_are_there(photos: Path, caption: Caption, capsys: Output) -> None:
    note = photos / "photo2.txt"
    note.write_text("mine")
    assert caption(photos, "--format", "txt", "--existing", "error") == 1
    assert f"captioner: {note}: exists already" in capsys.readouterr().err
    assert list(photos.glob("*.txt")) == [note]
    assert caption(photos, "--format", "txt") == 0
    assert capsys.readouterr().err.startswith("3 captioned, 1 skipped, 0 failed")
    assert note.read_text() == "mine"
    assert caption(photos, "--format", "txt", "--existing", "overwrite") == 0
    assert note.read_text() != "mine"


def test_two_photos_of_one_stem_collide(photos: Path, caption: Caption, capsys: Output) -> None:
    shutil.copy(photos / "photo1.jpg", photos / "photo1.PNG")
    shutil.copy(photos / "photo1.jpg", photos / "photo1.x.jpg")
    for captioned in (5, 0):
        assert caption(photos, "--format", "txt") == 3
        errors = capsys.readouterr().err
        assert (
            f"{photos / 'photo1.PNG'}: {photos / 'photo1.txt'} is the caption of another photo; rename this one"
            in errors
        )
        assert f"{captioned} captioned" in errors
    (photos / "photo1.PNG").rename(photos / "photo7.png")
    (photos / "photo1.x.jpg").rename(photos / "photo8.jpg")
    assert caption(photos, "--format", "txt") == 0
    assert (photos / "photo7.txt").read_text() == (photos / "photo8.txt").read_text()


def test_a_photo_named_like_a_text_file_is_not_written_over(photos: Path, caption: Caption, capsys: Output) -> None:
    photo = (photos / "photo0.jpg").rename(photos / "photo0.txt")
    before = photo.read_bytes()
    assert caption(photo, "--format", "txt", "--existing", "overwrite") == 3
    assert photo.read_bytes() == before
    assert "would take its place" in capsys.readouterr().err
