from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import captioner
from captioner import doctor
from captioner.cli import main
from captioner.errors import PIP


@pytest.mark.parametrize("command", [[], ["app"]])
def test_help_does_not_load_torch(command: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "captioner", *command, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "captioner.cli" in result.stderr
    assert not any(name in result.stderr for name in ("torch", "numpy", "PIL", "streamlit"))


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


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"captioner {captioner.__version__}\n"


def test_info_says_what_a_checkpoint_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["info"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    found = {name: value.strip() for name, value in lines.items()}
    assert found["Encoder"] == "efficientnet_lite2"
    assert found["Attention"] == "soft"
    assert found["Training"].startswith(
        "Trained on flickr8k by self-critical training from runs/flickr8k-soft-finetune"
    )
    assert float(found["CIDEr-D on dev, while training"]) > 60
    assert main(["info", str(tmp_path / "none")]) == 1
    captured = capsys.readouterr()
    assert f"{tmp_path / 'none'}: no checkpoint there" in captured.err
    assert not captured.out


def test_info_needs_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "captioner", "info"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "SHA-256" in result.stdout
    assert not any(name in result.stderr for name in ("torch", "numpy", "PIL"))


def test_the_doctor_finds_nothing_wrong_where_all_is_right(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAPTIONER_DATA", raising=False)
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert f"ok     torch {metadata.version('torch')}\n" in report
    assert re.search(r"^ok     bundled model flickr8k-soft: a caption takes \d+ ms on ", report, re.M)
    assert re.search(r"^ok     bundled model flickr8k-hard: a caption takes \d+ ms on ", report, re.M)
    assert "--     CAPTIONER_DATA: not set" in report
    assert "WRONG" not in report


@pytest.mark.parametrize("model", ["damaged", "lost", "lost/too"])
def test_the_doctor_names_what_is_wrong_and_the_cure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    monkeypatch.setenv("CAPTIONER_DATA", str(tmp_path / "moved"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "BUNDLED", tmp_path / model)
    (tmp_path / "damaged").mkdir()
    needs = ["torch>=99", "absent-package>=1", "pillow", "ray>=2; extra == 'ray'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    assert main(["doctor"]) == 1
    report = capsys.readouterr().out
    assert f"WRONG  torch {metadata.version('torch')}: it must be >=99; {PIP} -r requirements.txt\n" in report
    assert f"WRONG  absent-package: not installed; {PIP} -r requirements.txt\n" in report
    assert f"ok     pillow {metadata.version('pillow')}\n" in report
    assert "ray" not in report.replace("array", "")
    assert "--     Java: not found, so METEOR and SPICE are left out of scores\n" in report
    assert f"WRONG  CAPTIONER_DATA = {str(tmp_path / 'moved')!r}: no such folder" in report
    assert f"WRONG  bundled model {Path(model).name}: " in report


def test_signs_that_the_terminal_does_not_know_are_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["info"]) == 0
    output.seek(0)
    assert r"\u2026" in output.read()


def test_the_doctor_goes_on_where_torch_is_too_old_and_names_are_no_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    monkeypatch.setenv("CAPTIONER_DATA", str(folder))
    monkeypatch.delattr("torch.cpu.get_capabilities")
    output = io.TextIOWrapper(io.BytesIO(), "utf-8")  # strict, as a terminal's may be
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["doctor"]) == 1
    output.seek(0)
    report = output.read()
    assert "WRONG  torch cannot be used (AttributeError: " in report
    assert r"/\udcff" in report
    assert "WRONG  bundled model flickr8k-soft: " in report
