"""The scores by which the best epoch is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from captioner.config import DecodingOptions
from captioner.data.annotations import CaptionedImage
from captioner.data.photos import Photos
from captioner.pipeline import Captioner
from captioner.recipe import DataConfig
from captioner.training.validation import Validation
from tests.conftest import EXAMPLES

PHOTOS = sorted(EXAMPLES.glob("*.jpg"))
# Not what is searched by where nothing is said.
OPTIONS = DecodingOptions(beam_size=1, max_length=6, length_penalty=0.0)


def scores(captioner: Captioner, references: Sequence[str], options: DecodingOptions) -> dict[str, float]:
    images = [CaptionedImage(path, (text,)) for path, text in zip(PHOTOS, references, strict=True)]
    photos = Photos(images, captioner.model.encoder.preprocessing, DataConfig("", views=1))
    return Validation(images, photos, captioner.vocabulary, options, torch.float32)(captioner.model)


def test_what_the_model_says_of_a_photo_is_held_against_that_photos_captions(captioner: Captioner) -> None:
    said = [caption.text for caption in captioner.caption_many(PHOTOS, OPTIONS)]
    assert len(set(said)) == len(said)
    assert scores(captioner, said, OPTIONS)["bleu4"] == pytest.approx(100)
    assert scores(captioner, [*said[1:], said[0]], OPTIONS)["bleu4"] < 50
    # Otherwise searched for, other captions are found.
    assert scores(captioner, said, DecodingOptions())["bleu4"] < 95


def test_scores_have_their_names(captioner: Captioner) -> None:
    said = [caption.text for caption in captioner.caption_many(PHOTOS, OPTIONS)]
    # Two words of each caption kept: pairs of words are found again, triples are not.
    found = scores(captioner, [" ".join([*text.split()[:2], "x", "y", "z", "x"]) for text in said], OPTIONS)
    assert found["bleu1"] > found["bleu2"] > 1
    assert found["bleu3"] == pytest.approx(0, abs=1e-3)
    assert found["bleu4"] == pytest.approx(0, abs=1e-3)
    assert found["cider"] > 0
