"""`python train.py` as a user runs it, on made-up photos."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from captioner.checkpoint import load_checkpoint
from captioner.checkpoint_files import BUNDLED, read_config, weights_sha256
from captioner.data.check import check_data
from captioner.recipe import DataConfig, Recipe
from tests.conftest import write_flickr
from tests.training.runs import ROOT, TRAIN, Run, start_program

RECIPE = """
[data]
root = "flickr8k"
min_count = 1
mirror = true
views = 2

[encoder]
name = "shufflenet_v2_x0_5"
weights = "none"
input_size = 64

[decoder]
embedding_dim = 16
hidden_dim = 24
attention_dim = 16
attention = "{attention}"

[train]
{extra}
epochs = {epochs}
images_per_batch = {images_per_batch}
learning_rate = {learning_rate}
precision = "float32"
checkpoint_steps = 5
patience = {patience}
seed = 5

[decoding]
beam_size = 2
max_length = 8
"""


@pytest.fixture
def workplace(tmp_path: Path, flickr_folder: Path) -> Path:
    write_recipe(tmp_path)
    return tmp_path


def write_recipe(
    folder: Path,
    epochs: int = 4,
    patience: int = 50,
    learning_rate: float = 0.01,
    images_per_batch: int = 4,
    attention: str = "soft",
    extra: str = "",
    **changes: str,
) -> None:
    text = RECIPE.format(
        extra=extra,
        epochs=epochs,
        patience=patience,
        learning_rate=learning_rate,
        images_per_batch=images_per_batch,
        attention=attention,
    )
    for old, new in changes.items():
        text, count = re.subn(rf"(?m)^{old} = .*$", f"{old} = {new}", text)
        assert count == 1
    (folder / "recipe.toml").write_text(text)


def start(workplace: Path, run: str, *options: str, fresh: bool = False) -> Run:
    return start_program(workplace, TRAIN, "recipe.toml", "--output", run, "--device", "cpu", *options, fresh=fresh)


def finish(process: Run) -> str:
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    return output


def metrics(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def in_metrics(run: Path) -> dict[str, dict[int, float]]:
    """Every scalar's values by their steps, as TensorBoard keeps them."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step"}:
            found[name][row["step"]] = float(np.float32(row[name]))
    return found


def in_tensorboard(run: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(run)).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def wait_for_step(run: Path, step: int, process: Run) -> None:
    """Wait until the run has written a checkpoint at or after this step."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ended before it was killed: {process.communicate()[0]}")
        state = run / "last" / "training_state.pt"
        try:
            if torch.load(state, weights_only=True)["progress"]["step"] >= step:
                return
        except (OSError, RuntimeError):
            pass  # not there yet, or just being replaced
        time.sleep(0.01)
    pytest.fail("no checkpoint in time")


@pytest.mark.parametrize("attention", ["soft", "hard", "none"])
def test_training_learns_and_leaves_what_it_promises(workplace: Path, attention: str) -> None:
    write_recipe(workplace, epochs=18, learning_rate=0.02, attention=attention)
    output = finish(start(workplace, "run", fresh=attention == "soft"))
    rows = metrics(workplace / "run")
    losses = [row["train/cross_entropy"] for row in rows if "train/cross_entropy" in row]
    assert losses[-1] < losses[0] / 2
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates[0] == pytest.approx(0.02 / 11)  # a tenth of 108 steps is for the warm-up
    assert max(rates) == pytest.approx(0.02)
    assert 0 < rates[-1] < 0.001 * 0.02  # a cosine, down to nothing
    scores = [row["dev/bleu4"] for row in rows if "dev/bleu4" in row]
    assert len(scores) == 18
    notes = read_config(workplace / "run" / "best")["notes"]
    assert notes["dev"]["bleu4"] == max(scores)
    assert notes["epoch"] == scores.index(max(scores)) + 1
    assert f"{max(scores):.2f} on dev" in output
    assert in_tensorboard(workplace / "run") == in_metrics(workplace / "run")
    model, vocabulary = load_checkpoint(workplace / "run" / "best")
    assert "happy" in vocabulary.words
    assert model.config.vocabulary_size == len(vocabulary)


def test_the_share_of_known_words_is_the_one_of_the_data(workplace: Path) -> None:
    write_recipe(workplace, epochs=1, min_count="30")
    known = check_data(DataConfig(str(workplace / "flickr8k"), min_count=30)).splits["train"].covered
    assert 0 < known < 1
    assert f"{known:.1%} of the words of the train".replace("%", " %") in finish(start(workplace, "run"))


def test_training_stops_when_dev_no_longer_improves(workplace: Path) -> None:
    write_recipe(workplace, epochs=30, patience=2, learning_rate=1e-8)
    finish(start(workplace, "run"))
    scores = [row["dev/bleu4"] for row in metrics(workplace / "run") if "dev/bleu4" in row]
    assert len(scores) == scores.index(max(scores)) + 1 + 2


def test_a_run_is_neither_overwritten_nor_resumed_under_another_recipe(workplace: Path) -> None:
    write_recipe(workplace, epochs=1)
    finish(start(workplace, "run"))
    again = start(workplace, "run")
    assert "holds a run already; add --resume" in again.communicate()[0]
    assert again.returncode == 1
    write_recipe(workplace, epochs=2)
    other = start(workplace, "run", "--resume")
    output = other.communicate()[0]
    assert "train.epochs was 1, is 2" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("features", ["stored", "computed"])
@pytest.mark.parametrize("change", ["caption", "photo", "caption of dev"])
def test_a_run_does_not_go_on_with_other_data(workplace: Path, change: str, features: str) -> None:
    write_recipe(workplace, epochs=1, extra=f'features = "{features}"', views="2" if features == "stored" else "1")
    finish(start(workplace, "run"))
    finish(start(workplace, "run", "--resume"))
    data = workplace / "flickr8k"
    if change != "photo":
        photo = "photo3" if change == "caption" else "photo26"
        captions = data / "Flickr8k.token.txt"
        before = captions.read_text()
        captions.write_text(re.sub(rf"{photo}\.jpg#0\tA \w+", f"{photo}.jpg#0\tA cat", before))
        assert captions.read_text() != before
    else:
        (data / "images" / "photo3.jpg").unlink()
    again = start(workplace, "run", "--resume")
    assert "others than run was begun with; put those back, or begin a new run" in again.communicate()[0]
    assert again.returncode == 1


def test_the_best_model_and_the_log_outlive_the_last_checkpoint(workplace: Path) -> None:
    write_recipe(workplace, epochs=1)
    finish(start(workplace, "run"))
    shutil.rmtree(workplace / "run" / "last")
    rows, weights = metrics(workplace / "run"), weights_sha256(workplace / "run" / "best")
    for options in ([], ["--resume"]):
        again = start(workplace, "run", *options)
        assert "holds the best model of a run without last/" in again.communicate()[0]
        assert again.returncode == 1
    assert metrics(workplace / "run") == rows
    assert weights_sha256(workplace / "run" / "best") == weights


def test_words_too_rare_for_the_recipe_are_told_before_the_encoder_is_built(workplace: Path) -> None:
    write_recipe(workplace, min_count="100000")
    process = start(workplace, "run")
    output = process.communicate()[0]
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith("train.py: data.min_count = 100000: no word of the train captions")


@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_a_loss_that_is_not_finite_stops_training_cleanly(workplace: Path, attention: str) -> None:
    write_recipe(workplace, learning_rate=1e30, attention=attention)
    process = start(workplace, "run")
    output = process.communicate()[0]
    assert process.returncode == 1
    assert re.search(r"the loss is (nan|inf)", output)
    assert "Traceback" not in output


@pytest.mark.parametrize("wrong", ["references", "prefix"])
def test_what_cannot_be_scored_is_refused_before_features_are_computed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    if wrong == "prefix":
        recipe = workplace / "recipe.toml"
        recipe.write_text(recipe.read_text() + 'prefix = ["zyzzyva"]\n')
    else:
        tokens = workplace / "flickr8k" / "Flickr8k.token.txt"
        tokens.write_text(re.sub(r"(?m)^(photo27.jpg#.\t).*$", r"\1...", tokens.read_text()))
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("CAPTIONER_DATA", str(workplace))
    assert train.main(["recipe.toml", "--output", "run", "--device", "cpu"]) == 1
    message = {"prefix": "does not know: 'zyzzyva'", "references": "photo27.jpg: no caption with a word"}[wrong]
    assert message in capsys.readouterr().err
    assert not (workplace / "cache").exists()


def test_a_photo_that_cannot_be_read_is_named_and_how_to_find_the_others(workplace: Path) -> None:
    photo = workplace / "flickr8k" / "images" / "photo3.jpg"
    photo.write_bytes(b"no photo")
    run = start(workplace, "run")
    last = run.communicate()[0].splitlines()[-1]
    assert run.returncode == 1
    assert last.startswith(f"train.py: {photo}: ")
    assert last.endswith("; `captioner data check recipe.toml` lists all such photos")


@pytest.mark.parametrize("which", ["4", "."])
def test_a_caption_without_a_word_teaches_nothing_nor_does_a_photo_that_has_no_other(
    workplace: Path, which: str
) -> None:
    write_recipe(workplace, epochs=1)
    tokens, names = (workplace / "flickr8k" / name for name in ("Flickr8k.token.txt", "Flickr_8k.trainImages.txt"))
    written = tokens.read_text()
    weights: list[str] = []
    for caption in (r"\1...\n", ""):
        tokens.write_text(re.sub(rf"(?m)^(photo3\.jpg#{which}\t).*\n", caption, written))
        if which == "." and not caption:
            names.write_text(names.read_text().replace("photo3.jpg\n", ""))
        run = start(workplace, f"run-{len(weights)}")
        output = run.communicate()[0]
        assert run.returncode == 0
        count = "1" if which == "4" else "5"
        assert (f"photo3.jpg: {count} of 5 captions have no word, passed over" in output) == bool(caption)
        weights.append(weights_sha256(workplace / f"run-{len(weights)}" / "best"))
    assert weights[0] == weights[1]


def test_a_seed_on_the_command_line_takes_the_place_of_the_recipes(workplace: Path) -> None:
    write_recipe(workplace, epochs=1)
    for run, seed in (("own", []), ("given", ["--seed", "6"]), ("same", ["--seed", "5"])):
        finish(start(workplace, run, *seed))
    own, given, same = (
        safetensors.torch.load_file(workplace / run / "last" / "model.safetensors") for run in ("own", "given", "same")
    )
    name = "decoder.lstm_word.weight"
    assert torch.equal(own[name], same[name])
    assert not torch.equal(own[name], given[name])
    assert read_config(workplace / "given" / "best")["notes"]["recipe"]["train"]["seed"] == 6


@pytest.fixture(scope="module")
def one_workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For all committed recipes, which share their stored features as they do for a user."""
    folder = tmp_path_factory.mktemp("recipes")
    write_flickr(folder / "flickr8k")
    return folder


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("flickr8k-*.toml")), ids=lambda path: path.stem)
def test_committed_recipes_run_on_their_real_data_format(one_workplace: Path, recipe: Path) -> None:
    """The recipe itself, cut short, with the packaged weights: only the photos are made up."""
    text, cuts = re.subn(r"(?m)^epochs = \d+$", "epochs = 1", recipe.read_text())
    assert cuts == 1
    # Where the recipe starts from another's result, the bundled model stands in for it.
    (one_workplace / "recipe.toml").write_text(re.sub(r"(?m)^start = .*$", f'start = "{BUNDLED}"', text))
    finish(start(one_workplace, recipe.stem))
    model, _ = load_checkpoint(one_workplace / recipe.stem / "best")
    assert model.encoder.grid == Recipe.read(recipe).encoder.grid
    assert model.decoder.config == Recipe.read(recipe).decoder
