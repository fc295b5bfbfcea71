from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from captioner.checkpoint import load_checkpoint, load_training_state, save_checkpoint
from captioner.checkpoint_files import BUNDLED, short_name
from captioner.errors import CheckpointError
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Captioner
from captioner.vocabulary import Vocabulary
from tests.conftest import noise_photo


def test_round_trip_gives_the_same_caption(tmp_path: Path, tiny_model: ShowAttendTell, vocabulary: Vocabulary) -> None:
    save_checkpoint(tmp_path / "c", tiny_model, vocabulary)
    before = Captioner(tiny_model, vocabulary).caption(noise_photo(0))
    after = Captioner.load(tmp_path / "c", "cpu", "float32").caption(noise_photo(0))
    assert after.words == before.words
    assert (after.log_prob, *after.word_probs) == pytest.approx((before.log_prob, *before.word_probs), rel=1e-5)
    assert after.attention == pytest.approx(before.attention, abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "config.json", "model.safetensors", "vocabulary.json"
    ]  # fmt: skip


def test_half_precision_is_stored_and_vectors_are_spared(
    tmp_path: Path, tiny_model: ShowAttendTell, vocabulary: Vocabulary
) -> None:
    tiny_model.decoder.lstm_word.bias.data.fill_(1e-9)  # would vanish in half precision
    save_checkpoint(tmp_path / "c", tiny_model, vocabulary, dtype=torch.float16)
    model, _ = load_checkpoint(tmp_path / "c")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(model.decoder.lstm_word.bias, tiny_model.decoder.lstm_word.bias)
    assert torch.equal(model.decoder.embedding.weight, tiny_model.decoder.embedding.weight.half().float())


def test_the_encoder_stays_frozen_after_loading(
    tmp_path: Path, tiny_model: ShowAttendTell, vocabulary: Vocabulary
) -> None:
    save_checkpoint(tmp_path / "c", tiny_model, vocabulary)
    model, _ = load_checkpoint(tmp_path / "c")
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())


def test_a_writer_stopped_between_its_renames_loses_nothing(
    tmp_path: Path, tiny_model: ShowAttendTell, vocabulary: Vocabulary
) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, tiny_model, vocabulary, training_state={"step": 1})
    folder.rename(tmp_path / "c.previous")
    (tmp_path / "c.partial").mkdir()
    load_checkpoint(folder)
    assert load_training_state(folder) == {"step": 1}
    save_checkpoint(folder, tiny_model, vocabulary, training_state={"step": 2})
    assert load_training_state(folder) == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_best_checkpoint_has_the_name_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = tmp_path / "pets" / "best"
    best.mkdir(parents=True)
    monkeypatch.chdir(best)
    assert [short_name(path) for path in (best, Path(), Path("../last"), BUNDLED)] == [
        "pets",
        "pets",
        "pets/last",
        "flickr8k-soft",
    ]


def test_an_absent_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no checkpoint there"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.json"])
def test_an_absent_part_is_named(tmp_path: Path, tiny_model: ShowAttendTell, vocabulary: Vocabulary, name: str) -> None:
    save_checkpoint(tmp_path / "c", tiny_model, vocabulary)
    (tmp_path / "c" / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(tmp_path / "c")


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, tiny_model: ShowAttendTell, vocabulary: Vocabulary) -> None:
    save_checkpoint(tmp_path / "c", tiny_model, vocabulary)
    Vocabulary(["one"]).save(tmp_path / "c" / "vocabulary.json")
    with pytest.raises(CheckpointError, match=r"vocabulary\.json has 5 words"):
        load_checkpoint(tmp_path / "c")
    vocabulary.save(tmp_path / "c" / "vocabulary.json")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    config["model"]["decoder"]["hidden_dim"] = 17
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: does not fit"):
        load_checkpoint(tmp_path / "c")
    config["format"] = 99
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "c")


def test_the_bundled_model_is_whole_and_small() -> None:
    files = {path.name: path.stat().st_size for path in BUNDLED.iterdir()}
    assert set(files) == {"config.json", "metrics.jsonl", "model.safetensors", "vocabulary.json"}
    assert sum(files.values()) <= 30_000_000
    load_checkpoint(BUNDLED)
