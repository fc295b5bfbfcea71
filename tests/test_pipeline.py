from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.checkpoint_files import BUNDLED
from captioner.config import END, DecoderConfig, DecodingOptions, EncoderConfig, ModelConfig
from captioner.devices import choose_precision
from captioner.errors import CaptionerError, ImageReadError
from captioner.metrics.attention import movement
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Caption, Captioner, _batches, compute_alone
from captioner.vocabulary import Vocabulary
from tests.conftest import EXAMPLES, noise_photo

PHOTOS = sorted(EXAMPLES.glob("*.jpg"))
PEOPLE_AND_ANIMALS = ("admiral", "astronaut", "photographer", "raccoon")


def same(one: Caption, other: Caption) -> bool:
    return one.words == other.words and np.allclose(one.attention, other.attention, atol=1e-4)


def test_a_caption_has_everything_it_promises(captioner: Captioner) -> None:
    caption = captioner.caption(EXAMPLES / "astronaut.jpg")
    count = len(caption.words)
    assert caption.text.replace("'", " '").split() == list(caption.words)
    grid = captioner.model.encoder.grid
    assert caption.attention.shape == (count, grid, grid)
    assert np.allclose(caption.attention.sum((1, 2)), 1, atol=1e-4)
    assert len(caption.word_probs) == len(caption.betas) == count
    assert all(0 < beta < 1 for beta in caption.betas)
    assert caption.ended
    assert caption.choices == ()
    # The end token's probability is in the sentence's but not among the words'.
    assert caption.log_prob < float(np.log(caption.word_probs).sum())
    assert (caption.width, caption.height) == (512, 512)
    assert caption.region == (0, 0, 512, 512)
    assert len(caption.alternatives) == 2
    texts = [caption.text, *(other.text for other in caption.alternatives)]
    assert len(set(texts)) == 3


def test_the_bundled_model_sees_what_is_there(captioner: Captioner) -> None:
    captions = {path.stem: caption.words for path, caption in zip(PHOTOS, captioner.caption_many(PHOTOS), strict=True)}
    people = {"man", "woman", "person", "boy", "girl"}
    assert all(people & set(captions[name]) for name in ("admiral", "astronaut", "photographer"))
    assert "camera" in captions["photographer"]
    assert len({tuple(words) for words in captions.values()}) == len(PHOTOS)


def test_the_model_looks_elsewhere_for_other_words(captioner: Captioner) -> None:
    moved = [movement(captioner.caption(EXAMPLES / f"{name}.jpg").attention) for name in PEOPLE_AND_ANIMALS]
    assert min(moved) > 0.2
    assert sorted(moved)[1] > 0.3


@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_equals_its_photos_one_by_one(captioner: Captioner, beam: int) -> None:
    options = DecodingOptions(beam_size=beam)
    together = list(captioner.caption_many(PHOTOS, options, batch_size=4))
    for path, caption in zip(PHOTOS, together, strict=True):
        assert same(captioner.caption(path, options), caption)


def test_every_kind_of_source_gives_the_same_caption(captioner: Captioner) -> None:
    path = EXAMPLES / "cat.jpg"
    data = path.read_bytes()
    expected = captioner.caption(path)
    for source in (str(path), data, io.BytesIO(data), Image.open(path)):
        assert same(captioner.caption(source), expected)


def test_a_rotated_photo_is_captioned_upright(captioner: Captioner) -> None:
    upright = Image.open(EXAMPLES / "astronaut.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    turned = captioner.caption(buffer.getvalue())
    assert (turned.width, turned.height) == upright.size
    assert same(turned, captioner.caption(upright))


def test_a_bad_photo_among_many_bars_only_itself(captioner: Captioner, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a photo")
    sources = [PHOTOS[0], bad, PHOTOS[1]]
    results = list(captioner.attempt_many(sources, batch_size=2))
    assert [source for source, _ in results] == sources
    assert isinstance(results[1][1], ImageReadError)
    assert all(isinstance(results[index][1], Caption) for index in (0, 2))
    stream = captioner.caption_many(sources, batch_size=1)
    next(stream)
    with pytest.raises(ImageReadError, match=r"bad\.jpg"):
        next(stream)


def test_photos_are_read_as_they_are_needed(tiny_model: ShowAttendTell, vocabulary: Vocabulary) -> None:
    """An endless stream is fine: memory does not grow with the number of photos."""
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield noise_photo(taken % 3)

    stream = Captioner(tiny_model, vocabulary).caption_many(endless(), batch_size=2)  # type: ignore[arg-type]
    ahead = []
    for given in range(1, 61):
        next(stream)
        ahead.append(taken - given)
    assert max(ahead) <= 2 * (1 + 2 + torch.get_num_threads() + 2)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (2, [1, 1]), (4, [2, 2]), (5, [2, 3]), (7, [3, 4]), (8, [4, 2, 2]), (15, [4, 4, 3, 4])],
)
def test_the_end_of_a_stream_is_shared_among_the_lanes(count: int, sizes: list[int]) -> None:
    batches = list(_batches(range(count), size=4, lanes=2))
    assert [len(batch) for batch in batches] == sizes
    assert [item for batch in batches for item in batch] == list(range(count))


def test_other_threads_keep_their_cores(tiny_model: ShowAttendTell, vocabulary: Vocabulary) -> None:
    before = torch.get_num_threads()
    photos = [noise_photo(seed) for seed in range(5)]
    for _ in Captioner(tiny_model, vocabulary).caption_many(photos, batch_size=1):
        # In the middle of it, too: others may caption at the same time, or have begun a stream and left it.
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == before


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000)])
def test_extreme_photos_are_captioned(captioner: Captioner, size: tuple[int, int]) -> None:
    assert captioner.caption(Image.new("RGB", size, "green")).words


@pytest.mark.parametrize("max_length", [1, 3])
def test_a_short_limit_still_gives_an_answer(captioner: Captioner, max_length: int) -> None:
    caption = captioner.caption(PHOTOS[0], DecodingOptions(max_length=max_length))
    assert 1 <= len(caption.words) <= max_length
    assert not caption.ended
    assert len(caption.attention) == len(caption.words)


def test_a_beam_wider_than_the_vocabulary(tiny_model: ShowAttendTell, vocabulary: Vocabulary) -> None:
    caption = Captioner(tiny_model, vocabulary).caption(noise_photo(0), DecodingOptions(beam_size=50, max_length=3))
    assert len({caption.words, *(other.words for other in caption.alternatives)}) == 50


def test_wrong_settings_are_named(captioner: Captioner) -> None:
    with pytest.raises(CaptionerError, match="batch_size = 0"):
        list(captioner.caption_many(PHOTOS, batch_size=0))
    with pytest.raises(CaptionerError, match="device = 'tpu9'"):
        Captioner.load(device="tpu9")
    with pytest.raises(CaptionerError, match="precision = 'half'"):
        Captioner.load(precision="half")  # type: ignore[arg-type]


def test_half_precision_says_nearly_the_same(captioner: Captioner) -> None:
    half = Captioner.load(device="cpu", precision="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    same_words = 0
    for exact, rounded in zip(captioner.caption_many(PHOTOS), half.caption_many(PHOTOS), strict=True):
        assert rounded.attention.dtype == np.float32
        assert rounded.attention.sum((1, 2)) == pytest.approx(1, abs=1e-3)
        assert rounded.log_prob == pytest.approx(exact.log_prob, abs=1.0)
        assert all(0 < beta <= 1 for beta in rounded.betas)  # what is above 0.998 is rounded to 1
        if rounded.words == exact.words:
            same_words += 1
            assert rounded.betas == pytest.approx(exact.betas, abs=0.1)
            assert rounded.attention == pytest.approx(exact.attention, abs=0.05)
    assert same_words >= len(PHOTOS) - 2


@pytest.mark.parametrize("units", ["amx_bf16", "avx512_bf16", "bf16", None])
def test_half_precision_is_chosen_where_the_processor_has_units_for_it(
    units: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True} | ({units: True} if units else {}))
    chosen = choose_precision("auto", torch.device("cpu"))
    assert chosen == (torch.bfloat16 if units else torch.float32)
    assert choose_precision("float32", torch.device("cpu")) == torch.float32


@pytest.fixture
def hard(vocabulary: Vocabulary) -> Captioner:
    torch.manual_seed(0)
    encoder = EncoderConfig("squeezenet1_1", weights="none", input_size=64)
    decoder = DecoderConfig(12, 16, 8, attention="hard")
    return Captioner(ShowAttendTell(ModelConfig(encoder, decoder, len(vocabulary))), vocabulary)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_hard_attention_says_which_cell_it_saw(hard: Captioner, beam_size: int) -> None:
    def caption(context: str, seed: int = 0) -> Caption:
        options = DecodingOptions(beam_size=beam_size, context=context, seed=seed)  # type: ignore[arg-type]
        return hard.caption(noise_photo(0), options)

    assert caption("expectation").locations is None
    likeliest = caption("argmax")
    for (row, column), weights in zip(likeliest.locations or (), likeliest.attention, strict=True):
        assert weights[row, column] == weights.max()
    drawn = [caption("sample", seed) for seed in range(4)]
    assert len({one.locations for one in drawn}) > 1
    assert all(weights.max() < 1 for one in drawn for weights in one.attention)  # the distribution, not the draw
    again = caption("sample", 2)
    assert (again.words, again.locations) == (drawn[2].words, drawn[2].locations)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_hard_attention_draws_cells_under_every_kind_of_search(hard: Captioner, temperature: float) -> None:
    def caption(seed: int) -> Caption:
        options = DecodingOptions(
            beam_size=5, context="sample", seed=seed, prefix=("a", "dog"), top_words=3, temperature=temperature
        )
        return hard.caption(noise_photo(0), options)

    first, second = caption(0), caption(1)
    assert first.locations != second.locations
    assert (first.words, first.locations) == (caption(0).words, caption(0).locations)
    for one in (first, *first.alternatives, second, *second.alternatives):
        assert one.words[:2] == ("a", "dog")
        counts = {len(one.locations or ()), len(one.betas), len(one.choices), len(one.words)}
        assert counts == {len(one.attention)}
    assert len({one.words for one in (first, *first.alternatives)}) == len(first.alternatives) + 1


@pytest.mark.parametrize("context", ["argmax", "sample"])
def test_only_hard_attention_sees_one_cell(captioner: Captioner, context: str) -> None:
    with pytest.raises(CaptionerError, match=f"context = '{context}' needs a model with hard attention.*'soft'"):
        captioner.caption(PHOTOS[0], DecodingOptions(context=context))  # type: ignore[arg-type]


def test_the_bundled_hard_model_is_one() -> None:
    hard = Captioner.load(BUNDLED.with_name("flickr8k-hard"), device="cpu")
    assert hard.model.decoder.config.attention == "hard"
    for context in ("argmax", "sample", "expectation"):
        options = DecodingOptions(context=context)  # type: ignore[arg-type]
        caption = hard.caption(EXAMPLES / "photographer.jpg", options)
        assert {"man", "person", "woman"} & set(caption.words), context
        assert movement(caption.attention) > 0.2, context


def test_betas_are_the_gate_of_the_decoder(tiny_model: ShowAttendTell, vocabulary: Vocabulary) -> None:
    torch.nn.init.normal_(tiny_model.decoder.gate.weight)
    tiny = Captioner(tiny_model, vocabulary)
    photo = tiny.read(noise_photo(0))
    features = tiny.encode([photo])
    [caption] = tiny.describe([photo], features, DecodingOptions(prefix=("a", "red", "ball", "on", "grass", END)))
    expected = []
    with torch.inference_mode():
        state = tiny_model.decoder.init_state(features)
        for token in [vocabulary.bos, *vocabulary.encode(caption.words[:-1])]:
            expected.append(float(1 / (1 + torch.exp(-tiny_model.decoder.gate(state.hidden)))))
            *_, state = tiny_model.decoder.step(torch.tensor([[token]]), state)
    assert caption.betas == pytest.approx(expected, abs=1e-5)
    assert max(expected) > min(expected) + 0.01


def test_a_caption_is_found_again_from_its_beginning_and_rated_again_as_a_whole(captioner: Captioner) -> None:
    greedy = DecodingOptions(beam_size=1)
    photo = captioner.read(PHOTOS[0])
    features = captioner.encode([photo])
    [best] = captioner.describe([photo], features, greedy)
    for prefix in (best.words[:2], best.words, (*best.words, END)):
        [again] = captioner.describe([photo], features, dataclasses.replace(greedy, prefix=prefix))
        assert (again.words, again.ended) == (best.words, best.ended)
        assert again.log_prob == pytest.approx(best.log_prob, abs=1e-4)
        assert again.word_probs == pytest.approx(best.word_probs, abs=1e-4)
        assert again.betas == pytest.approx(best.betas, abs=1e-4)
        assert again.attention == pytest.approx(best.attention, abs=1e-4)


def test_a_batch_begins_alike_and_equals_its_photos_one_by_one(captioner: Captioner) -> None:
    options = DecodingOptions(prefix=("there", "is", "a"))
    together = list(captioner.caption_many(PHOTOS, options, batch_size=4))
    assert {caption.words[:3] for caption in together} == {options.prefix}
    assert len({caption.words for caption in together}) > 1
    for path, caption in zip(PHOTOS, together, strict=True):
        assert same(captioner.caption(path, options), caption)


def test_choices_say_what_could_have_stood_there(captioner: Captioner) -> None:
    """The probability of an end is checked by the caption that ends there."""
    options = DecodingOptions(beam_size=1, top_words=100)
    caption = captioner.caption(PHOTOS[0], options)
    for word, probability, choices in zip(caption.words, caption.word_probs, caption.choices, strict=True):
        assert len(dict(choices)) == 100
        assert choices[0][0] == word
        assert choices[0][1] == pytest.approx(probability)
        assert [p for _, p in choices] == sorted((p for _, p in choices), reverse=True)
        assert sum(p for _, p in choices) <= 1 + 1e-5
    assert END not in dict(caption.choices[0])
    ends = 0
    for count, choices in enumerate(caption.choices[1:], 1):
        if END in dict(choices):
            shorter = captioner.caption(PHOTOS[0], dataclasses.replace(options, prefix=(*caption.words[:count], END)))
            expected = float(np.prod(caption.word_probs[:count])) * dict(choices)[END]
            assert np.exp(shorter.log_prob) == pytest.approx(expected, rel=1e-3)
            ends += 1
    assert ends


def test_captions_are_drawn_at_a_temperature(captioner: Captioner) -> None:
    def captions(seed: int, temperature: float) -> list[tuple[str, ...]]:
        options = DecodingOptions(beam_size=5, temperature=temperature, seed=seed)
        return [
            words
            for one in captioner.caption_many(PHOTOS[:3], options)
            for words in (one.words, *(other.words for other in one.alternatives))
        ]

    assert captions(0, 1.0) == captions(0, 1.0) != captions(1, 1.0)
    greedy = [one.words for one in captioner.caption_many(PHOTOS[:3], DecodingOptions(beam_size=1))]
    assert captions(0, 1e-4) == greedy


@pytest.mark.parametrize(
    ("prefix", "lacking"),
    [(("a", "zyzzyva", "Dog"), "'zyzzyva', 'Dog'"), (("<pad>", "<eos>"), "'<pad>', '<eos>'"), (("",), "''")],
)
def test_words_that_the_model_does_not_know_are_named(
    captioner: Captioner, prefix: tuple[str, ...], lacking: str
) -> None:
    options = DecodingOptions(prefix=prefix)
    for refuse in (captioner.check, lambda options: captioner.caption(PHOTOS[0], options)):
        with pytest.raises(CaptionerError, match=rf"prefix has words .* does not know: {lacking}; choose others"):
            refuse(options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_whose_numbers_overflow_is_named(temperature: float) -> None:
    broken = Captioner.load(device="cpu", precision="float32")
    with torch.no_grad():
        broken.model.decoder.output_word.bias.fill_(torch.nan)
    with pytest.raises(CaptionerError, match="the model gives no word a probability, its numbers overflow"):
        broken.caption(PHOTOS[0], DecodingOptions(temperature=temperature))


def test_captions_are_told_apart_as_objects(captioner: Captioner) -> None:
    first, second = captioner.caption(PHOTOS[0]), captioner.caption(PHOTOS[0])
    assert first == first
    assert len({first, second}) == 2


def test_a_lane_computes_in_one_thread_and_leaves_others_theirs() -> None:
    """Otherwise the last bits of a caption's numbers would depend on which lane began first."""
    before, found = torch.get_num_threads(), []

    def work(prepare: Callable[[], object]) -> None:
        prepare()
        torch.ones(200, 200) @ torch.ones(200, 200)
        found.append(torch.get_num_threads())

    for prepare in (partial(compute_alone, 3), lambda: None):
        thread = threading.Thread(target=work, args=(prepare,))
        thread.start()
        thread.join()
    torch.set_num_threads(before)
    assert found == [1, 3]
