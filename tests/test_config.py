from __future__ import annotations

import json
from pathlib import Path

import pytest

from captioner.config import DecoderConfig, DecodingOptions, EncoderConfig, ModelConfig
from captioner.errors import CaptionerError
from captioner.recipe import Recipe, TrainConfig

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))


def test_json_round_trip() -> None:
    config = ModelConfig(EncoderConfig("resnet18", grid=7), DecoderConfig(32, 64, 16, 0.1), 100)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipes_are_valid(path: Path) -> None:
    recipe = Recipe.read(path)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("prefix", [(), ("a",), ("a", "dog", ".")])
def test_any_number_of_words_makes_the_round_trip(prefix: tuple[str, ...]) -> None:
    options = DecodingOptions(max_length=2, prefix=prefix)
    assert DecodingOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert json.loads(json.dumps(options.to_dict())) == options.to_dict()


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(CaptionerError, match=r"embedding_dim = 0 .*hidden_dim = -1 .*dropout = 1.5"):
        DecoderConfig(0, -1, 1, 1.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam": 3}, "unknown setting beam"),
        ({"beam_size": "3"}, "beam_size = '3'"),
        ({"beam_size": True}, "beam_size = True"),
        ({"beam_size": 0}, "beam_size = 0"),
        ({"max_length": -1}, "max_length = -1"),
        ({"length_penalty": float("nan")}, "length_penalty = nan"),
        ({"context": "hard"}, "context = 'hard'"),
        ({"seed": -1}, "seed = -1"),
        ({"prefix": "a dog"}, "prefix = 'a dog'"),
        ({"prefix": ["a", 1]}, r"prefix = \('a', 1\)"),
        ({"prefix": ["."]}, r"prefix = \('\.',\) may have '\.'.* only as its last word"),
        ({"prefix": ["a", ".", "dog"]}, r"prefix = .* may have '\.'.* only as its last word"),
        ({"prefix": ["a", "dog"], "max_length": 1}, "has 2 words, max_length = 1"),
        ({"prefix": ["a", "dog", "."], "max_length": 1}, "has 2 words, max_length = 1"),
        ({"top_words": 101}, "top_words = 101"),
        ({"top_words": -1}, "top_words = -1"),
        ({"temperature": -0.1}, "temperature = -0.1"),
        ({"temperature": float("inf")}, "temperature = inf"),
        ([], "expected a table"),
    ],
)
def test_wrong_values_are_named(values: object, message: str) -> None:
    with pytest.raises(CaptionerError, match=message):
        DecodingOptions.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reinforce": -0.1}, "reinforce = -0.1"),
        ({"entropy": float("nan")}, "entropy = nan"),
        ({"baseline_decay": 1.0}, "baseline_decay = 1.0"),
        ({"sampling": 0.0}, "sampling = 0.0"),
    ],
)
def test_wrong_settings_of_hard_attention_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(CaptionerError, match=message):
        TrainConfig.from_dict({"hard_attention": values})


@pytest.mark.parametrize(("attention", "fits"), [("hard", True), ("soft", False), ("none", False)])
def test_a_recipe_cannot_decode_soft_attention_as_hard(attention: str, fits: bool) -> None:
    values = {
        "data": {"root": "x"},
        "encoder": {"name": "resnet18"},
        "decoder": {"attention": attention},
        "decoding": {"context": "argmax"},
    }
    if fits:
        assert Recipe.from_dict(values).decoding.context == "argmax"
    else:
        with pytest.raises(CaptionerError, match=r"decoding\.context = 'argmax' needs decoder\.attention = 'hard'"):
            Recipe.from_dict(values)


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        ("data", {"views": 2}, "views = 2 would be all alike"),
        ("data", {"views": 3, "mirror": True}, "views = 3 would be alike but for two"),
        (
            "train",
            {"encoder_learning_rate": 1e-3},
            "encoder_learning_rate is for training from stage fine_tune_from on; add that, or leave it out",
        ),
        (
            "train",
            {"accumulate": 8, "images_per_batch": 4},
            "accumulate = 8 must not be more than images_per_batch = 4",
        ),
        (
            "train",
            {"objective": "self_critical", "start": "x", "hard_attention": {"sampling_warmup": 0.6}},
            "hard_attention: objective = 'self_critical' reads sampling alone",
        ),
        (
            "train",
            {"start": "x", "self_critical": {"bleu": 2.0}},
            "self_critical is for objective = 'self_critical'; add that, or leave it out",
        ),
        (
            "train",
            {"hard_attention": {"sampling": 0.9}},
            r"train\.hard_attention is for decoder\.attention = 'hard'; add that, or leave it out",
        ),
    ],
)
def test_settings_that_would_do_nothing_or_fail_later_are_refused(
    table: str, values: dict[str, object], message: str
) -> None:
    recipe: dict[str, dict[str, object]] = {"data": {"root": "x"}, "encoder": {"name": "resnet18"}}
    recipe[table] = {**recipe.get(table, {}), **values}
    with pytest.raises(CaptionerError, match=message):
        Recipe.from_dict(recipe)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(CaptionerError, match="EncoderConfig: missing setting name"):
        EncoderConfig.from_dict({})


def test_whole_numbers_pass_for_fractions() -> None:
    assert TrainConfig.from_dict({"learning_rate": 1}).learning_rate == 1


@pytest.mark.parametrize(
    "text", ["[data", "[data]\nroot = 1\n", "[data]\nroot = 'x'\n[encoder]\nname = 'x'\nsize = 3\n"]
)
def test_a_bad_recipe_names_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(CaptionerError, match=r"bad\.toml"):
        Recipe.read(path)
