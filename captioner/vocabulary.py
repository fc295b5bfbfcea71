"""Words and their numbers."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from captioner.errors import CheckpointError
from captioner.plain_json import is_text, parse_json

# NLTK's tokenizer parts the last full stop of a text alone.
_WORD_AND_STOP = re.compile(r"(?<!\S)(\S*[^\s.])\.(?=\s)")
_INITIALS = re.compile(r"(?:\w\.)*[^\W\d]")
_ABBREVIATED = frozenset(
    ["mr", "mrs", "ms", "dr", "jr", "sr", "st", "mt", "ft", "vs", "etc", "prof", "gen", "sgt", "capt", "co", "inc"]
)
PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"


def tokenize(text: str) -> list[str]:
    """Split a caption into lower-case words, punctuation dropped.

    On ordinary captions this agrees with the PTB tokenizer of coco-caption, and needs no data files.
    """
    text = _WORD_AND_STOP.sub(_apart, text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [token for token in _tokenizer().tokenize(text) if any(c.isalnum() for c in token)]


def _apart(match: re.Match[str]) -> str:
    """Part a sentence's last word from its full stop, unless that may be an abbreviation's ("mr.", "u.s.")."""
    word = match[1]
    return match[0] if word in _ABBREVIATED or _INITIALS.fullmatch(word) else f"{word} ."


@functools.cache
def _tokenizer() -> Any:
    # Takes two seconds to import, which writing captions, where nothing is split, should not cost.
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


def detokenize(words: Sequence[str]) -> str:
    """Join words to a sentence, clitics ("man 's", "does n't") set back onto the word before."""
    text = ""
    for word in words:
        attach = word.startswith("'") or word == "n't"
        text += word if attach or not text else f" {word}"
    return text


class Vocabulary:
    """A fixed list of words, the first four special: `pad`, `bos`, `eos`, `unk`.

    Parameters
    ----------
    words : sequence of str
        The ordinary words, in the order of their numbers, without the special ones.
    """

    pad, bos, eos, unk = range(4)

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [PAD, BOS, EOS, UNK, *words]
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self._index) != len(self.words):
            raise ValueError("a vocabulary lists every word once")

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int) -> Vocabulary:
        """Count the words of the train split and keep those seen at least `min_count` times.

        The commonest come first; equals in alphabetical order, so that the numbers never depend on hashing.
        """
        return cls.from_counts(Counter(word for caption in captions for word in tokenize(caption)), min_count)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int) -> Vocabulary:
        """Do as `build`, of words that have been counted already."""
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Numbers of the words, `unk` for those not listed; no `bos` or `eos` is added."""
        return [self._index.get(word, self.unk) for word in words]

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Words of the numbers."""
        return [self.words[token] for token in tokens]

    @property
    def sha256(self) -> str:
        """Hash of the words in their order, by which a checkpoint knows its own."""
        return hashlib.sha256(json.dumps(self.words).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the list of all words, special ones included, as JSON."""
        path.write_text(json.dumps(self.words, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises
        ------
        CheckpointError
            If the file is absent or is not such a list.
        """
        try:
            words = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path}: cannot read the vocabulary ({error}); get a whole copy of the checkpoint"
            ) from error
        special = [PAD, BOS, EOS, UNK]
        valid = isinstance(words, list) and all(isinstance(word, str) and is_text(word) for word in words)
        if not valid or words[:4] != special or len(set(words)) != len(words):
            raise CheckpointError(
                f"{path}: expected a JSON list of distinct words that begins with {special}; get a whole copy of the "
                "checkpoint"
            )
        return cls(words[4:])
