from __future__ import annotations

import random

import pytest

from captioner.batch import hashes
from captioner.batch.hashes import HashSet, hash64


def test_a_set_of_hashes_is_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "_RECENT", 7)
    draw = random.Random(0)
    expected: set[int] = set()
    found = HashSet()
    for _ in range(500):
        value = draw.choice([draw.randrange(200), 2**64 - 1 - draw.randrange(5), 2**53 + draw.randrange(3)])
        assert found.add(value) == (value not in expected)
        expected.add(value)


def test_names_that_are_no_text_have_hashes() -> None:
    assert hash64("\udc80") != hash64("\udc81")
    assert 0 <= hash64("") < 2**64
