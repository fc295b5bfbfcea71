from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from captioner.data.annotations import list_split
from captioner.errors import CheckpointError
from captioner.recipe import DataConfig
from captioner.vocabulary import Vocabulary, detokenize, tokenize
from tests.conftest import needs_data


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog runs , quickly .", ["a", "dog", "runs", "quickly"]),
        ('Two "old" men\'s t-shirts!', ["two", "old", "men", "'s", "t-shirts"]),
        ("He doesn't see it.", ["he", "does", "n't", "see", "it"]),
        ("3 dogs & 2.5 cats...", ["3", "dogs", "2.5", "cats"]),
        (" . ", []),
        (
            "A dog runs. A man doesn't. It is 5. A cat",
            ["a", "dog", "runs", "a", "man", "does", "n't", "it", "is", "5", "a", "cat"],
        ),
        (
            "Mr. J. Smith of St. Mary's in the U.S. sits.",
            ["mr.", "j.", "smith", "of", "st.", "mary", "'s", "in", "the", "u.s.", "sits"],
        ),
        ("A dog.. A cat... ", ["a", "dog", "a", "cat"]),
        ("x" * 10**6 + " y", ["x" * 10**6, "y"]),
        ("People’s dogs don’t", ["people", "'s", "dogs", "do", "n't"]),
    ],
)
def test_tokenize(text: str, words: list[str]) -> None:
    assert tokenize(text) == words


@needs_data("flickr8k")
@pytest.mark.skipif(shutil.which("java") is None, reason="coco-caption's tokenizer is a Java program; there is no Java")
def test_words_are_those_of_coco_caption() -> None:
    captions = [caption for image in list_split(DataConfig("flickr8k"), "dev") for caption in image.captions]
    # Its own wrapper writes files beside the package, so the program is called as the wrapper calls it.
    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    run = subprocess.run(command, input="\n".join(captions), capture_output=True, text=True, timeout=200, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == len(captions) == 5000
    official = [[w for w in line.split() if w not in ptbtokenizer.PUNCTUATIONS] for line in lines]
    # Brackets, which the wrapper means to drop and does not, and the last full stop of "D.C.".
    assert sum(tokenize(c) != words for c, words in zip(captions, official, strict=True)) <= 4


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
