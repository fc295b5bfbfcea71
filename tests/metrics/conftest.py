from __future__ import annotations

import random

import pytest

from captioner.data.annotations import DATA_VARIABLE, list_split
from captioner.recipe import DataConfig
from captioner.vocabulary import tokenize
from tests.conftest import has_data

Corpus = tuple[list[list[list[str]]], list[list[str]]]


@pytest.fixture(scope="session")
def made_up() -> Corpus:
    """References and hypotheses out of few words, some of them short, one empty, one shared with a reference."""
    generator = random.Random(0)

    def sentence(least: int) -> list[str]:
        return generator.choices("abcdefg", k=generator.randint(least, 12))

    references = [[sentence(1) for _ in range(generator.randint(1, 5))] for _ in range(60)]
    hypotheses = [sentence(1) for _ in references]
    hypotheses[3] = []
    hypotheses[4] = references[4][0]
    hypotheses[5] = ["z"]  # a word no reference has
    return references, hypotheses


@pytest.fixture(scope="session")
def people() -> Corpus:
    """People against people: one caption of every Flickr8k dev photo, each of the five in turn, against the others."""
    if not has_data("flickr8k"):
        pytest.skip(f"real data: set {DATA_VARIABLE} to the folder that holds flickr8k/")
    images = list_split(DataConfig("flickr8k"), "dev")
    words = [[tokenize(caption) for caption in image.captions] for image in images]
    assert len(words) >= 500
    kept = [row % 5 for row in range(len(words))]
    references = [image[:k] + image[k + 1 :] for image, k in zip(words, kept, strict=True)]
    return references, [image[k] for image, k in zip(words, kept, strict=True)]
