"""`captioner caption` as a user meets it: what it writes, says and returns."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from captioner import checkpoint_files
from captioner.batch.job import ImageFile, Job, Outcome
from captioner.batch.journal import Journal
from captioner.batch.local import run_local
from captioner.batch.records import Record
from captioner.checkpoint_files import BUNDLED
from captioner.cli import main
from captioner.config import DecodingOptions
from captioner.data.annotations import DATA_VARIABLE
from captioner.pipeline import Captioner
from tests.batch.conftest import Caption, names, rows
from tests.conftest import EXAMPLES, needs_data

Output = pytest.CaptureFixture[str]


def test_a_folder_is_captioned_and_bad_files_told(tmp_path: Path, captioner: Captioner, capsys: Output) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("admiral", "cat"):
        shutil.copy(EXAMPLES / f"{name}.jpg", folder / f"{name}.jpg")
    (folder / "bad.jpg").write_text("a text file, renamed")
    (folder / "notes.txt").write_text("no image, and not named like one")
    output = tmp_path / "out.jsonl"
    assert main(["caption", str(folder), "--output", str(output), "--precision", "float32"]) == 3
    lines = rows(output)
    assert [line["image"] for line in lines] == [str(folder / "admiral.jpg"), str(folder / "cat.jpg")]
    for line in lines:
        expected = captioner.caption(str(line["image"]))
        assert line["caption"] == expected.text
        assert line["words"] == list(expected.words)
        assert line["log_prob"] == pytest.approx(expected.log_prob, abs=2e-3)
        assert line["word_probs"] == pytest.approx(expected.word_probs, abs=2e-3)
        assert (line["width"], line["height"]) == (expected.width, expected.height)
        found = Path(line["image"]).stat()
        assert (line["size"], line["mtime_ns"]) == (found.st_size, found.st_mtime_ns)
        assert line["model"] == checkpoint_files.weights_sha256(BUNDLED)[:12]
        assert DecodingOptions.from_dict(line["decoding"]) == DecodingOptions()
        assert "attention" not in line
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"failed: {folder / 'bad.jpg'}: not an image")
    assert errors[-1].startswith("2 captioned, 0 skipped, 1 failed, ")
    assert errors[-1].endswith(" photos/s")
    assert len(errors) == 2, "a progress bar where there is no terminal"


def test_hard_attention_sees_what_is_asked_for(capsys: Output) -> None:
    path = EXAMPLES / "photographer.jpg"
    hard = str(BUNDLED.with_name("flickr8k-hard"))
    assert main(["caption", str(path), "--checkpoint", hard, "--context", "argmax"]) == 0
    expected = Captioner.load(hard).caption(path, DecodingOptions(context="argmax"))
    assert json.loads(capsys.readouterr().out)["caption"] == expected.text


def test_captions_begin_as_asked_for_and_are_drawn(captioner: Captioner, capsys: Output) -> None:
    path = str(EXAMPLES / "cat.jpg")
    options = DecodingOptions(prefix=("a", "photo", "of"), temperature=0.5, seed=3)
    command = ["caption", path, "--precision", "float32", "--prefix", " a photo  of", "--seed", "3"]
    assert main([*command, "--temperature", "0.5"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert DecodingOptions.from_dict(line["decoding"]) == options
    assert line["caption"] == captioner.caption(path, options).text
    assert main([*command, "--temperature", "11"]) == 1
    assert "temperature = 11.0 must lie in 0..10" in capsys.readouterr().err
    assert main(["caption", path, "--prefix", "a zyzzyva"]) == 1
    assert "does not know: 'zyzzyva'" in capsys.readouterr().err


def test_a_named_file_that_is_not_there_fails_alone(photos: Path, caption: Caption, capsys: Output) -> None:
    long = photos / ("x" * 300)
    assert caption(photos / "none.jpg", photos / "photo1.jpg", long, photos / "photo0.jpg") == 3
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert f"failed: {photos / 'none.jpg'}: cannot be opened" in captured.err
    assert f"failed: {long}: cannot be opened" in captured.err


def test_failures_go_to_a_file_of_their_own(photos: Path, tmp_path: Path, caption: Caption, capsys: Output) -> None:
    (photos / "bad.jpg").write_text("no image")
    errors = tmp_path / "errors.jsonl"
    errors.write_text('{"image": "other.jpg", "error": "of the run before"}\n')
    for _ in range(2):
        assert caption(photos, "--output", tmp_path / "out.jsonl", "--errors", errors, "--existing", "overwrite") == 3
        assert [row["image"] for row in rows(errors)] == [str(photos / "bad.jpg")]
    assert "not an image" in rows(errors)[0]["error"]
    assert capsys.readouterr().err.startswith("4 captioned, 0 skipped, 1 failed")


def test_photos_and_captions_are_no_place_for_failures(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output
) -> None:
    # What the shell makes of `--errors photos/*` where the file was forgotten.
    captions = tmp_path / "captions.jsonl"
    assert caption(photos, "--output", captions) == 0
    for taken in (photos / "photo0.jpg", captions):
        before = taken.read_bytes()
        assert caption("--errors", taken, photos / "photo1.jpg", "--output", tmp_path / "out.jsonl") == 1
        assert f"{taken}: holds something else than failures" in capsys.readouterr().err
        assert taken.read_bytes() == before
        assert not (tmp_path / "out.jsonl").exists()


def test_fail_fast_stops_at_the_first_failure_and_keeps_the_rows(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output
) -> None:
    (photos / "photo1.jpg").write_text("no image")
    output = tmp_path / "out.csv"
    options = ["--output", output, "--format", "csv", "--batch-size", 1, "--fail-fast"]
    assert caption(photos, *options) == 3
    assert names(tmp_path / "out.csv.jsonl") == ["photo0.jpg"]
    assert len(output.read_text().splitlines()) == 2
    assert "1 captioned, 0 skipped, 1 failed" in capsys.readouterr().err


def test_limit_takes_the_first_of_the_listing(photos: Path, tmp_path: Path, caption: Caption) -> None:
    output = tmp_path / "out.jsonl"
    for limit, expected in ((2, 2), (2, 2), (3, 3), (99, 4)):
        assert caption(photos, "--output", output, "--limit", limit) == 0
        assert names(output) == [f"photo{index}.jpg" for index in range(expected)]


def test_a_dry_run_tells_and_does_nothing(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output, "--limit", 2) == 0
    with output.open("a") as file:
        file.write('{"image": "torn')
    before = output.read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(Captioner, "load", None)
    errors = tmp_path / "errors.jsonl"
    assert caption(photos, "--output", output, "--errors", errors, "--dry-run") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [str(photos / "photo2.jpg"), str(photos / "photo3.jpg")]
    assert captured.err == "2 to caption, 2 skipped, 0 failed; nothing written\n"
    assert caption(photos, "--output", output, "--dry-run", "--quiet") == 0
    assert capsys.readouterr() == (captured.out, "")
    for kind in ("csv", "coco", "hf", "txt"):
        place = [] if kind == "txt" else ["--output", photos / "out.x"]
        assert caption(photos, "--format", kind, *place, "--dry-run") == 0
        assert len(capsys.readouterr().out.splitlines()) == 4
    assert output.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [output, photos]
    assert len(list(photos.iterdir())) == 4


def test_a_dry_run_needs_no_torch(photos: Path, tmp_path: Path, tiny: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "captioner", "caption", str(photos), "--dry-run"]
    options = ["--checkpoint", str(tiny), "--output", str(tmp_path / "out.jsonl")]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert "captioner.batch.journal" in result.stderr
    assert "torch" not in result.stderr


def test_quiet_leaves_failures_only(photos: Path, tmp_path: Path, caption: Caption, capsys: Output) -> None:
    assert caption(photos, "--output", tmp_path / "out.jsonl", "--quiet") == 0
    assert not "".join(capsys.readouterr())
    (photos / "bad.jpg").write_text("no image")
    (photos / "link.jpg").symlink_to("photo1.jpg")
    (photos / "phone.HEIC").write_text("never read")
    assert caption(photos, "--output", tmp_path / "out.jsonl", "--quiet") == 3
    failure, warning, unread = capsys.readouterr().err.splitlines()
    assert failure.startswith("failed: ")
    assert warning.startswith("warning: 1 symbolic links in folders were not followed")
    assert unread.startswith("warning: HEIC, JPEG XL and raw files are not read, 1 passed over; save them as JPEG")


def test_nothing_to_do_loads_no_model(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert caption(photos, "--output", tmp_path / "out.jsonl") == 0
    capsys.readouterr()
    monkeypatch.setattr(Captioner, "load", None)
    assert caption(photos, "--output", tmp_path / "out.jsonl") == 0
    assert capsys.readouterr().err == "0 captioned, 4 skipped, 0 failed, 0.0 photos/s\n"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "coco", "txt", "hf"])
def test_any_name_that_a_file_can_have(photos: Path, caption: Caption, kind: str) -> None:
    odd = ["-dash.jpg", 'quote".jpg', "new\nline.jpg", "tab\t\r.jpg", "é\u2028.jpg", os.fsdecode(b"no-\xff-utf8.jpg")]
    for name in odd:
        shutil.copy(photos / "photo0.jpg", photos / name)
    (photos / os.fsdecode(b"bad\xfe.jpg")).write_text("no image")
    place = [] if kind == "txt" else ["--output", photos / "out"]
    assert caption(photos, "--format", kind, "--attention", "npz" if place else "none", *place) == 3
    if kind == "txt":
        assert len(list(photos.glob("*.txt"))) == 4 + len(odd)
        return
    (journal,) = photos.glob(".out.jsonl" if kind == "hf" else "out.jsonl" if kind != "jsonl" else "out")
    with journal.open(encoding="utf-8", newline="\n") as file:
        assert {Path(json.loads(line)["image"]).name for line in file} >= set(odd)
    assert caption(photos, "--format", kind, "--attention", "npz", *place, "--dry-run") == 0


def test_names_that_are_no_text_can_be_listed_and_streamed(photos: Path, tiny: Path) -> None:
    name = b"no-\xff-utf8.jpg"
    shutil.copy(photos / "photo0.jpg", photos / os.fsdecode(name))
    command = [sys.executable, "-m", "captioner", "caption", str(photos), "--checkpoint", str(tiny), "--dry-run"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert result.stdout.splitlines()[0] == os.fsencode(photos) + b"/" + name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}", "--checkpoint", "{tmp}/nowhere"], "no checkpoint there"),
        (["{photos}", "--checkpoint", "{photos}"], "model.safetensors: cannot be read"),
        (["{tmp}"], "no image in this folder"),
        (["{photos}", "--beam", "5000"], "beam_size = 5000"),
        (["{photos}", "--output", "{tmp}/no/such/folder.jsonl"], "there is no folder {tmp}/no/such; make it first"),
        (["{photos}", "--output", "{tmp}/no/such/out.csv", "--format", "csv"], "there is no folder"),
        (["{photos}", "--output", "{photos}"], "not a file"),
        (["{photos}", "--output", "{photos}", "--format", "csv"], "is a folder"),
        (["{photos}", "--output", "/dev/null"], "not a file"),
        (["{photos}", "--output", "{photos}/photo0.jpg/out.jsonl"], "cannot be written"),
        (["{photos}", "--errors", "{tmp}/no/errors.jsonl"], "there is no folder"),
        (["{photos}", "--device", "nowhere"], "device = 'nowhere' cannot be used"),
        (["{photos}", "--device", "meta"], "device = 'meta' cannot be used (of this kind none is supported); try cpu"),
        (["{photos}", "--context", "argmax"], "context = 'argmax' needs a model with hard attention"),
        (["{photos}", "--seed", "-1"], "seed = -1"),
    ],
)
def test_what_cannot_run_is_one_clear_line_and_exit_code_1(
    photos: Path, tmp_path: Path, tiny: Path, capsys: Output, arguments: list[str], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    filled = [argument.format(tmp=tmp_path, photos=photos) for argument in arguments]
    chosen = [] if "--checkpoint" in filled else ["--checkpoint", str(tiny)]
    assert main(["caption", *filled, *chosen]) == 1
    error = capsys.readouterr().err
    assert error.startswith("captioner: ")
    assert message.format(tmp=tmp_path) in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "PATH"),
        ([""], "argument PATH: a path is empty"),
        (["{photos}", "--engine", "ray", "--device", "cuda:1"], "--device"),
        (["{photos}", "--beam", "0"], "--beam"),
        (["{photos}", "--max-length", "x"], "--max-length"),
        (["{photos}", "--batch-size", "-3"], "--batch-size"),
        (["{photos}", "--workers", "0"], "--workers"),
        (["{photos}", "--limit", "1.5"], "--limit"),
        (["{photos}", "--format", "xml"], "--format"),
        (["{photos}", "--attention", "npz"], "--attention"),
        (["{photos}", "--attention", "png", "--format", "txt"], "--attention"),
        (["{photos}", "--format", "txt", "--output", "out.txt"], "--output"),
        (["{photos}", "--output", "{photos}/out.csv"], "--format csv"),
        (["{photos}", "--output", "."], "--output: '.' is a folder"),
        (["{photos}", "--output", ""], "--output: '.' is a folder"),
        (["{photos}", "--output", "/", "--format", "csv"], "--output: '/' is a folder"),
        (["{photos}/photo0.jpg", "--format", "hf"], "--output"),
        (["{photos}", "--output", "{photos}/a", "--errors", "{photos}/../photos/a"], "--errors"),
    ],
)
def test_wrong_usage_names_the_option(photos: Path, capsys: Output, arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["caption", *(argument.format(photos=photos) for argument in arguments)])
    assert caught.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
    assert len(list(photos.iterdir())) == 4


def test_a_model_that_was_replaced_since_the_start_captions_nothing(
    photos: Path,
    tmp_path: Path,
    tiny: Path,
    other: Path,
    caption: Caption,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(files: Iterable[ImageFile], job: Job) -> Iterator[Outcome]:
        shutil.copytree(other, tmp_path / "model", dirs_exist_ok=True)
        yield from run_local(files, job)

    shutil.copytree(tiny, tmp_path / "model")
    monkeypatch.setattr("captioner.batch.local.run_local", late)
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output, "--checkpoint", tmp_path / "model") == 1
    assert f"{tmp_path / 'model'}: holds another model than at the start of the run" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "coco"])
def test_an_interruption_keeps_the_rows_and_makes_the_format(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def interrupted(files: Iterable[ImageFile], job: Job) -> Iterator[Outcome]:
        for index, outcome in enumerate(run_local(files, job)):
            if index == 2:
                raise KeyboardInterrupt
            yield outcome

    monkeypatch.setattr("captioner.batch.local.run_local", interrupted)
    output = tmp_path / "out"
    assert caption(photos, "--output", output, "--format", kind) == 130
    assert capsys.readouterr().err.startswith("2 captioned, 0 skipped, 0 failed")
    assert caption(photos, "--format", kind) == 130
    header = 1 if kind == "csv" else 0
    for content in (output.read_text(), capsys.readouterr().out):
        assert len(json.loads(content) if kind == "coco" else content.splitlines()) == header + 2


def test_a_row_that_is_written_is_counted_though_ctrl_c_comes_right_then(
    photos: Path, tmp_path: Path, caption: Caption, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    write = Journal.write

    def interrupted(journal: Journal, file: ImageFile, record: Record) -> None:
        write(journal, file, record)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Journal, "write", interrupted)
    # A test run in the background would have them ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = tmp_path / "out.jsonl"
    assert caption(photos, "--output", output) == 130
    assert len(rows(output)) == 1
    assert capsys.readouterr().err.startswith("1 captioned, 0 skipped, 0 failed")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_reader_that_has_enough_ends_the_run(photos: Path, tiny: Path) -> None:
    for index in range(4, 300):
        os.link(photos / "photo0.jpg", photos / f"photo{index}.jpg")
    command = [
        sys.executable,
        "-m",
        "captioner",
        "caption",
        str(photos),
        "--checkpoint",
        str(tiny),
        "--batch-size",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["image"] == str(photos / "photo0.jpg")
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""


def test_nothing_but_captions_is_written_where_standard_error_is_closed(photos: Path, tiny: Path) -> None:
    (photos / "photo1.jpg").write_bytes(b"no photo")
    command = f"{sys.executable} -m captioner caption {photos} --checkpoint {tiny} 2>&-"
    result = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 3
    assert len([json.loads(line)["image"] for line in result.stdout.splitlines()]) == 3


def test_an_engine_that_is_not_installed_is_named(
    photos: Path, tmp_path: Path, caption: Caption, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captioner.batch.ray_engine", None)
    assert caption(photos, "--output", tmp_path / "out.jsonl", "--engine", "ray") == 1
    assert "captioner: --engine ray needs " in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


@needs_data("coco-mini")
def test_the_coco_photos(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert main(["caption", f"{os.environ[DATA_VARIABLE]}/coco-mini/val2017", "--output", str(output)]) == 0
    lines = rows(output)
    assert len({line["image"] for line in lines}) == 79
    assert len({line["caption"] for line in lines}) > 40
