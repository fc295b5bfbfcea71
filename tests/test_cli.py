from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.cli import main


def test_wrong_usage_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["caption"])
    assert caught.value.code == 2


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
