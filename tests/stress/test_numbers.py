"""Odd numbers: every setting at its limits and beyond, batches of every size, and logits at their extremes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import evaluate
import train
from captioner import cli
from captioner.config import DecoderConfig, DecodingOptions, EncoderConfig, ModelConfig
from captioner.data.dataset import Batch, Totals
from captioner.decoding import beam_search, sample_captions, sample_search
from captioner.errors import CaptionerError
from captioner.models.decoder import AttentionDecoder
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Caption, Captioner
from captioner.recipe import DataConfig, HardAttentionConfig, Recipe, SelfCriticalConfig, TrainConfig
from captioner.sight import Sight
from captioner.training.cross_entropy import CrossEntropy
from captioner.training.hard_attention import HardAttention
from captioner.training.objective import Objective
from captioner.training.self_critical import SelfCritical
from captioner.vocabulary import Vocabulary
from tests.batch.conftest import save_tiny
from tests.conftest import EXAMPLES, noise_photo

CPU = torch.device("cpu")
NUMBERS = [
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e309",
    "1e-320",
    "9" * 30,
    "9" * 5000,
    "true",
    "",
    " ",
    "0x10",
    "x",
]
FLAGS: dict[str, tuple[str, ...]] = {
    "caption": ("--beam", "--max-length", "--seed", "--temperature", "--batch-size", "--workers", "--limit"),
    "app": ("--port",),
    "train": ("--seed",),
    "evaluate": ("--beam", "--seed"),
}


def test_every_number_on_a_command_line_is_taken_or_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tally: Callable[[str], None]
) -> None:
    tiny = save_tiny(tmp_path / "tiny", 0)
    photo = tmp_path / "photo.png"
    noise_photo(0).save(photo)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[data]\nroot = "nowhere"\n[encoder]\nname = "resnet18"\n')
    monkeypatch.setattr("captioner.serve._check_free", lambda address, port: _stop())
    commands: dict[str, Callable[[list[str]], int]] = {
        "caption": lambda flags: cli.main(["caption", str(photo), "--checkpoint", str(tiny), *flags]),
        "app": lambda flags: cli.main(["app", *flags]),
        "train": lambda flags: train.main([str(recipe), "--output", str(tmp_path / "run"), *flags]),
        "evaluate": lambda flags: evaluate.main([str(tiny), "--data", str(recipe), *flags]),
    }
    codes: Counter[int] = Counter()
    for name, run in commands.items():
        for flag, value in itertools.product(FLAGS[name], NUMBERS):
            try:
                code = run([f"{flag}={value}"])
            except SystemExit as refused:
                code = int(refused.code or 0)
            said = [line for line in capsys.readouterr().err.splitlines() if "FutureWarning" not in line]
            if code:
                assert code in (1, 2), (name, flag, value, code)
                assert ": " in said[-1], (name, flag, value, said)
                # Wrong usage shows the usage before it.
                assert len(said) == 1 or code == 2, (name, flag, value, said)
                assert len(said[-1]) < 300 + len(value), (name, flag, value, said)
            codes[code] += 1
    assert codes.keys() == {0, 1, 2}
    tally(
        f"numbers, command lines: {codes.total()} odd values of {sum(map(len, FLAGS.values()))} options, "
        f"{codes[0]} taken, {codes[1] + codes[2]} refused in a line"
    )


def _stop() -> None:
    raise CaptionerError("port: in use")


def test_every_number_of_a_recipe_and_of_decoding_is_taken_or_refused(
    tmp_path: Path, tally: Callable[[str], None]
) -> None:
    values = [
        "0",
        "-1",
        "1.5",
        "nan",
        "-inf",
        "1" + "0" * 400,
        "9" * 5000,
        "true",
        '"3"',
        "[1]",
        "{}",
        "1e-320",
        "-0.0",
    ]
    sections = {
        "data": DataConfig,
        "encoder": EncoderConfig,
        "decoder": DecoderConfig,
        "train": TrainConfig,
        "train.hard_attention": HardAttentionConfig,
        "train.self_critical": SelfCriticalConfig,
        "decoding": DecodingOptions,
    }
    ends: Counter[str] = Counter()
    path = tmp_path / "odd.toml"
    numbers = {
        (section, name)
        for section, settings in sections.items()
        for name, kind in get_type_hints(settings).items()
        if {int, float}.intersection({kind, *get_args(kind)})
    }
    assert len(numbers) > 30
    for section, name in sorted(numbers):
        for value in values:
            begin = {"data": 'root = "x"\n', "encoder": 'name = "resnet18"\n'}
            lines = {key: begin.get(key, "") for key in ("data", "encoder", section)}
            lines[section] += f"{name} = {value}\n"
            path.write_text("".join(f"[{key}]\n{text}" for key, text in lines.items()))
            try:
                Recipe.read(path)
                ends["taken"] += 1
            except CaptionerError as error:
                ends["refused" if "odd.toml: " in str(error) and "\n" not in str(error) else str(error)] += 1
    assert ends.keys() == {"taken", "refused"}
    assert ends["taken"] < ends["refused"]
    tally(f"numbers, recipes: {ends.total()} odd values, {ends['taken']} taken, {ends['refused']} refused by name")


@dataclasses.dataclass(frozen=True)
class Rows:
    """A state that remembers nothing but how many rows there are."""

    count: Tensor

    def reorder(self, rows: Tensor) -> Rows:
        return Rows(self.count.gather(1, rows))

    def select(self, images: Tensor) -> Rows:
        return Rows(self.count[images])


@pytest.mark.parametrize("extreme", [0.0, -1e30, 3e38, -torch.inf])
def test_searches_survive_extreme_logits_and_options(
    extreme: float, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    """All of one word, all of none, and everything alike; with every kind of search, at the limits of its options."""
    special = Vocabulary(["x"])  # the smallest there may be: four tokens apart, and one word
    word = special.encode(["x"])[0]
    searches = 0
    options = itertools.product((1, 2, 7, 1000), (1, 3), (0, 100), (0.0, 1e-320, 1e-7, 1.0, 10.0), (0.0, 10.0))
    for beam, length, top, temperature, penalty in itertools.islice(options, 0, None, effort(7, 1)):
        settings = DecodingOptions(beam, length, penalty, top_words=top, temperature=temperature)

        def step(tokens: Tensor, state: Rows) -> tuple[Tensor, Sight, Rows]:
            logits = torch.zeros(*tokens.shape, len(special))
            logits[..., special.eos] = extreme
            alpha = torch.full((*tokens.shape, 4), 0.25)
            shown = Sight(alpha, torch.full(tokens.shape, -1), torch.ones(tokens.shape))
            return torch.log_softmax(logits, -1), shown, state

        start = Rows(torch.zeros(2, beam, dtype=torch.long))
        if temperature:
            drawn = torch.Generator().manual_seed(0)
            found = sample_search(step, start, 2, special, settings, CPU, drawn)
        else:
            found = beam_search(step, start, 2, special, settings, CPU)
        for hypotheses in found:
            assert 1 <= len(hypotheses) <= min(beam, length + 1)
            for one in hypotheses:
                assert set(one.tokens) == {word}
                assert 1 <= len(one.tokens) <= length
                assert not math.isnan(one.log_prob)
                assert not math.isnan(one.score)
                assert all(len(words) <= 2 for words in one.top_words)
        searches += 1
    tally(f"numbers, searches: {searches} settings at their limits with end logit {extreme:g}, all answered")


def model_of(words: int, attention: str = "soft") -> Captioner:
    torch.manual_seed(0)
    vocabulary = Vocabulary([f"w{number}" for number in range(words)])
    decoder = DecoderConfig(12, 16, 8, attention=attention)  # type: ignore[arg-type]
    encoder = EncoderConfig("squeezenet1_1", weights="none", input_size=64)
    return Captioner(ShowAttendTell(ModelConfig(encoder, decoder, len(vocabulary))), vocabulary)


def near(one: Caption, other: Caption) -> bool:
    return (
        one.words == other.words
        and one.log_prob == pytest.approx(other.log_prob, abs=1e-3)
        and one.attention == pytest.approx(other.attention, abs=1e-3)
    )


@pytest.mark.parametrize("attention", ["soft", "hard", "none"])
def test_a_vocabulary_of_one_word_has_captions(attention: str) -> None:
    one = model_of(1, attention)
    wide = DecodingOptions(beam_size=50, top_words=100, max_length=4)
    caption = one.caption(noise_photo(0), wide)
    assert {caption.words, *(other.words for other in caption.alternatives)} == {("w0",) * n for n in range(1, 5)}
    assert all(len(choices) <= 2 for choices in caption.choices)
    assert one.caption(noise_photo(0), DecodingOptions(max_length=1)).words == ("w0",)


def test_captions_do_not_depend_on_how_many_there_are(
    captioner: Captioner, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    """One batch and one more or one less than it holds; a photo of one colour among them."""
    batch = effort(3, 8)
    photos: list[Image.Image] = [noise_photo(seed, 200, 150) for seed in range(2 * batch)]
    photos[1] = Image.new("RGB", (64, 64), "black")
    photos[2] = Image.new("RGB", (64, 64), "white")
    alone = [captioner.caption(photo) for photo in photos[: batch + 1]]
    assert all(np.isfinite(one.attention).all() and one.words and one.log_prob < 0 for one in alone)
    for count in (1, batch - 1, batch, batch + 1):
        together = list(captioner.caption_many(photos[:count], batch_size=batch))
        assert all(near(one, other) for one, other in zip(alone[:count], together, strict=True)), count
    tally(f"numbers, batches: {batch - 1}, {batch} and {batch + 1} photos in batches of {batch} as one by one")


_SAY = """
import json, sys
from captioner.config import DecodingOptions
from captioner.pipeline import Captioner
model, photos = Captioner.load(sys.argv[1], device="cpu", precision="float32"), sys.argv[2:]
for options in (DecodingOptions(), DecodingOptions(temperature=1.0, context="sample", seed=7)):
    for one in model.caption_many(photos, options):
        print(json.dumps([one.words, one.log_prob, one.attention.tolist(), one.locations]))
"""


def test_two_processes_say_the_same_to_the_last_bit(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "hard", 0, attention="hard")
    command = [sys.executable, "-c", _SAY, str(model), str(EXAMPLES / "cat.jpg"), str(EXAMPLES / "raccoon.jpg")]
    both = [subprocess.Popen(command, cwd=EXAMPLES.parent, stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert first == second
    assert len([json.loads(line) for line in first.splitlines()]) == 4


def objectives() -> Iterator[tuple[str, Objective, Vocabulary]]:
    vocabulary = Vocabulary(["a", "dog", "cat"])
    references = [["a dog", "a dog dog"], ["a cat", "cat a cat"]]
    yield "cross entropy", CrossEntropy(vocabulary.pad, 1.0), vocabulary
    for estimator in ("paper", "per_word"):
        config = HardAttentionConfig(estimator=estimator, sampling=1.0)  # type: ignore[arg-type]
        yield f"hard, {estimator}", HardAttention(vocabulary.pad, len(vocabulary), 1.0, config, 10), vocabulary
    for sampling in (0.0, 1.0):
        yield (
            f"self-critical, {sampling}",
            SelfCritical(vocabulary, references, 1.0, SelfCriticalConfig(), 4, sampling),
            vocabulary,
        )


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("padding", ["none", "an image", "all"])
def test_losses_and_gradients_are_numbers(scale: float, padding: str) -> None:
    """Of a share of a step in which some or all is padding, and of features that saturate every weight."""
    for name, objective, vocabulary in objectives():
        torch.manual_seed(0)
        attention = "soft" if name == "cross entropy" else "hard"
        decoder = AttentionDecoder(DecoderConfig(6, 8, 9, 0.0, attention=attention), 7, len(vocabulary))  # type: ignore[arg-type]
        tokens = torch.tensor([[[vocabulary.bos, *vocabulary.encode(["a", "dog"]), vocabulary.eos]]] * 2)
        if padding != "none":
            tokens[0 if padding == "an image" else slice(None)] = vocabulary.pad
        features = scale * torch.randn(2, 5, 7)
        batch = Batch(features, tokens, Totals(4, 8, 30), (0, 1))
        loss = objective(decoder, batch).loss
        assert math.isfinite(loss.item()), name
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in decoder.parameters() if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads), name
        # The next batch is rated by what this one left behind.
        state = [value for value in objective.state_dict().values() if isinstance(value, Tensor)]
        assert all(torch.isfinite(value).all() for value in state), name


@pytest.mark.parametrize("value", [0, -1, 1001, 10**30])
@pytest.mark.parametrize("name", ["batch_size", "workers"])
def test_what_is_done_at_once_has_its_limit(captioner: Captioner, name: str, value: int) -> None:
    with pytest.raises(CaptionerError, match=rf"{name} = {value} must lie in 1\.\.1000"):
        list(captioner.caption_many([EXAMPLES / "cat.jpg"], **{name: value}))  # type: ignore[arg-type]


def test_a_wide_beam_takes_fewer_photos_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = model_of(9)
    sizes = []

    def noted(batch: list[Any], options: DecodingOptions) -> list[Any]:
        sizes.append(len(batch))
        return [(source, None) for source, _ in batch]

    monkeypatch.setattr(tiny, "_attempt_batch", noted)
    for beam, largest in ((3, 32), (25, 32), (100, 8), (1000, 1)):
        sizes.clear()
        list(tiny.attempt_many([noise_photo(0)] * 80, DecodingOptions(beam_size=beam)))
        assert max(sizes) == largest


def test_words_are_drawn_from_a_decoder_that_is_sure() -> None:
    """Log-probabilities of minus infinity have no gradient that is a number; what is drawn has one."""
    special = Vocabulary(["x", "y"])
    logits = torch.tensor([0.0, 0.0, 1e4, 0.0, 2e4, -1e4], requires_grad=True)

    def step(tokens: Tensor, state: Rows) -> tuple[Tensor, Sight, Rows]:
        rows = torch.log_softmax(logits, -1).expand(*tokens.shape, -1)
        alpha = torch.tensor([1.0, 0.0]).expand(*tokens.shape, -1)
        return rows, Sight(alpha, torch.zeros(tokens.shape, dtype=torch.long), torch.ones(tokens.shape)), state

    sampled = sample_captions(step, Rows(torch.zeros(1, 4)), (1, 4), special, 5, CPU)
    sampled.log_probs.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(sampled.log_probs).all()
