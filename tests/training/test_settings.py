"""What the settings of a recipe come to, once a run is put together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

import train
from captioner.checkpoint import load_checkpoint
from captioner.data.annotations import read_split
from captioner.data.dataset import CaptionDataset
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.recipe import Recipe, TrainConfig
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.hard_attention import HardAttention
from captioner.training.self_critical import SelfCritical
from captioner.training.trainer import _optimizer
from captioner.vocabulary import Vocabulary, tokenize
from tests.training.test_training import write_recipe


@pytest.fixture
def workplace(tmp_path: Path, flickr_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAPTIONER_DATA", str(tmp_path))
    return tmp_path


class OnlyLong:
    """A source nobody reads."""

    def __len__(self) -> int:
        return 24


@pytest.mark.parametrize("attention", ["soft", "hard"])
@pytest.mark.parametrize("self_critical", [False, True])
def test_an_objective_is_as_its_recipe_says(workplace: Path, attention: str, self_critical: bool) -> None:
    extra = "accumulate = 3\ndoubly_stochastic = 0.7\n"
    if self_critical:
        extra += 'objective = "self_critical"\nstart = "elsewhere"\nself_critical = { samples = 7 }\n'
    if attention == "hard":
        more = "" if self_critical else ", reinforce = 0.3, sampling_warmup = 0.5"
        extra += f"hard_attention = {{ sampling = 0.4{more} }}\n"
    write_recipe(workplace, epochs=10, attention=attention, extra=extra)
    recipe = Recipe.read(workplace / "recipe.toml")
    images = read_split(recipe.data, "train")
    vocabulary = Vocabulary.build((text for image in images for text in image.captions), 1)
    data = CaptionDataset(images, OnlyLong(), vocabulary, recipe.data.max_length)  # type: ignore[arg-type]
    objective = train.build_objective(recipe, vocabulary, data, images)
    assert objective.doubly_stochastic == 0.7
    if isinstance(objective, SelfCritical):
        assert self_critical
        assert objective.config.samples == 7
        assert objective.max_length == 8
        assert objective.sampling == (0.4 if attention == "hard" else 0.0)
    elif isinstance(objective, HardAttention):
        assert not self_critical
        assert attention == "hard"
        assert (objective.config.reinforce, objective.config.sampling) == (0.3, 0.4)
        # Half of 10 epochs of 6 steps of 3 parts each.
        assert objective.warmup_steps == 90
    else:
        assert isinstance(objective, CrossEntropy)
        assert not self_critical
        assert attention == "soft"


def test_matrices_decay_and_vectors_do_not_each_at_its_parts_rate(tiny_model: ShowAttendTell) -> None:
    config = TrainConfig(learning_rate=0.5, encoder_learning_rate=0.25, weight_decay=0.125, fine_tune_from=5)
    fine_tuned = list(tiny_model.encoder.parameters())
    optimizer = _optimizer(tiny_model.decoder, fine_tuned, config)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for rate, parameters in ((0.5, list(tiny_model.decoder.parameters())), (0.25, fine_tuned)):
        assert {p.dim() >= 2 for p in parameters} == {True, False}
        for parameter in parameters:
            assert found.pop(id(parameter)) == (rate, 0.125 if parameter.dim() >= 2 else 0.0)
    assert not found


def test_a_run_begins_at_the_words_frequencies_and_a_step_is_as_long_as_the_clipped_gradient(workplace: Path) -> None:
    # AdamW divides by the gradient's own size, plus 1e-8: beside that, gradients clipped to this are nothing.
    write_recipe(workplace, epochs=1, extra="clip_norm = 1e-13\nweight_decay = 0.0")
    path = workplace / "recipe.toml"
    options = ["--output", str(workplace / "run"), "--cache", str(workplace / "cache"), "--device", "cpu"]
    assert train.main([str(path), *options]) == 0
    recipe = Recipe.read(path)
    images = read_split(recipe.data, "train")
    begun, vocabulary = train.begun(recipe, images)
    ended = load_checkpoint(workplace / "run" / "last")[0].decoder.state_dict()
    bias = ended.pop("output_word.bias")
    for name, before in begun.decoder.state_dict().items():
        if name != "output_word.bias":
            assert float((ended[name] - before).abs().max()) < 1e-5, name
    counts = Counter(word for image in images for text in image.captions for word in tokenize(text))
    assert len(set(counts.values())) > 3
    number = {word: row for row, word in enumerate(vocabulary.words)}
    for word, count in counts.items():
        shown = float(bias[number[word]] - bias[vocabulary.eos])
        assert shown == pytest.approx(float(torch.tensor((count + 1) / (24 * 5 + 1)).log()), abs=1e-4)


def test_there_is_nothing_to_go_on_with_where_no_run_is(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(workplace)
    options = ["--output", str(workplace / "run"), "--device", "cpu", "--resume"]
    assert train.main([str(workplace / "recipe.toml"), *options]) == 1
    assert "no run to go on with" in capsys.readouterr().err
    assert not (workplace / "run" / "last").exists()
