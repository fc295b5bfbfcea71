from __future__ import annotations

from dataclasses import asdict

import pytest

from captioner.metrics.style import caption_style
from captioner.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["a", "red", "shirt", "man", "and", "dog", "cat", "runs"])


def style(captions: list[str], references: list[str], train: list[str]) -> dict[str, float]:
    words = [caption.split() for caption in captions]
    return asdict(caption_style([[r.split()] for r in references], words, train, VOCABULARY))


def test_worked_out_by_hand() -> None:
    found = style(
        ["a red red shirt", "a man and a man", "a dog", "a dog", ""],
        ["a dog", "the zebra", "a cat", "runs", "dog a"],
        ["a dog", "dog a red"],
    )
    assert found == pytest.approx(
        {
            "length_mean": 13 / 5,
            "length_std": ((1.4**2 + 2.4**2 + 2 * 0.6**2 + 2.6**2) / 5) ** 0.5,
            "distinct_1": 6 / 13,  # a red shirt man and dog
            "distinct_2": 7 / 9,  # a red, red red, red shirt, a man, man and, and a, a dog
            "different_captions": 4 / 5,
            "copied_captions": 2 / 5,
            "repeated_word": 1 / 5,
            "repeated_bigram": 1 / 5,
            "vocabulary_used": 6 / 8,
            "reference_words_unknown": 2 / 9,
        }
    )


def test_captions_that_are_all_empty_are_described() -> None:
    found = style(["", ""], ["a dog", "a cat"], [])
    assert found["length_mean"] == found["distinct_1"] == found["distinct_2"] == found["copied_captions"] == 0


def test_a_special_word_is_not_in_the_vocabulary() -> None:
    assert style(["<unk>"], ["<unk> a"], []).items() >= {"vocabulary_used": 0, "reference_words_unknown": 0.5}.items()


def test_nothing_to_describe_is_an_error() -> None:
    with pytest.raises(ValueError, match="style needs"):
        caption_style([], [], [], VOCABULARY)
