"""Going on with an output: every test runs the whole command."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from captioner.batch.job import ImageFile, Job, Outcome
from captioner.batch.journal import Index
from captioner.batch.local import run_local
from captioner.files import replacing
from tests.batch.conftest import Caption, names, rows
from tests.conftest import noise_photo

Errors = pytest.CaptureFixture[str]


def test_a_second_run_captions_what_is_new_or_changed(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Errors
) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output) == 0
    before = output.read_bytes()
    assert caption(photos, "--output", output) == 0
    assert output.read_bytes() == before
    noise_photo(9, 90, 70).save(photos / "photo1.jpg")
    noise_photo(10).save(photos / "photo7.jpg")
    capsys.readouterr()
    assert caption(photos, "--output", output) == 0
    assert capsys.readouterr().err.startswith("2 captioned, 3 skipped, 0 failed, ")
    assert names(output) == ["photo0.jpg", "photo2.jpg", "photo3.jpg", "photo1.jpg", "photo7.jpg"]
    assert [(row["width"], row["height"]) for row in rows(output)][3] == (90, 70)
    assert not list(tmp_path.glob(".*"))


def test_other_options_or_attention_make_a_photo_undone(photos: Path, tmp_path: Path, caption: Caption) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output, "--max-length", 3) == 0
    assert all(len(row["words"]) <= 3 for row in rows(output))
    assert caption(photos, "--output", output, "--max-length", 5, "--beam", 1) == 0
    assert len(rows(output)) == 4
    assert all(row["decoding"]["max_length"] == 5 and row["decoding"]["beam_size"] == 1 for row in rows(output))
    assert caption(photos, "--output", output, "--max-length", 5, "--beam", 1, "--attention", "npz") == 0
    assert len(rows(output)) == 4
    assert all((tmp_path / row["attention"]).is_file() for row in rows(output))


def test_a_precision_that_is_asked_for_makes_photos_of_another_undone(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Errors
) -> None:
    output = tmp_path / "out.jsonl"
    for precision, done in (("bfloat16", 0), ("auto", 4), ("bfloat16", 4), ("float32", 0), ("auto", 4)):
        assert caption(photos, "--output", output, "--precision", precision) == 0
        assert f"{4 - done} captioned, {done} skipped" in capsys.readouterr().err, precision
    records = rows(output)
    assert [record.pop("precision") for record in records] == ["float32"] * 4
    # Of older rows nobody knows what they were made in.
    output.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert caption(photos, "--output", output) == 0
    assert "0 captioned, 4 skipped" in capsys.readouterr().err
    assert caption(photos, "--output", output, "--precision", "float32") == 0
    assert "4 captioned, 0 skipped" in capsys.readouterr().err


def test_rows_of_another_model_are_told_once_and_replaced(
    photos: Path, tmp_path: Path, caption: Caption, other: Path, capsys: Errors
) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output) == 0
    first = rows(output)[0]["model"]
    capsys.readouterr()
    assert caption(photos, "--output", output, "--checkpoint", other, "--quiet") == 0
    warnings = capsys.readouterr().err.splitlines()
    second = rows(output)[0]["model"]
    assert len(warnings) == 1
    assert f"by model {first}, this is model {second}" in warnings[0]
    assert first != second
    assert [row["model"] for row in rows(output)] == [second] * 4


def test_rows_that_are_older_than_a_setting_are_done(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Errors
) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output) == 0
    records = rows(output)
    for record in records:
        del record["decoding"]["temperature"], record["decoding"]["prefix"]
    output.write_text("".join(json.dumps(record) + "\n" for record in records))
    capsys.readouterr()
    assert caption(photos, "--output", output) == 0
    assert capsys.readouterr().err.startswith("0 captioned, 4 skipped")
    assert caption(photos, "--output", output, "--prefix", "a") == 0
    assert capsys.readouterr().err.startswith("4 captioned, 0 skipped")


@pytest.mark.parametrize("left", [1, 5, 11, 40, -1])
def test_a_torn_last_line_is_dropped(photos: Path, tmp_path: Path, caption: Caption, capsys: Errors, left: int) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output) == 0
    whole = output.read_bytes()
    *kept, last = whole.splitlines(keepends=True)
    output.write_bytes(b"".join(kept) + last[:left])
    capsys.readouterr()
    assert caption(photos, "--output", output) == 0
    assert capsys.readouterr().err.startswith("1 captioned, 3 skipped")
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("some notes", 1),
        ("some notes\n", 1),
        ('[\n{"image_id": 1, "caption": "a dog"}\n]\n', 1),
        ('{"image": "photo.jpg", "caption": "a dog"}\n', 1),
        ('{"file_name": "photo.jpg", "text": "a dog"}', 1),
        ('{"image": "photo.jpg", "captions": ["A dog."], "split": "train"}', 1),
        ("[" * 100_000, 1),
        ("{good}\n{bad\n{good}\n", 2),
        ("{good}\n\n", 2),
        ("{good}\n\0\0\0", 2),
    ],
)
def test_what_is_no_file_of_records_is_left_as_it_is(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Errors, content: str, line: int
) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos / "photo0.jpg", "--output", output) == 0
    content = content.replace("{good}", output.read_text().strip())
    output.write_text(content)
    capsys.readouterr()
    for option in ([], ["--dry-run"]):
        assert caption(photos, "--output", output, *option) == 1
        assert f"captioner: {output}:{line}: not a line that this command has written" in capsys.readouterr().err
        assert output.read_text() == content
    assert caption(photos, "--output", output, "--existing", "overwrite") == 0
    assert names(output) == [f"photo{index}.jpg" for index in range(4)]


def test_existing_error_and_overwrite(photos: Path, tmp_path: Path, caption: Caption, capsys: Errors) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos / "photo0.jpg", "--output", output, "--existing", "error") == 0
    before = output.read_bytes()
    assert caption(photos, "--output", output, "--existing", "error") == 1
    assert f"captioner: {output}: exists already" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert caption(photos / "photo3.jpg", "--output", output, "--existing", "overwrite") == 0
    assert names(output) == ["photo3.jpg"]


def test_what_comes_to_nothing_leaves_the_output_as_it_was(
    photos: Path, tmp_path: Path, caption: Caption, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    # The model has soft attention: known only once it is loaded, when the output is open.
    assert caption(photos, "--output", output, "--context", "argmax") == 1
    assert not output.exists()
    assert caption(photos, "--output", output) == 0
    before = output.read_bytes()
    assert caption(photos, "--output", output, "--context", "argmax", "--existing", "overwrite") == 1
    assert output.read_bytes() == before

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("captioner.batch.local.Captioner.load", interrupt)
    assert caption(photos, "--output", output, "--existing", "overwrite") == 130
    assert output.read_bytes() == before


def test_a_second_run_at_the_same_time_is_refused(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    codes = []

    def twice(files: Iterable[ImageFile], job: Job) -> Iterator[Outcome]:
        codes.append(caption(photos, "--output", tmp_path / "out.csv", "--format", "csv"))
        yield from run_local(files, job)

    monkeypatch.setattr("captioner.batch.local.run_local", twice)
    assert caption(photos, "--output", tmp_path / "out.csv", "--format", "csv") == 0
    assert codes == [1]
    assert "out.csv.jsonl: another run is writing it" in capsys.readouterr().err
    assert names(tmp_path / "out.csv.jsonl") == [f"photo{index}.jpg" for index in range(4)]


def test_a_full_disk_is_one_clear_line_and_leaves_whole_rows(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output) == 0
    whole = output.read_bytes()
    output.unlink()

    class FullDisk(FileIO):
        def write(self, data: Any) -> int:
            room = 700 - os.fstat(self.fileno()).st_size
            if room <= 0:
                raise OSError(28, "No space left on device")
            return super().write(bytes(data)[:room])

    monkeypatch.setattr("captioner.batch.journal.FileIO", FullDisk)
    assert caption(photos, "--output", output) == 1
    assert f"captioner: {output}: cannot be written (No space left on device)" in capsys.readouterr().err
    kept = output.read_bytes()
    assert 0 < len(kept) < 700
    assert whole.startswith(kept)
    assert kept.endswith(b"\n")


def test_overwrite_keeps_what_is_there_if_every_photo_fails(photos: Path, tmp_path: Path, caption: Caption) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output) == 0
    before = output.read_bytes()
    for path in photos.iterdir():
        path.write_text("not a photo any more")
    assert caption(photos, "--output", output, "--existing", "overwrite") == 3
    assert output.read_bytes() == before


def test_a_refused_run_leaves_the_errors_of_another_alone(photos: Path, tmp_path: Path, caption: Caption) -> None:
    output, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    assert caption(photos, "--output", output) == 0
    line = '{"image": "x.jpg", "error": "another run\'s"}\n'
    errors.write_text(line)
    assert caption(photos, "--output", output, "--errors", errors, "--existing", "error") == 1
    assert errors.read_text() == line


def test_errors_do_not_go_into_the_records(photos: Path, tmp_path: Path, caption: Caption) -> None:
    output, records = tmp_path / "out.csv", tmp_path / "out.csv.jsonl"
    assert caption(photos, "--output", output, "--format", "csv") == 0
    before = records.read_bytes()
    with pytest.raises(SystemExit) as stopped:
        caption(photos, "--output", output, "--format", "csv", "--errors", records)
    assert stopped.value.code == 2
    assert records.read_bytes() == before


def test_a_linked_output_stays_a_link(photos: Path, tmp_path: Path, caption: Caption, other: Path) -> None:
    (tmp_path / "real").mkdir()
    output = tmp_path / "out.jsonl"
    output.symlink_to("real/out.jsonl")
    assert caption(photos, "--output", output) == 0
    assert caption(photos, "--output", output, "--checkpoint", other) == 0
    assert output.is_symlink()
    assert len(rows(output)) == 4


def test_the_index_finds_each_photos_last_record() -> None:
    draw = random.Random(0)
    last, lines = {}, []
    for _ in range(300):
        path, model = f"{draw.randrange(60)}.jpg", f"model{draw.randrange(3)}"
        record = {"image": path, "caption": "", "log_prob": 0, "width": 1, "height": 1, "size": 1}
        lines.append(json.dumps(record | {"mtime_ns": 1, "model": model, "decoding": {}}).encode() + b"\n")
        last[path] = model
    index = Index(lines, "")
    assert {path: found[1] for path in last if (found := index.find(path))} == last
    assert index.find("60.jpg") is None
    assert index.superseded
    assert index.length == sum(map(len, lines))
    assert not Index(lines[:1], "").superseded
    assert Index([], "").find("1.jpg") is None


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with contextlib.suppress(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        file.write(b"x" * (1 // 0))
    assert path.read_text() == "before"
    assert [path] == list(tmp_path.iterdir())
    with replacing(path) as file:
        file.write(b"after")
    assert path.read_text() == "after"
