"""Benchmarks run; what they measure is not asserted here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks import caption as captioning
from benchmarks import depthwise, gradient_variance, memory, self_critical, training_cost
from benchmarks import train as training_speed
from captioner.checkpoint import load_checkpoint
from captioner.checkpoint_files import BUNDLED
from captioner.pipeline import Captioner
from tests.conftest import EXAMPLES


@pytest.fixture
def recipe(flickr_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(f'[data]\nroot = "{flickr_folder}"\n[encoder]\nname = "resnet18"\n')
    return path


def test_gradient_variance_prints_its_table(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(recipe), "--photos", "1", "--draws", "2", "--device", "cpu"]
    assert gradient_variance.main(arguments) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "trained" in line]
    assert [row[1].strip() for row in rows] == ["paper", "paper", "per_word"] * 2
    assert all(float(row[3]) > 0 for row in rows)


@pytest.mark.parametrize("wrong", [["--photos", "0"], ["--draws", "1"], ["--photos", "24"]])
def test_gradient_variance_refuses_what_cannot_be_measured(
    recipe: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gradient_variance.main(["--data", str(recipe), "--device", "cpu", *wrong]) == 1
    assert wrong[0] in capsys.readouterr().err


SMALL = """
[data]
root = "flickr8k"
[encoder]
name = "shufflenet_v2_x0_5"
[decoder]
embedding_dim = 16
hidden_dim = 16
attention_dim = 16
[train]
{}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(""))
    return path


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    found: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_training_speed_ends_with_its_figures(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training_speed.main(["--quick", "--recipe", str(small), "--device", "cpu"]) == 0
    found = figures(capsys)
    assert found["captions_per_second"] > 0
    assert min(found[name] for name in ("times_encoder_in_loop", "times_plain_loop", "share_of_gemm")) > 0


def test_the_cost_of_the_reward_is_a_share(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write_text(SMALL.format('objective = "self_critical"\nstart = "somewhere"'))
    assert self_critical.main(["--recipe", str(small), "--steps", "2", "--device", "cpu"]) == 0
    assert 0 < figures(capsys)["reward_share"] < 1


def test_memory_is_measured_of_train_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "QUICK_SIZES", (70,))
    assert memory.main(["--quick"]) == 0
    assert figures(capsys)["peak_megabytes"]["70"] > 100  # type: ignore[index]


@pytest.mark.parametrize(
    ("extra", "stored"),
    [
        ("", "4,096"),
        ('features = "computed"\nfine_tune_from = 5', None),
        ("fine_tune_from = 5", "8,192"),
        ('objective = "self_critical"\nstart = "x"', "4,096"),
    ],
)
def test_training_cost_prints_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: str, stored: str | None
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(
        f'[data]\nroot = "x"\n[encoder]\nname = "resnet18"\ninput_size = 64\n[train]\nimages_per_batch = 4\n{extra}\n'
    )
    assert training_cost.main([str(path), "--photos", "20", "--steps", "1", "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    found = re.search(r"features of a photo, 1 stored +\| +([\d,]+) bytes", table)
    assert (found[1] if found else None) == stored
    assert "100 captions" in table
    assert "10 epochs of 5 steps" in table


@pytest.mark.parametrize("wrong", [["--photos", "1"], ["--steps", "0"], ["--batch", "0"]])
def test_training_cost_refuses_what_cannot_be_measured(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert training_cost.main(["recipes/coco-soft.toml", *wrong]) == 1
    assert "--photos needs at least 2" in capsys.readouterr().err


def test_what_cannot_be_measured_is_one_line(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert depthwise.main(["--repeats", "0"]) == 1
    assert self_critical.main(["--recipe", str(small), "--steps", "0"]) == 1
    small.write_text(SMALL.format("fine_tune_from = 5"))
    assert training_speed.main(["--quick", "--recipe", str(small)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_depthwise_training_ends_with_its_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    assert depthwise.main(["--photos", "1", "--repeats", "1"]) == 0
    assert re.search(r"^\d+\.\d\d times as fast$", capsys.readouterr().out, re.M)


def test_the_plain_way_to_caption_is_the_same_model(captioner: Captioner) -> None:
    model, vocabulary = load_checkpoint(BUNDLED)
    photos = sorted(EXAMPLES.glob("*.jpg"))
    with torch.inference_mode():
        plain = [captioning.plain_caption(model, vocabulary, path, torch.device("cpu")) for path in photos]
    ours = [caption.text for caption in captioner.caption_many(photos, captioning.OPTIONS)]
    assert sum(a == b for a, b in zip(plain, ours, strict=True)) >= len(photos) - 1  # their beams end otherwise


def test_captioning_speed_ends_with_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(captioning, "QUICK_PHOTOS", 10)
    monkeypatch.setattr(captioning, "QUICK_MEMORY_SIZES", (2,))
    # As good as the large model to see that the command runs.
    monkeypatch.setattr(captioning, "save_tutorial", lambda folder: BUNDLED)
    assert captioning.main(["--quick", "--device", "cpu"]) == 0
    found = figures(capsys)
    assert found["images_per_s"] > 0
    assert found["share_of_encoder"] > 0
    assert found["times_plain"] > 0
    assert found["peak_megabytes"]["2"] > 100  # type: ignore[index]
    assert found["differ_by_batch_size_float32"] == 0
