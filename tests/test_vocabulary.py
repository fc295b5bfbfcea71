from __future__ import annotations

from pathlib import Path

import pytest

from captioner.errors import CheckpointError
from captioner.vocabulary import Vocabulary, detokenize, tokenize


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog runs , quickly .", ["a", "dog", "runs", "quickly"]),
        ('Two "old" men\'s t-shirts!', ["two", "old", "men", "'s", "t-shirts"]),
        ("He doesn't see it.", ["he", "does", "n't", "see", "it"]),
        ("3 dogs & 2.5 cats...", ["3", "dogs", "2.5", "cats"]),
        (" . ", []),
    ],
)
def test_tokenize(text: str, words: list[str]) -> None:
    assert tokenize(text) == words


def test_detokenize_joins_clitics() -> None:
    assert detokenize(tokenize("the man's dog doesn't run")) == "the man's dog doesn't run"


def test_build_keeps_words_seen_often_enough_commonest_first() -> None:
    vocabulary = Vocabulary.build(["b a c", "b a", "b"], min_count=2)
    assert vocabulary.words == ["<pad>", "<bos>", "<eos>", "<unk>", "b", "a"]
    assert vocabulary.encode(["a", "c"]) == [5, vocabulary.unk]
    assert vocabulary.decode([4, 5]) == ["b", "a"]


def test_special_tokens_are_distinct_and_no_caption_can_contain_them() -> None:
    vocabulary = Vocabulary.build(["<pad> <bos> <eos> <unk>"], min_count=1)
    assert len({vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.unk}) == 4
    assert vocabulary.words[4:] == ["bos", "eos", "pad", "unk"]


def test_save_and_load(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["naïve", "日本"])
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json").words == vocabulary.words


@pytest.mark.parametrize("text", ["", "{}", '["a"]', '["<pad>", "<bos>", "<eos>", "<unk>", "a", "a"]', "[[]]"])
def test_a_malformed_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"v\.json"):
        Vocabulary.load(tmp_path / "v.json")
