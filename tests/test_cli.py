from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.batch.listing import find_images
from captioner.cli import main
from captioner.config import DecodingOptions
from captioner.data.annotations import DATA_VARIABLE
from captioner.errors import CaptionerError
from captioner.pipeline import BUNDLED, Captioner
from tests.conftest import EXAMPLES, noise_photo


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_is_captioned_and_bad_files_listed(
    tmp_path: Path, captioner: Captioner, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("admiral", "cat"):
        shutil.copy(EXAMPLES / f"{name}.jpg", folder / f"{name}.jpg")
    (folder / "bad.jpg").write_text("a text file, renamed")
    (folder / "notes.txt").write_text("no image, and not named like one")
    output = tmp_path / "out.jsonl"
    assert main(["caption", str(folder), "--output", str(output)]) == 3
    lines = read_lines(output)
    assert [line["image"] for line in lines] == [str(folder / "admiral.jpg"), str(folder / "cat.jpg")]
    for line in lines:
        expected = captioner.caption(str(line["image"]))
        assert line["caption"] == expected.text
        assert line["words"] == list(expected.words)
        assert line["log_prob"] == pytest.approx(expected.log_prob, abs=2e-3)
        assert line["word_probs"] == pytest.approx(expected.word_probs, abs=2e-3)
        assert (line["width"], line["height"]) == (expected.width, expected.height)
    errors = capsys.readouterr().err
    assert f"failed: {folder / 'bad.jpg'}: not an image" in errors
    assert "2 of 3 photos captioned, 1 failed" in errors


def test_good_files_alone_give_exit_code_0_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "cat.jpg"
    assert main(["caption", str(path), "--beam", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["image"] == str(path)


def test_hard_attention_sees_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "photographer.jpg"
    hard = str(BUNDLED.with_name("flickr8k-hard"))
    assert main(["caption", str(path), "--checkpoint", hard, "--context", "argmax"]) == 0
    expected = Captioner.load(hard).caption(path, DecodingOptions(context="argmax"))
    assert json.loads(capsys.readouterr().out)["caption"] == expected.text
    output = tmp_path / "out.jsonl"
    assert main(["caption", str(path), "--context", "argmax", "--output", str(output)]) == 1
    assert "captioner: context = 'argmax' needs a model with hard attention" in capsys.readouterr().err
    assert not output.exists()


def test_a_named_file_that_is_not_there_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", str(tmp_path / "none.jpg"), str(EXAMPLES / "cat.jpg")]) == 3
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert "none.jpg: cannot be opened" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{examples}/cat.jpg", "--checkpoint", "{tmp}/nowhere"], "no checkpoint there"),
        (["{tmp}"], "no image in this folder"),
        (["{examples}/cat.jpg", "--beam", "0"], "beam_size = 0"),
        (["{examples}/cat.jpg", "--output", "{tmp}/exists.jsonl"], "exists already"),
        (["{examples}/cat.jpg", "--output", "{tmp}/no/such/folder.jsonl"], "cannot be written"),
    ],
)
def test_what_cannot_run_is_one_clear_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "exists.jsonl").write_text("kept\n")
    filled = [argument.format(tmp=tmp_path, examples=EXAMPLES) for argument in arguments]
    assert main(["caption", *filled]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert (tmp_path / "exists.jsonl").read_text() == "kept\n"


def test_wrong_usage_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["caption"])
    assert caught.value.code == 2


def test_help_does_not_load_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "captioner", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "captioner.cli" in result.stderr
    assert "torch" not in result.stderr


def test_an_interruption_keeps_the_rows_written(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(400):
        noise_photo(index, 640, 480).save(folder / f"{index}.jpg")
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "captioner", "caption", str(folder), "--output", str(output)]
    # A test run in the background would hand down that interruptions are ignored.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while not (output.exists() and output.stat().st_size):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    lines = read_lines(output)
    assert 0 < len(lines) < 400
    assert f"{len(lines)} of 400 photos captioned" in errors


def test_folders_are_listed_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("photo10.jpg", "photo2.PNG", ".hidden.jpg", "notes.txt", "Photo1.webp"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [path.name for path in find_images([tmp_path])] == ["Photo1.webp", "photo2.PNG", "photo10.jpg"]
    with pytest.raises(CaptionerError, match="no image"):
        find_images([tmp_path / "folder.jpg"])


def test_a_data_set_is_checked_before_training(
    tmp_path: Path, flickr_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"[data]\nroot = {json.dumps(str(flickr_folder))}\n[encoder]\nname = 'resnet18'\n")
    assert main(["data", "check", str(recipe)]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    (flickr_folder / "images" / "photo0.jpg").unlink()
    assert main(["data", "check", str(recipe)]) == 3
    assert "train: 1 photo absent\n       images/photo0.jpg" in capsys.readouterr().out
    (flickr_folder / "Flickr_8k.devImages.txt").unlink()
    assert main(["data", "check", str(recipe)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"captioner: {flickr_folder}: no dev split: looked for Flickr_8k.devImages.txt")
    assert not captured.out
    assert main(["data", "check", str(tmp_path / "none.toml")]) == 1


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason=f"real data: set {DATA_VARIABLE} to its folder")
def test_the_coco_photos(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert main(["caption", f"{os.environ[DATA_VARIABLE]}/coco-mini/val2017", "--output", str(output)]) == 0
    lines = read_lines(output)
    assert len({line["image"] for line in lines}) == 79
    assert len({line["caption"] for line in lines}) > 40
