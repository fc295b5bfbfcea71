"""Steps of training, watched or disturbed in the process of the test."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from captioner.checkpoint import load_checkpoint, load_training_state
from captioner.data.dataset import Batch
from captioner.images import load_image, preprocess
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.training.trainer import Trainer
from captioner.training.validation import Validation
from tests.training.test_training import in_metrics, in_tensorboard, write_recipe

COMMAND = ["recipe.toml", "--output", "run", "--device", "cpu"]


@pytest.fixture
def here(tmp_path: Path, flickr_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the recipe and the data, and the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONER_DATA", str(tmp_path))
    return tmp_path


def test_views_turn_with_the_epochs_also_after_a_resumption(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(here, epochs=3)  # of 6 steps
    seen: list[int] = []
    step = Trainer._step

    def spy(self: Trainer, parts: list[Batch], requests: list[int]) -> object:
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        epoch = self.progress.epoch
        assert torch.equal(parts[0].features, self.data.source.read(parts[0].rows, epoch))
        seen.append(epoch)
        return step(self, parts, requests)

    monkeypatch.setattr(Trainer, "_step", spy)
    stop_at = 9
    assert train.main(COMMAND) == 130
    assert seen == [0] * 6 + [1] * 3
    done = load_training_state(here / "run" / "last")["progress"]["batch"]
    stop_at = 1000
    seen.clear()
    assert train.main([*COMMAND, "--resume"]) == 0
    assert seen == [1] * (6 - done) + [2] * 6
    rows = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    # Of an epoch gone on with, how long it took is not known.
    assert ["seconds" in row for row in rows if "epoch" in row] == [True, done == 0, True]
    assert in_tensorboard(here / "run") == in_metrics(here / "run")


def test_what_is_kept_as_best_is_the_average_of_the_weights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = "average = 0.7\nfine_tune_from = 5\nencoder_learning_rate = 1e-2"
    write_recipe(here, epochs=1, images_per_batch=1, extra=extra)
    names = ["decoder.lstm_word.weight", "encoder.network.conv5.0.weight", "encoder.network.conv1.0.weight"]
    seen: list[dict[str, torch.Tensor]] = []
    start: dict[str, torch.Tensor] = {}
    begin, step = Trainer.__init__, Trainer._step

    def with_minus_zero(self: Trainer, model: ShowAttendTell, *rest: Any) -> None:
        with torch.no_grad():  # which arithmetic easily turns into 0.0
            model.encoder.network.get_parameter("conv1.0.weight").flatten()[:8] = -0.0
        begin(self, model, *rest)
        start.update({name: model.state_dict()[name].clone() for name in names})

    monkeypatch.setattr(Trainer, "__init__", with_minus_zero)

    def spy(self: Trainer, parts: list[Batch], requests: list[int]) -> object:
        result = step(self, parts, requests)
        seen.append({name: self.model.state_dict()[name].clone() for name in names})
        return result

    monkeypatch.setattr(Trainer, "_step", spy)
    rated: list[tuple[bool, dict[str, torch.Tensor], torch.Tensor]] = []
    rate = Validation.__call__

    def watch(self: Validation, model: ShowAttendTell) -> dict[str, float]:
        with torch.inference_mode():  # from the stored maps, so by what lies behind the cut
            features = model.features(self.source.read([0], 0))
        rated.append((model.training, {name: model.state_dict()[name].clone() for name in names}, features))
        return rate(self, model)

    monkeypatch.setattr(Validation, "__call__", watch)
    assert train.main(COMMAND) == 0
    kept_model, last_model = (load_checkpoint(here / "run" / name)[0] for name in ("best", "last"))
    best, last = kept_model.state_dict(), last_model.state_dict()
    [(with_dropout, judged, features)] = rated
    assert not with_dropout
    photo = preprocess(load_image(here / "flickr8k" / "images" / "photo24.jpg"), kept_model.encoder.preprocessing)
    with torch.inference_mode():
        expected, unlike = (model.features(photo.unsqueeze(0)) for model in (kept_model, last_model))
    assert relative_error(features, expected) < 0.01 < relative_error(features, unlike)
    assert len(seen) == 24
    for name in names:
        # It keeps a tenth of itself at the first step, more at each one after, and seven tenths from the 21st on.
        average = start[name]
        for number, weights in enumerate(seen, 1):
            kept = number / (number + 9) if number < 21 else 0.7
            average = kept * average + (1 - kept) * weights[name]
        assert torch.allclose(best[name], average, rtol=1e-3, atol=1e-6)  # half precision
        assert torch.allclose(judged[name], average, rtol=1e-4, atol=1e-7)
        assert torch.equal(last[name], seen[-1][name])
    # To the bit: a store of what the frozen part gives serves the next run, too.
    assert best[names[2]].numpy().tobytes() == seen[0][names[2]].half().float().numpy().tobytes()
    for name in names[:2]:
        assert float((best[name] - last[name]).abs().max()) > 5e-4


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_memory_that_is_not_to_be_had_ends_in_a_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(here, epochs=1)
    monkeypatch.setattr(Trainer, "_step", lambda *_: torch.empty(2**60))
    assert train.main(COMMAND) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == (
        "train.py: out of memory; lower images_per_batch or raise accumulate under [train], in a new run with another "
        "--output"
    )


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(here, epochs=1)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    stepped: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: stepped.append(1))
    assert train.main(COMMAND) == 1
    message = capsys.readouterr().err
    assert re.search(r"step 1: the loss is [0-9.]+ and the gradient's norm inf on a batch of photo\d+\.jpg, ", message)
    assert "training stopped, nothing of it is in a checkpoint" in message
    assert stepped == []


def test_a_step_that_overflows_in_half_precision_is_left_out_of_the_average_and_the_log(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(here, epochs=1, extra="average = 0.9", precision='"float16"')
    step, norms = Trainer._step, list[float]()

    def spy(self: Trainer, parts: list[Batch], requests: list[int]) -> object:
        if self.progress.step == 2:
            self.scaler.update(2.0**120)  # more than half precision holds of a gradient, whatever it is
        logs, stop = step(self, parts, requests)
        norms.append(float(logs["gradient_norm"]))
        return logs, stop

    monkeypatch.setattr(Trainer, "_step", spy)
    assert train.main(COMMAND) == 0
    taken = sum(map(math.isfinite, norms))
    assert 1 <= taken < len(norms)
    assert load_training_state(here / "run" / "last")["average"]["steps"] == taken
    rows = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for row in rows for value in row.values())
