"""Training in several processes and parts, with the encoder in the loop, by reward; and what may end it early."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import train
from captioner.checkpoint import load_checkpoint
from captioner.checkpoint_files import read_config
from captioner.models.encoder import ImageEncoder
from captioner.recipe import Recipe
from captioner.search import search
from captioner.training import validation
from tests.training.runs import TORCHRUN, TRAIN, Run, start_program
from tests.training.test_training import finish, metrics, start, wait_for_step, workplace, write_recipe

__all__ = ["workplace"]
NO_DROPOUT: dict[str, Any] = {"attention_dim": "16\ndropout = 0.0"}


def launch(workplace: Path, run: str, *options: str, processes: int = 1, fresh: bool = False) -> Run:
    """Start `train.py`, as `torchrun` starts it if there are several processes."""
    several = [TORCHRUN, "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [*several, TRAIN, "recipe.toml", "--output", run, "--device", "cpu", *options]
    return start_program(workplace, *command, fresh=fresh)


def weights(workplace: Path, run: str, checkpoint: str = "last") -> dict[str, Tensor]:
    found: dict[str, Tensor] = safetensors.torch.load_file(workplace / run / checkpoint / "model.safetensors")
    return found


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def losses(workplace: Path, run: str) -> list[float]:
    rows = [json.loads(line) for line in (workplace / run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize(("attention", "extra"), [("soft", ""), ("none", "fine_tune_from = 5")])
def test_two_processes_give_the_losses_of_one(workplace: Path, attention: str, extra: str) -> None:
    # 24 photos in steps of 5: the last step of an epoch has 4, and no share is of a round number.
    write_recipe(workplace, epochs=10, images_per_batch=5, attention=attention, extra=extra, **NO_DROPOUT)
    finish(launch(workplace, "one"))
    finish(launch(workplace, "two", processes=2))
    one, two = losses(workplace, "one"), losses(workplace, "two")
    assert len(one) == len(two) == 50
    assert one[-1] < 0.7 * one[0]
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    # Validation, too, was shared out and put together.
    scores = [[row["dev/bleu1"] for row in metrics(workplace / run) if "dev/bleu1" in row] for run in ("one", "two")]
    assert scores[0] == pytest.approx(scores[1])


def test_two_processes_share_the_baseline_of_hard_attention(workplace: Path) -> None:
    # In two parts each; the last step of an epoch has so few photos that one of the parts is of nothing.
    write_recipe(workplace, epochs=10, images_per_batch=7, attention="hard", extra="accumulate = 2")
    finish(launch(workplace, "two", processes=2))
    assert losses(workplace, "two")[-1] < losses(workplace, "two")[0]
    state = torch.load(workplace / "two" / "last" / "training_state.pt", weights_only=True)
    # Near the reward in the end, which is close to minus the loss; it started at that of a guess among 23 words.
    assert -2.5 < float(state["objective"]["baseline"]) < -0.5
    assert int(state["objective"]["step"]) == 80


def test_a_process_without_photos_takes_part(workplace: Path) -> None:
    write_recipe(workplace, epochs=2, images_per_batch=23, **NO_DROPOUT)  # the second step of an epoch has one photo
    finish(launch(workplace, "one"))
    finish(launch(workplace, "two", processes=2))
    assert losses(workplace, "two") == pytest.approx(losses(workplace, "one"), abs=1e-4)


def test_a_run_goes_on_with_another_number_of_processes(workplace: Path) -> None:
    write_recipe(workplace, epochs=6, images_per_batch=2, **NO_DROPOUT)
    finish(launch(workplace, "whole"))
    process = launch(workplace, "moved", processes=2)
    wait_for_step(workplace / "moved", 5, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert len(losses(workplace, "moved")) < 72
    finish(launch(workplace, "moved", "--resume"))
    assert losses(workplace, "moved") == pytest.approx(losses(workplace, "whole"), abs=1e-4)
    assert len(losses(workplace, "moved")) == 72


def test_parts_of_a_step_add_up_to_it(workplace: Path) -> None:
    write_recipe(workplace, epochs=3, images_per_batch=8, **NO_DROPOUT)
    finish(launch(workplace, "whole"))
    write_recipe(workplace, epochs=3, images_per_batch=8, extra="accumulate = 3", **NO_DROPOUT)
    finish(launch(workplace, "parts"))
    assert losses(workplace, "parts") == pytest.approx(losses(workplace, "whole"), abs=1e-4)


def test_the_encoder_is_trained_from_the_stage_that_was_chosen_and_no_earlier(workplace: Path) -> None:
    write_recipe(
        workplace,
        epochs=8,
        learning_rate=0.02,
        extra='features = "computed"\nfine_tune_from = 5\nencoder_learning_rate = 1e-3',
        views="1",
    )
    finish(launch(workplace, "run"))
    write_recipe(workplace, epochs=1, extra='features = "computed"', learning_rate=1e-9, views="1")
    finish(launch(workplace, "before"))
    before, after = weights(workplace, "before"), weights(workplace, "run")
    moved = {name for name in after if name.startswith("encoder.") and not torch.equal(before[name], after[name])}
    assert {name.split(".")[2] for name in moved} == {"stage4", "conv5"}
    # The statistics of BatchNorm stay what they were.
    assert not any("running" in name for name in moved)
    assert "encoder.network.conv5.1.weight" in moved
    assert losses(workplace, "run")[-1] < 0.7 * losses(workplace, "run")[0]
    assert not (workplace / "cache").exists()


def test_fine_tuning_on_what_the_frozen_part_gave_is_that_with_the_encoder_in_the_loop(workplace: Path) -> None:
    tuned = "fine_tune_from = 5\nencoder_learning_rate = 1e-3"
    write_recipe(workplace, epochs=4, views="1", mirror="false", extra=tuned)
    finish(launch(workplace, "stored"))
    write_recipe(workplace, epochs=4, views="1", mirror="false", extra=f'features = "computed"\n{tuned}')
    finish(launch(workplace, "computed"))
    assert losses(workplace, "stored") == pytest.approx(losses(workplace, "computed"), rel=1e-2)
    stored, computed = weights(workplace, "stored"), weights(workplace, "computed")
    name = "encoder.network.conv5.0.weight"
    start = ImageEncoder.pretrained(Recipe.read(workplace / "recipe.toml").encoder).state_dict()
    moved = computed[name] - start[name.removeprefix("encoder.")]
    assert float((stored[name] - computed[name]).norm()) < 0.2 * float(moved.norm())
    # Another run, whose encoder has learnt already, finds the same stores: of train and dev.
    kept = {path: path.stat().st_mtime_ns for path in (workplace / "cache").glob("*/features.f16")}
    write_recipe(workplace, epochs=1, views="1", mirror="false", extra=f'{tuned}\nstart = "stored/last"')
    assert len(kept) == 2
    finish(launch(workplace, "again"))
    assert {path: path.stat().st_mtime_ns for path in (workplace / "cache").glob("*/features.f16")} == kept


def test_features_computed_are_the_features_stored(workplace: Path) -> None:
    """Frozen and in one view, the two ways to feed are one training."""
    write_recipe(workplace, epochs=2, views="1", mirror="false")
    finish(launch(workplace, "stored"))
    write_recipe(workplace, epochs=2, views="1", mirror="false", extra='features = "computed"')
    finish(launch(workplace, "computed"))
    # A store rounds to half precision.
    assert losses(workplace, "computed") == pytest.approx(losses(workplace, "stored"), rel=1e-3)


def test_dev_photos_are_seen_as_they_are(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the train photos are varied: scores are those that the stored features give."""
    scores = []
    for run, settings in (
        ("stored", {"views": "1", "mirror": "false"}),
        ("computed", {"views": "1\ncrop = 0.5", "extra": 'features = "computed"'}),
    ):
        write_recipe(workplace, epochs=1, learning_rate=1e-12, **settings)  # type: ignore[arg-type]
        seen: list[Tensor] = []

        def spy(decoder: Any, features: Tensor, *rest: Any, seen: list[Tensor] = seen) -> Any:
            seen.append(features)
            return search(decoder, features, *rest)

        monkeypatch.chdir(workplace)
        monkeypatch.setenv("CAPTIONER_DATA", str(workplace))
        with monkeypatch.context() as patch:
            patch.setattr(validation, "search", spy)
            assert train.main(["recipe.toml", "--output", run, "--device", "cpu"]) == 0
        scores.append(torch.cat(seen))
    assert torch.allclose(scores[0], scores[1], rtol=1e-2, atol=1e-2)


def test_a_stage_the_encoder_does_not_have_is_refused(workplace: Path) -> None:
    write_recipe(workplace, extra='features = "computed"\nfine_tune_from = 9', views="1")
    process = launch(workplace, "run")
    assert "fine_tune_from = 9: encoder shufflenet_v2_x0_5 has stages 1 to 5" in process.communicate()[0]
    assert process.returncode == 1


@pytest.mark.parametrize(("baseline", "bleu"), [("others", 0.0), ("greedy", 2.0)])
def test_self_critical_training_goes_on_from_a_checkpoint_and_raises_the_reward(
    workplace: Path, baseline: str, bleu: float
) -> None:
    write_recipe(workplace, epochs=3, learning_rate=0.02)
    finish(launch(workplace, "first"))
    extra = 'objective = "self_critical"\nstart = "first/best"\nselect_by = "cider"'
    rewarded = f'5\n[train.self_critical]\nbaseline = "{baseline}"\nbleu = {bleu}'
    write_recipe(workplace, epochs=30, extra=extra, seed=rewarded, **NO_DROPOUT)
    finish(launch(workplace, "second"))
    steps = [row for row in metrics(workplace / "second") if "train/cider" in row]
    assert len(steps) == 180
    assert ("train/bleu4" in steps[0]) == bool(bleu)
    for name in ("train/cider", *["train/bleu4"] * bool(bleu)):
        rewards = [row[name] for row in steps]
        assert sum(rewards[-12:]) > 1.15 * sum(rewards[:12])
    _, before = load_checkpoint(workplace / "first" / "best")
    _, after = load_checkpoint(workplace / "second" / "best")
    assert before.words == after.words


def test_a_start_that_is_another_model_is_refused(workplace: Path) -> None:
    write_recipe(workplace, epochs=1)
    finish(launch(workplace, "first"))
    write_recipe(workplace, epochs=1, extra='start = "first/best"', hidden_dim="32")
    process = launch(workplace, "second")
    output = process.communicate()[0]
    assert "start = 'first/best' is another model than the recipe's: decoder.hidden_dim was 24, is 32" in output
    assert process.returncode == 1
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("number", "extra", "data"),
    [
        (signal.SIGTERM, "fine_tune_from = 5\naverage = 0.9", {}),
        (signal.SIGINT, 'features = "computed"\nfine_tune_from = 5', {"views": "1"}),
    ],
)
def test_a_run_that_is_told_to_stop_saves_and_goes_on_as_if_it_had_not(
    workplace: Path, number: int, extra: str, data: dict[str, Any]
) -> None:
    # No checkpoint comes by itself within an epoch.
    write_recipe(workplace, epochs=6, images_per_batch=1, checkpoint_steps="1000", extra=extra, **data)
    finish(launch(workplace, "whole"))
    process = launch(workplace, "stopped", fresh=True)
    metrics_file = workplace / "stopped" / "metrics.jsonl"
    while not (metrics_file.exists() and len(metrics_file.read_text().splitlines()) >= 5):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(number)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 128 + number
    assert "go on with --resume" in output
    assert "Traceback" not in output
    state = torch.load(workplace / "stopped" / "last" / "training_state.pt", weights_only=True)
    assert state["progress"]["step"] == len(losses(workplace, "stopped"))
    finish(launch(workplace, "stopped", "--resume"))
    for checkpoint in ("last", "best"):
        assert furthest(weights(workplace, "whole", checkpoint), weights(workplace, "stopped", checkpoint)) == 0
    assert losses(workplace, "whole") == losses(workplace, "stopped")


def test_a_full_disk_leaves_the_checkpoint_before_it(workplace: Path) -> None:
    write_recipe(workplace, epochs=1)
    finish(start(workplace, "run"))
    before = weights(workplace, "run")
    size = (workplace / "run" / "last" / "training_state.pt").stat().st_size

    def limit() -> None:
        # What a full disk is to a program: a write that fails.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    state = torch.load(workplace / "run" / "last" / "training_state.pt", weights_only=True)
    state["progress"]["batch"], state["progress"]["epoch"] = 1, 0
    torch.save(state, workplace / "run" / "last" / "training_state.pt")
    command = [sys.executable, TRAIN, "recipe.toml", "--output", "run", "--device", "cpu", "--resume"]
    environment = {**os.environ, "CAPTIONER_DATA": str(workplace), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert process.returncode == 1
    assert re.search(
        r"train\.py: run/last: cannot be written \(.+\); one that was there before is intact", process.stderr
    )
    assert "Traceback" not in process.stderr
    assert furthest(before, weights(workplace, "run")) == 0
    load_checkpoint(workplace / "run" / "last")
    assert not (workplace / "run" / "last.partial").exists()


def test_float16_scales_its_loss_and_learns(workplace: Path) -> None:
    write_recipe(workplace, epochs=12, learning_rate=0.02, precision='"float16"')
    finish(launch(workplace, "run"))
    found = losses(workplace, "run")
    assert found[-1] < found[0] / 2
    state = torch.load(workplace / "run" / "last" / "training_state.pt", weights_only=True)
    assert state["scaler"]["scale"] > 1


def test_more_processes_than_gpus_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: None)
    started = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(train, "choose_device", lambda name: torch.device("cuda"))
    (tmp_path / "recipe.toml").write_text('[data]\nroot = "x"\n[encoder]\nname = "resnet18"\n')
    assert train.main([str(tmp_path / "recipe.toml"), "--output", str(tmp_path / "run")]) == 1
    assert "more processes than there are GPUs (1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "WORLD_SIZE = 2 is set and RANK, MASTER_PORT not; start"),
        (
            {"WORLD_SIZE": "8", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "images_per_batch = 32 is too small for accumulate = 5 parts in each of 8",
        ),
    ],
)
def test_processes_without_torchrun_or_photos_enough_are_refused_before_the_data_is_read(
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    recipe = '[data]\nroot = "x"\n[encoder]\nname = "resnet18"\n[train]\nimages_per_batch = 32\naccumulate = 5\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    assert train.main([str(tmp_path / "recipe.toml"), "--output", str(tmp_path / "run"), "--device", "cpu"]) == 1
    assert message in capsys.readouterr().err


def test_best_is_chosen_by_the_score_of_the_recipe(workplace: Path) -> None:
    write_recipe(workplace, epochs=8, learning_rate=0.02, extra='select_by = "cider"')
    finish(launch(workplace, "run"))
    scores = [row["dev/cider"] for row in metrics(workplace / "run") if "dev/cider" in row]
    assert max(scores) > 0
    notes = read_config(workplace / "run" / "best")["notes"]
    assert notes["dev"]["cider"] == max(scores)
    assert notes["epoch"] == scores.index(max(scores)) + 1
