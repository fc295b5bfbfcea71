from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from captioner.checkpoint import save_checkpoint
from captioner.cli import main
from captioner.config import DecoderConfig, EncoderConfig, ModelConfig
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.vocabulary import Vocabulary
from tests.conftest import noise_photo

Caption = Callable[..., int]


def save_tiny(folder: Path, seed: int, attention: str = "soft") -> Path:
    """A real checkpoint, small and with random weights."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary(["a", "dog", "cat", "runs", "sits", "on", "grass", "red", "ball"])
    config = ModelConfig(
        EncoderConfig("squeezenet1_1", weights="none", input_size=64),
        DecoderConfig(12, 16, 8, attention=attention),  # type: ignore[arg-type]
        len(vocabulary),
    )
    save_checkpoint(folder, ShowAttendTell(config), vocabulary)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", 0)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "other", 1)


@pytest.fixture
def caption(tiny: Path) -> Caption:
    """Run the command with the tiny model, in this process."""

    def run(*arguments: object) -> int:
        chosen = [] if "--checkpoint" in arguments else ["--checkpoint", str(tiny)]
        return main(["caption", *map(str, arguments), "--device", "cpu", *chosen])

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four photos, of two sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        noise_photo(index, 80 + 20 * (index % 2), 60).save(folder / f"photo{index}.jpg")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def names(path: Path) -> list[str]:
    return [Path(row["image"]).name for row in rows(path)]
